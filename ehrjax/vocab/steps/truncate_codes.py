"""Codes cut to a length: ICD-10-CM to three characters, NDC to labeler and product."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.core.errors import InputError


@dataclass(frozen=True)
class Settings:
    """What is cut.

    Attributes:
      family: codes `family//rest` are cut.
      length: characters of `rest` that stay, dots and dashes not counted (they are taken out).
    """

    family: str = ""
    length: int = 3

    def __post_init__(self) -> None:
        if not self.family:
            raise InputError("recipe.truncate_codes.family is empty; name the family whose codes are cut.")
        if self.length < 1:
            raise InputError(f"recipe.truncate_codes.length is {self.length}; it must be at least 1.")


def apply(events: pl.DataFrame, settings: Settings, fitted: None = None) -> pl.DataFrame:
    """Cuts the codes of one family; parts after a further `//` stay behind the cut code."""
    start = f"{settings.family}//"
    rest = pl.col("code").str.strip_prefix(start)
    head = rest.str.split("//").list.first().str.replace_all("[.-]", "").str.slice(0, settings.length)
    tail = rest.str.extract("^.*?(//.*)$", 1).fill_null("")
    codes = events.select(pl.col("code").unique()).filter(pl.col("code").str.starts_with(start))
    codes = codes.with_columns(pl.concat_str(pl.lit(start), head, tail).alias("_cut"))
    events = events.join(codes, on="code", how="left", maintain_order="left")
    return events.with_columns(pl.coalesce("_cut", "code").alias("code")).drop("_cut")
