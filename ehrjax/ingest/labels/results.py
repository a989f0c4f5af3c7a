"""Laboratory results as outcomes: when is asked for one, and what it was."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates, in_stays
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.roles import check_patterns

BEFORE_RESULT, AFTER_ADMISSION = AT = ("result", "admission")
NO_NUMBER = "no number"
NO_HISTORY = "no earlier event"
ANOTHER = "another result since the prediction time"
NO_RESULT = "no result within the horizon"
LOOKS_AHEAD = frozenset({NO_NUMBER, ANOTHER, NO_RESULT, in_stays.OPEN})


@dataclass(frozen=True)
class Asked:
    """When a result is asked for; the settings that the tasks on laboratory values share.

    Attributes:
      labs: regular expressions of the results' codes. The unit is the last part of a code, so they decide it too.
      at: result: shortly before each result; admission: once a stay, some time after the admission.
      lead_minutes: with at=result, how long before the result.
      hours: with at=admission, how long after the admission.
      horizon_hours: with at=admission, within what time the next result must come.
    """

    labs: tuple[str, ...] = (r"LOINC//2823-3//mmol/L$", r"LAB//50971//mEq/L$")
    at: str = BEFORE_RESULT
    lead_minutes: float = 1.0
    hours: float = 24.0
    horizon_hours: float = 24.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "labs", check_patterns(self.labs, "config.labs"))
        candidates.one_of("at", self.at, AT)
        candidates.positive("lead_minutes", self.lead_minutes)
        candidates.at_least("hours", self.hours, 0)
        candidates.positive("horizon_hours", self.horizon_hours)


def needs(settings: Asked) -> candidates.Needs:
    """The roles and patterns that a task on results needs."""
    roles = ("admission", "discharge") if settings.at == AFTER_ADMISSION else ()
    return candidates.Needs(roles, {"labs": settings.labs})


def ask(record: Record, settings: Asked) -> tuple[pl.DataFrame, list[tuple[str, pl.Expr]]]:
    """The candidates and their reasons for exclusion.

    Returns:
      A frame with prediction_time and the numbers of the outcome: `mean`, `lowest`, `highest` of the results that
      stand at its time (normally one); and the reasons.
    """
    number = pl.when(pl.col("numeric_value").is_finite()).then(pl.col("numeric_value").cast(pl.Float64))
    results = (
        record.timed(settings.labs)
        .group_by("subject_id", "time", maintain_order=True)
        .agg(number.mean().alias("mean"), number.min().alias("lowest"), number.max().alias("highest"))
        .sort("subject_id", "time")
    )
    numeric = results.filter(pl.col("mean").is_not_null())
    values = ("mean", "lowest", "highest")
    if settings.at == AFTER_ADMISSION:
        frame, reasons = in_stays.ask(record, hours=settings.hours)
        frame = candidates.neighbour(frame, numeric, "time", *values, after="prediction_time")
        late = pl.col("time") > pl.col("prediction_time") + datetime.timedelta(hours=settings.horizon_hours)
        return frame, [*reasons, (NO_RESULT, pl.col("time").is_null() | late)]
    frame = results.with_columns(
        (pl.col("time") - datetime.timedelta(minutes=settings.lead_minutes)).alias("prediction_time")
    )
    frame = candidates.neighbour(frame.rename({"time": "result"}), numeric, "time", after="result", past=True)
    frame = candidates.with_subjects(frame, record)
    return frame, [
        (NO_HISTORY, (pl.col("entry") > pl.col("prediction_time")).fill_null(True)),
        (candidates.DEAD, pl.col("death") <= pl.col("prediction_time")),
        (NO_NUMBER, pl.col("mean").is_null()),
        (ANOTHER, pl.col("time") > pl.col("prediction_time")),
    ]
