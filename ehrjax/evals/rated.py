"""Risks that need no labels: what a run that learnt when codes come (times to events) says of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import LabelledSplit, Target
from ehrjax.data.rows import MICROSECONDS_PER_DAY
from ehrjax.evals import predicting
from ehrjax.evals.prediction_files import Predictions
from ehrjax.evals.settings import BY_LABELS
from ehrjax.ingest.labels.reading import Labels
from ehrjax.vocab import events
from ehrjax.vocab.events import NO_HORIZON, Event

# Labels whose rates are computed at once: each has one of every code in every piece of time.
_AT_ONCE = 512


def asked(runs: Mapping[str, Any], labels: Labels, target: Target, wanted: str) -> dict[str, Event]:
    """What each of the runs that know rates is asked.

    Args:
      runs: name -> an opened run.
      labels: that judge.
      target: what they are.
      wanted: CODE@HORIZON; BY_LABELS: what the labels ask about; empty: nothing is wanted.

    Raises:
      InputError: the labels are not yes or no or do not say what they are about, or no run knows the event.
    """
    if not wanted:
        return {}
    if target.kind != "yes_no":
        raise InputError("--zero_shot tells whether a code comes, and the labels are not yes or no.")
    if not runs:
        raise InputError("--zero_shot needs a run of times to events; name it as --workdir.")
    found = {}
    for name, run in ({name: run for name, run in runs.items() if _tells(run)} or runs).items():
        if wanted == BY_LABELS:
            event = events.of_labels(labels.info, labels.name, run.vocabulary, None)
            if event is None:
                raise InputError(
                    f"The labels {labels.name} do not say which code they ask for; write --zero_shot=CODE@TIME."
                )
        else:
            event = events.within(wanted, run.vocabulary, NO_HORIZON, name=labels.name, where="--zero_shot")
        check(name, run, event)
        found[name] = event
    return found


def _tells(run: Any) -> bool:
    return hasattr(run.objective, "risks")


def check(name: str, run: Any, event: Event) -> None:
    """Raises InputError for a run that knows nothing of the event, or an event without an end."""
    if not _tells(run):
        raise InputError(
            f"--zero_shot: {name} was not trained on times to events; sample its futures with ehrjax.generate, and "
            "give the predictions as --predictions."
        )
    if event.horizon == NO_HORIZON:
        raise InputError("--zero_shot says no time within which the code is to come; write CODE@HORIZON, as in X@1y.")
    run.objective.codes_of(event.tokens, run.vocabulary)


def predict(run: Any, part: LabelledSplit, event: Event) -> Predictions:
    """The probability of the event within its horizon of each prediction time, given the record until then.

    The rates are those at the last code's visit; that nothing has come since is taken into account.

    Args:
      run: an opened run that was trained on times to events.
      part: labels, yes or no, of whether the event comes.
      event: of the run's vocabulary.

    Raises:
      InputError: the run does not ask for the event's codes.
    """
    objective, head = run.objective, run.objective.head()
    codes = objective.codes_of(event.tokens, run.vocabulary)
    states = np.zeros((len(part.labels), 0), np.float32)
    silent = np.zeros(len(part.labels), np.float32)
    for label, hidden, real, times in predicting.seen(run, part):
        last = int(np.flatnonzero(real)[-1]) if real.any() else len(real) - 1
        if not states.shape[1]:
            states = np.zeros((len(part.labels), hidden.shape[1]), np.float32)
        states[label] = hidden[last]
        silent[label] = max(int(part.prediction_times[label]) - int(times[last]), 0) / MICROSECONDS_PER_DAY
    head_apply = lambda params, *inputs: head.apply({"params": params}, *inputs)  # noqa: E731
    risks = jax.jit(partial(objective.risks, head_apply, codes=codes, days=event.days))
    values = np.zeros((len(states), 1), np.float32)
    for first in range(0, len(states), _AT_ONCE):
        own = slice(first, first + _AT_ONCE)
        values[own, 0] = risks(run.params.get("head", {}), states[own], silent[own])
    return Predictions(Target("yes_no"), predicting.keys_of(part), part.labels, values)
