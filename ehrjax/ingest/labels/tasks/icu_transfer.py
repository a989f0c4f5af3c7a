"""Transfer to intensive care within the stay; predicted 24 hours after the admission.

Eligible: every stay in hospital that still lasts at the prediction time, `hours` after its admission (or, with
`end_of_day`, at the last moment of the day of admission, as EHRSHOT does; Guo et al. 2023). Outcome: intensive care
begins (role icu_admission) after the prediction time and no later than the end of the stay.

Excluded: stays that are over, and subjects who are dead, by the prediction time; stays in which intensive care has
begun by then, and subjects who are in intensive care (an icu_admission without an icu_discharge since); stays whose
end is not recorded.
Nothing is censored beyond that: the horizon is the stay itself.
"""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.labels import candidates, in_stays
from ehrjax.ingest.labels.in_stays import Asked as Settings
from ehrjax.ingest.labels.record import Record

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "boolean_value"
EXTENSION: dict[str, pl.DataType] = {}
IN_ICU = "intensive care by the prediction time"
LOOKS_AHEAD = frozenset({in_stays.OPEN})
ANCHORED_AHEAD = False


def needs(settings: Settings) -> candidates.Needs:
    return in_stays.needs(settings, "icu_admission")


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    frame, reasons = in_stays.ask(record, hours=settings.hours, to_end_of_day=settings.end_of_day)
    icu, left = record.role("icu_admission"), record.role("icu_discharge")
    frame = candidates.neighbour(frame, icu, "time", after="prediction_time").rename({"time": "next_icu"})
    for rows, name in ((icu, "last_icu"), (left, "last_left")):
        frame = candidates.neighbour(frame, rows, "time", after="prediction_time", strict=False, past=True)
        frame = frame.rename({"time": name})
    inside = (pl.col("last_left") < pl.col("last_icu")).fill_null(pl.col("last_icu").is_not_null())
    # Where the dataset never says when intensive care ends, only what began in this stay counts.
    inside = inside & pl.lit(bool(record.roles.get("icu_discharge")))
    began = pl.col("last_icu") >= pl.col("admission")
    frame = frame.with_columns((pl.col("next_icu") <= pl.col("end")).fill_null(False).alias(VALUE))
    return candidates.exclude(
        frame, *reasons, (IN_ICU, began | inside), (in_stays.OPEN, pl.col("end").is_null()), ahead=LOOKS_AHEAD
    )
