"""From a MEDS dataset to label files: piece by piece, memory bounded by a piece, every candidate counted.

DIR/<name>/<split>/*.parquet            the labels in the closed label schema of MEDS, with one value column
DIR/<name>/extension/<split>/*.arrow    what does not fit: the same rows in the same order, by the same two keys
DIR/<name>/task.json                    task, settings, roles, dataset, counts

The extension is no parquet because MEDS readers take every parquet file below a task's folder for labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import meds, roles
from ehrjax.ingest.fingerprint import fingerprint
from ehrjax.ingest.labels.candidates import CALENDAR, INTERVALS, TIMES
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.labels.settings import Chosen

KEYS = {"subject_id": pl.Int64(), "prediction_time": pl.Datetime("us")}
VALUES = {
    "boolean_value": (pl.Boolean(), pa.bool_()),
    "integer_value": (pl.Int64(), pa.int64()),
    "float_value": (pl.Float32(), pa.float32()),
    "categorical_value": (pl.String(), pa.string()),
}
EXTENSION, TASK_FILE, FORMAT = "extension", "task.json", "ehrjax labels 1"
DUPLICATE = "same prediction time as another candidate"
CHUNK_EVENTS = 1_000_000
MOST_CLASSES = 20

Progress = Callable[[str, int, int], None]


def make(source: str | Path, output: str | Path, chosen: Chosen, *, progress: Progress | None = None) -> dict[str, Any]:
    """Makes the labels of a task.

    Args:
      source: the MEDS folder.
      output: the labels go to `output/<chosen.name>`, which must not exist.
      chosen: the task and its settings (`settings.choose` or `settings.from_arguments`).
      progress: called with what is being done, how many pieces are finished, and how many there are.

    Returns:
      What was written to task.json.

    Raises:
      InputError: the input is no MEDS dataset; it lacks a role or code that the task needs; a subject has no split
        or lies in two files; or every candidate is excluded.
    """
    source, output = Path(source), Path(output)
    target = output / chosen.name
    files.refuse_existing(target, what="labels")
    dataset = meds.open_dataset(source)
    work = _Work(dataset, chosen, progress)
    new = not output.exists()
    try:
        with files.written_folder(target, what="labels") as folder:
            info = work.write(folder)
            files.write_json(folder / TASK_FILE, info)
    except BaseException:
        if new and output.is_dir() and not any(output.iterdir()):
            output.rmdir()
        raise
    return info


def candidates_of(record: Record, chosen: Chosen, fitted: list[str] | None = None) -> pl.DataFrame:
    """The candidates of a task for some whole subjects, sorted, each label only once.

    Args:
      record: the subjects.
      chosen: the task.
      fitted: what the task's `fit` gave, where it has one.

    Returns:
      subject_id, prediction_time (null only where excluded), the task's value and extension columns, `excluded` (the
      reason; null: it is a label), `unobserved` (whether the record ends before the horizon).
    """
    module = chosen.module
    frame = module.label(record, chosen.settings, *([fitted] if hasattr(module, "fit") else []))
    if "unobserved" not in frame.columns:
        frame = frame.with_columns(pl.lit(False).alias("unobserved"))
    columns = {**KEYS, module.VALUE: VALUES[module.VALUE][0], **module.EXTENSION}
    frame = frame.select(
        *(pl.col(name).cast(dtype) for name, dtype in columns.items()), pl.col("excluded", "unobserved")
    )
    frame = frame.sort("subject_id", "prediction_time", maintain_order=True)
    again = pl.col("excluded").is_null() & ~pl.struct("subject_id", "prediction_time", "excluded").is_first_distinct()
    return frame.with_columns(pl.when(again).then(pl.lit(DUPLICATE)).otherwise("excluded").alias("excluded"))


class _Work:
    """The making of one task's labels over all pieces of a dataset."""

    def __init__(self, dataset: meds.MedsDataset, chosen: Chosen, progress: Progress | None) -> None:
        self._dataset, self._chosen, self._progress = dataset, chosen, progress
        overrides = {name: patterns for name, patterns in chosen.roles.items() if patterns}
        self._roles = roles.of(dataset, overrides)
        self._needed = self._check()
        self._splits = dataset.splits.select("subject_id", "split").unique("subject_id", keep="first")
        for name in self._splits["split"].unique().sort():
            if name not in meds.SPLITS:
                path = dataset.folder / "metadata" / "subject_splits.parquet"
                raise InputError(f"{path} has a split {name!r}; the splits are {', '.join(meds.SPLITS)}.")
        self._chunks = list(dataset.chunks(CHUNK_EVENTS))

    def _check(self) -> dict[str, list[str]]:
        """The roles that the task uses; InputError where the dataset cannot serve it."""
        codes, task = self._dataset.codes["code"], self._chosen.task
        needs = self._chosen.module.needs(self._chosen.settings)
        self._check_times(needs.times)
        for name in needs.roles:
            self._roles.need(name, task=task, codes=codes)
        for key, given in needs.patterns.items():
            if given and not roles.matching(codes, given).any():
                raise InputError(
                    f"No code of the dataset matches config.{key} ({', '.join(given)}) of the task {task}; "
                    f"give the codes by --config.{key}=\"('REGEX',)\"."
                )
        optional = ("discharge_dead", "icu_discharge")
        related = [n for n in optional if n.removesuffix("_dead").replace("discharge", "admission") in needs.roles]
        used = [*needs.roles, *related]
        self._roles = self._roles.present(codes)
        return {name: list(self._roles.get(name)) for name in used if self._roles.get(name)}

    def _check_times(self, needed: str) -> None:
        """InputError where the dataset's times are made up and not true enough for the task."""
        pseudo = self._dataset.metadata.get("pseudo_dates")
        if not pseudo:
            return
        told = pseudo if isinstance(pseudo, dict) else {}
        good_for = told.get("good_for")
        if good_for not in TIMES or TIMES.index(needed) > TIMES.index(good_for):
            why = str(told.get("why", "its dates are made up")).rstrip(".")
            wanted = {INTERVALS: "how much time lies between events", CALENDAR: "on which day and date they lie"}
            raise InputError(
                f"The task {self._chosen.task} needs to know {wanted.get(needed, 'the order of events')}, which this "
                f"dataset does not tell ({why}); choose other settings, another task, or the source's own labels."
            )

    def _records(self, what: str, split: str | None = None) -> Iterator[tuple[Record, pl.DataFrame]]:
        """Each piece as a record, and subject_id and split of its subjects."""
        seen: list[np.ndarray] = []
        for number, chunk in enumerate(self._chunks):
            if self._progress:
                self._progress(what, number, len(self._chunks))
            events = self._dataset.read_chunk(chunk)
            subjects = events.select(pl.col("subject_id").unique(maintain_order=True))
            subjects = subjects.join(self._splits, on="subject_id", how="left", maintain_order="left")
            if lost := subjects["split"].null_count():
                raise InputError(
                    f"{self._dataset.folder} has {lost} subjects that subject_splits.parquet does not list."
                )
            seen.append(subjects["subject_id"].to_numpy())
            if split:
                subjects = subjects.filter(pl.col("split") == split)
                events = events.join(subjects, on="subject_id", how="semi", maintain_order="left")
            yield Record(events, self._roles), subjects
        every = np.concatenate(seen) if seen else np.zeros(0, np.int64)
        if len(np.unique(every)) != len(every):
            raise InputError(f"{self._dataset.folder} has subjects that lie in more than one file; MEDS allows one.")
        if self._progress:
            self._progress(what, len(self._chunks), len(self._chunks))

    def _fit(self) -> list[str] | None:
        module, counts = self._chosen.module, Counter()
        if not hasattr(module, "fit"):
            return None
        for record, _ in self._records("fitting on train", meds.TRAIN):
            counts.update(dict(module.count(record, self._chosen.settings).iter_rows()))
        if not counts:
            raise InputError(f"{self._dataset.folder} has nothing in its train split to fit {self._chosen.task} on.")
        return module.fit(counts, self._chosen.settings)

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes the label files and returns what task.json says."""
        chosen, module = self._chosen, self._chosen.module
        fitted = self._fit()
        counts = {split: _empty_counts() for split in meds.SPLITS}
        for number, (record, subjects) in enumerate(self._records("making labels")):
            frame = candidates_of(record, chosen, fitted).join(
                subjects, on="subject_id", how="left", maintain_order="left"
            )
            for split in meds.SPLITS:
                part = frame.filter(pl.col("split") == split)
                labels = part.filter(pl.col("excluded").is_null())
                _count(counts[split], part, labels, module.VALUE, subjects.filter(pl.col("split") == split).height)
                if len(labels):
                    write_labels(labels, folder / split / f"{number:05d}.parquet", module.VALUE)
                if len(labels) and module.EXTENSION:
                    write_extension(labels, folder / EXTENSION / split / f"{number:05d}.arrow", module.EXTENSION)
        if not any(count["labels"] for count in counts.values()):
            reasons = Counter()
            for count in counts.values():
                reasons.update(count["excluded"])
            told = "; ".join(f"{reason}: {n:,}" for reason, n in sorted(reasons.items())) or "there are no candidates"
            raise InputError(f"No label of the task {chosen.task} is left ({told}); change its settings or the roles.")
        metadata = self._dataset.metadata
        return {
            "format": FORMAT,
            "task": chosen.task,
            "name": chosen.name,
            "settings": configs.to_dict(_plain(chosen.settings)),
            "value": module.VALUE,
            "extension": sorted(module.EXTENSION),
            "roles": self._needed,
            "dataset": {
                "name": metadata.get("dataset_name"),
                "version": metadata.get("dataset_version"),
                "fingerprint": fingerprint(self._dataset),
            },
            "splits": {split: _finished(count) for split, count in counts.items()},
            "reasons_that_look_ahead": sorted({*module.LOOKS_AHEAD, DUPLICATE}),
            "prediction_times_look_ahead": module.ANCHORED_AHEAD,
            **({"vocabulary": fitted} if fitted is not None else {}),
        }


def _plain(settings: Any) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}


def _empty_counts() -> dict[str, Any]:
    return {"subjects": 0, "candidates": 0, "excluded": Counter(), "labels": 0, "unobserved": 0, "values": Counter()}


def _count(counts: dict[str, Any], part: pl.DataFrame, labels: pl.DataFrame, value: str, subjects: int) -> None:
    counts["subjects"] += subjects
    counts["candidates"] += len(part)
    counts["excluded"].update(dict(part["excluded"].drop_nulls().value_counts().iter_rows()))
    counts["labels"] += len(labels)
    counts["unobserved"] += int(labels["unobserved"].sum())
    if value in ("boolean_value", "integer_value"):
        counts["values"].update(dict(labels[value].value_counts().iter_rows()))


def _finished(counts: Mapping[str, Any]) -> dict[str, Any]:
    """The counts as JSON: `positives` of yes-or-no labels, `by_value` of whole numbers that are classes."""
    plain = {name: n for name, n in counts.items() if name != "values"}
    plain["excluded"] = dict(sorted(counts["excluded"].items()))
    values = counts["values"]
    if any(isinstance(value, bool) for value in values):
        plain["positives"] = values[True]
    elif 0 < len(values) <= MOST_CLASSES:
        plain["by_value"] = {str(value): values[value] for value in sorted(values)}
    return plain


def write_labels(labels: pl.DataFrame, path: Path, value: str) -> None:
    """Writes a file in the closed label schema of MEDS, with the value column `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The closed schema of MEDS: no other column, no nulls, plain strings.
    schema = pa.schema(
        [
            pa.field("subject_id", pa.int64(), nullable=False),
            pa.field("prediction_time", pa.timestamp("us"), nullable=False),
            pa.field(value, VALUES[value][1], nullable=False),
        ]
    )
    table = labels.select("subject_id", "prediction_time", value).to_arrow()
    pq.write_table(table.cast(schema), path, compression="zstd")


def write_extension(labels: pl.DataFrame, path: Path, columns: Mapping[str, pl.DataType]) -> None:
    """Writes what does not fit there: the keys and `columns`, row by row as the labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels.select("subject_id", "prediction_time", *columns).write_ipc(
        path, compression="zstd", compat_level=pl.CompatLevel.oldest()
    )
