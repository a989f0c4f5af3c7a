"""The value of the next laboratory result (regression).

Eligible and predicted as in `abnormal_lab`: `lead_minutes` before each result with a number, or with `at="admission"`
once a stay for the first result in the `horizon_hours` after the prediction time.

Outcome: the value, in the unit of
its code (the mean, where several stand at one time). The default is potassium in mmol/L.

Excluded and censored: as in `abnormal_lab`.
"""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.labels import candidates, results
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.labels.results import Asked as Settings
from ehrjax.ingest.labels.results import needs

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "float_value"
EXTENSION: dict[str, pl.DataType] = {}
LOOKS_AHEAD = results.LOOKS_AHEAD
ANCHORED_AHEAD = True


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    frame, reasons = results.ask(record, settings)
    return candidates.exclude(frame.with_columns(pl.col("mean").alias(VALUE)), *reasons, ahead=LOOKS_AHEAD)
