"""What each token of a grammar is: an event, more about the event in front of it, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ehrjax.core import config as configs
from ehrjax.core import plugins
from ehrjax.vocab.recipe import SPECIALS, UNK

EVENT, DETAIL, NEITHER = range(3)


def of(strings: Sequence[str], recipe: Mapping[str, Any]) -> np.ndarray:
    """[V] int8: EVENT (an unknown one too), DETAIL or NEITHER (other specials, time tokens, marks around visits).

    Args:
      strings: the tokens of a vocabulary by id.
      recipe: `recipe` of dataset.json; that of token files has no steps, and all of their tokens are events.
    """
    roles = np.full(len(strings), EVENT, np.int8)
    roles[[i for i, name in enumerate(SPECIALS) if name != UNK]] = NEITHER
    for label in recipe.get("steps", ()):
        step = plugins.find("ehrjax.vocab.steps", label.split("@", 1)[0], "apply", key="recipe.steps")
        settings = configs.into(step.Settings, dict(recipe["settings"].get(label, {})), where=f"recipe.{label}")
        for name, role in (("details", DETAIL), ("marks", NEITHER)):
            if hasattr(step, name):
                roles[getattr(step, name)(strings, settings)] = role
    return roles


def events(roles: np.ndarray) -> np.ndarray:
    """[N] int64: of each token of a sequence the place of the event that it is or is about; -1 for others.

    Args:
      roles: [N] of the sequence's tokens, in order.
    """
    places = np.maximum.accumulate(np.where(roles == EVENT, np.arange(len(roles)), -1)) if len(roles) else roles
    return np.where(roles == NEITHER, -1, places).astype(np.int64)
