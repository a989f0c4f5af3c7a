"""Reads MEDS events back into what the filter needs: who, what was observed when, how long each risk lasted.

Nothing here knows the simulator: birth, sex, registration, stays, known conditions and observations all come
from the recorded codes, times and values.
"""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import BIRTH, DEATH
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.case_mix import CaseMix
from ehrjax.ingest.synthetic.laboratory import LABS
from ehrjax.ingest.synthetic.process import (
    DISCHARGE,
    GROUP_OF,
    GROUP_PROFILE,
    READMISSION_WINDOW,
    SHORTEST_STAY,
    Process,
    after_discharge,
    build,
    context_factors,
)
from ehrjax.ingest.synthetic.reasons import REASONS
from ehrjax.ingest.synthetic.record import DIED, REGISTRATION

ADMISSION = "ENCOUNTER//INPATIENT"
# A subject's times share one sorted axis: subject * SPAN + seconds. SPAN exceeds every time from EPOCH to
# END.
SPAN = 1 << 30


def seconds_of(times: pl.Series) -> np.ndarray:
    """Times as int64 seconds from `clock.EPOCH`; fractions of a second are dropped towards the past."""
    epoch = (clock.EPOCH - datetime.datetime(1970, 1, 1)) // datetime.timedelta(seconds=1)
    return times.cast(pl.Datetime("us")).cast(pl.Int64).to_numpy() // 1_000_000 - epoch


@functools.lru_cache(maxsize=4)
def _observations(sizes: tuple[int, ...], mix: CaseMix) -> tuple[np.ndarray, pl.DataFrame]:
    """The log likelihood [rows, states] of every observation, and which row a code (and value) reads."""
    process = build(sizes, mix)
    tables, codes, lows, steps, counts = [], [], [], [], []
    start = 0

    def add(table: np.ndarray, names: list[str], low: float | None = None, step: float | None = None) -> None:
        nonlocal start
        tables.append(table.astype(np.float32))
        for offset, name in enumerate(names):
            codes.append((name, start + offset))
            lows.append(low)
            steps.append(step)
            counts.append(len(table))
        start += len(table)

    add(np.log(process.reason_rates), [f"REASON//{reason.name}" for reason in REASONS])
    for mark in (*process.diagnoses, *process.drugs):
        add(mark.log_likelihood(), list(mark.codes))
    leaving = np.log(process.rates[GROUP_OF[DISCHARGE, None]])
    add(process.disposition.log_likelihood() + leaving, list(process.disposition.codes))
    for lab, mark in zip(LABS, process.labs):
        add(mark.log_likelihood(), [lab.code], lab.low, lab.step)
    frame = pl.DataFrame(
        {
            "code": [name for name, _ in codes],
            "row": [row for _, row in codes],
            "low": pl.Series(lows, dtype=pl.Float64),
            "step": pl.Series(steps, dtype=pl.Float64),
            "count": counts,
        }
    )
    return np.concatenate(tables), frame


@dataclass(frozen=True)
class Evidence:
    """The record of many subjects as the filter reads it. Times are int64 seconds from `clock.EPOCH`.

    Attributes:
      subject_ids: [subjects] sorted.
      birth, sex, entry, death: [subjects]; death is SPAN - 1 where none is recorded.
      recorded: [subjects, conditions] time of the first diagnosis; SPAN - 1 where none.
      admissions, discharges: keys (subject * SPAN + time), sorted; deaths in hospital are no discharges.
      keys, rows: [observations] sorted keys, and the row of `table` that each observation reads.
      table: [rows, states] float32 log likelihoods.
    """

    subject_ids: np.ndarray
    birth: np.ndarray
    sex: np.ndarray
    entry: np.ndarray
    death: np.ndarray
    recorded: np.ndarray
    admissions: np.ndarray
    discharges: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    table: np.ndarray


def read_evidence(process: Process, events: pl.DataFrame) -> Evidence:
    """Reads MEDS events (columns subject_id, time, code, numeric_value; any order).

    Raises:
      InputError: a subject lacks birth, sex or registration, or a laboratory value lies off its test's grid.
    """
    table, lookup = _observations(process.sizes, process.mix)
    ids, subject = np.unique(events["subject_id"].to_numpy(), return_inverse=True)
    n = len(ids)
    seconds = seconds_of(events["time"].fill_null(clock.EPOCH))
    events = events.select(pl.Series("subject", subject), "code", "numeric_value", pl.Series("seconds", seconds))

    def first(codes: list[str], otherwise: int) -> np.ndarray:
        found = events.filter(pl.col("code").is_in(codes)).group_by("subject").agg(pl.col("seconds").min())
        times = np.full(n, otherwise)
        times[found["subject"].to_numpy()] = found["seconds"].to_numpy()
        return times

    missing = np.iinfo(np.int64).min
    male, female = first(["GENDER//M"], missing) != missing, first(["GENDER//F"], missing) != missing
    birth, entry = first([BIRTH], missing), first([REGISTRATION], missing)
    for name, lacking in (
        ("sex (GENDER//F or GENDER//M)", ~(male | female)),
        (f"birth ({BIRTH})", birth == missing),
        (f"registration ({REGISTRATION})", entry == missing),
    ):
        if lacking.any():
            raise InputError(
                f"{lacking.sum()} of {n} subjects have no {name}; only records of the synthetic hospital have"
                " a known true probability."
            )
    recorded = np.stack([first(list(mark.codes), SPAN - 1) for mark in process.diagnoses], axis=1)

    seen = events.join(lookup, on="code", how="inner").sort("subject", "seconds", maintain_order=True)
    position = (seen["numeric_value"].cast(pl.Float64) - seen["low"]) / seen["step"]
    index = position.round().fill_null(0).fill_nan(-1).cast(pl.Int64)
    bad = seen["low"].is_not_null() & (
        seen["numeric_value"].is_null() | (index < 0) | (index >= seen["count"]) | ((position - index).abs() > 0.05)
    )
    if bad.any():
        code = seen.filter(bad)["code"][0]
        raise InputError(
            f"{bad.sum()} values of {code} and others are not values that the synthetic hospital writes;"
            " their probability is unknown."
        )
    seconds = seen["seconds"].to_numpy()
    keys = seen["subject"].to_numpy() * SPAN + seconds

    def keys_of(condition: pl.Expr) -> np.ndarray:
        part = events.filter(condition)
        return np.sort(part["subject"].to_numpy() * SPAN + part["seconds"].to_numpy())

    leaves = pl.col("code").str.starts_with("DISCHARGE//") & (pl.col("code") != DIED)
    return Evidence(
        subject_ids=ids,
        birth=birth,
        sex=male.astype(np.int64),
        entry=entry,
        death=first([DEATH], SPAN - 1),
        recorded=recorded,
        admissions=keys_of(pl.col("code") == ADMISSION),
        discharges=keys_of(leaves),
        keys=keys,
        rows=(seen["row"] + index).to_numpy(),
        table=table,
    )


def last_before(sorted_keys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The time [n] of the last of `sorted_keys` at or before each key of the same subject; -1 where none."""
    if not len(sorted_keys):
        return np.full(len(keys), -1)
    at = np.searchsorted(sorted_keys, keys, side="right") - 1
    found = sorted_keys[np.maximum(at, 0)]
    return np.where((at >= 0) & (found // SPAN == keys // SPAN), found % SPAN, -1)


@dataclass(frozen=True)
class Exposures:
    """How much risk has passed for each subject by each moment: [moments, groups], in rate-days."""

    keys: np.ndarray
    passed: np.ndarray

    def between(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """[n, groups] exposure between keys; both must be among the moments that it was made with."""
        return self.passed[np.searchsorted(self.keys, stop)] - self.passed[np.searchsorted(self.keys, start)]


def exposures(process: Process, evidence: Evidence, until: np.ndarray, moments: np.ndarray) -> Exposures:
    """Integrates the known factors of every rate (context, age, opening hours) along each subject's record.

    Args:
      process: its tables.
      evidence: the record.
      until: [subjects] the last moment asked about.
      moments: further keys at which the exposure will be asked.
    """
    n = len(evidence.subject_ids)
    subjects = np.arange(n)
    months = clock.MONTH_STARTS[None, :].repeat(n, 0)
    inside = (months > evidence.entry[:, None]) & (months <= until[:, None])
    boundaries = (subjects[:, None] * SPAN + months)[inside]
    opened = (subjects[:, None] * SPAN + evidence.recorded)[evidence.recorded < SPAN - 1]
    keys = np.unique(
        np.concatenate(
            [
                subjects * SPAN + evidence.entry,
                boundaries,
                opened,
                evidence.admissions,
                evidence.admissions + SHORTEST_STAY,
                evidence.discharges,
                evidence.discharges + READMISSION_WINDOW,
                moments,
            ]
        )
    )
    keys = keys[keys % SPAN <= until[keys // SPAN]]
    subject, now = np.divmod(keys, SPAN)
    # The context from each moment to the next.
    admitted, discharged = last_before(evidence.admissions, keys), last_before(evidence.discharges, keys)
    in_stay = admitted > discharged
    at_risk = ~in_stay & (discharged >= 0) & (now < discharged + READMISSION_WINDOW)
    factors = context_factors(
        in_stay,
        in_stay & (now >= admitted + SHORTEST_STAY),
        np.where(at_risk, after_discharge(discharged - admitted), 1.0),
        evidence.recorded[subject] <= now[:, None],
    )
    age = clock.age_years(clock.month_of(now), evidence.birth[subject])
    factors *= process.rates_age[:, age, evidence.sex[subject]].T
    same = np.append(subject[1:] == subject[:-1], False)
    for profile in clock.PROFILES:
        passed = clock.open_days(now, profile)
        lasted = np.where(same, np.append(passed[1:], 0.0) - passed, 0.0)
        factors[:, [p == profile for p in GROUP_PROFILE]] *= lasted[:, None]
    passed = np.zeros_like(factors)
    np.cumsum(factors[:-1], axis=0, out=passed[1:])
    return Exposures(keys, passed)
