"""Fading memories: the sums are those of plain Python, bins of a value share a line, and no later visit is seen."""

from __future__ import annotations

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
BINS = (None, None, None, 1, 2, 4, 1)
VOCABULARY = SimpleNamespace(table={"code": CODES, "bin": BINS}, num_specials=2)

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
    found = summed(values[None], times[None].astype(np.int32), segments[None].astype(np.int32))[0]
    for place in range(LENGTH):
        seen = [i for i in range(place + 1) if segments[i] == segments[place]]
        for number, rate in enumerate(RATES):
            expected = sum(values[i] * np.exp(-rate * (times[place] - times[i]) / MINUTES) for i in seen)
            np.testing.assert_allclose(found[place, number], expected, atol=1e-4)


def batch(tokens, visit_ids, days, ages=None):
    count = len(tokens)
    return {
        "tokens": jnp.asarray([tokens]),
        "segment_ids": jnp.ones((1, count), jnp.int32),
        "visit_ids": jnp.asarray([visit_ids]),
        "times": jnp.asarray([days], jnp.int32) * MINUTES,
        "ages": jnp.full((1, count), 50.0) if ages is None else jnp.asarray([ages]),
    }


def made(**settings):
    values = fading.of_tokens({"embedding_dim": 6, "hidden_dim": 8, **settings}, VOCABULARY)
    model = fading.Model(fading.config_from({"vocab_size": len(CODES), **values}))
    return model, model.init(rng.key_for(0, "model"), batch([2, 3], [0, 0], [0, 0]))


def test_what_the_vocabulary_says():
    told = fading.of_tokens({"dropout": 0.0}, VOCABULARY)
    assert told["num_specials"] == 2 and told["dropout"] == 0.0
    assert told["bin_groups"] == (-1, -1, -1, 0, 0, 0, 1)
    scores = told["bin_scores"]
    assert scores[:3] == (0.0, 0.0, 0.0) and scores[6] == 0.0  # one bin says nothing of how high
    assert scores[3] == -scores[5] == pytest.approx(-1.1503, abs=1e-4) and scores[4] == pytest.approx(-0.3186, abs=1e-4)


def test_bins_of_a_code_share_a_line_and_no_other_has_it():
    model, params = made()
    before = np.asarray(applied(model, params, batch([2], [0], [0]))["table"])
    params["params"]["embeddings"]["value"]["embedding"] = jnp.zeros((2, 12)).at[0, :6].set(1.0)
    own = np.asarray(params["params"]["embeddings"]["code"]["embedding"])
    after = np.asarray(applied(model, params, batch([2], [0], [0]))["table"])
    np.testing.assert_array_equal(after[:3], own[:3])
    np.testing.assert_array_equal(before[:3], own[:3])
    np.testing.assert_allclose((after - own)[3:, 0], [-1.1503, -0.3186, 1.1503, 0.0], atol=1e-4)


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
