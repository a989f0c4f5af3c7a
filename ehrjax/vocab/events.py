"""What is asked of the future: the codes of an event, and within what time."""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.ingest.roles import check_patterns, matching
from ehrjax.vocab.vocabulary import Vocabulary

NO_HORIZON = np.iinfo(np.int32).max
DEATH = r"MEDS_DEATH(//|$)"
_UNITS = {"m": 1.0, "h": 60.0, "d": 1440.0, "w": 7 * 1440.0, "y": 365.25 * 1440.0}


@dataclass(frozen=True)
class Event:
    """Something that may happen after the prediction time.

    Attributes:
      name: of the task, also a file's name.
      tokens: [V] bool; the tokens that mean it.
      horizon: within how many minutes; NO_HORIZON where any time will do.
    """

    name: str
    tokens: np.ndarray
    horizon: int

    @property
    def days(self) -> float:
        """The horizon in days."""
        return self.horizon / _UNITS["d"]


def minutes(text: str) -> int:
    """A duration such as 30d, 2y, 24h, 90m or 6w in minutes.

    >>> minutes("30d")
    43200

    Raises:
      InputError: it is none, or less than a minute.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdwy])", text.strip())
    if not found or round(float(found[1]) * _UNITS[found[2]]) < 1:
        raise InputError(f"{text!r} is no duration; write for example 30d, 2y, 24h or 90m (1m at least).")
    return min(round(float(found[1]) * _UNITS[found[2]]), NO_HORIZON - 1)


def tokens_of(vocabulary: Vocabulary, patterns: Sequence[str], *, where: str) -> np.ndarray:
    """[V] bool: the tokens whose code, or whose string, is one of the patterns or matches one from its start.

    Args:
      vocabulary: of the run.
      patterns: codes, or regular expressions.
      where: what gave them, for the message.

    Raises:
      InputError: a pattern that no token has.
    """
    strings = vocabulary.table["str"]
    codes = vocabulary.table["code"].fill_null("")
    result = np.zeros(len(vocabulary), bool)
    for pattern in patterns:
        found = ((strings == pattern) | (codes == pattern)).to_numpy()
        if not found.any():
            regular = check_patterns(pattern, where)
            found = (matching(strings, regular) | matching(codes, regular)).to_numpy()
        found = found & (np.arange(len(found)) >= vocabulary.num_specials)
        if not found.any():
            close = difflib.get_close_matches(pattern, vocabulary.strings, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InputError(f"{where} names {pattern!r}, which is no token of the run's vocabulary{hint}")
        result |= found
    return result


def parse(text: str, vocabulary: Vocabulary, horizon: int) -> Event:
    """A task from `NAME=CODE[@HORIZON]`, where CODE is a code or a regular expression.

    Raises:
      InputError: it has another form, or names no token.
    """
    found = re.fullmatch(r"([\w.-]+)=(.+)", text)
    if not found:
        raise InputError(f"--task={text} must have the form NAME=CODE or NAME=CODE@HORIZON.")
    return within(found[2], vocabulary, horizon, name=found[1], where=f"--task={found[1]}")


def within(text: str, vocabulary: Vocabulary, horizon: int, *, name: str, where: str) -> Event:
    """The event that `CODE[@HORIZON]` names; `where` is what gave the text, for messages.

    Raises:
      InputError: no token has the code, or the horizon is no duration.
    """
    pattern, at, own = text.rpartition("@")
    tokens = tokens_of(vocabulary, [pattern if at else text], where=where)
    return Event(name, tokens, minutes(own) if at else horizon)


def of_labels(info: Mapping[str, Any], name: str, vocabulary: Vocabulary, horizon: int | None) -> Event | None:
    """The event that a label folder of ours asks about, by its task.json; None where it does not say.

    Known are readmission_30d (the role admission), time_to_event and new_diagnosis (their codes).
    """
    settings = info.get("settings", {})
    patterns = {
        "readmission_30d": info.get("roles", {}).get("admission"),
        "time_to_event": settings.get("codes"),
        "new_diagnosis": settings.get("codes"),
    }.get(info.get("task", ""))
    if not patterns:
        return None
    days = settings.get("horizon_days")
    own = int(datetime.timedelta(days=days).total_seconds() // 60) if days else NO_HORIZON
    return Event(name, tokens_of(vocabulary, patterns, where=f"The task {name}"), own if horizon is None else horizon)


def ends(vocabulary: Vocabulary, stops: Sequence[str]) -> np.ndarray:
    """[V] bool: the tokens that end a trajectory: those asked for, and death, after which nothing comes."""
    result = tokens_of(vocabulary, stops, where="--stop") if stops else np.zeros(len(vocabulary), bool)
    codes = vocabulary.table["code"].fill_null("")
    return result | (matching(codes, [DEATH]) | matching(vocabulary.table["str"], [DEATH])).to_numpy()
