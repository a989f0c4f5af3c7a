"""The stage of a disease at the next visit (ordinal), per visit.

A visit's stage comes from laboratory values or from codes. With `labs`: the `summary` (last, lowest, highest or mean)
of the visit's finite values, put through `transform` first, and the stage is the number of `thresholds` that lie
above it (with `lower_is_worse`) or at or below it (without). With `stage_codes`: the position in that list of the
last pattern that a code of the visit matches. The default is chronic kidney disease: eGFR from creatinine in mg/dL by
the CKD-EPI equation of 2021 (transform="ckd_epi_2021"; adults of known sex and birth only), cut at 90, 60, 45, 30 and
15 into the six KDIGO categories G1 (0) to G5 (5). KDIGO asks for three months; a visit's category does not.

Eligible: every visit that has a stage, except the subject's last one. Predicted at the time of the visit's last event.
Outcome: the stage of the next visit that has one, the first that starts strictly after the prediction time. Visits
are as in `next_visit_codes`, and the prediction times look ahead in the same way.

Excluded: subjects dead by then; visits that no visit with a stage follows (within `horizon_days`, if that is set). No
censoring beyond that.

The closed label is the next stage (integer); the extension holds visit (the number of the visit among the subject's
eligible ones, from 0), visit_id, and current_stage, what a prediction that nothing changes would say.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels import candidates
from ehrjax.ingest.labels.at_visit_ends import at_visit_ends
from ehrjax.ingest.labels.egfr import ckd_epi_2021
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.meds import VISIT_COLUMN
from ehrjax.ingest.roles import check_patterns, pattern_of

VALUE = "integer_value"
EXTENSION: dict[str, pl.DataType] = {"visit": pl.Int32(), VISIT_COLUMN: pl.Int64(), "current_stage": pl.Int64()}
NO_NEXT = "no later visit with a stage"
LOOKS_AHEAD = frozenset({NO_NEXT})
ANCHORED_AHEAD = True
EGFR = "ckd_epi_2021"
SUMMARIES = ("last", "lowest", "highest", "mean")


@dataclass(frozen=True)
class Settings:
    """Attributes:
    labs: regular expressions of the values' codes; they must pin down the unit.
    transform: ckd_epi_2021 (creatinine in mg/dL becomes eGFR) or empty.
    summary: how the values of a visit become one.
    thresholds: the cuts between stages, in order from the best to the worst.
    lower_is_worse: whether low values are bad.
    stage_codes: one regular expression a stage, used instead of values.
    gap_hours: what ends a visit of events without a visit id.
    horizon_days: the next visit must start within so many days; 0: whenever.
    """

    labs: tuple[str, ...] = (r"LOINC//2160-0//mg/dL$", r"LAB//50912//mg/dL$")
    transform: str = EGFR
    summary: str = "last"
    thresholds: tuple[float, ...] = (90.0, 60.0, 45.0, 30.0, 15.0)
    lower_is_worse: bool = True
    stage_codes: tuple[str, ...] = ()
    gap_hours: float = 24.0
    horizon_days: float = 0.0

    def __post_init__(self) -> None:
        for name in ("labs", "stage_codes"):
            object.__setattr__(self, name, check_patterns(getattr(self, name), f"config.{name}"))
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        candidates.one_of("transform", self.transform, ("", EGFR))
        candidates.one_of("summary", self.summary, SUMMARIES)
        candidates.positive("gap_hours", self.gap_hours)
        candidates.at_least("horizon_days", self.horizon_days, 0)
        if not self.stage_codes and not (self.labs and self.thresholds):
            raise InputError("disease_stage needs config.labs and config.thresholds, or config.stage_codes.")
        if list(self.thresholds) != sorted(set(self.thresholds), reverse=self.lower_is_worse):
            order = "fall" if self.lower_is_worse else "rise"
            raise InputError(f"config.thresholds must {order} from the best stage to the worst, each only once.")


def needs(settings: Settings) -> candidates.Needs:
    times = candidates.INTERVALS if settings.horizon_days else candidates.ORDER
    if settings.stage_codes:
        return candidates.Needs((), {"stage_codes": settings.stage_codes}, times)
    if settings.transform:
        return candidates.Needs(("female", "male"), {"labs": settings.labs})
    return candidates.Needs((), {"labs": settings.labs}, times)


def _stages(record: Record, settings: Settings) -> pl.DataFrame:
    """The stage of each visit that has one: visit, stage."""
    if settings.stage_codes:
        rows = record.timed(settings.stage_codes)
        stage = pl.coalesce(
            *(
                pl.when(pl.col("code").str.contains(pattern_of((pattern,)))).then(pl.lit(number, pl.Int64))
                for number, pattern in reversed(list(enumerate(settings.stage_codes)))
            )
        )
        rows = rows.with_columns(stage.alias("stage"))
        return record.in_visits(rows, settings.gap_hours).group_by("visit").agg(pl.col("stage").max())
    rows = record.timed(settings.labs).with_columns(pl.col("numeric_value").cast(pl.Float64).alias("value"))
    if settings.transform:
        rows = rows.with_columns(ckd_epi_2021(record, rows))
    rows = record.in_visits(rows.filter(pl.col("value").is_finite()), settings.gap_hours)
    value = pl.col("value")
    summary = {"last": value.last(), "lowest": value.min(), "highest": value.max(), "mean": value.mean()}
    visits = rows.group_by("visit", maintain_order=True).agg(summary[settings.summary])
    worse = [value < cut if settings.lower_is_worse else value >= cut for cut in settings.thresholds]
    return visits.select("visit", pl.sum_horizontal(*worse).cast(pl.Int64).alias("stage"))


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    stages = _stages(record, settings)
    frame = at_visit_ends(record, stages["visit"], settings.gap_hours)
    for key, name in (("this_visit", "current_stage"), ("next_visit", VALUE)):
        named = stages.select(pl.col("visit").alias(key), pl.col("stage").alias(name))
        frame = frame.join(named, on=key, how="left", maintain_order="left")
    late = pl.col("next_start") > pl.col("prediction_time") + datetime.timedelta(
        days=settings.horizon_days or candidates.MOST_DAYS
    )
    return candidates.exclude(
        frame,
        (candidates.DEAD, pl.col("death") <= pl.col("prediction_time")),
        (NO_NEXT, pl.col("next_start").is_null() | late),
        ahead=LOOKS_AHEAD,
    )
