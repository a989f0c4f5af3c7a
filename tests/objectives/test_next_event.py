"""The next token and the time to it, against plain numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.objectives import gaps, next_event

VOCABULARY, WIDTH = 20, 6


def test_bins_cover_all_gaps():
    edges = gaps.EDGES
    assert edges[0] == 0 and edges[1] == 1 and (np.diff(edges) > 0).all() and edges[-1] > 80 * 525_960
    minutes = np.array([0, 1, 2, 59, 1440, 10**6, edges[-1] - 1, edges[-1], 2**31 - 1])
    found = np.asarray(gaps.bin_of(jnp.asarray(minutes, jnp.int32)))
    for value, bin_ in zip(minutes, found):
        assert edges[bin_] <= value and (value < edges[bin_ + 1] or bin_ == len(edges) - 2)


@pytest.mark.parametrize("tied", [True, False])
def test_loss_is_that_of_gap_and_token(tied):
    objective = next_event.Objective(
        next_event.Config(tied=tied, use_bias=not tied, chunk_size=3), vocab_size=VOCABULARY, num_specials=5, mask_id=4
    )
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(2, 7, WIDTH)).astype(np.float32)
    table = rng.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
    head = objective.head()
    params = head.init(jax.random.key(0), jnp.zeros((1, 1, WIDTH)), table)["params"]
    params = jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape).astype(np.float32), params)
    times = np.array([[0, 0, 5, 5, 0, 700, 0], [0, 1440, 1440, 500_000, 500_001, 500_001, 500_001]], np.int32)
    segments = np.array([[1, 1, 1, 1, 2, 2, 0], [1] * 7], np.int32)
    tokens = rng.integers(5, VOCABULARY, (2, 7)).astype(np.int32)
    batch = objective.prepare({"tokens": tokens, "segment_ids": segments, "times": times}, jax.random.key(0))
    apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
    outputs = {"hidden": jnp.asarray(hidden), "table": jnp.asarray(table)}
    total, weight, sums = objective.loss(apply, params, outputs, batch)
    told = objective.predictions(apply, params, outputs, batch)

    def log_softmax(x):
        x = np.asarray(x, np.float64)
        return x - np.log(np.exp(x - x.max()).sum()) - x.max()

    expected = {"gap": 0.0, "token": 0.0}
    count = 0
    for row in range(2):
        for i in range(6):
            if segments[row, i] != segments[row, i + 1] or not segments[row, i + 1]:
                continue
            gap = times[row, i + 1] - times[row, i]
            bin_ = int(np.searchsorted(gaps.EDGES, gap, side="right")) - 1
            own = -log_softmax(hidden[row, i] @ params["time"])[bin_]
            known = hidden[row, i] + params["gap"]["embedding"][bin_]
            scores = (
                known @ table.T
                if tied
                else known @ params["tokens"]["codes"]["kernel"] + params["tokens"]["codes"]["bias"]
            )
            expected["gap"] += own
            expected["token"] -= log_softmax(scores)[tokens[row, i + 1]]
            assert float(told["gap_loss"][row, i]) == pytest.approx(own, abs=1e-5)
            count += 1
    assert float(weight) == count == 10
    assert float(sums["gap_loss"]) == pytest.approx(expected["gap"], abs=1e-4)
    assert float(total) == pytest.approx(expected["gap"] + expected["token"], abs=1e-4)
    gradient = jax.grad(lambda p: objective.loss(apply, p, outputs, batch)[0])(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    # Against the loss moved a little, in each parameter's own direction.
    for path in (("time",), ("gap", "embedding")):
        step = rng.normal(size=params[path[0]].shape if len(path) == 1 else params["gap"]["embedding"].shape)
        moved = []
        for sign in (1, -1):
            other = jax.tree.map(np.array, params)
            if len(path) == 1:
                other["time"] = other["time"] + sign * 1e-2 * step.astype(np.float32)
            else:
                other["gap"]["embedding"] = other["gap"]["embedding"] + sign * 1e-2 * step.astype(np.float32)
            moved.append(float(objective.loss(apply, other, outputs, batch)[0]))
        leaf = gradient[path[0]] if len(path) == 1 else gradient["gap"]["embedding"]
        assert (moved[0] - moved[1]) / 2e-2 == pytest.approx(float((np.asarray(leaf) * step).sum()), rel=2e-2)
