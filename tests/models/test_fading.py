"""Fading memories: the sums are those of plain Python, and what is half as old counts twice as much."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.models import fading, memory

RATES, LENGTH = (0.0, 0.1, 2.0), 8


class Sums(nn.Module):
    def __call__(self, given, times, segments):
        return memory.fading_sum(self, given, jnp.asarray(RATES), times, segments)


@jax.jit
def applied(given, times, segments):
    return Sums().apply({}, given, times, segments)


places = st.tuples(st.floats(-3, 3, width=32), st.floats(0, 40, width=32), st.booleans())


@given(st.lists(places, min_size=LENGTH, max_size=LENGTH))
def test_sums_are_those_of_plain_python(rows):
    values = np.array([[value, -2 * value] for value, _, _ in rows], np.float32)
    segments = np.cumsum([new for _, _, new in rows]) + 1
    times = np.cumsum([passed for _, passed, _ in rows]).astype(np.float32)
    # Each window's own clock, which starts at 0.
    times -= np.array([times[np.argmax(segments == segment)] for segment in segments])
    found = applied(values[None], times[None], segments[None].astype(np.int32))[0]
    for place in range(LENGTH):
        seen = [i for i in range(place + 1) if segments[i] == segments[place]]
        expected = [sum(values[i] * np.exp(-rate * (times[place] - times[i])) for i in seen) for rate in RATES]
        np.testing.assert_allclose(found[place], np.concatenate(expected), atol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"half_lives_days": (30.0, 7.0)}, {"half_lives_days": (0.0,)}, {"age_knots": (5.0, 5.0)}]
)
def test_numbers_rise(wrong):
    with pytest.raises(InputError, match="numbers that rise"):
        fading.config_from({"vocab_size": 5, **wrong})
