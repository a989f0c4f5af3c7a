"""Masked codes: which positions are chosen, what is put there, and the loss against full logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.core import precision, rng
from ehrjax.core.errors import InputError
from ehrjax.objectives import cross_entropy, masked_codes

VOCABULARY, SPECIALS, MASK = 40, 5, 4
LENGTH, SEGMENTS = 48, 6


def objective(policy: precision.Policy = precision.FP32, **changes: object) -> masked_codes.Objective:
    return masked_codes.Objective(
        masked_codes.Config(**changes),
        vocab_size=VOCABULARY,
        num_specials=SPECIALS,
        mask_id=MASK,
        policy=policy,
    )


def packed(lengths: list[list[int]], seed: int = 0, special_rate: float = 0.2) -> dict[str, jnp.ndarray]:
    draw = np.random.default_rng(seed)
    tokens, segment_ids = (np.zeros((len(lengths), LENGTH), np.int32) for _ in range(2))
    for row, row_lengths in enumerate(lengths):
        start = 0
        for number, length in enumerate(row_lengths):
            stop = start + length
            special = draw.random(length) < special_rate
            codes = draw.integers(SPECIALS, VOCABULARY, length)
            tokens[row, start:stop] = np.where(special, draw.integers(1, MASK, length), codes)
            segment_ids[row, start:stop] = number + 1
            start = stop
    batch = {
        "tokens": tokens,
        "segment_ids": segment_ids,
        "anchors": np.zeros((len(lengths), SEGMENTS), np.int32),
    }
    return {name: jnp.asarray(value) for name, value in batch.items()}


@st.composite
def row_lengths(draw: st.DrawFn) -> list[int]:
    free, lengths = LENGTH, []
    for _ in range(draw(st.integers(0, SEGMENTS))):
        if free:
            lengths.append(draw(st.integers(1, free)))
            free -= lengths[-1]
    return lengths


PREPARE = {rate: jax.jit(objective(mask_rate=rate).prepare) for rate in (0.15, 0.5, 1.0)}


@settings(max_examples=60, deadline=None)
@given(st.lists(row_lengths(), min_size=3, max_size=3), st.integers(0, 2**31), st.sampled_from(sorted(PREPARE)))
def test_exactly_round_rate_n_of_each_segment(lengths, seed, rate):
    batch = packed(lengths, seed)
    out = {name: np.asarray(x) for name, x in PREPARE[rate](batch, jax.random.key(seed)).items()}
    tokens, segments = np.asarray(batch["tokens"]), np.asarray(batch["segment_ids"])
    present = out["target_weights"] > 0
    for row in range(len(lengths)):
        index = out["target_index"][row][present[row]]
        assert (np.diff(index) > 0).all()
        np.testing.assert_array_equal(out["target_tokens"][row][present[row]], tokens[row, index])
        assert (tokens[row, index] >= SPECIALS).all() and (segments[row, index] > 0).all()
        for segment in range(1, SEGMENTS + 1):
            codes = int(((segments[row] == segment) & (tokens[row] >= SPECIALS)).sum())
            assert int((segments[row, index] == segment).sum()) == round(rate * codes)
        untouched = np.ones(LENGTH, bool)
        untouched[index] = False
        np.testing.assert_array_equal(out["tokens"][row][untouched], tokens[row][untouched])
        shown = out["tokens"][row][index]
        assert ((shown == MASK) | (shown >= SPECIALS)).all()


def test_halves_are_rounded_like_python_does():
    batch = packed([[30], [10], [3, 4]], special_rate=0.0)
    weights = PREPARE[0.15](batch, jax.random.key(0))["target_weights"].sum(1)
    assert weights.tolist() == [round(4.5), round(1.5), round(0.45) + round(0.6)] == [4, 2, 1]


def test_shares_and_uniformity():
    batch = packed([[LENGTH]] * 2000, special_rate=0.0)
    out = jax.jit(objective(mask_rate=0.5).prepare)(batch, jax.random.key(0))
    present = np.asarray(out["target_weights"]) > 0
    index = np.asarray(out["target_index"])
    shown = np.take_along_axis(np.asarray(out["tokens"]), index, axis=1)[present]
    true, index = np.asarray(out["target_tokens"])[present], index[present]
    count = shown.size
    kept_by_chance = 0.1 / (VOCABULARY - SPECIALS)
    for got, expected in (
        ((shown == MASK).mean(), 0.8),
        ((shown == true).mean(), 0.1 + kept_by_chance),
        (((shown != MASK) & (shown != true)).mean(), 0.1 - kept_by_chance),
    ):
        assert abs(got - expected) < 5 * np.sqrt(expected * (1 - expected) / count)
    random_codes = shown[(shown != MASK) & (shown != true)]
    frequency = np.bincount(random_codes, minlength=VOCABULARY)[SPECIALS:] / len(random_codes)
    assert np.abs(frequency * (VOCABULARY - SPECIALS) - 1).max() < 0.3
    places = np.bincount(index, minlength=LENGTH) / 2000
    assert np.abs(places - 0.5).max() < 5 * np.sqrt(0.25 / 2000)


def test_drawn_again_by_key_only():
    batch = packed([[20, 12], [48]])
    first, same, other = (PREPARE[0.15](batch, jax.random.key(k)) for k in (0, 0, 1))
    for name in first:
        np.testing.assert_array_equal(first[name], same[name])
    assert (first["target_index"] != other["target_index"]).any()


@pytest.mark.parametrize("chunk_size", [1, 7, 16, 1000])
@pytest.mark.parametrize("tied", [False, True])
def test_loss_is_that_of_full_logits(chunk_size, tied):
    one = objective(chunk_size=chunk_size, tied=tied)
    batch = PREPARE[0.5](packed([[20, 12], [48], [5], []]), jax.random.key(0))
    draw = np.random.default_rng(0)
    outputs = {
        "hidden": jnp.asarray(draw.normal(size=(4, LENGTH, 16)), jnp.float32),
        "table": jnp.asarray(draw.normal(size=(VOCABULARY, 16)), jnp.float32),
    }
    head = one.head()
    params = head.init(jax.random.key(0), outputs["hidden"], outputs["table"])["params"]
    params = jax.tree.map(lambda x: x + 0.1 * jnp.asarray(draw.normal(size=x.shape), jnp.float32), params)

    def head_apply(params, hidden, table):
        return head.apply({"params": params}, hidden, table)

    def ours(params, outputs):
        total, weight, metrics = one.loss(head_apply, params, outputs, batch)
        return 3.0 * total / weight, metrics

    def full(params, outputs):
        logits = jax.nn.log_softmax(head_apply(params, outputs["hidden"], outputs["table"]))
        rows = jnp.arange(4)[:, None]
        chosen = logits[rows, batch["target_index"], batch["target_tokens"]]
        weights = batch["target_weights"]
        return -3.0 * jnp.sum(chosen * weights) / weights.sum(), logits[rows, batch["target_index"]]

    (loss, metrics), grads = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(params, outputs)
    (expected, logits), expected_grads = jax.jit(jax.value_and_grad(full, (0, 1), has_aux=True))(params, outputs)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(ours(params, outputs)[0], expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads)):
        np.testing.assert_allclose(a, b, atol=1e-5)

    present = np.asarray(batch["target_weights"]) > 0
    order = np.argsort(-np.asarray(logits), axis=-1, kind="stable")
    ranks = np.argmax(order == np.asarray(batch["target_tokens"])[..., None], axis=-1)
    results = jax.jit(lambda p, o: one.predictions(head_apply, p, o, batch))(params, outputs)
    np.testing.assert_array_equal(np.asarray(results["rank"])[present], ranks[present])
    for k in (1, 5, 10):
        assert int(metrics[f"top{k}"]) == int((ranks[present] < k).sum())
    mean = np.asarray(results["loss"])[present].mean()
    np.testing.assert_allclose(3.0 * mean, expected, rtol=1e-5)


def test_no_array_of_all_logits():
    one = objective(chunk_size=8)
    batch = PREPARE[0.5](packed([[LENGTH]] * 4, special_rate=0.0), jax.random.key(0))
    hidden = jnp.ones((4, LENGTH, 16))
    head = one.head()
    params = head.init(jax.random.key(0), hidden, None)["params"]

    def loss(params, hidden):
        outputs = {"hidden": hidden, "table": None}
        return one.loss(lambda p, h, t: head.apply({"params": p}, h, t), params, outputs, batch)[0]

    text = jax.jit(jax.grad(loss, (0, 1))).lower(params, hidden).as_text()
    assert f"tensor<4x2x{VOCABULARY}xf32>" in text
    assert f"x24x{VOCABULARY}xf32>" not in text and f"x{LENGTH}x{VOCABULARY}xf32>" not in text


def test_ties_rank_as_in_top_k():
    logits = jnp.zeros((1, 1, 6))
    assert [int(cross_entropy.rank(logits, jnp.array([[t]]))[0, 0]) for t in range(6)] == list(range(6))


def test_a_batch_without_targets():
    batch = PREPARE[0.15](packed([[], []]), jax.random.key(0))
    assert not np.asarray(batch["target_weights"]).any()
    one, head = objective(), objective().head()
    outputs = {"hidden": jnp.ones((2, LENGTH, 16)), "table": None}
    params = head.init(jax.random.key(0), outputs["hidden"], None)["params"]
    total, weight, metrics = one.loss(lambda p, h, t: head.apply({"params": p}, h, t), params, outputs, batch)
    assert float(total) == 0 and float(weight) == 0 and int(metrics["top10"]) == 0


def test_bf16_head():
    one = objective(precision.policy("bf16", "gpu"))
    head = one.head()
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 16)), jnp.bfloat16)
    params = head.init(jax.random.key(0), hidden, None)["params"]
    exact = objective().head().apply({"params": params}, hidden)
    got = head.apply({"params": params}, hidden)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, exact, atol=0.1)


def test_bad_settings():
    with pytest.raises(InputError, match="mask_rate is 0"):
        masked_codes.Config(mask_rate=0)
    with pytest.raises(InputError, match="add up to at most 1"):
        masked_codes.Config(mask_share=0.9, random_share=0.2)
    with pytest.raises(InputError, match="no codes to mask"):
        masked_codes.Objective(masked_codes.Config(), vocab_size=5, num_specials=5, mask_id=4)
    one = objective(tied=True)
    with pytest.raises(InputError, match="embedding_dim equals its hidden_dim"):
        one.head().init(rng.key_for(0, "head"), jnp.ones((1, 1, 16)), jnp.ones((VOCABULARY, 8)))


def test_evaluation_shows_nothing_of_what_it_asks_for() -> None:
    """The same positions as in training with this key, all of them [MASK]."""
    rng_ = np.random.default_rng(0)
    tokens = jnp.asarray(rng_.integers(5, 40, (4, 64)), jnp.int32)
    batch = {"tokens": tokens, "segment_ids": jnp.ones((4, 64), jnp.int32), "anchors": jnp.zeros((4, 1), jnp.int32)}
    objective = masked_codes.Objective(masked_codes.Config(), vocab_size=40, num_specials=5, mask_id=4)
    key = jax.random.key(7)
    train, shown = objective.prepare(batch, key), objective.prepare(batch, key, evaluate=True)
    for name in ("target_index", "target_tokens", "target_weights"):
        assert np.array_equal(train[name], shown[name])
    hidden = np.zeros((4, 64), bool)
    for row in range(4):
        hidden[row, np.asarray(shown["target_index"])[row][np.asarray(shown["target_weights"])[row] > 0]] = True
    assert (np.asarray(shown["tokens"])[hidden] == 4).all()
    assert np.array_equal(np.asarray(shown["tokens"])[~hidden], np.asarray(tokens)[~hidden])
    assert (np.asarray(train["tokens"])[hidden] != 4).any(), "in training some stay or change"
