"""Draws lives from the process: hidden states, visits, stays and deaths of one chunk of subjects at a time.

A chunk always holds CHUNK subjects with a random stream of its own, so a subject's life depends on the seed
and its number alone, not on how many subjects are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.chronic import CONDITIONS
from ehrjax.ingest.synthetic.process import (
    CHRONIC,
    COMPONENTS,
    DEATH,
    DISCHARGE,
    GROUP_OF,
    GROUP_PROFILE,
    GROUPS,
    READMISSION_WINDOW,
    SHORTEST_STAY,
    Process,
    after_discharge,
    context_factors,
)
from ehrjax.ingest.synthetic.reasons import DETECTION, INPATIENT

CHUNK = 2500
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Lives:
    """What happened to a chunk of subjects. Times are int64 seconds from `clock.EPOCH`, NEVER if not at all.

    Attributes:
      sex, birth, entry, death: [subjects]; sex 0 is female, entry the time of registration.
      recorded: [subjects, conditions] time of the first diagnosis of each chronic condition.
      states: [subjects, months] int16 hidden state (meaningful from entry to death).
      subject, time, reason: [visits] in no particular order.
      leave: [visits] the end of a stay; NEVER for other visits and for stays that outlast the data.
      ward: [visits] bool, a diagnosis made during a stay, which is no visit of its own.
      stay: [visits] the row of the stay during which a ward diagnosis was made, else the row itself.
    """

    sex: np.ndarray
    birth: np.ndarray
    entry: np.ndarray
    death: np.ndarray
    recorded: np.ndarray
    states: np.ndarray
    subject: np.ndarray
    time: np.ndarray
    reason: np.ndarray
    leave: np.ndarray
    ward: np.ndarray
    stay: np.ndarray


def generator(seed: int, chunk: int) -> np.random.Generator:
    """The random stream of a chunk: a counter-based generator keyed by (seed, chunk)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, chunk])))


def simulate_lives(process: Process, rng: np.random.Generator, subjects: int = CHUNK) -> Lives:
    """Draws the lives of `subjects` subjects, month by month, all at once."""
    return _Simulation(process, rng, subjects).run()


class _Simulation:
    """The state of all subjects while time goes on."""

    def __init__(self, process: Process, rng: np.random.Generator, subjects: int) -> None:
        self.process, self.rng, n = process, rng, subjects
        mix = process.mix
        self.sex = (rng.random(n) < mix.men).astype(np.int64)
        last_day = clock.END // clock.DAY
        # Later entries are somewhat more frequent, as when a hospital grows.
        entry_day = np.floor(last_day * 0.97 * rng.random(n) ** 0.8).astype(np.int64)
        self.entry = entry_day * clock.DAY + rng.integers(8 * 3600, 17 * 3600, n)
        newborn = rng.random(n) < mix.newborn
        years = np.clip(rng.normal(mix.age_mean, mix.age_deviation, n), 1, 95)
        adult_birth = (entry_day - np.floor(years * 365.25).astype(np.int64)) * clock.DAY + rng.integers(
            0, clock.DAY, n
        )
        self.birth = np.where(newborn, self.entry - rng.integers(600, 4 * 3600, n), adult_birth)
        self.death = np.full(n, NEVER)
        self.recorded = np.full((n, len(CONDITIONS)), NEVER)
        month = clock.month_of(self.entry)
        initial = process.initial[clock.age_years(month, self.birth), self.sex]
        self.state = np.minimum((np.cumsum(initial, axis=1) < rng.random(n)[:, None]).sum(1), process.states - 1)
        self.states = np.zeros((n, clock.MONTHS), np.int16)
        # Context: the running stay (its row among the visits, -1 outside), and the last admission and
        # discharge.
        self.stay = np.full(n, -1)
        self.admitted = np.full(n, -1)
        self.discharged = np.full(n, -1)
        self.visits: list[tuple[np.ndarray, ...]] = []
        self.visit_count = 0
        self.leaves: list[tuple[np.ndarray, np.ndarray]] = []

    def run(self) -> Lives:
        for month in range(clock.MONTHS):
            start, end = clock.MONTH_STARTS[month], clock.MONTH_STARTS[month + 1]
            alive = self.death == NEVER
            if month:
                self._advance(np.flatnonzero(alive & (self.entry < start)), month - 1)
            self.states[:, month] = self.state
            self._live(np.flatnonzero(alive & (self.entry < end)), month)
        columns = [np.concatenate(column) for column in zip(*self.visits)] if self.visits else [np.zeros(0, int)] * 4
        subject, time, reason, stay = columns
        leave = np.full(len(subject), NEVER)
        for row, left in self.leaves:
            leave[row] = left
        ward = stay >= 0
        return Lives(
            self.sex, self.birth, self.entry, self.death, self.recorded, self.states,
            subject, time, reason, leave, ward, np.where(ward, stay, np.arange(len(subject))),
        )  # fmt: skip

    def _advance(self, who: np.ndarray, month: int) -> None:
        """Carries the states of subjects `who` over the end of `month`, as `Process.step` does beliefs."""
        process, age, sex = self.process, clock.age_years(month, self.birth[who]), self.sex[who]
        state = self.state[who]
        uniform = self.rng.random((len(who), len(CHRONIC) + 1))
        for column, component in enumerate(CHRONIC):
            chance = process.advance[component][state] * process.advance_age[component][age, sex]
            state = state + process.stride(component) * (uniform[:, column] < chance)
        cumulative = np.cumsum(process.activity[state], axis=1)
        new = (cumulative < uniform[:, -1:]).sum(1)
        new = np.minimum(new, process.sizes[list(COMPONENTS).index("activity")] - 1)
        self.state[who] = state + process.stride("activity") * (new - process.stage["activity"][state])

    def _live(self, who: np.ndarray, month: int) -> None:
        """Lets subjects `who` live through `month`, drawing event after event until it is over."""
        process = self.process
        start, end = clock.MONTH_STARTS[month], clock.MONTH_STARTS[month + 1]
        now = np.maximum(self.entry[who], start)
        age = clock.age_years(month, self.birth[who])
        base = process.rates[:, self.state[who]].T * process.rates_age[:, age, self.sex[who]].T
        while len(who):
            in_stay = self.stay[who] >= 0
            # The rates hold until the context changes by the mere passing of time.
            leave_from = self.admitted[who] + SHORTEST_STAY
            window_end = self.discharged[who] + READMISSION_WINDOW
            at_risk = (self.discharged[who] >= 0) & ~in_stay & (now < window_end)
            until = np.where(in_stay & (now < leave_from), np.minimum(end, leave_from), end)
            until = np.where(at_risk, np.minimum(until, window_end), until)
            admission = np.where(at_risk, after_discharge(self.discharged[who] - self.admitted[who]), 1.0)
            recorded = self.recorded[who] <= now[:, None]
            rates = base * context_factors(in_stay, in_stay & (now >= leave_from), admission, recorded)
            time, profile = self._next(now, rates)
            happens = time < until
            at = np.flatnonzero(happens)
            group = self._group(rates[at], profile[at])
            alive = self._happen(who[at], time[at].astype(np.int64), group)
            now = np.where(happens, np.minimum(time, until), until).astype(np.int64)
            going = now < end
            going[at] &= alive
            who, now, base = who[going], now[going], base[going]

    def _next(self, now: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The time [n] of each subject's next event at constant rates, and the profile [n] it is of."""
        times = np.full((len(clock.PROFILES), len(now)), np.inf)
        for index, profile in enumerate(clock.PROFILES):
            total = rates[:, [p == profile for p in GROUP_PROFILE]].sum(1)
            with np.errstate(divide="ignore"):
                wait = np.where(total > 0, self.rng.standard_exponential(len(now)) / total, np.inf)
            times[index] = clock.at_open_days(clock.open_days(now, profile) + wait, profile)
        first = times.argmin(0)
        # Whole seconds: a rounding of the process by less than a second, always to a time not yet passed.
        return np.maximum(np.ceil(times[first, np.arange(len(now))]), now + 1), first

    def _group(self, rates: np.ndarray, profile: np.ndarray) -> np.ndarray:
        """Which group [n] of the chosen profile happens."""
        belongs = np.array([[p == q for q in GROUP_PROFILE] for p in clock.PROFILES])
        cumulative = np.cumsum(rates * belongs[profile], axis=1)
        target = self.rng.random(len(rates)) * cumulative[:, -1]
        return np.minimum((cumulative <= target[:, None]).sum(1), len(GROUPS) - 1)

    def _happen(self, who: np.ndarray, time: np.ndarray, group: np.ndarray) -> np.ndarray:
        """Enters events into the record; returns [n] bool, who is alive after."""
        dies = group == GROUP_OF[DEATH, None]
        self.death[who[dies]] = time[dies]
        leaves = (group == GROUP_OF[DISCHARGE, None]) | (dies & (self.stay[who] >= 0))
        self.leaves.append((self.stay[who[leaves]], time[leaves]))
        self.discharged[who[leaves]] = time[leaves]
        self.stay[who[leaves]] = -1

        comes = ~dies & ~leaves
        who_comes, when, group = who[comes], time[comes], group[comes]
        of_group = self.process.reason_group[:, None] == group
        cumulative = np.cumsum(self.process.reason_rates[:, self.state[who_comes]] * of_group, axis=0)
        target = self.rng.random(len(who_comes)) * cumulative[-1]
        reason = np.minimum((cumulative <= target).sum(0), len(cumulative) - 1)
        self.visits.append((who_comes, when, reason, self.stay[who_comes]))
        row = self.visit_count + np.arange(len(who_comes))
        self.visit_count += len(who_comes)
        admitted = group == GROUP_OF[INPATIENT, None]
        self.stay[who_comes[admitted]] = row[admitted]
        self.admitted[who_comes[admitted]] = when[admitted]
        for index, condition in enumerate(CONDITIONS):
            found = group == GROUP_OF[DETECTION, condition.name]
            self.recorded[who_comes[found], index] = when[found]
        return ~dies
