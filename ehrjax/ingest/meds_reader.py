"""The MEDS reader: a dataset of another pipeline (MEDS 0.4 or 0.3.3) becomes one that ehrjax can rely on.

A valid MEDS dataset needs no reading: `prepare tokens` takes it as it is. This reader is for the rest, which is most of
what is about: shards that nest, subjects in no order, no split or no codes table, unit or visit in a column of another
name, times as text. It also says what it found, row by row. Format: https://github.com/Medical-Event-Data-Standard/meds
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import raw_files
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.meds import SPLITS, VISIT_COLUMN
from ehrjax.ingest.parquet_pieces import pieces
from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.raw_tables import UNKNOWN, Event, Table, code, columns_of, words

SOURCE_NAME = "meds"
METADATA = "metadata"
# What of a dataset's own description is still true of what is made from it.
KEPT = ("license", "location_uri", "description_uri", "roles", "pseudo_dates", "synthetic")

_FULL = pl.col("full")
DATA = Table(
    "data",
    "data",
    columns_of(ids="subject_id", times="time", texts="code"),
    (
        Event(pl.when(pl.col("time").is_null()).then(_FULL), None, pl.col("numeric_value"), pl.col("text_value")),
        Event(
            pl.when(pl.col("time").is_not_null()).then(_FULL),
            pl.col("time"),
            pl.col("numeric_value"),
            pl.col("text_value"),
        ),
    ),
    0,
    "at its own time; rows of one time stay in their order",
    (("no subject_id", pl.col("subject_id").is_null()), ("no code", pl.col("code").is_null())),
    required=True,
    optional=columns_of(numbers="numeric_value", texts="text_value"),
)


@dataclass(frozen=True)
class Settings:
    """Options.

    Attributes:
      visit_column: the column that says which visit an event belongs to (`hadm_id`, ...), by whole numbers.
      unit_column: a column of units, which become the last part of the code of events with a number; empty: none.
    """

    visit_column: str = VISIT_COLUMN
    unit_column: str = ""


def read(
    input: str | Path, output: str | Path, settings: Settings = Settings(), *, progress: Progress | None = None
) -> dict[str, object]:
    """Converts a MEDS dataset to one in which each subject is whole, in order and in a split.

    Args:
      input: the dataset's folder, or a folder of event files alone.
      output: the MEDS folder to write; it must not exist or be empty.
      settings: options.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`, with the input's MEDS version, the columns that are not read, and where the
      split comes from.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    if not input.is_dir():
        raise InputError(f"The MEDS folder {input} does not exist; name the folder that holds data and metadata.")
    files.refuse_existing(output, what="MEDS dataset")
    paths = _event_files(input)
    raw_files.check_columns(paths, DATA.columns)
    optional = {**DATA.optional, settings.visit_column: Kind.ID}
    if settings.unit_column:
        _must_have(paths, settings.unit_column, "--unit_column")
        optional[settings.unit_column] = Kind.TEXT
    if settings.visit_column != VISIT_COLUMN:
        _must_have(paths, settings.visit_column, "--visit_column")
    described = _dataset_json(input)
    splits, origin = _splits(input, paths)
    size = sum(path.stat().st_size for path in paths)
    report = ByteProgress(progress, size)
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [DATA],
            source=SOURCE_NAME,
            dataset_name=str(described.get("dataset_name") or input.name),
            dataset_version=str(described.get("dataset_version") or "unknown"),
            text_bytes=text_bytes(paths),
            splits=splits,
        )
        for batch in raw_files.read_batches(paths, DATA.columns, optional=optional, on_bytes=report.during("events")):
            conversion.add(_events(batch, settings), DATA)
        report.finished("events", size)
        codes = _Codes(input)
        other = {name for path in paths for name in raw_files.columns_of(path)}
        return conversion.finish(
            codes.describe,
            parents=codes.parents,
            extra={name: described[name] for name in KEPT if name in described},
            summary={
                "meds_version": str(described.get("meds_version") or "not said"),
                "columns_not_read": sorted(other - set(DATA.columns) - set(optional)),
                "split_from": origin,
            },
        )


def _event_files(input: Path) -> list[Path]:
    folder = input / "data" if (input / "data").is_dir() else input
    found = sorted(path for path in folder.rglob("*.parquet") if METADATA not in path.relative_to(folder).parts[:-1])
    if not found:
        raise InputError(f"{folder} holds no parquet files; name the folder of a MEDS dataset.")
    return found


def _must_have(paths: Iterable[Path], column: str, option: str) -> None:
    if not any(raw_files.present(path, {column: Kind.TEXT}) for path in paths):
        raise InputError(f"No event file has a column {column!r}, which {option} names.")


def _dataset_json(input: Path) -> dict:
    path = input / METADATA / "dataset.json"
    return files.read_json(path, what="MEDS dataset") if path.is_file() else {}


def _events(frame: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Adds the visit and the code with its unit."""
    full = pl.col("code")
    if settings.unit_column:
        unit = words(settings.unit_column).fill_null(UNKNOWN)
        full = pl.when(pl.col("numeric_value").is_not_null()).then(code(full, unit)).otherwise(full)
    return frame.with_columns(full.alias("full"), pl.col(settings.visit_column).alias(VISIT_COLUMN))


def _splits(input: Path, paths: list[Path]) -> tuple[pl.DataFrame | None, str]:
    """subject_id and split, and where they come from.

    The folder below data is a convention only, so it counts only where there is no table and every file lies in one.
    """
    path = input / METADATA / "subject_splits.parquet"
    if path.is_file():
        columns = {"subject_id": Kind.ID, "split": Kind.TEXT}
        frame = pl.concat([*raw_files.read_batches(path, columns)] or [_no_splits()])
        wrong = frame.filter(~pl.col("split").is_in(SPLITS).fill_null(False) | pl.col("subject_id").is_null())
        if len(wrong):
            raise InputError(
                f"{path}, row {wrong['row'][0]}: a row needs a subject_id and one of the splits {', '.join(SPLITS)}."
            )
        told = frame.select("subject_id", "split")
    elif len(folders := {_folder_of(p, input) for p in paths}) > 1 and folders <= set(SPLITS):
        frames = [
            piece.select(pl.col("subject_id").cast(pl.Int64), pl.lit(_folder_of(p, input)).alias("split"))
            for p in paths
            for piece in pieces(p, ["subject_id"], rows=1_000_000)
        ]
        told = pl.concat([_no_splits().select("subject_id", "split"), *frames]).drop_nulls().unique(maintain_order=True)
        path = input / "data"
    else:
        return None, "a hash of subject_id"
    if told["subject_id"].n_unique() != len(told):
        raise InputError(f"{path} puts a subject in more than one split; keep each subject in one.")
    return told, str(path.relative_to(input))


def _no_splits() -> pl.DataFrame:
    return pl.DataFrame(schema={"row": pl.Int64, "subject_id": pl.Int64, "split": pl.String})


def _folder_of(path: Path, input: Path) -> str:
    parts = path.relative_to(input).parts
    return parts[1] if len(parts) > 2 and parts[0] == "data" else parts[0]


class _Codes:
    """What the input's codes.parquet says of the codes; a unit that was added is left out in the search."""

    def __init__(self, input: Path) -> None:
        self._rows: dict[str, tuple[str | None, list[str] | None]] = {}
        path = input / METADATA / "codes.parquet"
        if not path.is_file():
            return
        there = raw_files.columns_of(path)
        raw_files.check_columns([path], ["code"])
        wanted = ["code", *(name for name in ("description", "parent_codes") if name in there)]
        for piece in pieces(path, wanted, rows=100_000):
            for row in piece.select(wanted).iter_rows(named=True):
                if row["code"] is not None:
                    self._rows.setdefault(row["code"], (row.get("description"), row.get("parent_codes")))

    def _of(self, name: str) -> tuple[str | None, list[str] | None]:
        return self._rows.get(name) or self._rows.get(name.rpartition("//")[0]) or (None, None)

    def describe(self, codes: Iterable[str]) -> dict[str, str]:
        """A description for every code: the code itself where there is none."""
        return {name: self._of(name)[0] or name for name in codes}

    def parents(self, codes: Iterable[str]) -> dict[str, list[str]]:
        """The parents, for the codes that have any."""
        return {name: list(above) for name in codes if (above := self._of(name)[1])}
