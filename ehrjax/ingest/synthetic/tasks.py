"""The tasks whose true probability is known: prediction times, outcomes, and the exact probability of each.

Every outcome is defined on the calendar and on the record alone. A prediction made at time t knows every
event with a time up to and including t, and that nothing else had been recorded by t; the outcome lies in
(t, t + horizon]. A subject who dies within the horizon without the outcome does not have it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.chronic import CONDITIONS
from ehrjax.ingest.synthetic.evidence import SPAN, Evidence, last_before, read_evidence, seconds_of
from ehrjax.ingest.synthetic.filtering import beliefs, outcome_probability
from ehrjax.ingest.synthetic.process import (
    DEATH,
    GROUP_OF,
    READMISSION_WINDOW,
    Process,
    after_discharge,
)
from ehrjax.ingest.synthetic.reasons import DETECTION, INPATIENT
from ehrjax.ingest.synthetic.sites import site_named

_EPOCH_US = int((clock.EPOCH - datetime.datetime(1970, 1, 1)).total_seconds()) * 1_000_000


@dataclass(frozen=True)
class Task:
    """A yes-or-no prediction task.

    Attributes:
      name: as in TASKS.
      text: what is predicted, when, and for whom.
      horizon: seconds.
      group: the group of the process whose first event is the outcome.
      condition: column of the condition that must not be on record yet, or None.
      youngest: smallest age in years at the prediction time at which `labels` asks.
    """

    name: str
    text: str
    horizon: int
    group: int
    condition: int | None = None
    youngest: int = 0

    @property
    def at_discharge(self) -> bool:
        return self.group == GROUP_OF[INPATIENT, None]


_CONDITION = {condition.name: index for index, condition in enumerate(CONDITIONS)}
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "readmission_30d",
            "Admitted to hospital again within 30 days; predicted at every discharge alive.",
            READMISSION_WINDOW,
            GROUP_OF[INPATIENT, None],
        ),
        Task(
            "death_1y",
            "Death within 365 days; predicted every 365 days from registration, from age 50.",
            clock.YEAR,
            GROUP_OF[DEATH, None],
            youngest=50,
        ),
        *(
            Task(
                f"new_{name}_1y",
                f"First recorded diagnosis of {name.replace('_', ' ')} within 365 days; predicted every 365"
                " days from registration while there is none on record, from age 30.",
                clock.YEAR,
                GROUP_OF[DETECTION, name],
                condition=_CONDITION[name],
                youngest=30,
            )
            for name in ("diabetes", "heart_failure")
        ),
    )
}


def task_named(name: str) -> Task:
    """The task of that name; InputError names the tasks there are."""
    if name not in TASKS:
        raise InputError(f"There is no task {name!r} of the synthetic hospital; choose one of {', '.join(TASKS)}.")
    return TASKS[name]


def labels(events: pl.DataFrame, task: str, *, site: str = "first") -> pl.DataFrame:
    """The prediction times of a task and whether its outcome came true, from the record alone.

    A prediction is asked only if its whole horizon lies before the common end of the data, whether or not the
    outcome came, so leaving others out does not depend on health.

    Args:
      events: MEDS events of whole subjects of the synthetic hospital.
      task: one of TASKS.
      site: which hospital wrote them.

    Returns:
      subject_id int64, prediction_time datetime[us], boolean_value bool (the MEDS label columns), sorted.

    Raises:
      InputError: the task is unknown, or the events are not of the synthetic hospital.
    """
    task_named(task)
    at = site_named(site)
    return labels_of(read_evidence(at.process, at.read_back(events)), task)


def labels_of(evidence: Evidence, task: str) -> pl.DataFrame:
    """`labels` from a record that was read already."""
    chosen = task_named(task)
    n = len(evidence.subject_ids)
    if chosen.at_discharge:
        keys = evidence.discharges
    else:
        years = np.arange(1, clock.END // clock.YEAR + 1) * clock.YEAR
        times = evidence.entry[:, None] + years
        keys = (np.arange(n)[:, None] * SPAN + times)[times < clock.END]
    subject, time = np.divmod(keys, SPAN)
    asked = (time + chosen.horizon <= clock.END) & (time < evidence.death[subject])
    asked &= time - evidence.birth[subject] >= chosen.youngest * 365.25 * clock.DAY
    if chosen.condition is not None:
        asked &= evidence.recorded[subject, chosen.condition] > time
    subject, time, keys = subject[asked], time[asked], keys[asked]
    if chosen.at_discharge:
        # The first admission after a discharge; a discharge itself ends the stay before.
        place = np.searchsorted(evidence.admissions, keys, side="right")
        following = np.append(evidence.admissions, np.iinfo(np.int64).max)[place]
        outcome = following <= keys + chosen.horizon
    elif chosen.condition is not None:
        outcome = evidence.recorded[subject, chosen.condition] <= time + chosen.horizon
    else:
        outcome = evidence.death[subject] <= time + chosen.horizon
    return pl.DataFrame(
        {
            "subject_id": evidence.subject_ids[subject],
            "prediction_time": pl.Series(time * 1_000_000 + _EPOCH_US).cast(pl.Datetime("us")),
            "boolean_value": outcome,
        }
    )


def true_probability(
    history: pl.DataFrame,
    prediction_time: datetime.datetime,
    task: str,
    *,
    site: str = "first",
    process: Process | None = None,
) -> float:
    """The exact probability of a task's outcome for one subject, given everything recorded so far.

    Args:
      history: MEDS events of one subject of the synthetic hospital; later events than `prediction_time` are
        ignored.
      prediction_time: any moment from registration on while the subject lives (for readmission: a discharge).
      task: one of TASKS.
      site: which hospital wrote the history.
      process: another process than the site's, where the events were drawn from another.

    Returns:
      The probability, between 0 and 1.

    Raises:
      InputError: as `true_probabilities`.
    """
    ids = history["subject_id"].unique()
    if len(ids) != 1:
        raise InputError(f"true_probability takes the events of one subject; these are of {len(ids)}.")
    asked = pl.DataFrame({"subject_id": ids, "prediction_time": pl.Series([prediction_time], dtype=pl.Datetime("us"))})
    return float(true_probabilities(history, asked, task, site=site, process=process)[0])


def true_probabilities(
    events: pl.DataFrame, labels: pl.DataFrame, task: str, *, site: str = "first", process: Process | None = None
) -> np.ndarray:
    """The exact probability of a task's outcome for many subjects and prediction times.

    Args:
      events: MEDS events of the subjects; for each prediction only those up to its time count.
      labels: columns subject_id and prediction_time (such as `labels` gives); more columns are ignored.
      task: one of TASKS.
      site: which hospital wrote the events.
      process: another process than the site's.

    Returns:
      [rows of labels] float64.

    Raises:
      InputError: the task is unknown; a subject has no events, or is not of the synthetic hospital; a
        prediction time lies outside the subject's life or the data; readmission is asked elsewhere than at a
        discharge; a new diagnosis is asked that is on record already.
    """
    return all_true_probabilities(events, {task: labels}, site=site, process=process)[task]


def all_true_probabilities(
    events: pl.DataFrame,
    labels: Mapping[str, pl.DataFrame],
    *,
    site: str = "first",
    process: Process | None = None,
) -> dict[str, np.ndarray]:
    """`true_probabilities` for several tasks at once, reading and filtering the record only once.

    Args:
      events: as there.
      labels: task -> its labels.
      site, process: as there.

    Returns:
      task -> [rows of its labels] float64.
    """
    at = site_named(site)
    process = process or at.process
    return probabilities_of(process, read_evidence(process, at.read_back(events)), labels)


def probabilities_of(process: Process, evidence: Evidence, labels: Mapping[str, pl.DataFrame]) -> dict[str, np.ndarray]:
    """`all_true_probabilities` from a record that was read already."""
    places = {name: _places(evidence, frame) for name, frame in labels.items()}
    for name, (subject, time) in places.items():
        _check(evidence, task_named(name), subject, time)
    # One belief for each distinct moment, whichever tasks ask for it.
    keys, inverse = np.unique(
        np.concatenate([subject * SPAN + time for subject, time in places.values()]), return_inverse=True
    )
    belief = beliefs(process, evidence, *np.divmod(keys, SPAN))
    result, start = {}, 0
    for name, (subject, time) in places.items():
        task, which = TASKS[name], inverse[start : start + len(subject)]
        start += len(subject)
        factor = np.ones(len(subject))
        if task.at_discharge:
            factor = after_discharge(time - last_before(evidence.admissions, subject * SPAN + time))
        result[name] = _in_pieces(process, belief, which, evidence, subject, time, task, factor)
    return result


def _in_pieces(
    process: Process,
    belief: np.ndarray,
    which: np.ndarray,
    evidence: Evidence,
    subject: np.ndarray,
    time: np.ndarray,
    task: Task,
    factor: np.ndarray,
) -> np.ndarray:
    """`outcome_probability` for [n] moments, some hundreds at a time so that they stay in the cache."""
    probability = np.empty(len(subject))
    for start in range(0, len(subject), 256):
        part = slice(start, start + 256)
        who = subject[part]
        probability[part] = outcome_probability(
            process,
            belief[which[part]],
            evidence.birth[who],
            evidence.sex[who],
            time[part],
            task.horizon,
            task.group,
            factor[part],
        )
    return np.clip(probability, 0.0, 1.0)


def _places(evidence: Evidence, labels: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The subject rows [n] and times [n] of a label frame."""
    ids = labels["subject_id"].to_numpy()
    subject = np.minimum(np.searchsorted(evidence.subject_ids, ids), max(len(evidence.subject_ids) - 1, 0))
    if len(ids) and (not len(evidence.subject_ids) or (evidence.subject_ids[subject] != ids).any()):
        raise InputError("Some labelled subjects have no events; give the events of all of them.")
    return subject, seconds_of(labels["prediction_time"])


def _check(evidence: Evidence, task: Task, subject: np.ndarray, time: np.ndarray) -> None:
    keys = subject * SPAN + time
    if task.at_discharge and (last_before(evidence.discharges, keys) != time).any():
        raise InputError(f"{task.name} is only defined at a discharge; some prediction times are none.")
    if task.condition is not None and (evidence.recorded[subject, task.condition] <= time).any():
        raise InputError(f"{task.name} asks for a first diagnosis; some subjects have one at the prediction time.")
