"""Paths, rules over them, and layers stacked by a scan."""

from __future__ import annotations

import doctest

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core import trees
from ehrjax.core.errors import InputError

TREE = {
    "model": {
        "embeddings": {"code": {"embedding": np.ones((6, 4), np.float32)}},
        "layers": {"attention": {"query": {"kernel": np.arange(24, dtype=np.float32).reshape(3, 2, 4)}}},
    },
    "head": {"bias": np.zeros(3, np.float32)},
}
names = st.text("abc", min_size=1, max_size=3)
nested = st.recursive(st.integers(), lambda leaf: st.dictionaries(names, leaf, min_size=1, max_size=3), max_leaves=8)


@given(st.dictionaries(names, nested, min_size=1, max_size=3))
def test_flatten_round_trip(tree: dict) -> None:
    assert trees.unflatten(trees.flatten(tree)) == tree


def test_doctests() -> None:
    assert doctest.testmod(trees).failed == 0


def test_first_match_wins_and_layers_have_paths_of_their_own() -> None:
    rules = [("embedding$", 0.0), (r"layers/2/", 0.5), (r"layers/", 0.1), ("", 1.0)]
    resolved = trees.resolve(rules, TREE)
    assert resolved["model/layers/attention/query/kernel"] == [0.1, 0.1, 0.5]
    assert resolved["model/embeddings/code/embedding"] == [0.0] and resolved["head/bias"] == [1.0]
    factors = trees.multipliers(rules, TREE)
    scaled = trees.flatten(factors)["model/layers/attention/query/kernel"] * np.ones((3, 2, 4))
    np.testing.assert_allclose(scaled[:, 0, 0], [0.1, 0.1, 0.5], rtol=1e-6)


def test_uncovered_and_unused_rules_are_refused() -> None:
    with pytest.raises(InputError, match="No rule covers the parameter head/bias"):
        trees.resolve([("model", 1.0)], TREE)
    with pytest.raises(InputError, match="'layers/9/' matches no parameter"):
        trees.resolve([("layers/9/", 0.0), ("", 1.0)], TREE)
    with pytest.raises(InputError, match="no regular expression"):
        trees.resolve([("(", 0.0), ("", 1.0)], TREE)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_stack_and_unstack(array: type) -> None:
    tree = trees.map_paths(lambda _, leaf: array(leaf), TREE)
    apart = trees.flatten(trees.unstack(tree))
    assert {f"model/layers/{i}/attention/query/kernel" for i in range(3)} < set(apart)
    np.testing.assert_array_equal(apart["model/layers/1/attention/query/kernel"], np.arange(8, 16).reshape(2, 4))
    again = trees.flatten(trees.stack(trees.unstack(tree)))
    assert set(again) == set(trees.flatten(tree))
    for path, leaf in trees.flatten(tree).items():
        np.testing.assert_array_equal(again[path], leaf)


def test_sha256_sees_every_change() -> None:
    base = trees.sha256(TREE)
    assert base == trees.sha256(trees.map_paths(lambda _, leaf: jnp.asarray(leaf), TREE))
    moved = trees.unflatten({p.replace("head/bias", "head/bios"): v for p, v in trees.flatten(TREE).items()})
    bent = trees.map_paths(lambda p, v: v + (1e-7 if p == "head/bias" else 0), TREE)
    shaped = trees.map_paths(lambda p, v: v.reshape(-1) if p.endswith("embedding") else v, TREE)
    assert len({base, trees.sha256(moved), trees.sha256(bent), trees.sha256(shaped)}) == 4
