"""One record of a token file, checked: whose tokens, which, and when."""

from __future__ import annotations

import math
import numbers
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import restricted_pickle
from ehrjax.core.errors import InputError

_NOT_WHOLE = "which is not a list of whole numbers"


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file.

    Raises:
      InputError: it is no pickle of a list of dicts, or names anything but plain data.
    """
    value = restricted_pickle.load(path)
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise InputError(f"{path} does not hold a list of dicts, one a subject; write it again.")
    return value


def subject_of(record: dict[str, Any], path: Path, number: int) -> int:
    """The record's subject_id.

    Raises:
      InputError: there is none, or it is no whole number of 64 bits.
    """
    subject = record.get("subject_id")
    if isinstance(subject, bool) or not isinstance(subject, numbers.Integral) or not -(2**63) <= int(subject) < 2**63:
        raise InputError(f"{path}, record {number}: its subject_id is not a whole number; write the file again.")
    return int(subject)


def checked(record: dict[str, Any], path: Path, number: int) -> tuple[int, np.ndarray, np.ndarray, float | None]:
    """The parts of one record.

    Args:
      record: `subject_id`, `tokens`, `timestamps` (seconds since 1970) and perhaps `label`.
      path: its file, for messages.
      number: its place in the file, for messages.

    Returns:
      The subject, tokens [N] int64, seconds [M] float64 (NaN where there is none), the label (None: no label).

    Raises:
      InputError: a part is missing or of the wrong type.
    """
    for name in ("tokens", "timestamps"):
        if name not in record:
            raise InputError(f"{path}, record {number} has no {name!r}; write the file again.")
    subject = subject_of(record, path, number)
    tokens = integers(record["tokens"], f"{path}, record {number}: 'tokens'")
    try:
        given = [np.nan if s is None else s for s in _listed(record["timestamps"])]
        seconds = np.asarray(given, np.float64)
        if seconds.ndim != 1 or any(isinstance(s, (str, bytes)) for s in given):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}, record {number}: 'timestamps' is not a list of seconds since 1970.") from error
    return subject, tokens, seconds, label_of(record.get("label"), path, number)


def integers(value: Any, where: str) -> np.ndarray:
    """[N] int64; InputError, which begins with `where`, if they are not a list of whole numbers."""
    try:
        array = np.asarray(_listed(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where} holds something {_NOT_WHOLE}.") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{where} holds {array.dtype}, {_NOT_WHOLE}.")
    return array.astype(np.int64)


def label_of(value: Any, path: Path, number: int) -> float | None:
    """A label as a number; None where there is none or it is NaN."""
    if value is None:
        return None
    if not isinstance(value, (numbers.Real, np.bool_)):
        raise InputError(f"{path}, record {number}: its label is not a number; write the file again.")
    return None if math.isnan(float(value)) else float(value)


def _listed(value: Any) -> Any:
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise TypeError
    return value
