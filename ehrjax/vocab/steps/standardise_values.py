"""Values as z-scores of their code, fitted on train values only, from integer counts so that shards merge exactly."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.vocab.steps import bin_values

CATEGORIES = True
KEYS = bin_values.KEYS
COUNTED, COUNTED_ROWS = bin_values.COUNTED, bin_values.COUNTED_ROWS
FITTED = {"code": pl.String, "mean": pl.Float64, "std": pl.Float64}
count = bin_values.count


@dataclass(frozen=True)
class Settings:
    """How values are standardised.

    Attributes:
      min_values: a code needs so many finite train values; the values of other codes are left out.
      limit: beyond so many standard deviations values are cut.
    """

    min_values: int = 50
    limit: float = 10.0

    def __post_init__(self) -> None:
        if self.min_values < 2:
            raise InputError(f"recipe.standardise_values.min_values is {self.min_values}; it must be at least 2.")
        if self.limit <= 0:
            raise InputError(f"recipe.standardise_values.limit is {self.limit}; it must be positive.")


def fit(counts: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """Mean and standard deviation of every code that has enough values, sorted by code."""
    value, weight = pl.col("value").cast(pl.Float64), pl.col("count")
    total = weight.sum()
    mean = (value * weight).sum() / total
    # Around the mean: sums of squares would lose what little codes like temperatures vary.
    spread = ((((value - mean) ** 2) * weight).sum() / total).sqrt()
    return (
        counts.sort("code", "value")
        .group_by("code", maintain_order=True)
        .agg(total.alias("total"), mean.alias("mean"), spread.alias("std"))
        .filter(pl.col("total") >= settings.min_values)
        .select("code", "mean", "std")
        .cast(FITTED)
    )


def apply(events: pl.DataFrame, settings: Settings, fitted: pl.DataFrame) -> pl.DataFrame:
    """Replaces each value by its z-score; NaN and values of codes without a fit become none, infinite ones are cut.

    A code whose train values are all alike has the z-score 0.
    """
    known = fitted.with_columns(pl.col("code").cast(events.schema["code"]))
    joined = events.join(known, on="code", how="left", maintain_order="left")
    value = pl.col("numeric_value").cast(pl.Float64).fill_nan(None)
    score = ((value - pl.col("mean")) / pl.col("std")).clip(-settings.limit, settings.limit)
    flat = pl.when(value.is_not_null()).then(0.0)
    return joined.with_columns(
        pl.when(pl.col("mean").is_null())
        .then(None)
        .when(pl.col("std") == 0)
        .then(flat)
        .otherwise(score)
        .cast(pl.Float32)
        .alias("numeric_value")
    ).select(events.columns)
