"""One engine for every family: names of tensors -> paths of parameters, by a table, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ehrjax.core.errors import InputError

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Transform:
    """How tensors become parameters and parameters tensors.

    Attributes:
      there: (tensors, rows) -> parameters; rows: for each row of our vocabulary the row there, -1 where there is none.
      back: (parameters, rows, rows there) -> tensors.
    """

    there: Callable[[Arrays, np.ndarray], Arrays]
    back: Callable[[Arrays, np.ndarray, int], Arrays]


def _rows(tensor: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if len(rows) == len(tensor) and np.array_equal(rows, np.arange(len(rows))):
        return tensor
    taken = tensor[np.maximum(rows, 0)]
    taken[rows < 0] = 0
    return taken


def _rows_back(leaf: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    result = np.zeros((count, *leaf.shape[1:]), leaf.dtype)
    result[rows[rows >= 0]] = leaf[rows >= 0]
    return result


def _fused(axis: int, transpose: bool, parts: int) -> Transform:
    flip = (lambda a: a.T) if transpose else (lambda a: a)
    return Transform(
        lambda tensors, rows: [flip(part) for part in np.split(tensors[0], parts, axis=axis)],
        lambda leaves, rows, count: [np.concatenate([flip(leaf) for leaf in leaves], axis=axis)],
    )


SAME = Transform(lambda tensors, rows: tensors, lambda leaves, rows, count: leaves)
# [1, n] there.
FIRST = Transform(lambda tensors, rows: [tensors[0][0]], lambda leaves, rows, count: [leaves[0][None]])
# torch.nn.Linear holds [out, in].
TRANSPOSED = Transform(lambda tensors, rows: [tensors[0].T], lambda leaves, rows, count: [leaves[0].T])
# Rows of the vocabulary: a table, a bias, and an output layer that is not tied.
TABLE = Transform(
    lambda tensors, rows: [_rows(tensors[0], rows)],
    lambda leaves, rows, count: [_rows_back(leaves[0], rows, count)],
)
OUTPUT = Transform(
    lambda tensors, rows: [_rows(tensors[0], rows).T],
    lambda leaves, rows, count: [_rows_back(leaves[0].T, rows, count)],
)
# Query, key and value in one tensor: GPT-2's Conv1D [in, 3 x out], Linear [3 x out, in], and their biases.
FUSED_COLUMNS = _fused(1, False, 3)
FUSED_ROWS = _fused(0, True, 3)
FUSED_BIAS = _fused(0, False, 3)
# A tensor a head: [K, in] each, and their biases.
JOINED_ROWS = Transform(
    lambda tensors, rows: [np.concatenate(tensors, axis=0).T],
    lambda leaves, rows, count: [leaves[0].T],
)
JOINED_BIAS = Transform(
    lambda tensors, rows: [np.concatenate(tensors, axis=0)], lambda leaves, rows, count: [leaves[0]]
)
# torch.nn.LSTM adds two biases.
SUMMED = Transform(
    lambda tensors, rows: [tensors[0] + tensors[1]], lambda leaves, rows, count: [leaves[0], np.zeros_like(leaves[0])]
)


@dataclass(frozen=True)
class Rule:
    """Tensors of some names are parameters at some paths; `{i}` is the number of the layer in both.

    Attributes:
      names: one name, or several.
      paths: one path, or several.
      how: the transform.
      group: a rule of a named group may be absent with all of its group (a head that the checkpoint lacks).
    """

    names: str | tuple[str, ...]
    paths: str | tuple[str, ...]
    how: Transform = SAME
    group: str = ""

    def at(self, layer: int) -> tuple[list[str], list[str]]:
        """The names and paths of one layer."""
        names, paths = ((x,) if isinstance(x, str) else x for x in (self.names, self.paths))
        return [n.replace("{i}", str(layer)) for n in names], [p.replace("{i}", str(layer)) for p in paths]

    @property
    def by_layer(self) -> bool:
        """Whether the rule stands for one of each layer."""
        return "{i}" in (self.names if isinstance(self.names, str) else self.names[0])


@dataclass
class Plan:
    """What becomes what.

    Attributes:
      steps: names, paths, transform; in the order of the rules.
      fresh: paths that the checkpoint does not have and that start afresh.
      stands: name of a rule -> the name under which the checkpoint has the tensor.
      copies: names that repeat another's tensor.
      heads: names of other heads.
    """

    steps: list[tuple[list[str], list[str], Transform]] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    stands: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)


def steps_of(rules: Sequence[Rule], num_layers: int) -> list[tuple[list[str], list[str], Transform, str]]:
    """Every rule at every layer: names, paths, transform, group."""
    result = []
    for rule in rules:
        for layer in range(num_layers) if rule.by_layer else (0,):
            result.append((*rule.at(layer), rule.how, rule.group))
    return result


def plan(
    rules: Sequence[Rule],
    *,
    num_layers: int,
    there: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    rows: np.ndarray,
    copies: Mapping[str, str],
    stands: Mapping[str, str],
    heads: Iterable[str],
    where: str,
) -> Plan:
    """Finds for each parameter the tensors that it is made of, and checks all names and shapes before anything is read.

    Args:
      rules: the family's table.
      num_layers: of the model.
      there: canonical name -> shape of the checkpoint's tensors.
      expected: path (one a layer) -> shape of the model's parameters.
      rows: see Transform.
      copies: name -> name whose tensor it repeats.
      stands: name that is not there -> the one under which the same tensor is (`ties.stand_ins`).
      heads: regular expressions of other heads.
      where: the checkpoint, for the message.

    Raises:
      InputError: every name that is missing, mis-shaped or unknown, all in one sentence.
    """
    result, problems, seen = Plan(), [], set()
    all_steps = [s for s in steps_of(rules, num_layers) if all(path in expected for path in s[1])]
    absent_groups = {
        group
        for group in {s[3] for s in all_steps if s[3]}
        if not any(name in there for names, _, _, g in all_steps if g == group for name in names)
    }
    for names, paths, how, group in all_steps:
        if group in absent_groups:
            result.fresh += paths
            continue
        result.stands.update({name: stands[name] for name in names if name in stands})
        names = [stands.get(name, name) for name in names]
        missing = [name for name in names if name not in there]
        seen.update(names)
        if missing:
            problems += [f"{name} is missing" for name in missing]
            continue
        shapes = _shapes(how, [there[name] for name in names], rows)
        if shapes is None:
            problems.append(f"{names[0]} has the shape {list(there[names[0]])}, which cannot be taken apart")
            continue
        for path, shape in zip(paths, shapes, strict=True):
            if shape != tuple(expected[path]):
                problems.append(
                    f"{', '.join(names)} {[list(there[n]) for n in names]} does not fit {path} {list(expected[path])}"
                )
        result.steps.append((names, paths, how))
    made = {path for _, paths, _, _ in all_steps for path in paths}
    problems += [f"no rule makes {path}" for path in expected if path not in made]
    patterns = [re.compile(pattern) for pattern in heads]
    for name in there:
        if name in seen:
            continue
        if name in copies and copies[name] in there:
            result.copies[name] = copies[name]
        elif any(pattern.match(name) for pattern in patterns):
            result.heads.append(name)
        else:
            problems.append(f"{name} {list(there[name])} is unexpected")
    if problems:
        raise InputError(f"{where} does not fit: {'; '.join(problems)}.")
    return result


def _shapes(how: Transform, shapes: list[tuple[int, ...]], rows: np.ndarray) -> list[tuple[int, ...]] | None:
    """The shapes that a transform makes of tensors of some shapes; None where it cannot."""
    try:
        # Zero bytes: strides of 0 stand for any shape.
        tensors = [np.broadcast_to(np.int8(0), shape) for shape in shapes]
        if how in (TABLE, OUTPUT):
            if len(rows) and rows.max() >= shapes[0][0]:
                return [tuple(shapes[0])]
            shape = (len(rows), *shapes[0][1:])
            return [shape if how is TABLE else shape[::-1]]
        return [leaf.shape for leaf in how.there(tensors, rows)]
    except (ValueError, IndexError):
        return None
