"""Candidates within stays: some time after the admission."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates
from ehrjax.ingest.labels.record import Record

ENDED = "stay over or subject dead by the prediction time"
OPEN = "no end of the stay is recorded"


@dataclass(frozen=True)
class Asked:
    """When a stay is asked about; the settings that the tasks on stays share.

    Attributes:
      hours: after the admission, when is predicted.
      end_of_day: predict at the end of the day of admission instead.
    """

    hours: float = 24.0
    end_of_day: bool = False

    def __post_init__(self) -> None:
        candidates.at_least("hours", self.hours, 0)


def needs(settings: Asked, *more: str) -> candidates.Needs:
    """What a task on stays needs, and `more` roles."""
    times = candidates.CALENDAR if settings.end_of_day else candidates.INTERVALS
    return candidates.Needs(("admission", "discharge", *more), times=times)


def ask(record: Record, *, hours: float, to_end_of_day: bool = False) -> tuple[pl.DataFrame, list[tuple[str, pl.Expr]]]:
    """A candidate for each stay, some hours after its admission or at the end of the day of admission.

    Returns:
      `record.stays` with prediction_time, and the reason for exclusion that the stay is over or the subject dead
      by then.
    """
    after = (
        candidates.end_of_day(pl.col("admission"))
        if to_end_of_day
        else pl.col("admission") + datetime.timedelta(hours=hours)
    )
    over = (pl.col("end") <= pl.col("prediction_time")).fill_null(False)
    dead = (pl.col("death") <= pl.col("prediction_time")).fill_null(False)
    return record.stays.with_columns(after.alias("prediction_time")), [(ENDED, over | dead)]
