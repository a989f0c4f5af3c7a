"""What a code also counts for: its parents in metadata/codes.parquet, theirs, and the shorter codes it begins with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl
from scipy import sparse

from ehrjax.core.codes import prefix


def parents_of(codes: pl.DataFrame) -> dict[str, list[str]]:
    """Code -> its parents, from the columns code and parent_codes of a dataset."""
    told = codes.select("code", pl.col("parent_codes").cast(pl.List(pl.String))).drop_nulls()
    return {code: [p for p in parents if p is not None] for code, parents in told.iter_rows()}


def ancestors(code: str, parents: Mapping[str, Sequence[str]], *, prefixes: bool) -> set[str]:
    """A code and everything above it, each once; a circle of parents is walked once.

    Args:
      code: where to begin.
      parents: code -> the codes directly above it.
      prefixes: whether what `prefix` gives stands above a code too.
    """
    found: set[str] = set()
    waiting = [code]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.add(current)
        waiting.extend(parents.get(current, ()))
        if prefixes and (shorter := prefix(current)):
            waiting.append(shorter)
    return found


def roll_up_matrix(
    codes: Sequence[str], parents: Mapping[str, Sequence[str]], *, prefixes: bool
) -> tuple[sparse.csr_matrix, list[str]]:
    """How codes count for what stands above them.

    Args:
      codes: [C] each once.
      parents: code -> the codes directly above it; empty for none.
      prefixes: see `ancestors`.

    Returns:
      [C, A] float32 of ones (counts @ matrix are the rolled-up counts), and the A names in sorted order.
    """
    above = [ancestors(code, parents, prefixes=prefixes) for code in codes]
    names = sorted(set().union(*above))
    place = {name: i for i, name in enumerate(names)}
    return _ones([[place[name] for name in found] for found in above], len(names)), names


def _ones(columns: Iterable[list[int]], width: int) -> sparse.csr_matrix:
    rows = [np.sort(np.array(row, np.int32)) for row in columns]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    indices = np.concatenate(rows) if rows else np.zeros(0, np.int32)
    return sparse.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), shape=(len(rows), width))
