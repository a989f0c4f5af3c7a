"""One code as several tokens, from the general to the special, as in ETHOS: E11.65 -> E11, .65."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.vocab.step_rows import beside, inserted, named


@dataclass(frozen=True)
class Settings:
    """Which codes are split, and where.

    Attributes:
      family: codes `family//rest` are split.
      lengths: characters a level, for example (3, 3) for ICD-10-CM: the first 3, the next 3, what is left. The
        first level's token is `family//chars`, the others' `family//<from>-<to>//chars` and `family//SFX//rest`.
    """

    family: str = ""
    lengths: tuple[int, ...] = (3, 3)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", tuple(self.lengths))
        if not self.family:
            raise InputError("recipe.split_codes.family is empty; name the family whose codes are split.")
        if not self.lengths or min(self.lengths) < 1:
            raise InputError("recipe.split_codes.lengths must hold whole numbers of at least 1.")


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Makes the first level of the event itself and puts tokens for the other levels behind it."""
    start = f"{settings.family}//"
    mine = pl.col("code").str.starts_with(start)
    rest = pl.col("code").str.strip_prefix(start).str.replace_all(".", "", literal=True)
    after, at = [], settings.lengths[0]
    for length in (*settings.lengths[1:], None):
        name = "SFX" if length is None else f"{at}-{at + length}"
        part = rest.str.slice(at, length)
        rows = beside(events, mine & (part != "").fill_null(False))
        after.append(named(rows, pl.concat_str(pl.lit(f"{start}{name}//"), part)))
        at += length or 0
    head = pl.concat_str(pl.lit(start), rest.str.slice(0, settings.lengths[0]))
    return inserted(events.with_columns(pl.when(mine).then(head).otherwise("code").alias("code")), after=after)


def details(strings: Sequence[str], settings: Settings) -> np.ndarray:
    """[N] bool: which strings are levels behind a code's first."""
    pattern = re.compile(rf"{re.escape(settings.family)}//(\d+-\d+|SFX)//.*")
    return np.array([pattern.fullmatch(string) is not None for string in strings], bool)
