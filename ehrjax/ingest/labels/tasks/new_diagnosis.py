"""A first diagnosis, or any first event of a code set, within a horizon.

Eligible: subjects without any event of `codes` up to and including the prediction time (static rows count as history).
Predicted at each discharge alive (`predict="discharge"`, as EHRSHOT) or every `every_days` from the subject's first
event, births aside, while subject and record last (`predict="every"`). Outcome: an event of `codes` in (prediction
time, prediction time + horizon_days], be it after a death. The default code set is type 2 diabetes in ICD-10-CM (E11)
and ICD-9-CM (250.x0 and 250.x2), with or without dots.

Excluded: subjects who have a code already; less history than `min_history_days` since the first event (births aside);
younger than `min_age_years` (or of unknown age, if that is set); what `readmission_30d` excludes at discharges
(no discharge, death in the stay, still in another stay).

Censoring: a subject who dies within the horizon without the outcome does not have it. Where the record ends before
the horizon, `follow_up` decides: keep (default; labels without an outcome are counted as unobserved), exclude
(EHRSHOT's rule: excluded unless the outcome or a death came), or complete (excluded whatever came; with `data_end`
this depends on the calendar alone, never on health).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates, first_events
from ehrjax.ingest.labels.at_discharges import IN_ANOTHER_STAY
from ehrjax.ingest.labels.first_events import needs
from ehrjax.ingest.labels.record import Record

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "boolean_value"
EXTENSION: dict[str, pl.DataType] = {}
LOOKS_AHEAD = frozenset({IN_ANOTHER_STAY, candidates.NO_FOLLOW_UP})
# Discharges and periods are known when they come; that a periodic candidate exists at all depends on the record's
# last event, unless `data_end` is set.
ANCHORED_AHEAD = False


@dataclass(frozen=True)
class Settings(first_events.Asked):
    """Attributes (beside those of `first_events.Asked`):
    horizon_days: within how many days.
    follow_up: keep, exclude or complete.
    """

    codes: tuple[str, ...] = (r"(?:.*//)?ICD10(?:CM)?//E11", r"(?:.*//)?ICD9(?:CM)?//250\.?\d[02]")
    horizon_days: float = 365.0
    follow_up: str = candidates.KEEP

    def __post_init__(self) -> None:
        super().__post_init__()
        candidates.positive("horizon_days", self.horizon_days)
        candidates.one_of("follow_up", self.follow_up, candidates.FOLLOW_UP)


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    horizon = datetime.timedelta(days=settings.horizon_days)
    frame, reasons = first_events.ask(record, settings)
    outcome = (pl.col("first_event") <= pl.col("prediction_time") + horizon).fill_null(False)
    lost, unobserved = candidates.follow_up(settings.follow_up, outcome, horizon)
    frame = frame.with_columns(outcome.alias(VALUE), unobserved.alias("unobserved"))
    return candidates.exclude(frame, *reasons, lost, ahead=LOOKS_AHEAD)
