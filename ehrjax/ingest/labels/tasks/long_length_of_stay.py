"""Long length of stay: the stay lasts more than 7 days; predicted 24 hours after the admission.

Eligible: every stay in hospital that still lasts at the prediction time, `hours` after its admission (or, with
`end_of_day`, at the last moment of the day of admission, as EHRSHOT does; Guo et al. 2023). Outcome: from admission to
the end of the stay (discharge, or death if that is earlier) more than `days` pass.

Excluded: stays that are over, and subjects who are dead, by the prediction time; stays whose end is not recorded.
Nothing is censored beyond that: the horizon is the stay itself.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates, in_stays
from ehrjax.ingest.labels.in_stays import needs
from ehrjax.ingest.labels.record import Record

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "boolean_value"
EXTENSION: dict[str, pl.DataType] = {}
LOOKS_AHEAD = frozenset({in_stays.OPEN})
ANCHORED_AHEAD = False


@dataclass(frozen=True)
class Settings(in_stays.Asked):
    """Attributes (beside those of `in_stays.Asked`):
    days: a stay is long if it lasts more than so many days.
    """

    days: float = 7.0

    def __post_init__(self) -> None:
        super().__post_init__()
        candidates.positive("days", self.days)
        candidates.at_least("hours", self.hours, 0, most=24 * self.days)


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    frame, reasons = in_stays.ask(record, hours=settings.hours, to_end_of_day=settings.end_of_day)
    length = pl.col("end") - pl.col("admission")
    frame = frame.with_columns((length > datetime.timedelta(days=settings.days)).alias(VALUE))
    return candidates.exclude(frame, *reasons, (in_stays.OPEN, pl.col("end").is_null()), ahead=LOOKS_AHEAD)
