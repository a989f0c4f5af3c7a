"""Leaves out events by their code."""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from ehrjax.core.errors import InputError

# It looks at nothing but codes, and takes them as categories too.
BY_CODE = CATEGORIES = True


@dataclass(frozen=True)
class Settings:
    """Regular expressions that match a code from its start.

    Attributes:
      drop: events whose code matches one are left out.
      keep: if any, only events whose code matches one stay.
    """

    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("drop", "keep"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            for pattern in getattr(self, name):
                check_pattern(pattern, f"filter_codes.{name}")


def check_pattern(pattern: str, where: str) -> None:
    """Raises InputError, naming `where`, for what is no regular expression."""
    try:
        re.compile(pattern)
        pl.Series([""]).str.contains(pattern)
    except (re.error, pl.exceptions.PolarsError) as error:
        raise InputError(f"recipe.{where} holds {pattern!r}, which is no regular expression: {error}.") from error


def matches(patterns: tuple[str, ...]) -> pl.Expr:
    """Whether a code matches one of the patterns from its start."""
    joined = "|".join(f"(?:{pattern})" for pattern in patterns)
    return pl.col("code").str.contains(f"^(?:{joined})")


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Leaves out events by their code."""
    if not settings.drop and not settings.keep:
        return events
    # Patterns are tried once a code, not once an event.
    codes = events.select(pl.col("code").unique().cast(pl.String))
    stays = pl.lit(True)
    if settings.drop:
        stays = stays & ~matches(settings.drop)
    if settings.keep:
        stays = stays & matches(settings.keep)
    kept = codes.select("code", stays.alias("stays"))
    lost = kept.filter(~pl.col("stays"))["code"]
    if 2 * len(lost) <= len(kept):
        return events.filter(~pl.col("code").is_in(lost.implode())) if len(lost) else events
    return events.filter(pl.col("code").is_in(kept.filter("stays")["code"].implode()))
