"""The MIMIC-III reader: the folder of ADMISSIONS.csv.gz and so on (1.4, or its demo) becomes a MEDS dataset.

What each table means and when its rows became known is declared in `mimic_iii_tables`; how rows are joined to patients
and admissions is shared with MIMIC-IV (`mimic_common`), and so are the codes' descriptions (`mimic_codes`).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.codes import SEPARATOR
from ehrjax.ingest import mimic_codes as codes
from ehrjax.ingest import mimic_iii_tables as mimic
from ehrjax.ingest import raw_files
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.mimic_common import spill

# Older than 89: de-identification moved the birth 300 years before the first admission.
SHIFTED_YEARS = 150
MASKED_AGE = 90


def read(input: str | Path, output: str | Path, *, progress: Progress | None = None) -> dict[str, object]:
    """Converts a MIMIC-III folder to MEDS.

    Args:
      input: the folder that holds PATIENTS, ADMISSIONS and so on.
      output: the MEDS folder to write; it must not exist or be empty.
      progress: called as progress(stage, bytes done, bytes in all), in bytes of the input's files.

    Returns:
      The summary of `Conversion.finish`, with absent tables and tables not read.

    Raises:
      InputError: something in the input cannot be used; nothing is written.
    """
    input = Path(input)
    paths = raw_files.find_tables(input, mimic.TABLES, source="MIMIC-III")
    files.refuse_existing(output, what="MEDS dataset")
    every = [path for parts in paths.values() for path in parts]
    report = ByteProgress(progress, sum(path.stat().st_size for path in every))
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [table for table in mimic.TABLES if table.name in paths],
            source="mimic-iii",
            dataset_name="MIMIC-III",
            dataset_version="1.4",
            text_bytes=text_bytes(every),
        )
        titles = codes.read_titles(input, mimic.DICTIONARIES)
        for name in ("d_icd_diagnoses", "d_icd_procedures"):
            # Where MIMIC-IV has two versions of the ICD, this has the ninth alone.
            found = titles.by_table.get(name, {})
            titles.by_table[name] = {f"9{SEPARATOR}{key}": told for key, told in found.items()}
        titles.own.update(
            spill(paths, mimic.TABLES, conversion, report, describing=mimic.DESCRIBING, complete=_with_birthday)
        )
        report("writing", report.total)
        return conversion.finish(
            lambda counts: codes.describe(counts, titles),
            extra={"roles": mimic.ROLES},
            summary={
                "absent_tables": [table.name for table in mimic.TABLES if table.name not in paths] + titles.absent,
                "tables_not_read": [name for name in mimic.NOT_READ if raw_files.find_table(input, name)],
            },
        )


def _with_birthday(patients: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """Adds the birthday; for those whose dob was moved, MASKED_AGE years before their first admission."""
    first = admissions.group_by("subject_id").agg(pl.col("admittime").min().alias("first"))
    joined = patients.join(first, on="subject_id", how="left", maintain_order="left")
    moved = pl.col("first").dt.year() - pl.col("dob").dt.year() > SHIFTED_YEARS
    return joined.with_columns(
        pl.when(moved)
        .then(pl.col("first").dt.offset_by(f"-{MASKED_AGE}y"))
        .otherwise(pl.col("dob"))
        .alias(mimic.BIRTHDAY)
    )
