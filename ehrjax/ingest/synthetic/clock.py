"""The hospital's clock: its days, months, opening hours and last day of data.

Time is counted in whole seconds from EPOCH. The hidden state of a person is constant within a *month*: month
k starts at midnight of day floor(365 k / 12), so twelve months are always exactly 365 days.
"""

from __future__ import annotations

import datetime

import numpy as np

EPOCH = datetime.datetime(2008, 1, 1)
DAY = 86_400
YEAR = 365 * DAY
MONTHS = 17 * 12
# Fourteen months more than there are data, for the outcomes of predictions made at the end.
MONTH_STARTS = np.array([365 * k // 12 for k in range(MONTHS + 15)], np.int64) * DAY
# The data end here for everybody, whatever their state: the only reason why an outcome can be unknown.
END = int(MONTH_STARTS[MONTHS])

# Opening hours: (first, last) hour of the day. Within them an event has its rate times 24 / (last - first).
ALWAYS, CLINIC, WARD_ROUND = (0, 24), (8, 17), (10, 18)
PROFILES = (ALWAYS, CLINIC, WARD_ROUND)


def month_of(seconds: np.ndarray) -> np.ndarray:
    """The month in which each time lies; a time on a boundary belongs to the month that starts there.

    Args:
      seconds: [...] times, seconds from EPOCH.

    Returns:
      [...] int64; -1 before EPOCH.
    """
    return np.searchsorted(MONTH_STARTS, seconds, side="right") - 1


def open_days(seconds: np.ndarray, profile: tuple[int, int]) -> np.ndarray:
    """How much opening time has passed since EPOCH, in days of opening hours (one a day).

    Args:
      seconds: [...] times, seconds from EPOCH.
      profile: one of PROFILES.

    Returns:
      [...] float64, nondecreasing in `seconds`.
    """
    first, last = (3600 * hour for hour in profile)
    day, within = np.divmod(np.asarray(seconds, np.float64), DAY)
    return day + np.clip((within - first) / (last - first), 0.0, 1.0)


def at_open_days(elapsed: np.ndarray, profile: tuple[int, int]) -> np.ndarray:
    """The inverse of `open_days`: when so many days of opening hours have passed.

    Args:
      elapsed: [...] days of opening hours since EPOCH; infinity stays infinity.
      profile: one of PROFILES.

    Returns:
      [...] float64 seconds from EPOCH, always within opening hours.
    """
    first, last = (3600 * hour for hour in profile)
    elapsed = np.asarray(elapsed, np.float64)
    day = np.floor(elapsed)
    with np.errstate(invalid="ignore"):
        seconds = day * DAY + first + (elapsed - day) * (last - first)
    return np.where(np.isfinite(elapsed), seconds, np.inf)


def age_years(month: np.ndarray, birth: np.ndarray) -> np.ndarray:
    """The age by which the process goes in a month: whole years at the month's start, from 0 to 100.

    Args:
      month: [...] month numbers.
      birth: [...] times of birth, seconds from EPOCH.

    Returns:
      [...] int64.
    """
    days = (MONTH_STARTS[month] - np.asarray(birth, np.int64)) / DAY
    return np.clip(np.floor(days / 365.25), 0, 100).astype(np.int64)
