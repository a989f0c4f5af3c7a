"""Which visit an event belongs to, decided from the past alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import VISIT_COLUMN

CATEGORIES = True
MICROSECONDS_PER_HOUR = 3_600_000_000


@dataclass(frozen=True)
class Settings:
    """What ends a visit.

    Attributes:
      gap_hours: an event without a visit id starts a new visit after a gap longer than this.
    """

    gap_hours: float = 24.0

    def __post_init__(self) -> None:
        if self.gap_hours <= 0:
            raise InputError(f"recipe.number_visits.gap_hours is {self.gap_hours}; it must be positive.")


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Adds `visit` (`number_visits`)."""
    return number_visits(events, gap_hours=settings.gap_hours)


def number_visits(events: pl.DataFrame, *, gap_hours: float) -> pl.DataFrame:
    """Adds `visit` int32: 0, 1, ... per subject in order of time; -1 for static rows.

    An event with a visit id belongs to that visit. One without joins the visit of the event before it,
    unless more than `gap_hours` have passed, when it starts a visit of its own. Nothing here looks ahead,
    so what comes later never changes an earlier number.

    Args:
      events: MEDS rows in MEDS order (whole subjects, static rows first).
      gap_hours: hours.
    """
    if not len(events):
        return events.with_columns(pl.lit(None, pl.Int32).alias("visit"))
    subject = events["subject_id"].to_numpy()
    timed = events["time"].is_not_null().to_numpy()
    time = events["time"].to_physical().fill_null(0).to_numpy()
    has_id = events[VISIT_COLUMN].is_not_null().to_numpy() & timed
    visit_id = events[VISIT_COLUMN].fill_null(0).to_numpy()

    rows = len(events)
    same_subject, far = np.zeros(rows, bool), np.ones(rows, bool)
    np.equal(subject[1:], subject[:-1], out=same_subject[1:])
    np.greater(np.diff(time), int(gap_hours * MICROSECONDS_PER_HOUR), out=far[1:])
    follows = same_subject & timed
    follows[1:] &= timed[:-1]
    alone = timed & ~has_id & (far | ~follows)
    # The last row that named or started a visit decides what an event without an id belongs to.
    setter = np.where(has_id | alone, np.arange(rows, dtype=np.int32), np.int32(-1))
    np.maximum.accumulate(setter, out=setter)
    named = np.flatnonzero(has_id & follows)
    previous = setter[named - 1]
    new = has_id | alone
    new[named] = ~(has_id[previous] & (visit_id[named] == visit_id[previous]))

    total = np.cumsum(new, dtype=np.int32)
    first = np.flatnonzero(~same_subject)
    visit = total - np.repeat(total[first] - new[first] + 1, np.diff(first, append=rows))
    visit[~timed] = -1
    return events.with_columns(pl.Series("visit", visit, pl.Int32))
