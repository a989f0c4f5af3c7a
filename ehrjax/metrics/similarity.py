"""Which vectors are most alike."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def nearest(vectors: Float[np.ndarray, "n d"], place: int, k: int) -> list[tuple[int, float]]:
    """The k rows of the largest cosine similarity to a row, itself left out: (row, similarity), the nearest first."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit[place]
    similarity[place] = -np.inf
    best = np.argsort(-similarity, kind="stable")[: max(min(k, len(vectors) - 1), 0)]
    return [(int(i), float(similarity[i])) for i in best]
