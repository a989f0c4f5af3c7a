"""Vectors of texts without a text model: words and pairs of words hashed into a few numbers.

Feature hashing (Weinberger et al. 2009): each word and each pair of neighbours adds +1 or -1 at a place that its hash
chooses; the vector is then of length 1. It knows no meanings, but needs no weights, and is a baseline for encoders that
have some.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from ehrjax.core.errors import InputError

NAME = "hashing"
WIDTH = 256
_WORD = re.compile(r"\w+")


def width_of(encoder: str) -> int | None:
    """The width that 'hashing' or 'hashing:WIDTH' asks for; None for another encoder.

    Raises:
      InputError: the width is no number from 8.
    """
    name, colon, width = encoder.partition(":")
    if name != NAME:
        return None
    if colon and not (width.isdigit() and int(width) >= 8):
        raise InputError(f"The encoder {encoder} must be {NAME} or {NAME}:WIDTH with a width of at least 8.")
    return int(width) if colon else WIDTH


def vectors(texts: Sequence[str], width: int) -> np.ndarray:
    """[N, width] float32 of N texts; zeros for one without a word."""
    known: dict[str, tuple[int, float]] = {}
    result = np.zeros((len(texts), width), np.float32)
    for row, text in enumerate(texts):
        words = _WORD.findall(text.lower())
        for feature in (*words, *(f"{a} {b}" for a, b in zip(words, words[1:]))):
            if feature not in known:
                number = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "little")
                known[feature] = (number >> 1) % width, 1.0 if number & 1 else -1.0
            place, sign = known[feature]
            result[row, place] += sign
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
