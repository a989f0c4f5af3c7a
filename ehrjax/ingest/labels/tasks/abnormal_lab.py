"""Abnormal laboratory result: the next result lies below `low` or above `high`.

Eligible: with `at="result"` (the default, EHRSHOT's definition) every result with a number of subjects with an event
(births aside) by then; with `at="admission"` every stay in hospital that still lasts `hours` after its admission.
Predicted: `lead_minutes` before the result (that a result follows is given away by asking, its value is not); or once a
stay, at that time, for the first result with a number in the `horizon_hours` that follow.

Outcome: a value at the result's time is below `low` or above `high` (a threshold itself is normal). The default is
hyperkalaemia, potassium above 5.5 mmol/L. Values count in the unit of their code, which `labs` must pin down.

Excluded: results without a number; results whose prediction time precedes the subject's record; results with another
one between prediction time and result, since they are not the next; subjects dead by then; with `at="admission"` stays
that are over by then and stays without a result in time. There is no censoring: a label exists only with a result.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels import candidates, results
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.labels.results import needs

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "boolean_value"
EXTENSION: dict[str, pl.DataType] = {}
LOOKS_AHEAD = results.LOOKS_AHEAD
ANCHORED_AHEAD = True


@dataclass(frozen=True)
class Settings(results.Asked):
    """Attributes (beside those of `results.Asked`):
    low: values below are abnormal; None: none are.
    high: values above are abnormal; None: none are.
    """

    low: float | None = None
    high: float | None = 5.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is None and self.high is None:
            raise InputError("abnormal_lab needs config.low or config.high, a threshold in the unit of config.labs.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"config.low is {self.low}, which is above config.high, {self.high}.")


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    frame, reasons = results.ask(record, settings)
    below = pl.col("lowest") < settings.low if settings.low is not None else pl.lit(False)
    above = pl.col("highest") > settings.high if settings.high is not None else pl.lit(False)
    return candidates.exclude(frame.with_columns((below | above).alias(VALUE)), *reasons, ahead=LOOKS_AHEAD)
