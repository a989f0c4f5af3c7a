"""The next token and the time to it, against plain numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core.errors import InputError
from ehrjax.objectives import gaps, next_event

VOCABULARY, WIDTH = 20, 6


def test_bins_cover_all_gaps():
    edges = gaps.EDGES
    assert edges[0] == 0 and edges[1] == 1 and (np.diff(edges) > 0).all() and edges[-1] > 80 * 525_960
    minutes = np.array([0, 1, 2, 59, 1440, 10**6, edges[-1] - 1, edges[-1], 2**31 - 1])
    found = np.asarray(gaps.bin_of(jnp.asarray(minutes, jnp.int32)))
    for value, bin_ in zip(minutes, found):
        assert edges[bin_] <= value and (value < edges[bin_ + 1] or bin_ == len(edges) - 2)


def unknown_end(rows: int, length: int) -> dict[str, np.ndarray]:
    """The fields of a batch that say how long subjects were observed, and do not."""
    none = np.full((rows, 3), -1, np.int32)
    return {
        "ages": np.full((rows, length), np.nan, np.float32),
        "days": np.zeros((rows, length), np.int32),
        "anchors": none,
        "ends": np.zeros_like(none),
    }


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
    given = {"tokens": tokens, "segment_ids": segments, "times": times, **unknown_end(2, 7)}
    batch = objective.prepare(given, jax.random.key(0))
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


def test_survival_is_what_the_bins_leave():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(1, len(gaps.EDGES) - 1)).astype(np.float32)
    shares = np.exp(scores[0] - np.log(np.exp(scores[0]).sum())).astype(np.float64)
    for minutes in (0, 1, 7, 1440, 40_000, 10**6, 80 * 525_960):
        expected = 0.0
        for k, share in enumerate(shares):
            low, high = int(gaps.EDGES[k]), int(gaps.EDGES[k + 1])
            expected += share * max(high - max(low, minutes + 1), 0) / (high - low)
        found = float(gaps.log_survival(jnp.asarray(scores), jnp.asarray([minutes]))[0])
        assert found == pytest.approx(np.log(expected), abs=1e-4), minutes
    # Longer than all bins: nearly impossible, but not infinitely so.
    assert np.isfinite(gaps.log_survival(jnp.asarray(scores), jnp.asarray([2**31 - 1]))[0])


@pytest.mark.parametrize("how", ["age", "date"])
def test_the_end_of_observation_is_a_gap_that_was_longer(how):
    until = dict(observed_until_age=80.0) if how == "age" else dict(observed_until="1990-01-01")
    config = dict(vocab_size=VOCABULARY, num_specials=5, mask_id=4)
    plain = next_event.Objective(next_event.Config(tied=True), **config)
    objective = next_event.Objective(next_event.Config(tied=True, **until), **config)
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(2, 6, WIDTH)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(VOCABULARY, WIDTH)), jnp.float32)
    head = objective.head()
    params = head.init(jax.random.key(0), hidden[:1, :1], table)["params"]
    params = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(np.float32), params)
    apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
    outputs = {"hidden": hidden, "table": table}
    given = {
        "tokens": rng.integers(5, VOCABULARY, (2, 6)).astype(np.int32),
        "segment_ids": np.array([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]], np.int32),
        "times": np.zeros((2, 6), np.int32),
        # Two more years of observation, and a window that its subject goes on behind; then one that ends beyond.
        "ages": np.array([[70, 78, 50, 51, 52, 0], [80, 80, 80, 80, 80, 81]], np.float32),
        "days": np.array([[0, 6574, 0, 1, 2, 0], [0, 0, 0, 0, 0, 9000]], np.int32),  # 1988-01-01; after 1990
        "anchors": np.array([[1, 4, -1], [5, -1, -1]], np.int32),
        "ends": np.array([[1, 0, 0], [1, 0, 0]], np.int32),
    }
    losses = []
    for one in (plain, objective):
        batch = one.prepare(given, jax.random.key(0))
        total, weight, _ = one.loss(apply, params, outputs, batch)
        losses.append(float(total))
        assert float(weight) == 1 + 2 + 5
    minutes = 2 * 525_960 if how == "age" else 731 * 1440
    scores = gaps.gap_scores(params, hidden[0, 1])
    own = -float(gaps.log_survival(scores, jnp.asarray(minutes)))
    assert own > 0.01 and losses[1] - losses[0] == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(observed_until="soon"), "must be a date"),
        (dict(observed_until="2015-06-30", observed_until_age=80.0), "keep one"),
        (dict(observed_until_age=-1.0), "observed_until_age is -1.0"),
        (dict(observed_until_age=200.0), "at most 90"),
    ],
)
def test_bad_ends_of_observation(settings, message):
    with pytest.raises(InputError, match=message):
        next_event.Config(**settings)
