"""What is done with an embedding table: described, aligned with a vocabulary, projected, put into a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import files, trees
from ehrjax.core.errors import InputError
from ehrjax.hf import made, source
from ehrjax.hf.embeddings import Embeddings
from ehrjax.metrics import similarity
from ehrjax.vocab import matching
from ehrjax.vocab.recipe import SPECIALS
from ehrjax.vocab.vocabulary import Vocabulary


def describe(found: Embeddings) -> dict[str, Any]:
    """Shape, mean, standard deviation, and the norms of rows: lowest, quartiles, highest, and how many are zero."""
    norms = np.linalg.norm(found.vectors.astype(np.float64), axis=1)
    return {
        "rows": len(found.vectors),
        "columns": found.vectors.shape[1],
        "mean": float(found.vectors.mean(dtype=np.float64)),
        "std": float(found.vectors.std(dtype=np.float64)),
        "norms": [float(q) for q in np.quantile(norms, [0, 0.25, 0.5, 0.75, 1])],
        "zero_rows": int((norms == 0).sum()),
    }


def neighbours(found: Embeddings, codes: Sequence[str], *, k: int = 5) -> dict[str, list[tuple[str, float]]]:
    """code -> the k codes of the largest cosine similarity, itself left out.

    Raises:
      InputError: the table does not name its rows, or lacks a code.
    """
    names = found.named("The table")
    place = {name: i for i, name in enumerate(names)}
    if missing := [code for code in codes if code not in place]:
        raise InputError(f"The table has no code {missing[0]!r}.")
    near = {code: similarity.nearest(found.vectors, place[code], k) for code in codes}
    return {code: [(names[i], cosine) for i, cosine in rows] for code, rows in near.items()}


def align(
    found: Embeddings,
    vocabulary: Vocabulary,
    *,
    mapping: Mapping[str, str] | None = None,
    ways: Sequence[str] = matching.WAYS,
) -> tuple[np.ndarray, pl.DataFrame, dict[str, dict[str, float]]]:
    """For each token of a vocabulary the row of a table that stands for it.

    Returns:
      [V] int64 rows, -1 where there is none; what stands for what; the coverage (see `matching`).
    """
    names = found.named("The table")
    place = {name: i for i, name in enumerate(names)}
    told = matching.match(vocabulary.strings, names, mapping=mapping, ways=ways)
    rows = np.array([-1 if source is None else place[source] for source in told["source"]], np.int64)
    return rows, told, matching.coverage(told, vocabulary.table["count"].to_list())


def project(vectors: np.ndarray, width: int) -> np.ndarray:
    """The first `width` principal components, [N, width]; where there are fewer columns, zeros are added.

    Distances stay as near as they can in so many columns.
    """
    if vectors.shape[1] <= width:
        return np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors.astype(np.float64) - mean
    # The small side: columns, whatever the number of rows.
    values, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, np.argsort(-values)[:width]]
    # The sign of an axis means nothing; this one is the same everywhere.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(width)])
    return (centred @ axes).astype(np.float32)


def into_run(
    folder: str | Path,
    found: Embeddings,
    output: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    ways: Sequence[str] = matching.WAYS,
    pca: bool = False,
    rescale: bool = False,
) -> tuple[pl.DataFrame, dict[str, dict[str, float]]]:
    """Writes a run whose input table holds the vectors of a file where these stand for its tokens.

    Args:
      folder: the run.
      found: the vectors; their width must be the table's, unless `pca`.
      output: the run's folder to write; it must not exist or be empty.
      mapping: a user's table, token -> code of the file.
      ways: see `matching.match`.
      pca: project to the table's width.
      rescale: to the spread of the run's own table.

    Returns:
      What stands for what, and the coverage.

    Raises:
      InputError: the widths differ, or nothing matches.
    """
    files.refuse_existing(output, what="run")
    run = made.load(folder)
    flat = dict(trees.flatten(run.params))
    table = np.array(flat[trees.CODE_TABLE], np.float32)
    rows, told, share = align(found, run.vocabulary, mapping=mapping, ways=ways)
    if (rows < 0).all():
        raise InputError(f"No token of {folder} is in the file; give a mapping, or more ways to match.")
    vectors = found.vectors
    if vectors.shape[1] != table.shape[1]:
        if not pca:
            raise InputError(
                f"The file has {vectors.shape[1]} columns, the run's table {table.shape[1]}; add --pca to project, or "
                "train a model of that embedding_dim."
            )
        vectors = project(vectors, table.shape[1])
    if rescale:
        vectors = vectors * (table[len(SPECIALS) :].std() / max(float(vectors.std()), 1e-12))
    table[rows >= 0] = vectors[rows[rows >= 0]]
    flat[trees.CODE_TABLE] = table
    with files.written_folder(output, what="run") as target:
        made.write(target, trees.unflatten(flat), run.config, run.vocabulary, was=str(folder))
        # The vocabulary is the same, so the way back is too.
        source.carry(Path(folder), target, trained=False)
    return told, share
