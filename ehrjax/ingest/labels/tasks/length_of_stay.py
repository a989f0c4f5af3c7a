"""Length of stay in days (regression); predicted 24 hours after the admission.

Eligible: every stay in hospital that still lasts at the prediction time, `hours` after its admission (or, with
`end_of_day`, at the last moment of the day of admission). Outcome: the days from the admission, or with `remaining`
from the prediction time, to the end of the stay (discharge, or death if that is earlier).

Excluded: stays that are over, and subjects who are dead, by the prediction time; stays whose end is not recorded.
Nothing is censored beyond that: the horizon is the stay itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates, in_stays
from ehrjax.ingest.labels.in_stays import needs
from ehrjax.ingest.labels.record import DAY, Record

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "float_value"
EXTENSION: dict[str, pl.DataType] = {}
LOOKS_AHEAD = frozenset({in_stays.OPEN})
ANCHORED_AHEAD = False


@dataclass(frozen=True)
class Settings(in_stays.Asked):
    """Attributes (beside those of `in_stays.Asked`):
    remaining: count from the prediction time instead of from the admission.
    """

    remaining: bool = False


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    frame, reasons = in_stays.ask(record, hours=settings.hours, to_end_of_day=settings.end_of_day)
    since = pl.col("prediction_time" if settings.remaining else "admission")
    frame = frame.with_columns(((pl.col("end") - since).dt.total_microseconds() / DAY).alias(VALUE))
    return candidates.exclude(frame, *reasons, (in_stays.OPEN, pl.col("end").is_null()), ahead=LOOKS_AHEAD)
