"""Small MEDS datasets by hand or by chance, and the features of a label counted again in plain Python."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from ehrjax.evals.baselines.features import Settings, window_name
from ehrjax.evals.baselines.measurements import STATISTICS
from ehrjax.ingest.meds import MedsDataset, MedsWriter, open_dataset

START = datetime.datetime(2020, 1, 1)
# Of two levels, with a parent that two codes share and one that is named twice.
PARENTS = {"DX//a.1": ["UP//x"], "DX//b": ["UP//x", "UP//y"], "UP//x": ["TOP"], "UP//y": ["TOP", "UP//x"]}
CODES = ("DX//a.1", "DX//b", "LAB//1//mg", "LAB//2//mg", "RACE//A", "plain")

Event = tuple[int, datetime.datetime | None, str, float | None, int | None]


def write(folder: Path, events: list[Event], *, parents: dict | None = None, shards: int = 1) -> MedsDataset:
    """A dataset of (subject, time, code, value, visit), its subjects spread over files."""
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
        "visit_id": pl.Int64,
    }
    frame = pl.DataFrame(events, schema=schema, orient="row")
    writer = MedsWriter(folder, "made", "1")
    for shard in range(shards):
        part = frame.filter(pl.col("subject_id") % shards == shard)
        if len(part):
            writer.write_shard(part)
    writer.finish({}, parents=parents)
    if parents:
        # Codes that no event has still have parents of their own.
        path = folder / "metadata" / "codes.parquet"
        codes = pl.read_parquet(path)
        above = [code for code in parents if code not in set(codes["code"])]
        more = pl.DataFrame(
            {"code": above, "description": [None] * len(above), "parent_codes": [parents[code] for code in above]},
            schema=codes.schema,
        )
        pl.concat([codes, more]).write_parquet(path)
    return open_dataset(folder)


def labels(rows: list[tuple[int, datetime.datetime, str]]) -> pl.DataFrame:
    """subject_id, prediction_time, split."""
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "split": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def above(code: str, parents: dict[str, list[str]]) -> set[str]:
    """A code and what stands above it, by walking."""
    direct = set(parents.get(code, []))
    if "//" in code:
        head, last = code.rsplit("//", 1)
        direct.add(f"{head}//{last.split('.')[0]}" if "." in last else head)
    found = {code}
    for one in direct - {code}:
        found |= above(one, parents)
    return found


def recount(
    events: list[Event], subject: int, asked: datetime.datetime, settings: Settings, parents: dict[str, list[str]]
) -> tuple[dict[str, float], dict[str, float]]:
    """(counts, values) of one label by name; what is not there is 0 or absent."""
    mine = [event for event in events if event[0] == subject and event[2] != "MEDS_BIRTH"]
    timed = sorted((e for e in mine if e[1] is not None and e[1] <= asked), key=lambda event: event[1])
    counts: Counter[str] = Counter(f"static|{event[2]}" for event in mine if event[1] is None)
    values: dict[str, float] = {}

    def within(days: float) -> list[Event]:
        return [e for e in timed if math.isinf(days) or e[1] > asked - datetime.timedelta(days=days)]

    for days in settings.windows_days:
        name, inside = window_name(days), within(days)
        counts.update(f"count|{name}|{code}" for event in inside for code in above(event[2], parents))
        counts[f"events|{name}"] = len(inside)
        counts[f"visits|{name}"] = len({event[4] for event in inside} - {None})
        if inside:
            values[f"log_hours|{name}"] = math.log1p((asked - inside[0][1]) / datetime.timedelta(hours=1))
    if before := [event for event in timed if event[1] < asked]:
        values["log_days_since_last"] = math.log1p((asked - before[-1][1]) / datetime.timedelta(days=1))
    for days in settings.value_windows_days:
        found: dict[str, list[float]] = {}
        for event in within(days):
            if event[3] is not None and math.isfinite(event[3]):
                found.setdefault(event[2], []).append(event[3])
        for code, given in found.items():
            told = (given[-1], float(np.mean(given)), min(given), max(given), len(given))
            values |= {f"{what}|{window_name(days)}|{code}": v for what, v in zip(STATISTICS, told)}
    return dict(counts), values
