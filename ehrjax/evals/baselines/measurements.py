"""Numeric values of a history in one row a label: last, mean, min, max and how many, by code and window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from ehrjax.evals.baselines.histories import Piece, ranges

STATISTICS = ("last", "mean", "min", "max", "count")
# Pairs of a label and an event that are held at once.
PAIRS = 8_000_000

LONG_SCHEMA = {
    "row": pl.Int64,
    "code": pl.Int32,
    **{name: pl.Float32 for name in STATISTICS},
}


def summarised(piece: Piece, codes: np.ndarray, begin: np.ndarray, *, pairs: int = PAIRS) -> pl.DataFrame:
    """The values between two rows of each label's history, a row for each label and code that has any.

    Args:
      piece: with numeric_value among its events.
      codes: [E] int32 number of each event's code.
      begin: [n] first row that counts; the last is the last known one.
      pairs: how many pairs of a label and an event are held at once.

    Returns:
      `row` (of the labels), `code` and STATISTICS (float32). Values that are not finite do not count; of one time the
      last in the file is the last.
    """
    values = piece.events["numeric_value"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    there = np.flatnonzero(np.isfinite(values))
    first, stop = np.searchsorted(there, begin), np.searchsorted(there, piece.stop)
    kept_values, kept_codes = values[there], codes[there]
    parts = []
    for some in blocks(stop - first, pairs):
        counts = (stop - first)[some]
        events = ranges(first[some], counts)
        frame = pl.DataFrame(
            {"row": np.repeat(piece.rows[some], counts), "code": kept_codes[events], "value": kept_values[events]}
        )
        value = pl.col("value")
        parts.append(
            frame.group_by("row", "code").agg(
                value.last().alias("last"),
                value.mean().alias("mean"),
                value.min().alias("min"),
                value.max().alias("max"),
                value.len().alias("count"),
            )
        )
    empty = pl.DataFrame(schema=LONG_SCHEMA)
    return pl.concat([empty, *(part.cast(LONG_SCHEMA) for part in parts)])


def blocks(counts: np.ndarray, most: int) -> Iterator[slice]:
    """Runs of labels whose counts add up to about `most`; a label with more than that is a run of its own."""
    start = 0
    ends = np.cumsum(counts)
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + most, side="right")), start + 1)
        yield slice(start, stop)
        start = stop


def table(long: pl.DataFrame, chosen: Sequence[int], rows: int) -> np.ndarray:
    """[rows, chosen x STATISTICS] float32: NaN where a label has no value of a code, 0 for its count.

    Args:
      long: from `summarised`.
      chosen: numbers of the codes, in order.
      rows: labels in all.
    """
    dense = np.full((rows, len(chosen), len(STATISTICS)), np.nan, np.float32)
    dense[:, :, STATISTICS.index("count")] = 0.0
    place = pl.DataFrame(
        {"code": list(chosen), "place": range(len(chosen))}, schema={"code": pl.Int32, "place": pl.Int64}
    )
    found = long.join(place, on="code", how="inner")
    dense[found["row"].to_numpy(), found["place"].to_numpy()] = found.select(STATISTICS).to_numpy()
    return dense.reshape(rows, -1)
