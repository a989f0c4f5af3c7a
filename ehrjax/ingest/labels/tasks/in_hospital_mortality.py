"""In-hospital mortality: the subject dies in the stay; predicted 24 (or 48) hours after the admission.

Eligible: every stay in hospital that still lasts at the prediction time, `hours` after its admission (or, with
`end_of_day`, at the last moment of the day of admission). Outcome: the stay ends in death: its discharge code says so
(role discharge_dead), or a death is recorded by its discharge, or it has no discharge and is the last stay before a
recorded death.

Excluded: stays that are over, and subjects who are dead, by the prediction time; stays whose end is not recorded at
all, since their outcome is unknown. Nothing else is censored: the horizon is the stay itself.
"""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.labels import candidates, in_stays
from ehrjax.ingest.labels.in_stays import Asked as Settings
from ehrjax.ingest.labels.in_stays import needs
from ehrjax.ingest.labels.record import Record

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "boolean_value"
EXTENSION: dict[str, pl.DataType] = {}
LOOKS_AHEAD = frozenset({in_stays.OPEN})
ANCHORED_AHEAD = False


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    frame, reasons = in_stays.ask(record, hours=settings.hours, to_end_of_day=settings.end_of_day)
    frame = frame.with_columns(pl.col("died").alias(VALUE))
    return candidates.exclude(frame, *reasons, (in_stays.OPEN, pl.col("end").is_null()), ahead=LOOKS_AHEAD)
