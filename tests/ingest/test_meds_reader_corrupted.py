"""Damaged MEDS datasets: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.ingest import meds_reader as reader
from tests.ingest import meds_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, events_in, refusal

FRAME = layout.generate(9)
FIRST = FRAME.filter(pl.col("subject_id").is_in(FRAME["subject_id"].unique(maintain_order=True).to_list()[::3]))
SHARD = "data/train/deep0/0.parquet"
OUT = "time before 1700 or after 2299"
Case = tuple[str, Callable[[Path], None], str, object]


def shard(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    return lambda folder: change(FIRST).write_parquet(folder / SHARD)


def cut(name: str, share: float) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * (len(content) - 1))])

    return make


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data)


def metadata(name: str, frame: pl.DataFrame) -> Callable[[Path], None]:
    return lambda folder: frame.write_parquet(folder / "metadata" / name)


def cell(column: str, value: object, row: int) -> Callable[[Path], None]:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values, frame.schema[column]))

    return shard(change)


def cases() -> list[Case]:
    """(name, how to damage a sound dataset, what comes of it, with what): error: words of the message; aside: reason ->
    rows; same: the same events; fine: read, valid, and every row accounted for."""
    found: list[Case] = []
    for share in np.linspace(0, 0.999, 40):
        found.append((f"shard cut at {share:.3f}", cut(SHARD, share), "error", "0.parquet"))
    for name in ("subject_splits", "codes"):
        for share in np.linspace(0, 0.99, 15):
            found.append((f"{name} cut at {share:.2f}", cut(f"metadata/{name}.parquet", share), "error", name))
    for share in np.linspace(0, 0.98, 10):
        found.append((f"dataset.json cut at {share:.2f}", cut("metadata/dataset.json", share), "error", "dataset.json"))
    for row in range(0, len(FIRST), 2):
        found.append((f"no subject_id in {row}", cell("subject_id", None, row), "aside", {"no subject_id": 1}))
        found.append((f"no code in {row}", cell("code", None, row), "aside", {"no code": 1}))
        if FIRST["time"][row] is not None:
            for year in (1, 1699, 2300, 9999):
                time = FIRST["time"][row].replace(year=year, day=1)
                found.append((f"year {year} in {row}", cell("time", time, row), "aside", {OUT: 1}))
        for value in (float("nan"), float("inf")):
            found.append((f"{value} in {row}", cell("numeric_value", value, row), "fine", None))
    for column in ("subject_id", "time", "code"):
        found.append((f"without {column}", shard(lambda f, c=column: f.drop(c)), "error", repr(column)))
    for column in ("numeric_value", "text_value", "hadm_id"):
        found.append((f"without {column}", shard(lambda f, c=column: f.drop(c)), "fine", None))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(FIRST.columns).tolist()
        found.append((f"columns shuffled {seed}", shard(lambda f, o=order: f.select(o)), "same", None))
    found += [
        ("subject_id as text", shard(lambda f: f.cast({"subject_id": pl.String})), "same", None),
        ("subject_id as float", shard(lambda f: f.cast({"subject_id": pl.Float64})), "same", None),
        ("subject_id as fractions", shard(lambda f: f.with_columns(pl.col("subject_id") + 0.5)), "error", "subject"),
        ("subject_id as words", shard(lambda f: f.with_columns(pl.lit("x").alias("subject_id"))), "error", "subject"),
        ("subject_id as lists", shard(lambda f: f.with_columns(pl.concat_list("subject_id"))), "error", "subject"),
        ("time as numbers", shard(lambda f: f.with_columns(pl.col("time").dt.epoch())), "error", "time"),
        ("time as words", shard(lambda f: f.with_columns(pl.lit("soon").alias("time"))), "error", "time"),
        ("time in milliseconds", shard(lambda f: f.cast({"time": pl.Datetime("ms")})), "same", None),
        ("time in UTC", shard(lambda f: f.with_columns(pl.col("time").dt.replace_time_zone("UTC"))), "same", None),
        ("code as a category", shard(lambda f: f.cast({"code": pl.Categorical})), "same", None),
        ("code as numbers", shard(lambda f: f.with_columns(pl.lit(5).alias("code"))), "fine", None),
        ("value as words", shard(lambda f: f.with_columns(pl.lit("x").alias("numeric_value"))), "error", "numeric"),
        ("value as doubles", shard(lambda f: f.cast({"numeric_value": pl.Float64})), "same", None),
        ("value as lists", shard(lambda f: f.with_columns(pl.concat_list("numeric_value"))), "error", "numeric_value"),
        ("upper-case columns", shard(lambda f: f.rename(str.upper)), "same", None),
        ("no rows in a shard", shard(lambda f: f.clear()), "fine", None),
        ("rows shuffled", shard(lambda f: f.sample(fraction=1, shuffle=True, seed=1)), "fine", None),
        ("rows twice", shard(lambda f: pl.concat([f, f])), "fine", None),
        ("text as a shard", content(SHARD, b"subject_id,time,code\n1,,A\n"), "error", "0.parquet"),
        ("a shard of zeros", content(SHARD, bytes(1000)), "error", "0.parquet"),
        ("a split of another name", metadata("subject_splits.parquet", pl.DataFrame(
            {"subject_id": [100], "split": ["validation"]})), "error", "row 0"),
        ("a split without a subject", metadata("subject_splits.parquet", pl.DataFrame(
            {"subject_id": pl.Series([None], dtype=pl.Int64), "split": ["train"]})), "error", "row 0"),
        ("a subject in two splits", metadata("subject_splits.parquet", pl.DataFrame(
            {"subject_id": [100, 100], "split": ["train", "tuning"]})), "error", "more than one split"),
        ("splits without their column", metadata("subject_splits.parquet", pl.DataFrame(
            {"subject_id": [100]})), "error", "'split'"),
        ("no splits for anyone", metadata("subject_splits.parquet", pl.DataFrame(
            schema={"subject_id": pl.Int64, "split": pl.String})), "same", None),
        ("codes without their column", metadata("codes.parquet", pl.DataFrame({"name": ["x"]})), "error", "'code'"),
        ("codes without descriptions", metadata("codes.parquet", pl.DataFrame({"code": ["x"]})), "same", None),
        ("dataset.json is a list", content("metadata/dataset.json", b"[1]"), "error", "dataset.json"),
        ("dataset.json is empty", content("metadata/dataset.json", b"{}"), "same", None),
    ]  # fmt: skip
    return found


CASES = cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case[0] for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    reader.read(layout.write(FRAME, folder / "raw"), folder / "meds")
    return folder / "meds"


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    _, damage, outcome, detail = case
    raw = layout.write(FRAME, tmp_path / "raw")
    damage(raw)
    if outcome == "error":
        message = refusal(reader.read, raw, tmp_path / "meds")
        assert detail in message, message
        return
    summary = reader.read(raw, tmp_path / "meds")
    check_accounting(summary)
    check_meds(tmp_path / "meds")
    if outcome == "same":
        assert events_in(tmp_path / "meds").equals(events_in(sound))
    elif outcome == "aside":
        assert summary["tables"]["data"]["rows_set_aside"] == detail


def test_a_folder_without_events_is_refused(tmp_path) -> None:
    (tmp_path / "raw").mkdir()
    assert "no parquet files" in refusal(reader.read, tmp_path / "raw", tmp_path / "meds")
