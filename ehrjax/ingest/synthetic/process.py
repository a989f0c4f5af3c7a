"""The process: hidden states, how they change, and the rates and distributions of everything recorded.

The hidden state is one number: the stages of seven components together (864 states). From month to month the
components change one after another, each given the current stages of all: first the chronic ones, which only
ever advance, then the activity. Within a month the state is constant and everything happens at constant rates
(times opening hours, age and a factor known from the record), so likelihoods are exact products.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.case_mix import CaseMix
from ehrjax.ingest.synthetic.chronic import CONDITIONS, DISPOSITIONS, Option
from ehrjax.ingest.synthetic.drugs import RXNORM
from ehrjax.ingest.synthetic.laboratory import LABS, Lab
from ehrjax.ingest.synthetic.reasons import (
    DETECTION,
    EMERGENCY,
    FOLLOW_UP,
    INPATIENT,
    REASONS,
    ROUTINE,
    Effects,
)

VERSION = "1"
COMPONENTS: dict[str, int] = {
    "diabetes": 3,  # none, early, late
    "cardiac": 4,  # none, hypertension, heart failure, advanced heart failure
    "renal": 3,  # none, moderate, severe
    "pulmonary": 2,  # none, obstructive
    "activity": 3,  # stable, unstable, decompensated: it comes and goes within months
    "frailty": 2,  # robust, frail: for life
    "constitution": 2,  # low or high usual laboratory values: for life
}
CHRONIC = ("diabetes", "cardiac", "renal", "pulmonary")
AGES = 101
DAYS_A_MONTH = 365 / 12

# Groups of things that happen, each with one factor by age and one by context; FOLLOW_UP and DETECTION have
# one group for each condition. The order is that of the columns of every [.., groups] array.
DEATH, DISCHARGE = "death", "discharge"
GROUPS: tuple[tuple[str, str | None], ...] = (
    (DEATH, None),
    (ROUTINE, None),
    *((FOLLOW_UP, condition.name) for condition in CONDITIONS),
    *((DETECTION, condition.name) for condition in CONDITIONS),
    (EMERGENCY, None),
    (INPATIENT, None),
    (DISCHARGE, None),
)
GROUP_OF = {group: index for index, group in enumerate(GROUPS)}
_PROFILE_OF = {
    DEATH: clock.ALWAYS,
    EMERGENCY: clock.ALWAYS,
    INPATIENT: clock.ALWAYS,
    DISCHARGE: clock.WARD_ROUND,
}
GROUP_PROFILE = tuple(_PROFILE_OF.get(setting, clock.CLINIC) for setting, _ in GROUPS)

# Nobody is sent home in the first 20 hours; the 30 days after a discharge carry their own risk of a new stay.
SHORTEST_STAY = 20 * 3600
READMISSION_WINDOW = 30 * clock.DAY


def after_discharge(stay_seconds: np.ndarray) -> np.ndarray:
    """The factor on the rate of admission in the 30 days after a stay of that length (any shape, float64)."""
    return 1.2 + 0.45 * np.minimum(np.asarray(stay_seconds, np.float64) / clock.DAY, 14.0)


@dataclass(frozen=True)
class Mark:
    """Something drawn given the state: one code of several, or the value of a laboratory test.

    Attributes:
      codes: [outcomes] the code of each outcome (all the same for a laboratory test).
      values: [outcomes] float32 numeric values in the unit of the code, or None.
      level: [states] which row of `probability` a state uses.
      probability: [levels, outcomes] float64, rows sum to one.
    """

    codes: tuple[str, ...]
    values: np.ndarray | None
    level: np.ndarray
    probability: np.ndarray

    def draw(self, states: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Outcomes [n] int64 for states [n], from uniform numbers [n] in [0, 1)."""
        cumulative = np.cumsum(self.probability, axis=1)
        cumulative = cumulative / cumulative[:, -1:] + np.arange(len(cumulative))[:, None]
        outcomes = self.probability.shape[1]
        level = self.level[states]
        # Rows one after another make one increasing sequence, so that one search serves all levels.
        found = np.searchsorted(cumulative.ravel(), level + uniform, side="right") - level * outcomes
        return np.clip(found, 0, outcomes - 1)

    def log_likelihood(self) -> np.ndarray:
        """[outcomes, states] float32: the log probability of each outcome in each state."""
        return np.log(np.maximum(self.probability, 1e-30)).T[:, self.level].astype(np.float32)


@dataclass(frozen=True)
class Process:
    """All tables of the process.

    Attributes:
      sizes: stages of each component, in the order of COMPONENTS.
      stage: component -> [states] its stage in each state.
      initial: [ages, sexes, states] float64, the distribution on entry (sex 0 is female, 1 male).
      advance: component -> [states] probability a month at age factor 1 that a chronic component advances.
      advance_age: component -> [ages, sexes] its factor.
      activity: [states, activities] probability of the next activity.
      rates: [groups, states] a day (of opening hours) at age factor and context factor 1.
      rates_age: [groups, ages, sexes] factor.
      reason_rates: [reasons, states]; they sum to `rates` over the reasons of a group.
      reason_group: [reasons] the group of each reason.
      labs, diagnoses, drugs: a mark for each of LABS and, twice, of CONDITIONS.
      disposition: where a stay's survivor goes.
      mix: who comes; None: the first site's people.
    """

    sizes: tuple[int, ...]
    stage: Mapping[str, np.ndarray]
    initial: np.ndarray
    advance: Mapping[str, np.ndarray]
    advance_age: Mapping[str, np.ndarray]
    activity: np.ndarray
    rates: np.ndarray
    rates_age: np.ndarray
    reason_rates: np.ndarray
    reason_group: np.ndarray
    labs: tuple[Mark, ...]
    diagnoses: tuple[Mark, ...]
    drugs: tuple[Mark, ...]
    disposition: Mark
    mix: CaseMix

    @property
    def states(self) -> int:
        return int(np.prod(self.sizes))

    def stride(self, component: str) -> int:
        """By how much the state's number grows when `component` advances by one stage."""
        return int(np.prod(self.sizes[list(COMPONENTS).index(component) + 1 :]))

    def step(self, belief: np.ndarray, age: np.ndarray, sex: np.ndarray) -> np.ndarray:
        """Carries beliefs over one month's end.

        Subjects are the last axis, so that every operation runs along memory.

        Args:
          belief: [states, n], contiguous, overwritten.
          age: [n] whole years in the month that ended.
          sex: [n] 0 or 1.

        Returns:
          [states, n], the same total.
        """
        n = belief.shape[1]
        for component in CHRONIC:
            size = self.sizes[list(COMPONENTS).index(component)]
            if size == 1:
                continue
            factor = self.advance_age[component][age, sex].astype(belief.dtype)
            cube = belief.reshape(-1, size, self.stride(component), n)
            up = self.advance[component].astype(belief.dtype).reshape(*cube.shape[:3], 1)
            # From the top down, so that nobody advances twice.
            moved = np.empty_like(cube[:, 0])
            for stage in range(size - 2, -1, -1):
                np.multiply(cube[:, stage], up[:, stage], out=moved)
                moved *= factor
                cube[:, stage] -= moved
                cube[:, stage + 1] += moved
        size = self.sizes[list(COMPONENTS).index("activity")]
        if size == 1:
            return belief
        cube = belief.reshape(-1, size, self.stride("activity"), n)
        to = self.activity.astype(belief.dtype).reshape(*cube.shape[:3], size)[:, :, :, None]
        after, moved = np.empty_like(cube), np.empty_like(cube[:, 0])
        for new in range(size):
            np.multiply(cube[:, 0], to[:, 0, :, :, new], out=after[:, new])
            for old in range(1, size):
                # One stage at a time: some ways do not exist.
                if to[:, old, :, :, new].any():
                    np.multiply(cube[:, old], to[:, old, :, :, new], out=moved)
                    after[:, new] += moved
        return after.reshape(-1, n)


def context_factors(
    in_stay: np.ndarray, may_leave: np.ndarray, admission: np.ndarray, recorded: np.ndarray
) -> np.ndarray:
    """What the record so far does to the rates.

    Args:
      in_stay: [n] bool, in hospital now.
      may_leave: [n] bool, in hospital for at least SHORTEST_STAY.
      admission: [n] factor on the rate of admission (`after_discharge` within 30 days of one, else 1).
      recorded: [n, conditions] bool, whether a condition has been diagnosed before.

    Returns:
      [n, groups] float64.
    """
    factors = np.empty((len(in_stay), len(GROUPS)))
    conditions = {condition.name: index for index, condition in enumerate(CONDITIONS)}
    for column, (setting, condition) in enumerate(GROUPS):
        if setting == DEATH:
            factors[:, column] = 1.0
        elif setting == FOLLOW_UP:
            factors[:, column] = ~in_stay & recorded[:, conditions[condition]]
        elif setting == DETECTION:
            # In hospital too: then the diagnosis is made on the ward.
            factors[:, column] = ~recorded[:, conditions[condition]]
        elif setting == INPATIENT:
            factors[:, column] = np.where(in_stay, 0.0, admission)
        elif setting == DISCHARGE:
            factors[:, column] = in_stay & may_leave
        else:
            factors[:, column] = ~in_stay
    return factors


@functools.cache
def build(sizes: tuple[int, ...] = tuple(COMPONENTS.values()), mix: CaseMix | None = None) -> Process:
    """The process with that many stages of each component.

    Args:
      mix: who comes; None: the first site's people.
      sizes: at most those of COMPONENTS; fewer give a smaller process of the same kind (later stages are left
        out), small enough to check the filter by enumeration.
    """
    numbers = np.arange(int(np.prod(sizes))).reshape(sizes)
    stage = {name: np.indices(sizes)[axis].reshape(-1) for axis, name in enumerate(COMPONENTS)}

    def log_effect(effects: Mapping[str, Sequence[float]]) -> np.ndarray:
        return sum((np.asarray(effect)[stage[name]] for name, effect in effects.items()), np.zeros(numbers.size))

    mix = mix or CaseMix()
    faster, busier = dict(mix.advance), dict(mix.settings)
    advance = {}
    for name, (by_stage, effects) in _ADVANCE.items():
        top = sizes[list(COMPONENTS).index(name)] - 1
        rate = np.asarray((*by_stage, 0.0))[stage[name]] * np.exp(log_effect(effects)) * faster.get(name, 1.0)
        advance[name] = np.where(stage[name] < top, rate, 0.0)
    years = np.arange(AGES)
    advance_age = {
        name: np.minimum(np.exp(slope * (np.minimum(years, 85)[:, None] - 55)) * np.array([1.0, male]), 3.5)
        for name, (slope, male) in _ADVANCE_AGE.items()
    }
    assert all((advance[name].max() * advance_age[name].max()) <= 1 for name in CHRONIC)

    reason_rates = np.stack(
        [
            reason.rate / DAYS_A_MONTH * np.exp(log_effect(reason.effects)) * busier.get(reason.setting, 1.0)
            for reason in REASONS
        ]
    )
    reason_group = np.array([GROUP_OF[reason.setting, reason.condition] for reason in REASONS])
    rates = np.stack([reason_rates[reason_group == group].sum(0) for group in range(len(GROUPS))])
    rates[GROUP_OF[DEATH, None]] = _DEATH_RATE / DAYS_A_MONTH * np.exp(log_effect(_DEATH_EFFECTS))
    rates[GROUP_OF[DISCHARGE, None]] = _DISCHARGE_RATE * np.exp(log_effect(_DISCHARGE_EFFECTS))
    rates_age = np.stack(
        [
            np.exp(slope * (years[:, None] - 50)) * np.array([1.0, male])
            for slope, male in (_RATE_AGE[setting] for setting, _ in GROUPS)
        ]
    )
    process = Process(
        sizes=tuple(sizes),
        stage=stage,
        initial=np.empty(0),
        advance=advance,
        advance_age=advance_age,
        activity=_activity(sizes, stage, log_effect),
        rates=rates,
        rates_age=rates_age,
        reason_rates=reason_rates,
        reason_group=reason_group,
        labs=tuple(_lab_mark(lab, log_effect) for lab in LABS),
        diagnoses=tuple(_choice(c.diagnoses, icd_code, log_effect) for c in CONDITIONS),
        drugs=tuple(_choice(c.drugs, drug_code, log_effect) for c in CONDITIONS),
        disposition=_choice(DISPOSITIONS, lambda name: f"DISCHARGE//{name}", log_effect),
        mix=mix,
    )
    return dataclasses.replace(process, initial=_initial(process))


def icd_code(name: str) -> str:
    """The MEDS code of an ICD-10-CM code."""
    return f"ICD10CM//{name}"


def drug_code(name: str) -> str:
    """The MEDS code of a drug by its name in `drugs.RXNORM`."""
    return f"RXNORM//{RXNORM[name]}"


# Chronic components: probability a month of leaving each stage at age 55, and the effects of the others.
_ADVANCE: dict[str, tuple[tuple[float, ...], Effects]] = {
    "diabetes": (
        (0.0009, 0.006),
        {"cardiac": (0.0, 0.4, 0.5, 0.5), "frailty": (0.0, 0.5), "activity": (0.0, 0.3, 0.5)},
    ),
    "cardiac": (
        (0.0022, 0.0014, 0.006),
        {
            "diabetes": (0.0, 0.4, 0.8),
            "renal": (0.0, 0.4, 0.8),
            "frailty": (0.0, 0.4),
            "activity": (0.0, 0.5, 0.8),
        },
    ),
    "renal": (
        (0.0007, 0.005),
        {"diabetes": (0.0, 0.5, 1.1), "cardiac": (0.0, 0.4, 0.7, 0.9), "activity": (0.0, 0.4, 0.8)},
    ),
    "pulmonary": ((0.0008,), {"frailty": (0.0, 0.8), "activity": (0.0, 0.3, 0.5)}),
}
# Growth by year of age, and the factor of men.
_ADVANCE_AGE = {
    "diabetes": (0.03, 1.1),
    "cardiac": (0.045, 1.15),
    "renal": (0.05, 1.0),
    "pulmonary": (0.04, 1.2),
}
# Up: stable to unstable, unstable to decompensated; down: the ways back.
_ACTIVITY_UP = (0.012, 0.14)
_ACTIVITY_DOWN = (0.20, 0.25)
_ACTIVITY_EFFECTS: Effects = {
    "cardiac": (0.0, 0.2, 0.9, 1.4),
    "renal": (0.0, 0.3, 0.8),
    "pulmonary": (0.0, 0.7),
    "diabetes": (0.0, 0.2, 0.6),
    "frailty": (0.0, 0.5),
}
_DEATH_RATE = 0.00012
_DEATH_EFFECTS: Effects = {
    "diabetes": (0.0, 0.1, 0.3),
    "cardiac": (0.0, 0.1, 0.3, 0.6),
    "renal": (0.0, 0.2, 0.4),
    "pulmonary": (0.0, 0.2),
    "activity": (0.0, 1.8, 3.3),
    "frailty": (0.0, 0.5),
}
_DISCHARGE_RATE = 0.35
_DISCHARGE_EFFECTS: Effects = {"activity": (0.0, -0.4, -0.9), "frailty": (0.0, -0.3)}
# Growth of each rate by year of age from 50, and the factor of men.
_RATE_AGE = {
    DEATH: (0.055, 1.2),
    ROUTINE: (0.006, 0.85),
    FOLLOW_UP: (0.0, 1.0),
    DETECTION: (0.004, 0.95),
    EMERGENCY: (0.004, 1.0),
    INPATIENT: (0.018, 1.0),
    DISCHARGE: (-0.006, 1.0),
}


def _activity(sizes: tuple[int, ...], stage: Mapping[str, np.ndarray], log_effect) -> np.ndarray:
    """[states, activities]: up with the burden of disease, down at fixed rates, one stage at a time."""
    size = sizes[list(COMPONENTS).index("activity")]
    now = stage["activity"]
    burden = np.exp(log_effect(_ACTIVITY_EFFECTS))
    to = np.zeros((len(now), size))
    up = np.where(now < size - 1, np.minimum(np.asarray((*_ACTIVITY_UP, 0.0))[now] * burden, 0.5), 0.0)
    down = np.where(now > 0, np.asarray((0.0, *_ACTIVITY_DOWN))[now], 0.0)
    rows = np.arange(len(now))
    to[rows, np.minimum(now + 1, size - 1)] += up
    to[rows, np.maximum(now - 1, 0)] += down
    to[rows, now] += 1 - up - down
    return to


def _initial(process: Process) -> np.ndarray:
    """The state of those alive at each age: births carried forward by the process itself, given survival."""
    stage = process.stage
    birth = np.ones(process.states)
    for name in (*CHRONIC, "activity"):
        birth *= stage[name] == 0
    birth *= np.where(stage["frailty"] == 0, 0.75, 0.25)
    birth /= birth.sum()
    sex = np.arange(2)
    belief = np.tile(birth, (2, 1))
    initial = np.empty((AGES, 2, process.states))
    death = process.rates[GROUP_OF[DEATH, None]]
    for age in range(AGES):
        initial[age] = belief / belief.sum(1, keepdims=True)
        years = np.full(2, age)
        survival = np.exp(-DAYS_A_MONTH * process.rates_age[GROUP_OF[DEATH, None], age][:, None] * death)
        belief = initial[age].copy()
        for _ in range(12):
            belief = process.step(np.ascontiguousarray((belief * survival).T), years, sex).T
    return initial


def _levels(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows of [states, ...] and which of them each state has."""
    distinct, level = np.unique(rows, axis=0, return_inverse=True)
    return distinct, level.reshape(-1)


def _choice(options: Sequence[Option], code, log_effect) -> Mark:
    weights = np.stack([option.weight * np.exp(log_effect(option.effects)) for option in options], axis=1)
    probability, level = _levels(np.round(weights / weights.sum(1, keepdims=True), 12))
    return Mark(
        tuple(code(option.name) for option in options),
        None,
        level,
        probability / probability.sum(1, keepdims=True),
    )


def _lab_mark(lab: Lab, log_effect) -> Mark:
    values = lab.low + lab.step * np.arange(round((lab.high - lab.low) / lab.step) + 1)
    means, level = _levels(np.round(lab.mean + log_effect(lab.effects), 9))
    scaled = np.log(values) if lab.log else values
    density = -0.5 * ((scaled - means[:, None]) / lab.deviation) ** 2 - (scaled if lab.log else 0.0)
    probability = np.exp(density - density.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    return Mark((lab.code,) * len(values), np.round(values, 4).astype(np.float32), level, probability)
