"""What MIMIC-III and MIMIC-IV have in common: patients, admissions, billing, and how other rows are joined to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from ehrjax.ingest import raw_files
from ehrjax.ingest.conversion import ByteProgress, Conversion
from ehrjax.ingest.meds import VISIT_COLUMN
from ehrjax.ingest.raw_tables import VISIT_FROM, KeyIndex, Table, not_before

# Columns that the reader joins to every row before `events_of`.
KNOWN_SUBJECT = "known_subject"
KNOWN_ADMISSION = "known_admission"
DISCHARGE = "discharge_time"
DEATH_TIME = "death_time"

# Places among events at the same time: what opens a stay, what happens in it, what closes it, what is coded
# after it. Death is last.
STATIC, ADMISSION, LEAVING_ICU, AT_DISCHARGE, BILLING, LAST = 0, 1, 60, 61, 70, 99

# PhysioNet replaced free text that might identify someone by this.
DEIDENTIFIED = "___"


NO_SUBJECT = ("no subject_id", pl.col("subject_id").is_null())
UNKNOWN_SUBJECT = ("subject not in patients", ~pl.col(KNOWN_SUBJECT))


def lacking(what: str, column: str) -> tuple[str, pl.Expr]:
    return f"no {what}", pl.col(column).is_null()


def aside(*more: tuple[str, pl.Expr]) -> tuple[tuple[str, pl.Expr], ...]:
    return (NO_SUBJECT, UNKNOWN_SUBJECT, *more)


BILLED = (
    lacking("hadm_id", "hadm_id"),
    ("hadm_id not among the subject's admissions", ~pl.col(KNOWN_ADMISSION)),
    lacking("discharge time", DISCHARGE),
)
BILLED_WHY = "coded from the finished record: known at the discharge of its hadm_id"


def measured(value: str, number: str | None = None) -> tuple[pl.Expr, pl.Expr]:
    """(numeric, text) of a measurement. A bound such as `<0.01` is not a number: it stays text."""
    bound = pl.col(value).str.contains(r"^[<>≤≥]").fill_null(False)
    parsed = pl.col(value).cast(pl.Float64, strict=False)
    parsed = pl.when(parsed.is_finite()).then(parsed)
    if number:
        parsed = pl.coalesce(pl.col(number), parsed)
    numeric = pl.when(~bound).then(parsed)
    text = pl.when(numeric.is_null() & (pl.col(value) != DEIDENTIFIED)).then(pl.col(value))
    return numeric, text


def spill(
    paths: Mapping[str, list[Path]],
    tables: Sequence[Table],
    conversion: Conversion,
    report: ByteProgress,
    *,
    describing: Mapping[str, str],
    complete: Callable[[pl.DataFrame, pl.DataFrame], pl.DataFrame] = lambda patients, admissions: patients,
) -> dict[str, str]:
    """Reads every table once into a conversion.

    Args:
      paths: table name -> its files.
      tables: what the tables mean; patients and admissions are among them.
      conversion: takes the events.
      report: told how far the reading has come.
      describing: table name -> its column that describes the codes of its first event.
      complete: adds to patients what their admissions tell.

    Returns:
      The descriptions found in the tables themselves.
    """
    by_name = {table.name: table for table in tables}
    whole = {name: raw_files.read_whole(paths[name], by_name[name]) for name in ("patients", "admissions")}
    raw_files.refuse_repeats(whole["patients"], "subject_id", paths["patients"])
    raw_files.refuse_repeats(whole["admissions"], "hadm_id", paths["admissions"])
    # A time in a row that is earlier than the row itself (it happens) counts from the row's own time.
    admissions = whole["admissions"].with_columns(
        not_before("dischtime", "admittime").alias(DISCHARGE),
        not_before("deathtime", "admittime").alias("deathtime"),
    )
    patients = complete(_with_death(whole["patients"], admissions), admissions)
    stays = Stays(patients["subject_id"], admissions)
    in_memory = {"patients": patients, "admissions": admissions}
    own: dict[str, str] = {}
    for table in tables:
        if table.name not in paths:
            continue
        files = paths[table.name]
        if table.name in in_memory:
            batches: Iterator[pl.DataFrame] = iter([in_memory.pop(table.name)])
        else:
            batches = raw_files.read_batches(
                files, table.columns, optional=table.optional, on_bytes=report.during(table.name)
            )
        for batch in batches:
            conversion.add(stays.attach(batch), table)
            if table.name in describing:
                _describe_first(own, batch, table, describing[table.name])
        report.finished(table.name, sum(path.stat().st_size for path in files))
    return own


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
        pl.min_horizontal("deathtime", "dod").alias(DEATH_TIME), pl.when(exact).then(pl.col("hadm_id"))
    )


class Stays:
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
        stays = self._admissions.select("subject_id", "admittime", DISCHARGE).select(pl.all().gather(at))
        same = (stays["subject_id"] == frame["subject_id"]).fill_null(False)
        return frame.with_columns(
            pl.Series(KNOWN_SUBJECT, self._subjects.positions(frame["subject_id"]) >= 0),
            same.alias(KNOWN_ADMISSION),
            stays[DISCHARGE].set(~same, None),
            stays["admittime"].set(~same, None).alias(VISIT_FROM),
            pl.col("hadm_id").alias(VISIT_COLUMN),
        )


def _describe_first(own: dict[str, str], batch: pl.DataFrame, table: Table, column: str) -> None:
    """Keeps the first description of each code."""
    pairs = batch.select(table.events[0].code.alias("code"), column).drop_nulls().unique("code", keep="first")
    for name, text in pairs.iter_rows():
        own.setdefault(name, text)
