"""Code embeddings in the plane: t-SNE of the most frequent codes, or principal components where they are few."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

LIMIT = 1500
FEW = 30


def project(table: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, str]:
    """Places embeddings in the plane so that similar ones lie together.

    Rows are scaled to unit length first, so distance is cosine distance. t-SNE (van der Maaten and Hinton 2008)
    starts from principal components and is deterministic for a seed.

    Args:
      table: [N, D] float.
      seed: of t-SNE.

    Returns:
      [N, 2] coordinates and how they were made.
    """
    table = np.asarray(table, np.float64)
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    # t-SNE cannot place vectors that hardly differ, nor those of a single number.
    if len(table) < FEW or table.shape[1] < 2 or len(np.unique(table.round(9), axis=0)) < FEW:
        width = min(2, *table.shape)
        points = PCA(width, random_state=seed).fit_transform(table) if len(table) > 1 else np.zeros((len(table), 0))
        return np.pad(points, ((0, 0), (0, 2 - points.shape[1]))), "principal components"
    reduced = PCA(min(50, *table.shape), random_state=seed).fit_transform(table)
    perplexity = min(30.0, (len(table) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(reduced)
    return points, "t-SNE"
