"""Fading memories: the sums are those of plain Python, bins of a value share a line, and no later visit is seen."""

from __future__ import annotations

from statistics import NormalDist
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.models import fading

RATES, LENGTH = (0.0, 0.1, 2.0), 8
MINUTES = 1440
# A code that looks like a bin and is none; the third of four bins was too rare to be a token.
CODES = ("[PAD]", "[SEP]", "DX//Q90", "LAB//K", "LAB//K", "LAB//K", "LAB//NA")
TABLE = {
    "code": CODES,
    "bin": (None, None, None, 1, 2, 4, 1),
    "low": (None, None, None, 2.0, 3.5, 4.5, None),
    "high": (None, None, None, 3.5, 4.0, 6.5, None),
    "count": (0, 0, 90, 30, 30, 30, 20),
}
VOCABULARY = SimpleNamespace(table=TABLE, num_specials=2)

summed = jax.jit(lambda x, times, segments: fading.fading_sums(x, jnp.asarray(RATES), times, segments))
applied = jax.jit(lambda model, params, given: model.apply(params, given), static_argnums=0)
visits = st.tuples(st.floats(-3, 3, width=32), st.integers(0, 40 * MINUTES), st.booleans())


@given(st.lists(visits, min_size=LENGTH, max_size=LENGTH))
def test_sums_are_those_of_plain_python(rows):
    values = np.array([[value, -2 * value] for value, _, _ in rows], np.float32)
    segments = np.cumsum([new for _, _, new in rows]) + 1
    times = np.cumsum([passed for _, passed, _ in rows])
    # Each window's own clock, which starts at 0.
    times -= np.array([times[np.argmax(segments == segment)] for segment in segments])
    found = summed(values[None, :, None], times[None].astype(np.int32), segments[None].astype(np.int32))[0]
    for place in range(LENGTH):
        seen = [i for i in range(place + 1) if segments[i] == segments[place]]
        for number, rate in enumerate(RATES):
            expected = sum(values[i] * np.exp(-rate * (times[place] - times[i]) / MINUTES) for i in seen)
            np.testing.assert_allclose(found[place, number], expected, atol=1e-4)


def batch(tokens, visit_ids, days, ages=None, values=None):
    count = len(tokens)
    return {
        "tokens": jnp.asarray([tokens]),
        "segment_ids": jnp.ones((1, count), jnp.int32),
        "visit_ids": jnp.asarray([visit_ids]),
        "times": jnp.asarray([days], jnp.int32) * MINUTES,
        "ages": jnp.full((1, count), 50.0) if ages is None else jnp.asarray([ages]),
        "values": jnp.full((1, count), jnp.nan) if values is None else jnp.asarray([values], jnp.float32),
    }


def made(**settings):
    values = fading.of_tokens({"embedding_dim": 6, "hidden_dim": 8, **settings}, VOCABULARY)
    model = fading.Model(fading.config_from({"vocab_size": len(CODES), **values}))
    return model, model.init(rng.key_for(0, "model"), batch([2, 3], [0, 0], [0, 0]))


def test_what_the_vocabulary_says():
    told = fading.of_tokens({"dropout": 0.0}, VOCABULARY)
    assert told["num_specials"] == 2 and told["dropout"] == 0.0
    # DX; LAB//K, LAB; LAB//NA.
    assert told["above"] == ((), (), (0,), (1, 2), (1, 2), (1, 2), (3, 2))
    bins = ((), (), (), (0, 0.0, 0.25, 2.0, 3.5), (0, 0.25, 0.5, 3.5, 4.0), (0, 0.75, 1.0, 4.5, 6.5))
    assert told["bins"] == (*bins, (1, 0.0, 1.0, 0.0, 0.0))


def test_values_stand_where_their_code_has_them():
    model, _ = made()
    tokens = [2, 3, 4, 4, 5, 5, 6]
    values = [3.0, np.nan, 3.5, 3.75, 5.5, 99.0, 140.0]
    own, scores = fading.measured(model.config, batch(tokens, [0] * 7, [0] * 7, values=values))
    np.testing.assert_array_equal(own[0], [-1, 0, 0, 0, 0, 0, 1])
    middle = NormalDist().inv_cdf
    # No value: the middle of the bin; beyond the last bin: its end; of one bin nobody knows how high.
    expected = [0, middle(0.125), middle(0.25), middle(0.375), middle(0.875), middle(0.995), 0]
    np.testing.assert_allclose(scores[0], expected, atol=1e-4)


def test_what_a_token_is_made_of():
    """Its own vector, those of the shorter codes and of its code, and a line and a curve that its code's bins share."""
    model, params = made()
    own, shorter, lines = (params["params"]["embeddings"][name]["embedding"] for name in ("code", "shorter", "value"))
    given = {"params": params["params"]["embeddings"]}
    tokens, groups = jnp.asarray([[2, 4, 6]]), jnp.asarray([[-1, 0, 1]])
    vectors, table = fading.Embeddings(model.config, 6).apply(given, tokens, groups, jnp.asarray([[0.0, -0.3, 2.0]]))
    np.testing.assert_allclose(table[2], own[2] + shorter[0], rtol=1e-5)
    np.testing.assert_allclose(vectors[0, 0], table[2], rtol=1e-5)
    np.testing.assert_allclose(table[4], own[4] + shorter[1] + shorter[2], rtol=1e-5)
    np.testing.assert_allclose(vectors[0, 1], table[4] - 0.3 * lines[0, :6] - 0.91 * lines[0, 6:], rtol=1e-4)
    np.testing.assert_allclose(vectors[0, 2], table[6] + 2 * lines[1, :6] + 3 * lines[1, 6:], rtol=1e-4)


def test_sums_of_own_vectors_are_learnt_apart():
    """A visit long ago is seen through the vectors of slow sums alone, one of now through all."""
    model, params = made(half_lives_days=(1.0, 100.0), own_vectors=True)
    size, tokens = model.config.embedding_dim, jnp.asarray([2, 6])
    assert params["params"]["embeddings"]["code"]["embedding"].shape == (len(CODES), 3 * size)
    days = {"now": [0, 0], "long_ago": [0, 300]}

    def moved(part, days):
        """How far the last visit's state moves with the first code's vector of a sum (of no fading, a day, 100)."""
        table = params["params"]["embeddings"]["code"]["embedding"]
        other = jax.tree.map(lambda x: x, params)
        other["params"]["embeddings"]["code"]["embedding"] = table.at[2, part * size : (part + 1) * size].add(1.0)
        given = batch(tokens, [0, int(days[1] > 0)], days)
        before, after = (np.asarray(applied(model, p, given)["hidden"])[0, -1] for p in (params, other))
        return np.abs(after - before).max()

    assert all(moved(part, days["now"]) > 1e-3 for part in range(3))
    assert moved(1, days["long_ago"]) < 1e-6
    assert all(moved(part, days["long_ago"]) > 1e-3 for part in (0, 2))


def test_tokens_are_dropped_apart_from_the_network():
    model, params = made(token_dropout=0.5, dropout=0.0)
    plain, _ = made(token_dropout=0.0, dropout=0.0)
    given = batch([2, 3, 4, 5, 6, 2, 3, 4], [0] * 8, [0] * 8)

    def told(model, number):
        keys = {"dropout": rng.key_for(number, "dropout")}
        return np.asarray(model.apply(params, given, deterministic=False, rngs=keys)["hidden"])

    np.testing.assert_array_equal(told(plain, 0), told(plain, 1))
    assert np.abs(told(model, 0) - told(model, 1)).max() > 1e-3


def test_means_tell_values_apart_from_how_many_there_are():
    """Only the means: two tests of one value say what one says more surely, and none of them says nothing."""
    model, params = made(half_lives_days=(30.0,), num_means=1)
    entry = params["params"]["network"]["entry"]["kernel"]
    places = 2 * model.config.embedding_dim + np.arange(2)
    params["params"]["network"]["entry"]["kernel"] = jnp.zeros_like(entry).at[places].set(entry[places])

    def told(*rows):
        values = [row[1] for row in rows]
        given = batch([row[0] for row in rows], [0] * len(rows), [0] * len(rows), values=values)
        return np.asarray(applied(model, params, given)["hidden"])[0, -1]

    nothing = told((2, np.nan))
    np.testing.assert_allclose(told((2, np.nan), (6, 140.0)), nothing, atol=1e-6)  # LAB//NA is not among num_means
    low, high = told((3, 2.5)), told((5, 6.0))
    assert np.abs(low - nothing).max() > 1e-3 and np.abs(high - low).max() > 1e-3
    assert np.abs(told((3, 2.5), (3, 2.5)) - low).max() < 0.2 * np.abs(low - nothing).max()


def test_a_separator_tells_nothing_of_the_next_visit():
    model, params = made()
    # The separator has the time and the age of the visit behind it.
    soon = batch([2, 4, 1, 2, 1], [0, 0, 0, 1, 1], [0, 1, 2, 2, 2], [50.0, 50.0, 50.1, 50.1, 50.1])
    late = batch([2, 4, 1, 2, 1], [0, 0, 0, 1, 1], [0, 1, 900, 900, 900], [50.0, 50.0, 53.0, 53.0, 53.0])
    without = batch([2, 4], [0, 0], [0, 1])
    first, second, third = (np.asarray(applied(model, params, given)["hidden"])[0] for given in (soon, late, without))
    np.testing.assert_array_equal(first[:3], second[:3])
    np.testing.assert_allclose(first[:2], third, atol=1e-6)
    assert (first[3] != second[3]).any()


def test_many_visits_are_as_few():
    """Rows whose visits need more of the places are computed otherwise; the result is the same."""
    model, params = made()
    length = 48
    tokens = [2 + i % 5 for i in range(length)]
    few = batch(tokens, [i // 24 for i in range(length)], range(length))
    many = batch(tokens, [*(i // 24 for i in range(24)), *range(1, 25)], range(length))
    found = [np.asarray(applied(model, params, given)["hidden"])[0, :24] for given in (few, many)]
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"half_lives_days": (30.0, 7.0)}, {"half_lives_days": (0.0,)}, {"age_knots": (5.0, 5.0)}]
)
def test_numbers_rise(wrong):
    with pytest.raises(InputError, match="numbers that rise"):
        fading.config_from({"vocab_size": 5, **wrong})
