"""Windows: how a subject's timeline is cut so that every token is seen exactly once per epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.core.files import stable_hash


@dataclass(frozen=True)
class Windows:
    """Windows as parallel arrays [W] int64.

    Window w holds the static tokens of subject `subject[w]` followed by its tokens `start[w]:stop[w]`
    (indices into the whole list, static tokens included in the counting); `length` counts both.
    """

    subject: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    length: np.ndarray

    def __len__(self) -> int:
        return len(self.subject)


def uniform(seed: int, epoch: int, name: str, count: int) -> np.ndarray:
    """[count] float64 in [0, 1): the i-th is a pure function of (seed, epoch, name, i)."""
    generator = np.random.Generator(np.random.Philox(key=stable_hash(seed, epoch, name)))
    return generator.random(count)


def tile(lengths: np.ndarray, num_static: np.ndarray, *, context: int, seed: int | None, epoch: int = 0) -> Windows:
    """Cuts every subject into windows of at most `context` tokens that tile its timeline.

    A subject that fits stays whole. A longer one is cut every `context - num_static` tokens; where the first
    cut falls is random per (seed, epoch) in training, and at the first full window in evaluation.

    Args:
      lengths: [N] tokens a subject, static ones included.
      num_static: [N] leading static tokens, repeated in front of each window.
      context: tokens a window at most.
      seed: the phase's seed; None for the fixed phase of evaluation.
      epoch: the epoch.

    Raises:
      InputError: a subject's static tokens leave no room.
    """
    lengths = np.asarray(lengths, np.int64)
    num_static = np.asarray(num_static, np.int64)
    if len(num_static) and num_static.max() >= context:
        raise InputError(
            f"A subject has {num_static.max()} static tokens, which leaves no room in a context of {context}; "
            "raise data.context_length."
        )
    timeline, room = lengths - num_static, context - num_static
    first = room
    if seed is not None:
        phase = (uniform(seed, epoch, "window phase", len(lengths)) * room).astype(np.int64) + 1
        first = np.where(timeline > room, phase, room)
    rest = np.maximum(timeline - first, 0)
    counts = 1 + -(-rest // room)
    counts = np.where(lengths > 0, counts, 0)
    subject = np.repeat(np.arange(len(lengths)), counts)
    index = np.arange(len(subject)) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = np.where(index == 0, 0, first[subject] + (index - 1) * room[subject])
    end = np.minimum(np.where(index == 0, first[subject], begin + room[subject]), timeline[subject])
    static = num_static[subject]
    return Windows(subject, static + begin, static + end, static + end - begin)
