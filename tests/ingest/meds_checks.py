"""What must hold for the output of every reader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq

from ehrjax.core.errors import InputError


def events_in(folder: Path) -> pl.DataFrame:
    """All events by subject, in the order in which they are written."""
    shards = sorted((folder / "data").glob("*/*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in shards]).sort("subject_id", maintain_order=True)


def check_meds(folder: Path) -> None:
    """The folder passes the validators of the `meds` package, and keeps what they do not look at."""
    subjects: set[int] = set()
    for path in sorted((folder / "data").glob("*/*.parquet")):
        table = pq.read_table(path)
        meds.DataSchema.validate(table)
        frame = pl.DataFrame(pl.from_arrow(table))
        here = set(frame["subject_id"].unique())
        assert not here & subjects, "a subject is in one file only"
        subjects |= here
        assert frame["subject_id"].rle_id().max() == len(here) - 1, "a subject's rows are contiguous"
        assert frame["time"].equals(frame.sort("subject_id", "time", nulls_last=False, maintain_order=True)["time"])
    codes = pq.read_table(folder / "metadata" / "codes.parquet")
    meds.CodeMetadataSchema.validate(codes)
    assert codes["description"].null_count == 0
    splits = pq.read_table(folder / "metadata" / "subject_splits.parquet")
    meds.SubjectSplitSchema.validate(splits)
    assert set(splits["subject_id"].to_pylist()) == subjects
    meds.DatasetMetadataSchema.validate(json.loads((folder / "metadata" / "dataset.json").read_text()))


def check_accounting(summary: dict) -> None:
    """Every raw row either gave an event or was set aside for a reason, and every event came from a row."""
    for name, table in summary["tables"].items():
        assert table["rows"] == table["rows_emitted"] + sum(table["rows_set_aside"].values()), name
    assert sum(table["events"] for table in summary["tables"].values()) == summary["events"]
    assert sum(summary["events_by_family"].values()) == summary["events"]
    for name, labels in summary.get("labels", {}).items():
        assert labels["rows"] == labels["labels"] + sum(labels["rows_set_aside"].values()), name


def labels_in(folder: Path, task: str) -> pl.DataFrame:
    """A label file, which must follow the closed label schema."""
    table = pq.read_table(folder / "labels" / task / "labels.parquet")
    meds.LabelSchema.validate(table)
    return pl.DataFrame(pl.from_arrow(table))


def digests(folder: Path) -> dict[str, str]:
    """Path -> digest of every file's content; the time of writing does not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "dataset.json":
                content = json.dumps({**json.loads(content), "created_at": ""}, sort_keys=True).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def until(events: pl.DataFrame, time: object) -> pl.DataFrame:
    """The static events and those up to a time."""
    return events.filter(pl.col("time").is_null() | (pl.col("time") <= time))


def refusal(read: object, source: Path, output: Path, **settings: object) -> str:
    """The message of the InputError that reading must raise, leaving nothing behind."""
    try:
        read(source, output, **settings)
    except InputError as error:
        left = [path for path in output.parent.iterdir() if path.name.startswith(f".{output.name}")]
        assert not output.exists() and not left, "nothing is left behind"
        message = str(error)
        assert "\n" not in message and "Traceback" not in message
        return message
    raise AssertionError("the input was not refused")
