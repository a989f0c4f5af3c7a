"""Random rows for the tests of metrics: with and without ties, of one class, empty."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)


def yes_no(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities of up to so many rows: tied or not, sometimes 0 and 1 among them, sometimes one class."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, rows))
    truth = rng.random(count) < rng.choice([0.0, 0.1, 0.5, 1.0], p=[0.05, 0.4, 0.5, 0.05])
    p = np.clip(0.3 * truth + rng.uniform(-0.2, 0.9, count), 0, 1)
    return truth, np.round(p, int(rng.choice([1, 12])))


def weights(seed: int, rows: int, resamples: int = 3) -> np.ndarray:
    """[resamples, rows]: whole numbers from 0 to 3 as floats."""
    return np.random.default_rng([seed, 1]).integers(0, 4, (resamples, rows)).astype(np.float64)


def repeated(row: np.ndarray) -> np.ndarray:
    """The row numbers that whole weights repeat."""
    return np.repeat(np.arange(len(row)), row.astype(int))
