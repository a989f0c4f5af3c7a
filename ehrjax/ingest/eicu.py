"""The eICU reader: the tables of the Collaborative Research Database 2.0 become a MEDS dataset.

eICU has no dates: times are minutes since a unit admission, and of a hospital stay only the year of its discharge is
told. So the times are pseudo-times. A person's hospital stays, in order of (year of discharge, age, stay id), begin
1,000 days apart from 2000-01-01 on; within a hospital stay everything is placed exactly. They say what came before
what, and within a stay how long after; the time between two stays means nothing.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.ingest import eicu_tables as eicu
from ehrjax.ingest import raw_files
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.meds import VISIT_COLUMN
from ehrjax.ingest.raw_tables import VISIT_FROM, KeyIndex
from ehrjax.ingest.subject_ids import TextIds

FIRST_STAY = pl.datetime(2000, 1, 1, time_unit="us")
DAYS_APART = 1_000
OLDEST = "> 89"
PSEUDO_DATES = {
    "good_for": "order",
    "why": "the source has no dates: a person's hospital stays begin 1,000 days apart from 2000-01-01 on, in order of "
    "the year of discharge; only times within a hospital stay are true",
}
_STAY = ("subject_id", "patienthealthsystemstayid", eicu.ADMITTED, eicu.UNIT_ADMITTED, eicu.UNIT_LEFT)


def read(input: str | Path, output: str | Path, *, progress: Progress | None = None) -> dict[str, object]:
    """Converts the tables of eICU to MEDS.

    Args:
      input: the folder that holds patient.csv.gz and so on.
      output: the MEDS folder to write; it must not exist or be empty. Subjects are named by text in eICU;
        metadata/subject_ids.parquet says which number is whose.
      progress: called as progress(stage, bytes done, bytes in all), in bytes of the input's files.

    Returns:
      The summary of `Conversion.finish`, with absent tables and tables not read.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    paths = raw_files.find_tables(input, eicu.TABLES, source="eICU")
    files.refuse_existing(output, what="MEDS dataset")
    every = [path for parts in paths.values() for path in parts]
    report = ByteProgress(progress, sum(path.stat().st_size for path in every))
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [table for table in eicu.TABLES if table.name in paths],
            source="eicu",
            dataset_name="eICU",
            dataset_version="2.0",
            text_bytes=text_bytes(every),
        )
        people = TextIds("person")
        patients = raw_files.read_whole(paths["patient"], eicu.PATIENT)
        raw_files.refuse_repeats(patients, "patientunitstayid", paths["patient"])
        patients = _placed(patients.with_columns(people.encode(patients["uniquepid"]).alias("subject_id")))
        conversion.add(patients, eicu.PATIENT)
        report.finished("patient", sum(path.stat().st_size for path in paths["patient"]))
        stays = _Stays(patients)
        for timed in eicu.TIMED:
            table = timed.table
            if table.name not in paths:
                continue
            for batch in raw_files.read_batches(
                paths[table.name], table.columns, optional=table.optional, on_bytes=report.during(table.name)
            ):
                conversion.add(stays.attach(batch, timed), table)
            report.finished(table.name, sum(path.stat().st_size for path in paths[table.name]))
        people.write(folder / "metadata" / "subject_ids.parquet", "uniquepid")
        return conversion.finish(
            lambda codes: {name: eicu.describe(name) for name in codes},
            extra={"roles": eicu.ROLES, "pseudo_dates": PSEUDO_DATES},
            summary={
                "absent_tables": [table.name for table in eicu.TABLES if table.name not in paths],
                "tables_not_read": [name for name in eicu.NOT_READ if raw_files.find_table(input, name)],
            },
        )


def _placed(patients: pl.DataFrame) -> pl.DataFrame:
    """Adds pseudo-times: the hospital stay's, the unit stay's, and the birth.

    A birth is told by the age at the first stay; of those older than 89 only that is known, so they have none.
    """
    age = pl.col("age").cast(pl.Int64, strict=False)
    order = (
        patients.filter(pl.col("patienthealthsystemstayid").is_not_null() & pl.col("subject_id").is_not_null())
        .with_columns(pl.when(pl.col("age") == OLDEST).then(90).otherwise(age).alias("years"))
        .sort("subject_id", "hospitaldischargeyear", "years", "patienthealthsystemstayid", nulls_last=True)
        .unique(("subject_id", "patienthealthsystemstayid"), keep="first", maintain_order=True)
        .with_columns(pl.int_range(pl.len()).over("subject_id").alias("number"))
        .with_columns(pl.col("years").first().over("subject_id").alias("first_age"))
        .select("subject_id", "patienthealthsystemstayid", "number", "first_age")
    )
    keys = ["subject_id", "patienthealthsystemstayid"]
    patients = patients.join(order, on=keys, how="left", maintain_order="left")
    admitted = FIRST_STAY + pl.duration(days=pl.col("number") * DAYS_APART)

    def after(column: str) -> pl.Expr:
        """The time of an offset, which counts from the unit admission; never before the hospital's."""
        time = pl.col(eicu.UNIT_ADMITTED) + pl.duration(minutes=pl.col(column))
        return pl.when(pl.col(column).is_not_null()).then(pl.max_horizontal(time, eicu.ADMITTED))

    # hospitaladmitoffset is the hospital's admission in minutes from the unit's: not positive, or missing.
    before = pl.duration(minutes=-pl.col("hospitaladmitoffset").clip(upper_bound=0).fill_null(0))
    visit = pl.when(pl.col("number").is_not_null()).then("patienthealthsystemstayid")
    patients = patients.with_columns(admitted.alias(eicu.ADMITTED), visit.alias(VISIT_COLUMN))
    patients = patients.with_columns(
        (pl.col(eicu.ADMITTED) + before).alias(eicu.UNIT_ADMITTED), pl.col(eicu.ADMITTED).alias(VISIT_FROM)
    )
    born = FIRST_STAY - pl.duration(days=(pl.col("first_age") * 365.25).floor().cast(pl.Int64))
    return patients.with_columns(
        after("unitdischargeoffset").alias(eicu.UNIT_LEFT),
        after("hospitaldischargeoffset").alias(eicu.LEFT),
        pl.when(pl.col("first_age") < 90).then(born).alias(eicu.BORN),
    )


class _Stays:
    """What patient says about the rows of every other table."""

    def __init__(self, patients: pl.DataFrame) -> None:
        kept = patients.filter(pl.col("patientunitstayid").is_not_null() & pl.col("number").is_not_null())
        self._stays = kept.select(_STAY)
        self._index = KeyIndex(kept["patientunitstayid"])

    def attach(self, frame: pl.DataFrame, timed: eicu.Timed) -> pl.DataFrame:
        """Adds the subject, the visit and the time; nothing is known before the hospital admission."""
        at = pl.Series(self._index.positions(frame["patientunitstayid"]))
        stays = self._stays.select(pl.all().gather(at.set(at < 0, None)))
        time = pl.col(eicu.UNIT_ADMITTED) + pl.duration(minutes=pl.col(timed.offset))
        return frame.with_columns(
            *stays.get_columns(),
            (at >= 0).alias(eicu.KNOWN_STAY),
            stays["patienthealthsystemstayid"].alias(VISIT_COLUMN),
            stays[eicu.ADMITTED].alias(VISIT_FROM),
        ).with_columns(
            pl.when(pl.col(timed.offset).is_not_null()).then(pl.max_horizontal(time, eicu.ADMITTED)).alias(eicu.TIME)
        )
