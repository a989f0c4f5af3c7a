"""Numeric values as quantile bins, fitted on train values only, from integer counts so that shards merge exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.vocab.step_rows import beside, inserted, named

CATEGORIES = True
KEYS = {"code": pl.String, "value": pl.Float32}
# What `count` reads of the events: columns, and rows.
COUNTED = ("subject_id", "code", "numeric_value")
COUNTED_ROWS = pl.col("numeric_value").is_finite()
FITTED = {"code": pl.String, "breaks": pl.List(pl.Float32), "low": pl.Float32, "high": pl.Float32}


@dataclass(frozen=True)
class Settings:
    """How values become bins.

    Attributes:
      num_bins: quantile bins asked for; 0 keeps the bare code.
      min_values: a code needs so many finite train values before its values are binned.
      separate: the bin is a token of its own, `Qk`, behind the code's; else the token is `code//Qk`.
    """

    num_bins: int = 10
    min_values: int = 50
    separate: bool = False

    def __post_init__(self) -> None:
        for name, least in (("num_bins", 0), ("min_values", 1)):
            if getattr(self, name) < least:
                raise InputError(f"recipe.bin_values.{name} is {getattr(self, name)}; it must be at least {least}.")


def count(events: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """How often each finite value occurs with each code: columns code, value, count.

    The unit is part of the code, so bins are per code and unit.
    """
    return (
        events.filter(COUNTED_ROWS)
        .group_by("code", pl.col("numeric_value").alias("value"))
        .agg(pl.len().cast(pl.Int64).alias("count"))
        .cast({**KEYS, "count": pl.Int64})
    )


def fit(counts: pl.DataFrame, settings: Settings) -> pl.DataFrame:
    """The breaks of every code that has enough values (`fit_breaks`)."""
    if not settings.num_bins:
        return pl.DataFrame(schema=FITTED)
    return fit_breaks(counts, num_bins=settings.num_bins, min_values=settings.min_values)


def apply(events: pl.DataFrame, settings: Settings, fitted: pl.DataFrame) -> pl.DataFrame:
    """Gives each event with a value its bin, as part of its token or as a token behind it."""
    events = events.with_columns(assign_bins(events, fitted))
    if not settings.separate:
        return events
    bins = beside(events, pl.col("bin").is_not_null())
    bins = named(bins, pl.format("Q{}", pl.lit(events["bin"].drop_nulls())))
    return inserted(events.with_columns(pl.lit(None, pl.Int32).alias("bin")), after=[bins])


def details(strings: Sequence[str], settings: Settings) -> np.ndarray:
    """[N] bool: which strings are bins by themselves."""
    bins = {f"Q{k}" for k in range(1, settings.num_bins + 1)} if settings.separate else set()
    return np.array([string in bins for string in strings], bool)


def fit_breaks(counts: pl.DataFrame, *, num_bins: int, min_values: int) -> pl.DataFrame:
    """The upper edges of all bins but the last, per code.

    Edge j is the smallest value at which the cumulative share reaches j / num_bins. Equal edges are merged
    and an edge at the largest value is dropped, so that no bin is empty on the values it was fitted on.

    Args:
      counts: code, value, count; each (code, value) once.
      num_bins: the number of bins asked for, at least 1.
      min_values: codes with fewer values get no row.

    Returns:
      code, breaks (ascending), low and high (smallest and largest train value), sorted by code.
    """
    frame = (
        counts.sort("code", "value")
        .with_columns(
            total=pl.col("count").sum().over("code"),
            cumulative=pl.col("count").cum_sum().over("code"),
        )
        .filter(pl.col("total") >= min_values)
    )
    # The bin of a value that has `before` smaller ones: integer arithmetic keeps ties and shards exact.
    before = pl.col("cumulative") - pl.col("count")
    reached = (pl.col("cumulative") * num_bins) // pl.col("total")
    earlier = (before * num_bins) // pl.col("total")
    return (
        frame.with_columns(is_edge=(reached > earlier) & (pl.col("cumulative") < pl.col("total")))
        .group_by("code", maintain_order=True)
        .agg(
            pl.col("value").filter(pl.col("is_edge")).alias("breaks"),
            pl.col("value").first().alias("low"),
            pl.col("value").last().alias("high"),
        )
        .sort("code")
        .cast(FITTED)
    )


def assign_bins(events: pl.DataFrame, breaks: pl.DataFrame) -> pl.Series:
    """The bin of each event, 1 for the lowest; null where there is no value (or NaN) or no fitted breaks.

    A value falls in the first bin whose upper edge is not below it; values beyond the train range,
    infinities included, fall in the outermost bins.
    """
    if not len(breaks):
        return pl.Series("bin", [None] * len(events), pl.Int32)
    rows = pl.DataFrame(
        {"code": breaks["code"].cast(events.schema["code"]), "row": np.arange(len(breaks), dtype=np.int32)}
    )
    values = events["numeric_value"]
    asked = (values.is_not_null() & values.is_not_nan()).fill_null(False)
    ids = events.select("code").filter(asked).join(rows, on="code", how="left", maintain_order="left")["row"]
    ids = ids.fill_null(-1).to_numpy()
    # One sorted list of (code, edge) for all codes: a value's place in it, less the places of earlier codes.
    edges = breaks["breaks"].explode(empty_as_null=False, keep_nulls=False).to_numpy()
    lengths = breaks["breaks"].list.len().to_numpy()
    keys = _ordered(np.repeat(np.arange(len(breaks)), lengths), edges)
    starts = np.cumsum(lengths) - lengths
    place = np.searchsorted(keys, _ordered(np.maximum(ids, 0), values.filter(asked).to_numpy()), side="left")
    found = np.where(ids >= 0, place - starts[ids] + 1, 0)
    bins = np.zeros(len(events), np.int32)
    bins[asked.to_numpy()] = found
    return pl.Series("bin", bins).replace(0, None)


def _ordered(code: np.ndarray, value: np.ndarray) -> np.ndarray:
    """uint64 keys in the order of (code, value): the bits of a float32, flipped so that they order as it does."""
    value = np.asarray(value, np.float32) + np.float32(0.0)  # -0.0 is 0.0
    bits = value.view(np.uint32)
    bits = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return (np.asarray(code).astype(np.uint64) << np.uint64(32)) | bits


def bounds(breaks: pl.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """code -> (low, high] of each bin as seen on train, for people to read."""
    result = {}
    for code, cuts, low, high in breaks.iter_rows():
        edges = [low, *cuts, high]
        result[code] = list(zip(edges[:-1], edges[1:]))
    return result
