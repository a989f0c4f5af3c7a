"""Packing: which windows share a row. Planned, not streamed: a pure function of (lengths, seed, epoch)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.core.files import stable_hash

BLOCK = 1_000_000


@dataclass(frozen=True)
class Plan:
    """Rows as lists of windows: row r holds `order[offsets[r]:offsets[r + 1]]`."""

    order: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> np.ndarray:
        """The windows of one row, in the order in which they lie there."""
        return self.order[self.offsets[index] : self.offsets[index + 1]]


def plan(lengths: np.ndarray, capacity: int, max_segments: int, seed: int | None, epoch: int = 0) -> Plan:
    """Packs windows into rows by best fit, longest first, in shuffled blocks of about a million windows.

    Args:
      lengths: [W] tokens a window, 1 .. capacity.
      capacity: tokens a row.
      max_segments: windows a row at most.
      seed: shuffles windows (and so blocks) and rows; None keeps the given order (evaluation).
      epoch: another epoch shuffles differently.

    Raises:
      InputError: a length is not in 1 .. capacity.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and not (1 <= lengths.min() and lengths.max() <= capacity):
        raise InputError(f"A window of {lengths.max()} tokens does not fit a row of {capacity}.")
    if seed is None:
        order = np.arange(len(lengths))
    else:
        order = _generator(seed, epoch, "windows").permutation(len(lengths))
    rows: list[list[int]] = []
    for start in range(0, len(order), BLOCK):
        chosen = order[start : start + BLOCK]
        # Longest first leaves the small ones to fill the gaps; equal lengths stay in shuffled order, so that
        # who shares a row still changes from epoch to epoch.
        chosen = chosen[np.argsort(-lengths[chosen], kind="stable")]
        block = _best_fit(chosen.tolist(), lengths, capacity, max_segments)
        if seed is not None:
            shuffled = _generator(seed, epoch, "rows", start).permutation(len(block))
            block = [block[i] for i in shuffled]
        rows.extend(block)
    sizes = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    flat = np.fromiter((window for row in rows for window in row), np.int64, int(sizes.sum()))
    return Plan(flat, np.concatenate([[0], np.cumsum(sizes)]))


def split_rows(plan: Plan, costs: np.ndarray, most: int) -> Plan:
    """The same windows in more rows, so that no row's costs exceed `most`; a window that does so alone has a row alone.

    Args:
      plan: what to split.
      costs: [W] of each window, at least 0.
      most: of a row.
    """
    own = costs[plan.order]
    if not len(own) or np.add.reduceat(own, plan.offsets[:-1]).max() <= most:
        return plan
    offsets = [0]
    for row in range(len(plan)):
        total = 0
        for place in range(plan.offsets[row], plan.offsets[row + 1]):
            if total + own[place] > most and place > offsets[-1]:
                offsets.append(place)
                total = 0
            total += own[place]
        offsets.append(int(plan.offsets[row + 1]))
    return Plan(plan.order, np.array(offsets, np.int64))


def _generator(seed: int, epoch: int, *name: object) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=stable_hash(seed, epoch, "packing", *name)))


def _best_fit(order: list[int], lengths: np.ndarray, capacity: int, max_segments: int) -> list[list[int]]:
    """Each window goes to the open row that it fills best.

    Open rows are kept in a table by free space; the set bits of `free` say which free spaces occur, so that
    the smallest sufficient one is found by two integer operations.
    """
    sizes = lengths[order].tolist()
    rows: list[list[int]] = []
    table: list[list[int]] = [[] for _ in range(capacity + 1)]
    free = 0
    for window, size in zip(order, sizes):
        fitting = free >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = table[space].pop()
            if not table[space]:
                free ^= 1 << space
            rows[row].append(window)
            space -= size
        else:
            row = len(rows)
            rows.append([window])
            space = capacity - size
        if space and len(rows[row]) < max_segments:
            if not table[space]:
                free |= 1 << space
            table[space].append(row)
    return rows
