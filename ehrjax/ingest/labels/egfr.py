"""The estimated glomerular filtration rate from serum creatinine."""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.labels.record import DAY, Record

ADULT = 18.0


def ckd_epi_2021(record: Record, rows: pl.DataFrame) -> pl.Series:
    """eGFR by the CKD-EPI creatinine equation of 2021, which knows no race.

    142 * min(c / k, 1)^a * max(c / k, 1)^-1.2 * 0.9938^age (* 1.012 for women), c in mg/dL; k 0.7 and a -0.241 for
    women, 0.9 and -0.302 for men (Inker et al., N Engl J Med 2021).

    Args:
      record: says who is of which sex (roles female and male) and born when.
      rows: [N] rows with subject_id, time and `value`, creatinine in mg/dL.

    Returns:
      [N] `value` in mL/min/1.73 m2; null below 18 years, where sex or birth is unknown or contradictory, or where
      creatinine is not positive.
    """
    sexes = [
        record.having(record.roles.get(name)).select("subject_id", pl.lit(name == "female").alias("female")).unique()
        for name in ("female", "male")
    ]
    sex = pl.concat(sexes).filter(pl.len().over("subject_id") == 1)
    known = record.subjects.select("subject_id", "birth").join(sex, on="subject_id", how="inner")
    frame = rows.select("subject_id", "time", "value").join(known, on="subject_id", how="left", maintain_order="left")
    age = (pl.col("time") - pl.col("birth")).dt.total_microseconds() / (365.25 * DAY)
    female = pl.col("female")
    ratio = pl.col("value") / pl.when(female).then(0.7).otherwise(0.9)
    low = pl.min_horizontal(ratio, 1.0) ** pl.when(female).then(-0.241).otherwise(-0.302)
    rate = (
        142.0 * low * pl.max_horizontal(ratio, 1.0) ** -1.2 * 0.9938**age * pl.when(female).then(1.012).otherwise(1.0)
    )
    usable = female.is_not_null() & (age >= ADULT) & (pl.col("value") > 0) & pl.col("value").is_finite()
    return frame.select(pl.when(usable).then(rate).alias("value")).to_series()
