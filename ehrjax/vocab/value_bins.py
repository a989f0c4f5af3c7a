"""Numeric values as quantile bins, fitted on train values only, from integer counts so that shards merge exactly."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

COUNTS_SCHEMA = {"code": pl.String, "value": pl.Float32, "count": pl.Int64}
BREAKS_SCHEMA = {"code": pl.String, "breaks": pl.List(pl.Float32), "low": pl.Float32, "high": pl.Float32}


def count_values(events: pl.DataFrame) -> pl.DataFrame:
    """How often each finite value occurs with each code: columns code, value, count.

    The unit is part of the code, so bins are per code and unit.
    """
    return (
        events.filter(pl.col("numeric_value").is_finite())
        .group_by("code", pl.col("numeric_value").alias("value"))
        .agg(pl.len().cast(pl.Int64).alias("count"))
        .cast(COUNTS_SCHEMA)
    )


def merge_counts(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Adds value counts of several shards; the result is sorted, so it does not depend on their order."""
    parts = [pl.DataFrame(schema=COUNTS_SCHEMA), *parts]
    return pl.concat(parts).group_by("code", "value").agg(pl.col("count").sum()).sort("code", "value")


def fit_breaks(counts: pl.DataFrame, *, num_bins: int, min_values: int) -> pl.DataFrame:
    """The upper edges of all bins but the last, per code.

    Edge j is the smallest value at which the cumulative share reaches j / num_bins. Equal edges are merged
    and an edge at the largest value is dropped, so that no bin is empty on the values it was fitted on.

    Args:
      counts: code, value, count as made by `merge_counts`.
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
        .cast(BREAKS_SCHEMA)
    )


def assign_bins(events: pl.DataFrame, breaks: pl.DataFrame) -> pl.Series:
    """The bin of each event, 1 for the lowest; null where there is no value (or NaN) or no fitted breaks.

    A value falls in the first bin whose upper edge is not below it; values beyond the train range,
    infinities included, fall in the outermost bins.
    """
    values = events["numeric_value"].to_numpy().astype(np.float32)
    bins = np.zeros(len(events), np.int32)
    row_of = pl.DataFrame({"code": breaks["code"], "row": np.arange(len(breaks), dtype=np.int32)})
    # Rows grouped by code once, so that each code needs one searchsorted.
    joined = events.select("code").join(row_of, on="code", how="left", maintain_order="left")
    ids = joined["row"].fill_null(-1).to_numpy()
    usable = (ids >= 0) & ~np.isnan(values)
    order = np.flatnonzero(usable)
    order = order[np.argsort(ids[order], kind="stable")]
    edges = breaks["breaks"].to_list()
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(order)]):
        rows = order[start:stop]
        cuts = np.asarray(edges[ids[rows[0]]], np.float32)
        bins[rows] = np.searchsorted(cuts, values[rows], side="left") + 1
    return pl.Series("bin", bins).replace(0, None)


def bounds(breaks: pl.DataFrame) -> dict[str, list[tuple[float, float]]]:
    """code -> (low, high] of each bin as seen on train, for people to read."""
    result = {}
    for code, cuts, low, high in breaks.iter_rows():
        edges = [low, *cuts, high]
        result[code] = list(zip(edges[:-1], edges[1:]))
    return result
