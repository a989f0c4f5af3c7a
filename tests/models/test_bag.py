"""The bag: its features are what plain Python counts, its scores begin at 0, and groups come from the vocabulary."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.models import bag

VOCABULARY, KNOTS = 6, (0.0, 40.0, 80.0)
GROUPS = (-1, -1, 0, 0, 1, -1)


MODEL = bag.Model(bag.config_from({"vocab_size": VOCABULARY, "group_ids": (GROUPS,), "age_knots": KNOTS}))
LENGTH = 8


def padded(values: list, what: float | int) -> list:
    return [values + [what] * (LENGTH - len(values))]


@jax.jit
def applied(batch):
    return MODEL.apply({"params": MODEL.init(rng.key_for(0, "model"), batch)["params"]}, batch)


def features(tokens: list[int], ages: list[float], segments: list[int]) -> np.ndarray:
    given = {"tokens": padded(tokens, 0), "segment_ids": padded(segments, 0)}
    batch = {name: jnp.array(values, jnp.int32) for name, values in given.items()}
    told = applied({**batch, "ages": jnp.array(padded(ages, 0.0), jnp.float32)})
    assert told["table"].shape == (VOCABULARY, VOCABULARY + 2 + 3) and not np.asarray(told["table"]).any()
    return np.asarray(told["hidden"][0])


def triangle(age: float, knot: float) -> float:
    """Ages beyond the outer knots are as near as these."""
    return 10.0 * max(0.0, 1.0 - abs(min(max(age, 0.0), 80.0) - knot) / 40.0)


places = st.tuples(st.integers(0, VOCABULARY - 1), st.floats(0, 110, width=32) | st.just(math.nan), st.booleans())


@given(st.lists(places, min_size=1, max_size=LENGTH))
def test_features_are_those_of_plain_python(rows):
    tokens, ages = [token for token, _, _ in rows], [age for _, age, _ in rows]
    segments = np.cumsum([new for _, _, new in rows]) + 1
    found = features(tokens, ages, segments.tolist())
    for place, age in enumerate(ages):
        before = [t for t, s in zip(tokens[: place + 1], segments) if s == segments[place]]
        counts, grouped = Counter(before), Counter(GROUPS[t] for t in before)
        expected = [math.log2(1 + counts[t]) for t in range(VOCABULARY)]
        expected += [math.log2(1 + grouped[g]) for g in (0, 1)]
        expected += [0.0 if math.isnan(age) else triangle(age, knot) for knot in KNOTS]
        np.testing.assert_allclose(found[place], expected, atol=1e-4)


def test_groups_are_tokens_that_have_the_same_part():
    strings = ["[PAD]", "[UNK]", "DX//A10", "DX//A11", "DX//B20", "SEX//F"]
    told = bag.of_tokens({"groups": ("DX//([A-Z][0-9])", "(DX)//")}, SimpleNamespace(strings=strings, num_specials=2))
    assert told["group_ids"] == ((-1, -1, 0, 0, 1, -1), (-1, -1, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("DX//(", "no regular expression"),
        ("DX//[A-Z]", "in brackets, once"),
        ("(D)(X)", "in brackets, once"),
        ("RX//(.)", "which no token of the vocabulary has"),
    ],
)
def test_bad_groups_are_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        bag.of_tokens({"groups": (pattern,)}, SimpleNamespace(strings=["[PAD]", "DX//A10", "DX//B20"], num_specials=1))


def test_knots_rise():
    with pytest.raises(InputError, match="years that rise"):
        bag.config_from({"vocab_size": 5, "age_knots": (40.0, 20.0)})
