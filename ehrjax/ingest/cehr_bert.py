"""The reader of CEHR-BERT's patient_sequence parquet: one row a person, its events as parallel lists, becomes MEDS.

Format: cumc-dbmi/cehrbert_data (Spark output, `number_as_values`) and cumc-dbmi/cehrbert (its MEDS path,
`concept_values`). What the lists mean is in `cehr_bert_concepts`. A person's several rows (one a cohort entry) are
merged: an event that an earlier row of the person already gave is not given again. `label` and `index_date`, where
there are, become `labels/TASK/labels.parquet` inside the MEDS folder.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import cehr_bert_concepts as concepts
from ehrjax.ingest import parquet_pieces, raw_files
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.label_files import LabelFile, check_task
from ehrjax.ingest.parquet_pieces import numbers, pieces, whole_numbers
from ehrjax.ingest.raw_csv import ROW
from ehrjax.ingest.raw_tables import FIRST_TIME, LAST_TIME, OUT_OF_RANGE

PIECE_CONCEPTS = 500_000
REQUIRED = ("person_id", "concept_ids", "visit_segments", "concept_value_masks")
SCALARS = ("person_id", "index_date", "label")
UNEQUAL = "lists of different lengths"


@dataclass(frozen=True)
class Settings:
    """Options.

    Attributes:
      task: the name of the label file's folder below `labels`.
    """

    task: str = "outcome"


def read(
    input: str | Path, output: str | Path, settings: Settings = Settings(), *, progress: Progress | None = None
) -> dict[str, object]:
    """Converts a patient_sequence folder (or the folder that holds it) to MEDS.

    Args:
      input: the folder with the parquet files.
      output: the MEDS folder to write; it must not exist or be empty.
      settings: options.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`, whose table `concepts` counts list elements, with `sequences`: rows =
      rows_read + sum(rows_set_aside), `labels` and `columns_not_read`.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    check_task(settings.task)
    files.refuse_existing(output, what="MEDS dataset")
    paths = _find(input)
    columns = [_columns(path) for path in paths]
    with_label = [path for path, names in zip(paths, columns) if {"label", "index_date"} <= set(names)]
    if with_label and len(with_label) < len(paths):
        without = next(path for path in paths if path not in with_label)
        raise InputError(f"{without} has no label and index_date, but {with_label[0].name} has; read them apart.")
    repeated = _repeated(paths)
    report = ByteProgress(progress, sum(path.stat().st_size for path in paths))
    with files.written_folder(output, what="MEDS dataset") as folder, ExitStack() as stack:
        conversion = Conversion(
            folder,
            [concepts.CONCEPTS],
            source="cehr-bert",
            dataset_name="CEHR-BERT patient sequences",
            dataset_version="patient_sequence",
            text_bytes=text_bytes(paths),
        )
        labels = stack.enter_context(LabelFile(folder, settings.task, "boolean_value")) if with_label else None
        sequences: Counter[str] = Counter()
        first_sequence = first_concept = 0
        for path, names in zip(paths, columns):
            rows = _rows_a_piece(path)
            for piece in pieces(path, names, rows=rows, first=first_sequence, on_bytes=report.during("sequences")):
                sequence, reason = _checked(piece, path)
                sequences.update(reason.fill_null("read").to_list())
                exploded = _exploded(sequence.filter(reason.is_null()), path)
                exploded = exploded.with_row_index(ROW, offset=first_concept).cast({ROW: pl.Int64})
                first_concept += len(exploded)
                conversion.add(concepts.read_concepts(exploded, repeated), concepts.CONCEPTS)
                if labels:
                    labels.add(_labels(sequence, reason, path))
                first_sequence += len(piece)
            report.finished("sequences", path.stat().st_size)
        stack.close()
        read_rows = sequences.pop("read", 0)
        every = sorted({name for path in paths for name in parquet_pieces.columns_of(path)})
        used = {name for names in columns for name in names}
        return conversion.finish(
            concepts.describe,
            summary={
                "sequences": {
                    "rows": read_rows + sum(sequences.values()),
                    "rows_read": read_rows,
                    "rows_set_aside": dict(sorted(sequences.items())),
                },
                "persons_in_several_rows": len(repeated),
                "labels": {settings.task: labels.as_dict()} if labels else {},
                "columns_not_read": [name for name in every if name not in used],
            },
            extra={"roles": concepts.ROLES},
        )


def _find(input: Path) -> list[Path]:
    """The parquet files: a table named patient_sequence, or all files below the folder."""
    if not input.is_dir():
        raise InputError(f"The folder {input} does not exist; name the folder patient_sequence.")
    found = raw_files.find_table(input, "patient_sequence") or sorted(input.rglob("*.parquet"))
    found = [path for path in found if path.suffix == ".parquet" and path.is_file()]
    if not found:
        raise InputError(f"{input} holds no parquet files; name the folder patient_sequence.")
    return found


def _columns(path: Path) -> list[str]:
    """The columns of one file that are read."""
    there = parquet_pieces.check_columns(path, REQUIRED)
    if "epoch_times" not in there and "dates" not in there:
        raise InputError(f"{path} has neither a column 'epoch_times' nor 'dates', so its events have no times.")
    wanted = (*REQUIRED, *concepts.LISTS, *concepts.NUMBERS, "index_date", "label")
    return [name for name in there if name in wanted]


def _repeated(paths: list[Path]) -> pl.Series:
    """The persons who have more than one row; only their ids are held in memory."""
    ids = [
        whole_numbers(piece["person_id"], path).drop_nulls().to_numpy()
        for path in paths
        for piece in pieces(path, ["person_id"], rows=1_000_000)
    ]
    values, counts = np.unique(np.concatenate([np.zeros(0, np.int64), *ids]), return_counts=True)
    return pl.Series("person_id", values[counts > 1], pl.Int64)


def _rows_a_piece(path: Path) -> int:
    """So many sequences that they hold about PIECE_CONCEPTS concepts."""
    metadata = pq.read_metadata(path)
    values = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            if chunk.path_in_schema.split(".")[0] == "concept_ids":
                values += chunk.num_values
    return max(1, PIECE_CONCEPTS * max(metadata.num_rows, 1) // max(values, 1))


def _checked(piece: pl.DataFrame, path: Path) -> tuple[pl.DataFrame, pl.Series]:
    """The sequences with whole ids, and why each is set aside (null where it is not)."""
    lists = [name for name in piece.columns if name not in (*SCALARS, ROW)]
    for name in lists:
        if not isinstance(piece[name].dtype, pl.List):
            raise InputError(f"{path}: the column {name!r} holds {piece[name].dtype}, which is not lists.")
    piece = piece.with_columns(whole_numbers(piece["person_id"], path))
    length = pl.col("concept_ids").list.len()
    equal = [pl.col(name).list.len().eq_missing(length) for name in lists if name != "concept_ids"]
    reason = (
        pl.when(pl.col("person_id").is_null())
        .then(pl.lit("no person_id"))
        .when(length.fill_null(0) == 0)
        .then(pl.lit("no concepts"))
        .when(~pl.all_horizontal(equal))
        .then(pl.lit(UNEQUAL))
    )
    return piece, piece.select(reason.alias("reason")).to_series()


def _exploded(sequence: pl.DataFrame, path: Path) -> pl.DataFrame:
    """One row a list element, with every column of `concepts.read_concepts`."""
    lists = [name for name in sequence.columns if name not in (*SCALARS, ROW)]
    frame = sequence.select(pl.col(ROW).alias("sequence"), "person_id", *lists).explode(lists)
    out = frame.select("sequence", "person_id")
    for name, kind in concepts.LISTS.items():
        if name not in frame.columns:
            column = pl.repeat(None, len(frame), dtype=kind, eager=True).alias(name)
        elif kind == pl.String:
            column = _text(frame[name], path)
        else:
            column = numbers(frame[name], path)
        out = out.with_columns(column.alias(name))
    # The MEDS path keeps its numbers under another name.
    given = [numbers(frame[name], path) for name in concepts.NUMBERS if name in frame.columns]
    values = given[0] if given else pl.repeat(None, len(frame), dtype=pl.Float64, eager=True)
    return out.with_columns(values.alias("number"))


def _text(column: pl.Series, path: Path) -> pl.Series:
    if column.dtype == pl.String or column.dtype.is_integer() or column.dtype in (pl.Null, pl.Categorical):
        return column.cast(pl.String).str.strip_chars()
    raise InputError(f"{path}: the column {column.name!r} holds lists of {column.dtype}, which is not text.")


def _labels(sequence: pl.DataFrame, reason: pl.Series, path: Path) -> pl.DataFrame:
    """One label a sequence, or the reason why there is none."""
    index = sequence["index_date"]
    if index.dtype == pl.Date or isinstance(index.dtype, pl.Datetime):
        if isinstance(index.dtype, pl.Datetime) and index.dtype.time_zone:
            index = index.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        # A bare date is its first moment: nothing of that day may be seen.
        time = index.cast(pl.Datetime("us"))
    else:
        seconds = numbers(index, path)
        near = seconds.set((seconds.abs() > concepts.MOST_SECONDS).fill_null(False), concepts.MOST_SECONDS)
        time = (near * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us"))
    label = numbers(sequence["label"], path)
    frame = sequence.select(
        pl.col("person_id").alias("subject_id"),
        time.alias("prediction_time"),
        (label == 1).alias("boolean_value"),
        label.alias("label"),
        reason.alias("reason"),
    )
    reasons = (
        ("no label", pl.col("label").is_null()),
        ("label is not 0 or 1", ~pl.col("label").is_in([0.0, 1.0])),
        ("no index_date", pl.col("prediction_time").is_null()),
        (OUT_OF_RANGE, ~pl.col("prediction_time").is_between(FIRST_TIME, LAST_TIME, closed="left")),
    )
    why = pl.coalesce("reason", *(pl.when(condition).then(pl.lit(name)) for name, condition in reasons))
    return frame.with_columns(why.alias("reason"))
