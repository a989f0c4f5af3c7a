"""Made-up rows in the layout of EHRSHOT's CSV release and of its MEDS release."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

COLUMNS = ("", "patient_id", "start", "end", "code", "value", "unit", "visit_id", "omop_table")
PLACES = {"ehrshot": "data", "person_id_map": "splits"}


def generate(seed: int, *, patients: int = 5) -> dict[str, pl.DataFrame]:
    """Table name -> rows as text."""
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []

    def some(*values: object) -> object:
        return values[int(rng.integers(len(values)))]

    for number in range(patients):
        patient = 115_967_000 + number
        born = datetime(1935 + 9 * number, 2, 3)

        def row(start, code, table, end="", value="", unit="", visit="", patient=patient) -> None:
            rows.append((patient, start, end, code, value, unit, visit, table))

        row(born, "SNOMED/3950001", "person")
        for code in ("Gender/F", f"Race/{1 + number % 5}", "Ethnicity/Not Hispanic"):
            row(born, code, "person")
        at = datetime(2011, 1, 1, 8, 30) + timedelta(days=int(rng.integers(300)))
        for stay in range(2):
            visit = str(7_000_000 + 10 * number + stay) + some("", ".0")
            start = at + timedelta(days=int(rng.integers(1, 90)), minutes=int(rng.integers(999)))
            end = start + timedelta(hours=int(rng.integers(2, 90)))
            at = end
            row(
                start, some("Visit/IP", "Visit/OP", "Visit/ER"), "visit_occurrence", end=some(end, end, ""), visit=visit
            )
            row(start + timedelta(hours=1), "CARE_SITE/7929420", "visit_detail", end=end, visit=visit)
            row(end.replace(hour=23, minute=59, second=0), "SNOMED/44054006", "condition_occurrence", visit=visit)
            row(end.replace(hour=23, minute=59, second=0), "CPT4/99291", "procedure_occurrence", visit=visit)
            for _ in range(int(rng.integers(1, 4))):
                time = start + timedelta(minutes=int(rng.integers(-300, 900)))
                row(time, "RxNorm/6809", "drug_exposure", visit=some(visit, ""))
                row(
                    time,
                    "LOINC/2345-7",
                    "measurement",
                    value=some(f"{rng.normal(100, 9):.1f}", "High", "", "nan"),
                    unit=some("mg/dL", ""),
                    visit=visit,
                )
                row(time, "SNOMED/229819007", "observation", value=some("Never", ""), visit=visit)
                row(time, "Domain/OMOP generated", some("", "payer_plan_period"), visit="")
            row(start + timedelta(hours=2), "LOINC/28570-0", "note", value="Procedure note", visit=visit)
        if number % 2:
            row(at + timedelta(days=30), "Death Type/OMOP generated", "death")
            row(at + timedelta(days=30), "SNOMED/419620001", "death")
            row(at + timedelta(days=30), "SNOMED/22298006", "death")
    frame = pl.DataFrame(
        [
            [str(index), *(None if value in ("", None) else str(value) for value in row)]
            for index, row in enumerate(rows)
        ],
        schema=dict.fromkeys(COLUMNS, pl.String),
        orient="row",
    )
    ids = sorted({row[0] for row in rows})
    splits = pl.DataFrame(
        {"": [str(i) for i in range(len(ids))], "split": ["train", "val", "test", "train", "val"][: len(ids)] * 1,
         "omop_person_id": [str(i) for i in ids]}
    )  # fmt: skip
    return {"ehrshot": frame, "person_id_map": splits}


def write_release(frame: pl.DataFrame, splits: pl.DataFrame, folder: Path) -> None:
    """The same events as EHRSHOT's MEDS release has them (MEDS 0.3.3 with more columns)."""
    code = pl.col("code").replace({"SNOMED/3950001": "MEDS_BIRTH", "Death Type/OMOP generated": "MEDS_DEATH"})
    number = pl.col("value").cast(pl.Float32, strict=False)
    number = pl.when(number.is_finite()).then(number)
    released = frame.select(
        pl.col("patient_id").cast(pl.Int64).alias("subject_id"),
        pl.col("start").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us").alias("time"),
        code.alias("code"),
        number.alias("numeric_value"),
        pl.when(number.is_null() & (pl.col("value") != "nan")).then(pl.col("value")).alias("text_value"),
        pl.col("end").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us").alias("end"),
        pl.col("visit_id").str.strip_suffix(".0").cast(pl.Int64).alias("visit_id"),
        "unit",
        "omop_table",
    )
    (folder / "data").mkdir(parents=True)
    (folder / "metadata").mkdir()
    released.write_parquet(folder / "data" / "data.parquet")
    pl.DataFrame({"code": ["LOINC/2345-7"], "description": ["Glucose"]}).write_parquet(
        folder / "metadata" / "codes.parquet"
    )
    splits.select(
        pl.col("omop_person_id").cast(pl.Int64).alias("subject_id"),
        pl.col("split").replace({"val": "tuning", "test": "held_out"}),
    ).write_parquet(folder / "metadata" / "subject_splits.parquet")
