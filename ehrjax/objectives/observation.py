"""Until when everybody was observed: behind a record's last event, nothing more is known to have come until then."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Int

from ehrjax.core.errors import InputError
from ehrjax.objectives.gaps import YEARS

_MINUTES_PER_DAY, _MINUTES_PER_YEAR = 1440, 525_960
_EPOCH = datetime.date(1970, 1, 1)


@dataclasses.dataclass(frozen=True)
class Config:
    """The end of observation (at most one of two).

    observed_until_age: years; 0: not known. observed_until: a date such as 2015-06-30; empty: not known.
    """

    observed_until_age: float = 0.0
    observed_until: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.observed_until and self.observed_until_age:
            raise InputError("objective.observed_until and observed_until_age are both given; keep one.")
        if not 0 <= self.observed_until_age <= YEARS:
            raise InputError(f"objective.observed_until_age is {self.observed_until_age}; it is at most {YEARS}.")
        try:
            self.last_day()
        except ValueError as error:
            raise InputError(
                f"objective.observed_until is {self.observed_until!r}; it must be a date such as 2015-06-30."
            ) from error

    def last_day(self) -> int | None:
        """Days from 1970 to observed_until."""
        return (datetime.date.fromisoformat(self.observed_until) - _EPOCH).days if self.observed_until else None


def silences(config: Config, batch: Mapping[str, Array]) -> Int[Array, "batch segments"]:
    """Minutes from the last token of each subject to the end of observation; -1 where that is not known.

    batch: `days`, `ages` [B, L]; `anchors`, `ends` [B, S].
    """
    last = jnp.maximum(batch["anchors"], 0)
    if (day := config.last_day()) is not None:
        minutes = (day - jnp.take_along_axis(batch["days"], last, axis=1)).astype(jnp.float32) * _MINUTES_PER_DAY
    elif config.observed_until_age:
        years = config.observed_until_age - jnp.take_along_axis(batch["ages"], last, axis=1)
        minutes = jnp.where(jnp.isnan(years), -1.0, years * _MINUTES_PER_YEAR)
    else:
        return jnp.full(last.shape, -1, jnp.int32)
    known = (batch["anchors"] >= 0) & (batch["ends"] > 0) & (minutes > 0)
    return jnp.where(known, minutes, -1.0).astype(jnp.int32)
