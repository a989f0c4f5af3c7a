"""Prompts: what was on record of a subject at a prediction time, as the model's window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.batch import MICROSECONDS_PER_MINUTE, Batch, device_fields
from ehrjax.core.errors import InputError
from ehrjax.data import rows
from ehrjax.data.token_dataset import Split, Subject

MOST_MINUTES = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Prompt:
    """A subject's static tokens and its tokens `start:stop` (as in data.windows), asked at `prediction_time`."""

    subject: Subject
    start: int
    stop: int
    prediction_time: int

    def __len__(self) -> int:
        return self.subject.num_static + self.stop - self.start

    @property
    def tokens(self) -> np.ndarray:
        """[N] int32."""
        static = self.subject.num_static
        return np.concatenate([self.subject.tokens[:static], self.subject.tokens[self.start : self.stop]])

    @property
    def last_time(self) -> int:
        """Microseconds of the last token; the prediction time where no token has a time."""
        return int(self.subject.times[self.stop - 1]) if self.stop > self.start else self.prediction_time

    @property
    def silence(self) -> int:
        """Minutes from the last token to the prediction time."""
        return min((self.prediction_time - self.last_time) // MICROSECONDS_PER_MINUTE, MOST_MINUTES)


def make(splits: Sequence[Split], asked: pl.DataFrame, *, most: int) -> list[Prompt]:
    """The prompts of (subject_id, prediction_time) pairs, in their order.

    A prompt holds the tokens up to and including the prediction time: the static ones and the newest others, `most` in
    all.

    Args:
      splits: where the subjects are looked for.
      asked: subject_id int64, prediction_time datetime[us].
      most: tokens of a prompt at most.

    Raises:
      InputError: a subject is in none of the splits, has nothing on record by the time, or has too many static tokens.
    """
    places = {int(s): (split, i) for split in splits for i, s in enumerate(split.subject_ids)}
    times = asked["prediction_time"].cast(pl.Datetime("us")).to_physical().to_list()
    prompts = []
    for subject_id, time in zip(asked["subject_id"].to_list(), times):
        if subject_id not in places:
            raise InputError(
                f"Subject {subject_id} is asked about but is not in the token dataset "
                f"({', '.join(s.name for s in splits)}); prepare its tokens, or leave its rows out."
            )
        split, index = places[subject_id]
        subject = split.subject(index)
        static = subject.num_static
        stop = static + int(np.searchsorted(subject.times[static:], time, side="right"))
        if stop == static:
            raise InputError(
                f"Subject {subject_id} has nothing on record by {asked['prediction_time'][len(prompts)]}: the prompt "
                "would be empty; leave this row out."
            )
        if static >= most:
            raise InputError(f"Subject {subject_id} has {static} static tokens, no room in a prompt of {most}.")
        prompts.append(Prompt(subject, max(static, stop - (most - static)), stop, time))
    return prompts


def batch(prompts: Sequence[Prompt], width: int, size: int) -> tuple[Batch, dict[str, np.ndarray]]:
    """Prompts as a device batch [size, width], one a row, and what `decode.Decoder.attach` must know of each."""
    host = rows.empty(size, width, 1)
    about = {
        "length": np.ones(size, np.int32),
        "age": np.zeros(size, np.float32),
        "time": np.zeros(size, np.int32),
        "silence": np.zeros(size, np.int32),
    }
    for row, prompt in enumerate(prompts):
        rows.fill(host, row, [(prompt.subject, prompt.start, prompt.stop)])
    device = device_fields(host)
    for row, prompt in enumerate(prompts):
        last = len(prompt) - 1
        about["length"][row] = len(prompt)
        about["age"][row] = device["ages"][row, last]
        about["time"][row] = device["times"][row, last]
        about["silence"][row] = prompt.silence
    return device, about
