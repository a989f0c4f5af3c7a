"""Masked-code accuracy on a split: top-1/5/10 beside three baselines that see the same visible tokens.

The baselines, on exactly the positions that the model is asked about:
  train    the most frequent codes of the train split;
  subject  the most frequent codes among the visible tokens of the same window (then the train order);
  neighbour  the nearest visible code before the position, else after it (then the train order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ehrjax.data import token_dataset
from ehrjax.evals.tuning import SplitBatches
from ehrjax.metrics import bootstrap
from ehrjax.vocab.vocabulary import Vocabulary

TOP = (1, 5, 10)
BASELINES = ("train", "subject", "neighbour")
METHODS = ("model", *BASELINES)

EvalStep = Callable[[Any, Mapping[str, jax.Array], jax.Array], tuple[Any, Any, Any]]


def train_order(split: token_dataset.Split, vocabulary: Vocabulary) -> np.ndarray:
    """Token ids from the most to the least frequent in the train split, specials left out, [V - specials]."""
    counts = np.zeros(len(vocabulary), np.int64)
    for shard in split.shards:
        counts += np.bincount(shard.columns["tokens"], minlength=len(vocabulary))
    codes = np.arange(vocabulary.num_specials, len(vocabulary))
    return codes[np.argsort(-counts[codes], kind="stable")]


def subject_ranks(visible: np.ndarray, targets: np.ndarray, train_rank: np.ndarray) -> np.ndarray:
    """The rank of each target when codes are ordered by how often they are visible, then by train frequency.

    Args:
      visible: the visible codes of one window.
      targets: [N] true codes of its hidden positions.
      train_rank: [V] rank of each token in the train order.

    Returns:
      [N] ranks, 0 is best.
    """
    codes, counts = np.unique(visible, return_counts=True)
    order = codes[np.lexsort((train_rank[codes], -counts))]
    place = {int(code): i for i, code in enumerate(order)}
    return np.array([place.get(int(t), _behind(order, int(t), train_rank)) for t in targets], np.int64)


def _behind(first: np.ndarray, target: int, train_rank: np.ndarray) -> int:
    """The rank of a target that is not among the codes listed first: these, then the train order without them."""
    return int(train_rank[target] + np.count_nonzero(train_rank[first] > train_rank[target]))


def neighbour_ranks(
    tokens: np.ndarray, usable: np.ndarray, places: np.ndarray, targets: np.ndarray, train_rank: np.ndarray
) -> np.ndarray:
    """The rank of each target when the nearest usable code before it (else after it) comes first.

    Args:
      tokens: [n] the window's tokens as the model sees them.
      usable: [n] bool, which of them are visible codes.
      places: [N] indices of the hidden positions in the window.
      targets: [N] their true codes.
      train_rank: [V] rank of each token in the train order.
    """
    at = np.flatnonzero(usable)
    if not len(at):
        return train_rank[targets]
    before = np.searchsorted(at, places) - 1
    chosen = tokens[at[np.maximum(before, 0)]]
    behind = train_rank[targets] + (train_rank[chosen] > train_rank[targets])
    return np.where(chosen == targets, 0, behind)


def _families(names: np.ndarray, targets: np.ndarray, count: int) -> np.ndarray:
    return np.eye(count, dtype=np.float64)[names[targets]]


def collect(
    batches: SplitBatches, evaluate: EvalStep, params: Any, vocabulary: Vocabulary, order: np.ndarray
) -> dict[str, np.ndarray]:
    """Sums per subject over the hidden positions of a split.

    Args:
      batches: the split.
      evaluate: the jitted evaluation step.
      params: the parameters.
      vocabulary: names the families.
      order: from `train_order`.

    Returns:
      `hits` [subjects, families, methods, len(TOP)], `weights` [subjects, families], `loss` [subjects].
    """
    train_rank = np.full(len(vocabulary), len(vocabulary), np.int64)
    train_rank[order] = np.arange(len(order))
    names, family_of = vocabulary.families
    row_of = {int(s): i for i, s in enumerate(batches.split.subject_ids)}
    hits = np.zeros((len(row_of), len(names), len(METHODS), len(TOP)))
    weights, loss = np.zeros((len(row_of), len(names))), np.zeros(len(row_of))
    for host, device, key in batches:
        prepared, _, predictions = jax.device_get(evaluate(params, device, key))
        shown, real = prepared["tokens"], prepared["target_weights"] > 0
        hidden = np.zeros(shown.shape, bool)
        for row in range(len(shown)):
            hidden[row, prepared["target_index"][row][real[row]]] = True
        for row in range(len(shown)):
            index = prepared["target_index"][row][real[row]]
            targets = prepared["target_tokens"][row][real[row]]
            segments = host["segment_ids"][row]
            for segment in np.unique(segments[index]):
                mine = segments[index] == segment
                span = np.flatnonzero(segments == segment)
                tokens = shown[row][span]
                usable = ~hidden[row][span] & (tokens >= vocabulary.num_specials)
                truth = targets[mine]
                ranks = np.stack(
                    [
                        predictions["rank"][row][real[row]][mine],
                        train_rank[truth],
                        subject_ranks(tokens[usable], truth, train_rank),
                        neighbour_ranks(tokens, usable, index[mine] - span[0], truth, train_rank),
                    ]
                )
                member = _families(family_of, truth, len(names))
                correct = ranks[:, :, None] < np.array(TOP)
                subject = row_of[int(host["subject_id"][row, segment - 1])]
                hits[subject] += np.einsum("nf,mnk->fmk", member, correct)
                weights[subject] += member.sum(0)
                loss[subject] += predictions["loss"][row][real[row]][mine].sum()
    return {"hits": hits, "weights": weights, "loss": loss}


def summarize(sums: Mapping[str, np.ndarray], vocabulary: Vocabulary) -> dict[str, Any]:
    """Accuracies with intervals over subjects, overall and by family, and paired differences to each baseline."""
    hits, weights = sums["hits"], sums["weights"]
    names, _ = vocabulary.families

    def table(hits: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
        flat = [f"{method}_top{k}" for method in METHODS for k in TOP]
        estimates = bootstrap.ratios(hits.reshape(len(hits), len(flat)), weights)
        result: dict[str, Any] = {name: e.as_dict() for name, e in zip(flat, estimates)}
        for i, baseline in enumerate(BASELINES, start=1):
            for k, e in zip(TOP, bootstrap.ratio_differences(hits[:, 0], hits[:, i], weights)):
                result[f"model_minus_{baseline}_top{k}"] = e.as_dict()
        return {"targets": int(weights.sum()), **result}

    total = weights.sum(1)
    (mean_loss,) = bootstrap.ratios(sums["loss"][:, None], total)
    return {
        "subjects": int(np.count_nonzero(total)),
        "targets": int(total.sum()),
        "loss": mean_loss.as_dict(),
        "overall": table(hits.sum(1), total),
        "families": {name: table(hits[:, f], weights[:, f]) for f, name in enumerate(names) if weights[:, f].any()},
    }


def measure(
    batches: SplitBatches,
    train: token_dataset.Split,
    evaluate: EvalStep,
    params: Any,
    vocabulary: Vocabulary,
) -> dict[str, Any]:
    """Masked-code accuracy of a model and its baselines on a split, as JSON values.

    Args:
      batches: the split to measure on.
      train: the train split, which alone decides what is frequent.
      evaluate: the jitted evaluation step.
      params: the parameters.
      vocabulary: the vocabulary.
    """
    sums = collect(batches, evaluate, params, vocabulary, train_order(train, vocabulary))
    return summarize(sums, vocabulary)
