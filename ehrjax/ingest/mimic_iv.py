"""The MIMIC-IV reader: a folder with hosp/ and icu/ tables (2.x or 3.x, .csv or .csv.gz) becomes a MEDS
dataset.

What each table means and when its rows became known is declared in `mimic_iv_tables`. Two passes: every
table is read once, block by block, and its events are spilled to buckets of whole subjects; then each bucket
is sorted and written as a shard. Only patients, admissions and the d_ tables are held in memory.

The property this reader keeps: deleting all that became known after a time t leaves all events up to t as
they were, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import mimic_iv_codes as codes
from ehrjax.ingest import mimic_iv_tables as mimic
from ehrjax.ingest import raw_csv, roles
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.meds import VISIT_COLUMN
from ehrjax.ingest.raw_tables import VISIT_FROM, KeyIndex, Table, not_before

BLOCK_BYTES = raw_csv.BLOCK_BYTES


def read(input: str | Path, output: str | Path, *, progress: Progress | None = None) -> dict[str, object]:
    """Converts a MIMIC-IV folder to MEDS.

    Args:
      input: the folder that holds hosp/ and icu/.
      output: the MEDS folder to write; it must not exist or be empty.
      progress: called as progress(stage, bytes done, bytes in all), in bytes of the input's files.

    Returns:
      A summary without any patient's values, also kept in metadata/dataset.json under `reader_summary`: per
      table rows = rows_emitted + sum(rows_set_aside); absent tables, tables not read; events by family;
      subjects by split.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
      RunError: the disk is full.
    """
    input, output = Path(input), Path(output)
    if not input.is_dir():
        raise InputError(f"The MIMIC-IV folder {input} does not exist; name the folder that holds hosp and icu.")
    files.refuse_existing(output, what="MEDS dataset")
    paths = _find_tables(input)
    report = ByteProgress(progress, sum(path.stat().st_size for path in paths.values()))
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [table for table in mimic.TABLES if table.name in paths],
            source="mimic-iv",
            dataset_name="MIMIC-IV",
            dataset_version="2.x or 3.x",
            text_bytes=text_bytes(paths.values()),
        )
        titles = codes.read_titles(input)
        titles.own.update(_spill(paths, conversion, report))
        report("writing", report.total)
        return conversion.finish(
            lambda counts: codes.describe(counts, titles),
            extra={"roles": roles.MIMIC_IV},
            summary={
                "absent_tables": [f"{t.folder}/{t.name}" for t in mimic.TABLES if t.name not in paths] + titles.absent,
                "tables_not_read": [n for n in mimic.NOT_READ if raw_csv.find_table(*_split_name(input, n))],
            },
        )


def _split_name(input: Path, name: str) -> tuple[Path, str]:
    folder, table = name.split("/")
    return input / folder, table


def _find_tables(input: Path) -> dict[str, Path]:
    """Table name -> file, for the tables that are there; they have the columns that are read."""
    paths = {}
    for table in mimic.TABLES:
        path = raw_csv.find_table(input / table.folder, table.name)
        if path is not None:
            # Before any long work.
            raw_csv.check_columns(path, table.columns)
            paths[table.name] = path
        elif table.required:
            raise InputError(
                f"{input / table.folder} holds no {table.name}.csv or {table.name}.csv.gz, which is needed; "
                "name the folder that holds MIMIC-IV's hosp and icu."
            )
    return paths


def _spill(paths: dict[str, Path], conversion: Conversion, report: ByteProgress) -> dict[str, str]:
    """Reads every table once into the buckets; returns the descriptions found in the tables themselves."""
    patients = _unique(_whole(mimic.PATIENTS, paths), "subject_id", paths["patients"])
    admissions = _unique(_whole(mimic.ADMISSIONS, paths), "hadm_id", paths["admissions"])
    # A time in a row that is earlier than the row itself (it happens) counts from the row's own time.
    admissions = admissions.with_columns(
        not_before("dischtime", "admittime").alias(mimic.DISCHARGE),
        not_before("deathtime", "admittime").alias("deathtime"),
    )
    joined = _Joined(patients["subject_id"], admissions)
    in_memory = {"patients": _with_death(patients, admissions), "admissions": admissions}
    own: dict[str, str] = {}
    for table in mimic.TABLES:
        if table.name not in paths:
            continue
        path = paths[table.name]
        if table.name in in_memory:
            batches: Iterator[pl.DataFrame] = iter([in_memory.pop(table.name)])
        else:
            batches = raw_csv.read_batches(
                path, table.columns, block_bytes=BLOCK_BYTES, on_bytes=report.during(table.name)
            )
        for batch in batches:
            conversion.add(joined.attach(batch), table)
            if table.name in mimic.DESCRIBING:
                _describe_first(own, batch, table, mimic.DESCRIBING[table.name])
        report.finished(table.name, path.stat().st_size)
    return own


def _whole(table: Table, paths: dict[str, Path]) -> pl.DataFrame:
    """A required table in memory."""
    path = paths[table.name]
    batches = list(raw_csv.read_batches(path, table.columns))
    if not batches:
        raise InputError(f"{path} has a header but no rows; copy the table again.")
    return pl.concat(batches)


def _unique(frame: pl.DataFrame, key: str, path: Path) -> pl.DataFrame:
    """`frame`, whose `key` must not occur twice, since other tables are joined to it."""
    repeated = frame.filter(pl.col(key).is_not_null() & ~pl.col(key).is_first_distinct())
    if len(repeated):
        row, value = repeated["row"][0], repeated[key][0]
        first = frame.filter(pl.col(key) == value)["row"][0]
        raise InputError(
            f"{path}, line {raw_csv.line_of(path, row)}: its {key} already stands on line "
            f"{raw_csv.line_of(path, first)}; remove one of the two."
        )
    return frame


def _with_death(patients: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Adds when each subject's death was known, and the hadm_id of a death in hospital.

    deathtime is exact and dod only a date, so the former is the earlier wherever they agree; where they
    contradict each other the earlier one is what was known first.
    """
    in_hospital = (
        admissions.filter(pl.col("deathtime").is_not_null())
        .sort("deathtime", "row")
        .unique("subject_id", keep="first", maintain_order=True)
        .select("subject_id", "hadm_id", "deathtime")
    )
    joined = patients.join(in_hospital, on="subject_id", how="left", maintain_order="left")
    exact = pl.col("dod").is_null() | (pl.col("deathtime") <= pl.col("dod"))
    return joined.with_columns(
        pl.min_horizontal("deathtime", "dod").alias(mimic.DEATH_TIME), pl.when(exact).then(pl.col("hadm_id"))
    )


class _Joined:
    """What patients and admissions say about the rows of every other table."""

    def __init__(self, subjects: pl.Series, admissions: pl.DataFrame) -> None:
        self._subjects = KeyIndex(subjects.drop_nulls())
        self._admissions = admissions.filter(pl.col("hadm_id").is_not_null())
        self._stays = KeyIndex(self._admissions["hadm_id"])

    def attach(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds known_subject, known_admission, discharge_time and visit_id, known since visit_from
        (admittime).

        A row drawn before the admission that it was later filed under (labs in the emergency department)
        does not know yet that there will be one.
        """
        if "hadm_id" not in frame.columns:
            frame = frame.with_columns(pl.lit(None, pl.Int64).alias("hadm_id"))
        at = pl.Series(self._stays.positions(frame["hadm_id"]))
        at = at.set(at < 0, None)
        stays = self._admissions.select("subject_id", "admittime", mimic.DISCHARGE).select(pl.all().gather(at))
        same = (stays["subject_id"] == frame["subject_id"]).fill_null(False)
        return frame.with_columns(
            pl.Series(mimic.KNOWN_SUBJECT, self._subjects.positions(frame["subject_id"]) >= 0),
            same.alias(mimic.KNOWN_ADMISSION),
            stays[mimic.DISCHARGE].set(~same, None),
            stays["admittime"].set(~same, None).alias(VISIT_FROM),
            pl.col("hadm_id").alias(VISIT_COLUMN),
        )


def _describe_first(own: dict[str, str], batch: pl.DataFrame, table: Table, column: str) -> None:
    """Keeps the first description of each code."""
    pairs = batch.select(table.events[0].code.alias("code"), column).drop_nulls().unique("code", keep="first")
    for name, text in pairs.iter_rows():
        own.setdefault(name, text)
