"""How far each token moves the clock: gaps in time, by token, as observed in train.

A token stands at the time of its event; the gap before it is drawn from those that train shows before this token. In
grammars with time tokens nearly all of it is before these (a draw within the token's interval), and in others before
the tokens that open a visit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.core.batch import MICROSECONDS_PER_MINUTE
from ehrjax.core.errors import InputError
from ehrjax.data.token_dataset import Split
from ehrjax.vocab.steps import time_tokens

QUANTILES = 128
MOST_TOKENS = 20_000_000


@dataclass(frozen=True)
class Clock:
    """Attributes:
    gaps: [Q, V] int32 minutes; row q holds each token's (q + 0.5) / Q quantile. All rows are equally likely.
    is_time: [V] bool; tokens that only say how much time has passed and are no events.
    """

    gaps: np.ndarray
    is_time: np.ndarray


def fit(train: Split, strings: list[str], recipe: dict) -> Clock:
    """The clock of a token dataset.

    Args:
      train: its train split; of a large one every n-th subject is read (up to MOST_TOKENS tokens).
      strings: the tokens of the vocabulary by id.
      recipe: `recipe` of dataset.json.

    Raises:
      InputError: the split has no two tokens with times.
    """
    total = int(train.lengths.sum())
    tokens, gaps = [], []
    for index in range(0, len(train), max(1, -(-total // MOST_TOKENS))):
        subject = train.subject(index)
        first = subject.num_static
        tokens.append(subject.tokens[first + 1 :])
        gaps.append(np.diff(subject.times[first:]) // MICROSECONDS_PER_MINUTE)
    token = np.concatenate(tokens) if tokens else np.zeros(0, np.int32)
    if not len(token):
        raise InputError("The train split has no two tokens with times, so how time passes cannot be told from it.")
    gap = np.clip(np.concatenate(gaps), 0, np.iinfo(np.int32).max)
    order = np.lexsort((gap, token))
    token, gap = token[order], gap[order]
    start = np.searchsorted(token, np.arange(len(strings)))
    count = np.searchsorted(token, np.arange(len(strings)), side="right") - start
    place = ((np.arange(QUANTILES)[:, None] + 0.5) / QUANTILES * count).astype(np.int64)
    table = np.where(count > 0, gap[np.minimum(start + place, len(gap) - 1)], 0)
    return Clock(table.astype(np.int32), is_time(strings, recipe))


def is_time(strings: list[str], recipe: dict) -> np.ndarray:
    """[V] bool: which tokens are time tokens of the recipe; that of token files has no steps."""
    result = np.zeros(len(strings), bool)
    for label in recipe.get("steps", ()):
        if label.split("@", 1)[0] == "time_tokens":
            settings = time_tokens.Settings(**recipe["settings"].get(label, {}))
            result |= time_tokens.marks(strings, settings)
    return result
