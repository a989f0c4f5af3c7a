"""An output layer that is the table itself: whether it is, and which name of the two the file has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ehrjax.hf import tensors


def differing(there: Mapping[str, tuple[str, tensors.Tensor]], copies: Mapping[str, str]) -> list[str]:
    """The names that should repeat another tensor and hold something else.

    transformers does not tie what differs, whatever the config says.

    Args:
      there: canonical name -> name there and tensor.
      copies: the family's COPIES.
    """
    return [
        name
        for name, original in copies.items()
        if name in there and original in there and not _same(there[name][1], there[original][1])
    ]


def _same(one: tensors.Tensor, other: tensors.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    first, second = one.read(), other.read()
    # Bytes first: NaN is not equal to itself.
    return first.tobytes() == second.tobytes() or np.array_equal(first, second)


def stand_ins(there: Mapping[str, object], copies: Mapping[str, str], *, tied: bool) -> dict[str, str]:
    """Name that the file lacks -> the name under which it has the same tensor.

    A head may stand in the file under the table's name alone; where the two are tied, also the table under the head's
    (safetensors.torch.save_model keeps one name of those that share memory, and which one is its choice).
    """
    pairs = dict(copies)
    if tied:
        pairs.update({original: copy for copy, original in copies.items() if copy in there})
    return {name: other for name, other in pairs.items() if name not in there and other in there}
