"""Turns lives into records: the MEDS events of every visit, each drawn given the state at its own moment.

Whatever depends on the hidden state is drawn as exactly one outcome of a `Mark` at the event's own time;
whether and when something is ordered or noted depends on the record alone. So the absence of an event never
says anything about the state beyond the visit rates, and a record cut at any moment has an exact likelihood.
"""

from __future__ import annotations

import datetime
import functools

import numpy as np
import polars as pl

from ehrjax.ingest.meds import BIRTH, DEATH, EVENT_SCHEMA, VISIT_COLUMN, order_events
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.chronic import CONDITIONS, DISPOSITIONS
from ehrjax.ingest.synthetic.drugs import RXNORM
from ehrjax.ingest.synthetic.incidental import INCIDENTAL
from ehrjax.ingest.synthetic.laboratory import LABS
from ehrjax.ingest.synthetic.lives import NEVER, Lives
from ehrjax.ingest.synthetic.process import Mark, Process, drug_code, icd_code
from ehrjax.ingest.synthetic.reasons import (
    DETECTION,
    EMERGENCY,
    FOLLOW_UP,
    INPATIENT,
    ORDERED,
    REASONS,
)

RACES = {"WHITE": 0.62, "BLACK": 0.15, "HISPANIC": 0.14, "ASIAN": 0.06, "OTHER": 0.03}
INSURANCES = ("PRIVATE", "MEDICARE", "MEDICAID", "NONE")
ENCOUNTERS = ("OUTPATIENT", "EMERGENCY", "INPATIENT")
REGISTRATION = "ENCOUNTER//REGISTRATION"
DIED = "DISCHARGE//DIED"
VISITS_PER_SUBJECT = 100_000  # visit ids are subject_id times this plus the visit's number

_LAB_INDEX = {lab.name: index for index, lab in enumerate(LABS)}
# Vital signs are taken at most visits, besides the tests that the reason asks for.
_VITALS = {"systolic": 0.5, "diastolic": 0.5, "spo2": 0.1, "bmi": 0.15}
_DAILY = {name: 0.25 for name in ("glucose", "creatinine", "sodium", "potassium", "hemoglobin", "leukocytes")}
_DAILY |= {"systolic": 0.4, "spo2": 0.3, "crp": 0.15, "bnp": 0.08}
# How often a known chronic condition is coded and its treatment renewed.
_CODED = {"own": 0.95, "visit": 0.25, "stay": 0.8}
_RENEWED = {"own": 0.9, "visit": 0.12, "stay": 0.6}


@functools.cache
def codes() -> dict[str, str]:
    """Every code the process can write and its name, in a fixed order; a diagnosis' name is its ICD-10-CM code."""
    diagnoses = [*(option.name for c in CONDITIONS for option in c.diagnoses)]
    diagnoses += [name for reason in REASONS for name in reason.diagnoses] + list(INCIDENTAL)
    return {
        BIRTH: "Birth",
        DEATH: "Death",
        "GENDER//F": "Female",
        "GENDER//M": "Male",
        **{f"RACE//{name}": f"Race or ethnicity: {name.lower()}" for name in RACES},
        **{f"INSURANCE//{name}": f"Insurance: {name.lower()}" for name in INSURANCES},
        REGISTRATION: "Registration; observation starts",
        **{f"ENCOUNTER//{name}": f"{name.capitalize()} visit" for name in ENCOUNTERS},
        **{f"REASON//{reason.name}": f"Reason for the visit: {reason.text}" for reason in REASONS},
        **{f"DISCHARGE//{o.name}": f"Discharged: {o.name.lower().replace('_', ' ')}" for o in DISPOSITIONS},
        DIED: "Died in hospital",
        **{lab.code: f"{lab.text} [{lab.unit}]" for lab in LABS},
        **{icd_code(name): name for name in dict.fromkeys(diagnoses)},
        **{drug_code(name): name for name in RXNORM},
    }


def code_table() -> dict[str, str]:
    """The codes and their descriptions; those of diagnoses are read from ICD-10-CM's tables, which takes seconds."""
    import simple_icd_10_cm as icd

    return {code: icd.get_description(name) if code == icd_code(name) else name for code, name in codes().items()}


class _Rows:
    """Collects events column by column; codes as numbers of `codes`."""

    def __init__(self) -> None:
        self.code_number = {code: number for number, code in enumerate(codes())}
        self.parts: list[tuple[np.ndarray, ...]] = []

    def numbers(self, codes) -> np.ndarray:
        return np.array([self.code_number[code] for code in codes], np.int64)

    def add(self, subject, time, code, *, value=None, visit=None) -> None:
        """Appends events: subject [n], time [n] seconds, code [n] or one code, value [n], visit row [n]."""
        n = len(subject)
        code = np.full(n, self.code_number[code]) if isinstance(code, str) else code
        value = np.full(n, np.nan, np.float32) if value is None else value
        visit = np.full(n, -1) if visit is None else visit
        self.parts.append((subject, np.asarray(time, np.int64), code, value, visit))


def record(process: Process, rng: np.random.Generator, lives: Lives, first_subject: int, keep: int) -> pl.DataFrame:
    """The MEDS events of the first `keep` subjects of a chunk.

    Args:
      process: the tables that `lives` were drawn from.
      rng: the chunk's random stream, as `simulate_lives` left it.
      lives: the chunk.
      first_subject: subject_id of the chunk's first subject; the others follow.
      keep: how many subjects to return; the draws do not depend on it.

    Returns:
      Events with the columns of EVENT_SCHEMA in MEDS order. Events with one timestamp stand in the order in
      which they are known: visit, reason, values, diagnoses, drugs, discharge, death.
    """
    rows = _Rows()
    static = _write_people(rows, rng, lives)
    _write_visits(rows, process, rng, lives)
    _write_deaths(rows, lives)

    subject, time, code, value, visit = (np.concatenate(column) for column in zip(*rows.parts))
    # Nothing is recorded after death, and nothing after the data end.
    kept = (time <= lives.death[subject]) & (time < clock.END) & (subject < keep)
    numbers = _visit_numbers(lives)
    subject, time, code, value, visit = (column[kept] for column in (subject, time, code, value, visit))
    order = np.lexsort((time, subject))  # stable: ties keep the order of writing
    subject, time, code, value, visit = (column[order] for column in (subject, time, code, value, visit))
    subject_id = subject + first_subject
    visit_id = np.where(visit >= 0, subject_id * VISITS_PER_SUBJECT + numbers[visit], -1) if len(numbers) else visit
    epoch = int((clock.EPOCH - datetime.datetime(1970, 1, 1)).total_seconds())
    events = pl.DataFrame(
        {
            "subject_id": subject_id,
            "time": pl.Series((time + epoch) * 1_000_000).cast(pl.Datetime("us")),
            "code": pl.Series(list(codes()), dtype=pl.String).gather(code),
            "numeric_value": pl.Series(value, dtype=pl.Float32).fill_nan(None),
            "text_value": pl.Series([None] * len(code), dtype=pl.String),
            VISIT_COLUMN: visit_id,
        }
    ).with_columns(pl.col(VISIT_COLUMN).replace(-1, None))
    facts = pl.DataFrame(
        {
            "subject_id": np.tile(np.arange(keep) + first_subject, len(static)),
            "code": np.concatenate([codes[:keep] for codes in static]),
        }
    )
    events = pl.concat([facts, events.cast(EVENT_SCHEMA)], how="diagonal")
    return order_events(events.select(pl.col(name).cast(dtype) for name, dtype in EVENT_SCHEMA.items()))


def _write_people(rows: _Rows, rng: np.random.Generator, lives: Lives) -> list[np.ndarray]:
    """Birth and registration; returns the codes [subjects] of each static fact."""
    n = len(lives.sex)
    everyone = np.arange(n)
    rows.add(everyone, lives.birth, BIRTH)
    rows.add(everyone, lives.entry, REGISTRATION)
    age = (lives.entry - lives.birth) / (365.25 * clock.DAY)
    uniform = rng.random(n)
    younger = np.select([uniform < 0.68, uniform < 0.92], [0, 2], 3)
    insurance = np.where((age >= 65) & (uniform < 0.9), 1, younger)
    rows.add(everyone, lives.entry, rows.numbers(f"INSURANCE//{name}" for name in INSURANCES)[insurance])
    race = np.searchsorted(np.cumsum(list(RACES.values()))[:-1], rng.random(n), side="right")
    return [
        np.array(["GENDER//F", "GENDER//M"])[lives.sex],
        np.array([f"RACE//{name}" for name in RACES])[race],
    ]


def _write_deaths(rows: _Rows, lives: Lives) -> None:
    dead = np.flatnonzero(lives.death != NEVER)
    stay = np.flatnonzero((lives.leave != NEVER) & (lives.leave == lives.death[lives.subject]))
    rows.add(lives.subject[stay], lives.leave[stay], DIED, visit=stay)
    rows.add(dead, lives.death[dead], DEATH)


def _write_visits(rows: _Rows, process: Process, rng: np.random.Generator, lives: Lives) -> None:
    setting = np.array([reason.setting for reason in REASONS])
    visit = np.arange(len(lives.subject))
    of = setting[lives.reason]
    inpatient, emergency = of == INPATIENT, of == EMERGENCY
    kind = np.select([emergency, inpatient], [1, 2], 0)
    encounter = rows.numbers(f"ENCOUNTER//{name}" for name in ENCOUNTERS)[kind]
    own = visit[~lives.ward]
    rows.add(lives.subject[own], lives.time[own], encounter[own], visit=own)
    reason_code = rows.numbers(f"REASON//{reason.name}" for reason in REASONS)[lives.reason]
    rows.add(lives.subject, lives.time, reason_code, visit=lives.stay)

    # When results, and the diagnoses and prescriptions that close a visit, are known.
    minute = 60
    results = lives.time + minute * np.where(
        kind == 0, rng.integers(5, 40, len(visit)), rng.integers(20, 90, len(visit))
    )
    closing = lives.time + minute * np.where(
        kind == 0, rng.integers(40, 60, len(visit)), rng.integers(90, 360, len(visit))
    )
    # A stay's diagnoses are known when it ends; one that outlasts the data has none.
    closing = np.where(inpatient, lives.leave, closing)
    _write_labs(rows, process, rng, lives, results, inpatient)
    _write_diagnoses(rows, process, rng, lives, closing, of)
    _write_drugs(rows, process, rng, lives, closing, of)
    left = visit[inpatient & (lives.leave < np.minimum(lives.death[lives.subject], clock.END))]
    _draw(rows, process.disposition, rng, lives, left, lives.leave[left])


def _draw(rows: _Rows, mark: Mark, rng: np.random.Generator, lives: Lives, visit: np.ndarray, time: np.ndarray) -> None:
    """Draws one outcome of `mark` for each visit [n] at time [n], given the hidden state at that time."""
    uniform = rng.random(len(visit))
    known = time < clock.END
    visit, time, uniform = visit[known], time[known], uniform[known]
    subject = lives.subject[visit]
    states = lives.states[subject, clock.month_of(time)]
    outcome = mark.draw(states, uniform)
    code = rows.numbers(mark.codes)[outcome]
    rows.add(
        subject,
        time,
        code,
        value=None if mark.values is None else mark.values[outcome],
        visit=lives.stay[visit],
    )


def _write_labs(
    rows: _Rows,
    process: Process,
    rng: np.random.Generator,
    lives: Lives,
    results: np.ndarray,
    inpatient: np.ndarray,
) -> None:
    ordered = np.zeros((len(REASONS), len(LABS)))
    for index, reason in enumerate(REASONS):
        for name, chance in _VITALS.items():
            ordered[index, _LAB_INDEX[name]] = chance
        for name in reason.labs:
            ordered[index, _LAB_INDEX[name]] = ORDERED
    # Stays: the tests of the reason on admission, then a daily round at six in the morning until the end.
    stays = np.flatnonzero(inpatient)
    until = np.minimum(np.minimum(lives.leave[stays], lives.death[lives.subject[stays]]), clock.END)
    first_day = lives.time[stays] // clock.DAY + 1
    days = np.maximum((until - 6 * 3600) // clock.DAY - first_day + 1, 0)
    day_stay = np.repeat(stays, days)
    day = np.repeat(first_day, days) + np.arange(len(day_stay)) - np.repeat(np.cumsum(days) - days, days)
    morning = day * clock.DAY + 6 * 3600 + rng.integers(0, 3600, len(day_stay))
    for index, lab in enumerate(LABS):
        now = np.flatnonzero(rng.random(len(results)) < ordered[lives.reason, index])
        daily = np.flatnonzero((rng.random(len(day)) < _DAILY.get(lab.name, 0.0)) & (morning < lives.leave[day_stay]))
        _draw(
            rows, process.labs[index], rng, lives,
            np.concatenate([now, day_stay[daily]]), np.concatenate([results[now], morning[daily]]),
        )  # fmt: skip


def _write_diagnoses(
    rows: _Rows, process: Process, rng: np.random.Generator, lives: Lives, closing: np.ndarray, of: np.ndarray
) -> None:
    _write_ranked(rows, rng, lives, closing, [[icd_code(d) for d in r.diagnoses] for r in REASONS], again=0.35)
    for index, condition in enumerate(CONDITIONS):
        # The diagnosis that opens a condition stands at the very moment of its evaluation.
        opened = np.flatnonzero(lives.time == lives.recorded[lives.subject, index])
        own = np.array([r.condition == condition.name for r in REASONS])
        opened = opened[own[lives.reason[opened]] & (of[opened] == DETECTION)]
        _draw(rows, process.diagnoses[index], rng, lives, opened, lives.time[opened])
        coded = _known(rng, lives, closing, of, index, _CODED)
        _draw(rows, process.diagnoses[index], rng, lives, coded, closing[coded])
    noted = rng.random(len(closing)) < 0.3
    incidental = np.flatnonzero(noted & ~lives.ward & (closing < clock.END))
    codes = rows.numbers(icd_code(name) for name in INCIDENTAL)
    rank = _zipf(rng, len(incidental), len(codes))
    rows.add(lives.subject[incidental], closing[incidental], codes[rank], visit=lives.stay[incidental])


def _write_drugs(
    rows: _Rows, process: Process, rng: np.random.Generator, lives: Lives, closing: np.ndarray, of: np.ndarray
) -> None:
    # In a stay, treatment starts two hours after admission; elsewhere prescriptions close the visit.
    given = np.where(of == INPATIENT, lives.time + 2 * 3600, closing)
    given = np.where(given < lives.leave, given, NEVER)
    _write_ranked(rows, rng, lives, given, [[drug_code(d) for d in r.drugs] for r in REASONS], again=0.45)
    for index in range(len(CONDITIONS)):
        renewed = _known(rng, lives, closing, of, index, _RENEWED)
        _draw(rows, process.drugs[index], rng, lives, renewed, closing[renewed])


def _known(
    rng: np.random.Generator,
    lives: Lives,
    time: np.ndarray,
    of: np.ndarray,
    index: int,
    chance: dict[str, float],
) -> np.ndarray:
    """The visits [n] at which a condition on record by `time` is noted, by `chance` (_CODED or _RENEWED)."""
    own_reason = np.array([r.setting == FOLLOW_UP and r.condition == CONDITIONS[index].name for r in REASONS])
    own = own_reason[lives.reason]
    likely = np.select([own, of == INPATIENT], [chance["own"], chance["stay"]], chance["visit"])
    noted = rng.random(len(time)) < likely
    return np.flatnonzero(noted & ~lives.ward & (lives.recorded[lives.subject, index] <= time) & (time < clock.END))


def _write_ranked(
    rows: _Rows,
    rng: np.random.Generator,
    lives: Lives,
    time: np.ndarray,
    lists: list[list[str]],
    *,
    again: float,
) -> None:
    """Writes for each visit a code of its reason, the earlier the likelier, and with `again` the next."""
    longest = max(len(codes) for codes in lists)
    table = np.zeros((len(lists), longest), np.int64)
    length = np.array([len(codes) for codes in lists])
    for index, codes in enumerate(lists):
        table[index, : len(codes)] = rows.numbers(codes)
    size = length[lives.reason]
    rank = _zipf(rng, len(time), np.maximum(size, 1))
    more = rng.random(len(time)) < again
    for shift, chosen in ((0, size > 0), (1, (size > 1) & more)):
        visit = np.flatnonzero(chosen & (time < clock.END))
        code = table[lives.reason[visit], (rank[visit] + shift) % size[visit]]
        rows.add(lives.subject[visit], time[visit], code, visit=lives.stay[visit])


def _zipf(rng: np.random.Generator, n: int, size: np.ndarray | int) -> np.ndarray:
    """Ranks [n] from 0 with weights near 1 / (rank + 1): the whole part of a log-uniform number, less one."""
    return np.minimum(np.floor((np.asarray(size) + 1.0) ** rng.random(n)).astype(np.int64), size) - 1


def _visit_numbers(lives: Lives) -> np.ndarray:
    """Which visit of its subject each one is, by time, from 0."""
    order = np.lexsort((lives.time, lives.subject))
    subject = lives.subject[order]
    first = np.searchsorted(subject, subject, side="left")
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order)) - first
    return numbers
