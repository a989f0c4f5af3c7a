"""Time to the first event of a code set, with censoring.

Eligible: subjects without any event of `codes` by the prediction time. Predicted at each discharge alive
(`predict="discharge"`) or every `every_days` from the subject's first event, births aside, while subject and record
last (`predict="every"`). Outcome: the days to the first event of `codes`; where there is none, the days to censoring.
The default event is death. The closed label says whether the event is on record (boolean); the days, whether they are
censored, and whether it was death that censored them are in the extension: event_time_days (float64), censored,
censored_by_death.

A record without the event is censored at the death, else at `data_end` if that is set, else at the subject's last
event; in any case after `horizon_days`, if that is set. Events after `data_end` are not looked at.

Excluded: subjects who have a code already; short history and young age as set; what `readmission_30d` excludes at
discharges; prediction times with no follow-up at all.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates, first_events
from ehrjax.ingest.labels.at_discharges import IN_ANOTHER_STAY
from ehrjax.ingest.labels.first_events import needs
from ehrjax.ingest.labels.record import DAY, Record

__all__ = ["ANCHORED_AHEAD", "EXTENSION", "LOOKS_AHEAD", "VALUE", "Settings", "label", "needs"]

VALUE = "boolean_value"
EXTENSION: dict[str, pl.DataType] = {
    "event_time_days": pl.Float64(),
    "censored": pl.Boolean(),
    "censored_by_death": pl.Boolean(),
}
NOTHING_FOLLOWS = "no follow-up"
LOOKS_AHEAD = frozenset({IN_ANOTHER_STAY, NOTHING_FOLLOWS})
ANCHORED_AHEAD = False


@dataclass(frozen=True)
class Settings(first_events.Asked):
    """Attributes (beside those of `first_events.Asked`):
    horizon_days: later events are censored there; 0: none are.
    """

    codes: tuple[str, ...] = ("MEDS_DEATH(//|$)",)
    horizon_days: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        candidates.at_least("horizon_days", self.horizon_days, 0)


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    frame, reasons = first_events.ask(record, settings)
    last = pl.lit(settings.until, pl.Datetime("us")) if settings.until is not None else pl.col("last")
    event = pl.when(pl.col("first_event") <= last).then(pl.col("first_event"))
    dies = pl.col("death") <= last
    limit = pl.col("prediction_time") + datetime.timedelta(days=settings.horizon_days or candidates.MOST_DAYS)
    frame = frame.with_columns(
        pl.when(event <= limit).then(event).alias("event"),
        pl.min_horizontal(pl.when(dies).then(pl.col("death")).otherwise(last), limit).alias("censoring"),
    )
    time = pl.coalesce("event", "censoring")
    seen = pl.col("event").is_not_null()
    frame = frame.with_columns(
        seen.alias(VALUE),
        ((time - pl.col("prediction_time")).dt.total_microseconds() / DAY).alias("event_time_days"),
        (~seen).alias("censored"),
        (~seen & (pl.col("censoring") == pl.col("death"))).fill_null(False).alias("censored_by_death"),
    )
    nothing = (NOTHING_FOLLOWS, time <= pl.col("prediction_time"))
    return candidates.exclude(frame, *reasons, nothing, ahead=LOOKS_AHEAD)
