"""Parameter trees as paths: one rule table over path strings expresses sharding, decay, rates and freezing.

A tree is nested dicts of arrays; its paths join the keys with `/`. Layers stacked by `nn.scan` lie under a
key named `layers` with a leading layer axis; for rules they appear as virtual paths, one per layer:
`model/layers/attention/query/kernel` of shape [N, ...] is `model/layers/0/attention/query/kernel`, and so on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ehrjax.core.errors import InputError

Tree = dict[str, Any]
Rules = Sequence[tuple[str, Any]]

STACK = "layers"
# Where every model keeps the vectors of its codes.
CODE_TABLE = "model/embeddings/code/embedding"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Path -> leaf, in the tree's order.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a/b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`.

    >>> unflatten({'a/b': 1, 'c': 2})
    {'a': {'b': 1}, 'c': 2}
    """
    tree: Tree = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def map_paths(function: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> Tree:
    """Applies `function(path, leaf)` to every leaf."""
    return unflatten({path: function(path, leaf) for path, leaf in flatten(tree).items()})


def first_match(rules: Rules, path: str) -> Any:
    """The value of the first rule whose regular expression is found in the path.

    >>> first_match([("bias$", 0.0), ("", 1.0)], "head/out/bias")
    0.0

    Raises:
      InputError: no rule covers the path.
    """
    for pattern, value in rules:
        if re.search(pattern, path):
            return value
    raise InputError(f"No rule covers the parameter {path}; end the rules with ('', default).")


def is_stacked(path: str) -> bool:
    """Whether the leaf at this path has a leading layer axis."""
    return STACK in path.split("/")[:-1] and not re.search(rf"(^|/){STACK}/\d+/", path)


def virtual_paths(path: str, leaf: Any) -> list[str]:
    """The paths that rules see: one per layer for a stacked leaf, the path itself otherwise."""
    if not is_stacked(path):
        return [path]
    return [re.sub(rf"(^|/){STACK}/", rf"\g<1>{STACK}/{i}/", path, count=1) for i in range(leaf.shape[0])]


def resolve(rules: Rules, tree: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Path -> the values that the rules give it: one per layer for a stacked leaf, a single one otherwise.

    Raises:
      InputError: a leaf that no rule covers, or a rule that covers none (most likely misspelt).
    """
    virtual = {path: virtual_paths(path, leaf) for path, leaf in flatten(tree).items()}
    every = [name for names in virtual.values() for name in names]
    for pattern, _ in rules:
        try:
            found = any(re.search(pattern, name) for name in every)
        except re.error as error:
            raise InputError(f"The rule {pattern!r} is no regular expression: {error}.") from error
        if not found:
            raise InputError(f"The rule {pattern!r} matches no parameter; the first is {every[0]}.")
    return {path: [first_match(rules, name) for name in names] for path, names in virtual.items()}


def multipliers(rules: Rules, tree: Mapping[str, Any]) -> Tree:
    """A tree of float32 factors that broadcast against `tree`: scalars, or [N, 1, ...] where layers differ."""
    flat = flatten(tree)
    result = {}
    for path, values in resolve(rules, tree).items():
        if len(set(values)) == 1:
            result[path] = np.float32(values[0])
        else:
            result[path] = np.asarray(values, np.float32).reshape((-1,) + (1,) * (flat[path].ndim - 1))
    return unflatten(result)


def unstack(tree: Mapping[str, Any]) -> Tree:
    """Turns every leaf under `layers` into one leaf a layer, at its virtual path."""
    flat: dict[str, Any] = {}
    for path, leaf in flatten(tree).items():
        names = virtual_paths(path, leaf)
        if names == [path]:
            flat[path] = leaf
        else:
            flat.update({name: leaf[i] for i, name in enumerate(names)})
    return unflatten(flat)


def stack(tree: Mapping[str, Any]) -> Tree:
    """The inverse of `unstack`."""
    groups: dict[str, dict[int, Any]] = {}
    flat: dict[str, Any] = {}
    for path, leaf in flatten(tree).items():
        match = re.search(rf"(^|.*/){STACK}/(\d+)/(.*)$", path)
        if match is None:
            flat[path] = leaf
        else:
            stacked = f"{match[1]}{STACK}/{match[3]}"
            groups.setdefault(stacked, {})[int(match[2])] = leaf
            flat[stacked] = None
    for path, layers in groups.items():
        ordered = [layers[i] for i in range(len(layers))]
        flat[path] = np.stack(ordered) if isinstance(ordered[0], np.ndarray) else jnp.stack(ordered)
    return unflatten(flat)


def count(tree: Mapping[str, Any]) -> int:
    """The number of parameters."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def sha256(tree: Mapping[str, Any]) -> str:
    """A hash of paths, dtypes, shapes and bytes; equal trees give equal hex digits on every machine."""
    digest = hashlib.sha256()
    flat = flatten(tree)
    for path in sorted(flat):
        array = np.asarray(flat[path])
        digest.update(f"{path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
