"""The exact forward filter: what is known of the hidden state, and the probability of outcomes to come."""

from __future__ import annotations

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.evidence import SPAN, Evidence, Exposures, exposures
from ehrjax.ingest.synthetic.process import DEATH, GROUP_OF, GROUP_PROFILE, Process

_BATCH = 256  # subjects at a time: their beliefs stay in the processor's cache


def beliefs(process: Process, evidence: Evidence, subject: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The distribution of the hidden state given everything recorded up to and including each moment.

    Args:
      process: its tables.
      evidence: the record; what lies after a moment has no influence on its row.
      subject: [moments] rows of `evidence`.
      time: [moments] int64 seconds from EPOCH.

    Returns:
      [moments, states] float32; each row sums to one.

    Raises:
      InputError: a moment lies before its subject's registration, after death or past the data's end.
    """
    wrong = (time < evidence.entry[subject]) | (time >= evidence.death[subject]) | (time > clock.END)
    if wrong.any():
        raise InputError(
            f"{wrong.sum()} of {len(time)} prediction times lie before registration, at or after death, or"
            f" after the end of the data ({clock.EPOCH.date()} + {clock.END // clock.DAY} days)."
        )
    until = np.full(len(evidence.subject_ids), -1)
    np.maximum.at(until, subject, time)
    until = np.maximum(until, evidence.entry)
    risk = exposures(process, evidence, until, subject * SPAN + time)
    result = np.empty((len(subject), process.states), np.float32)
    asked = np.unique(subject)
    order = np.argsort(subject, kind="stable")
    for start in range(0, len(asked), _BATCH):
        batch = asked[start : start + _BATCH]
        queries = order[np.searchsorted(subject[order], batch[0]) : np.searchsorted(subject[order], batch[-1], "right")]
        _filter_batch(process, evidence, risk, batch, until[batch], queries, subject, time, result)
    return result


def _filter_batch(
    process: Process,
    evidence: Evidence,
    risk: Exposures,
    batch: np.ndarray,
    until: np.ndarray,
    queries: np.ndarray,
    subject: np.ndarray,
    time: np.ndarray,
    result: np.ndarray,
) -> None:
    entry, birth, sex = evidence.entry[batch], evidence.birth[batch], evidence.sex[batch]
    first, last = clock.month_of(entry), clock.month_of(until)
    query_month = clock.month_of(time[queries])
    belief = np.zeros((len(batch), process.states), np.float32)
    for month in range(first.min(), last.max() + 1):
        going = np.flatnonzero((first < month) & (month <= last))
        if len(going):
            age = clock.age_years(month - 1, birth[going])
            belief[going] = process.step(np.ascontiguousarray(belief[going].T), age, sex[going]).T
        enters = first == month
        belief[enters] = process.initial[clock.age_years(month, birth[enters]), sex[enters]]
        asked = queries[query_month == month]
        if len(asked):
            row = np.searchsorted(batch, subject[asked])
            begin = subject[asked] * SPAN + np.maximum(entry[row], clock.MONTH_STARTS[month])
            result[asked] = _updated(
                evidence,
                risk,
                process,
                belief[row],
                begin,
                subject[asked] * SPAN + time[asked],
                inclusive=True,
            )
        going = np.flatnonzero((first <= month) & (month < last))
        if len(going):
            begin = batch[going] * SPAN + np.maximum(entry[going], clock.MONTH_STARTS[month])
            stop = batch[going] * SPAN + clock.MONTH_STARTS[month + 1]
            belief[going] = _updated(evidence, risk, process, belief[going], begin, stop, inclusive=False)


def _updated(
    evidence: Evidence,
    risk: Exposures,
    process: Process,
    belief: np.ndarray,
    start: np.ndarray,
    stop: np.ndarray,
    *,
    inclusive: bool,
) -> np.ndarray:
    """Bayes' rule for one stretch within a month: what happened, and how long nothing else did."""
    log = -risk.between(start, stop).astype(np.float32) @ process.rates.astype(np.float32)
    low = np.searchsorted(evidence.keys, start)
    high = np.searchsorted(evidence.keys, stop, side="right" if inclusive else "left")
    some = np.flatnonzero(high > low)
    if len(some):
        count = (high - low)[some]
        offset = np.cumsum(count) - count
        rows = evidence.rows[np.arange(count.sum()) - np.repeat(offset, count) + np.repeat(low[some], count)]
        log[some] += np.add.reduceat(evidence.table[rows], offset, axis=0)
    with np.errstate(divide="ignore"):
        log += np.log(belief)
    log -= log.max(1, keepdims=True)
    np.exp(log, out=log)
    log /= log.sum(1, keepdims=True)
    return log


def outcome_probability(
    process: Process,
    belief: np.ndarray,
    birth: np.ndarray,
    sex: np.ndarray,
    time: np.ndarray,
    horizon: int,
    group: int,
    factor: np.ndarray,
) -> np.ndarray:
    """The probability that an event of a group happens, while the subject lives, within a horizon.

    Args:
      process: its tables.
      belief: [n, states] at `time`.
      birth, sex, time: [n]; seconds from EPOCH.
      horizon: seconds, at most 13 months.
      group: column of GROUPS, whose context factor must stay the same throughout (DEATH is an outcome too).
      factor: [n] that context factor.

    Returns:
      [n] float64 probability that the first event of the group falls in (time, time + horizon].
    """
    n = len(belief)
    death = GROUP_OF[DEATH, None]
    # Subjects along memory, as `Process.step` wants it.
    remaining = np.ascontiguousarray(belief.T, np.float32)
    happened = np.zeros(n)
    stop = time + horizon
    month = clock.month_of(time)
    here = np.asarray(time, np.int64)
    # Rates are a day of opening hours, which are only a part of the day.
    opening = 24 / (GROUP_PROFILE[group][1] - GROUP_PROFILE[group][0])
    while (here < stop).any():
        end = np.minimum(clock.MONTH_STARTS[month + 1], stop)
        age = clock.age_years(month, birth)
        ageing = process.rates_age[:, age, sex]
        rate = _outer(process.rates[group], ageing[group] * factor * opening)
        dying = None if group == death else _outer(process.rates[death], ageing[death])
        for fraction, repeated in _pieces(here, end, GROUP_PROFILE[group]):
            happened += _compete(remaining, rate, dying, fraction, repeated)
        here = end
        month = np.where(here < stop, month + 1, month)
        onward = np.flatnonzero(here < stop)
        if len(onward) == n:
            remaining = process.step(remaining, age, sex)
        elif len(onward):
            remaining[:, onward] = process.step(np.take(remaining, onward, axis=1), age[onward], sex[onward])
    return happened


def _outer(states: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    return states.astype(np.float32)[:, None] * subjects.astype(np.float32)


def _pieces(
    start: np.ndarray, stop: np.ndarray, profile: tuple[int, int]
) -> list[tuple[tuple[np.ndarray, ...], np.ndarray]]:
    """Cuts [start, stop) into part days and whole days.

    Returns:
      ((closed before, open, closed after) [n] days each, how many times [n] in a row): a part day, the whole
      days, a part day.
    """
    first_midnight = np.minimum(-(-start // clock.DAY) * clock.DAY, stop)
    last_midnight = np.maximum(stop // clock.DAY * clock.DAY, first_midnight)
    opens, closes = 3600 * profile[0], 3600 * profile[1]

    def parts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
        midnight = a // clock.DAY * clock.DAY
        cuts = [a, *(np.clip(midnight + hour, a, b) for hour in (opens, closes)), b]
        return tuple((late - early) / clock.DAY for early, late in zip(cuts, cuts[1:]))

    once = np.ones(len(start), np.int64)
    whole = tuple(np.full(len(start), hours / 24) for hours in (profile[0], profile[1] - profile[0], 24 - profile[1]))
    return [
        (parts(start, first_midnight), once),
        (whole, (last_midnight - first_midnight) // clock.DAY),
        (parts(last_midnight, stop), once),
    ]


def _compete(
    remaining: np.ndarray,
    rate: np.ndarray,
    dying: np.ndarray | None,
    fraction: tuple[np.ndarray, ...],
    repeated: np.ndarray,
) -> np.ndarray:
    """The outcome against death over a day (or part) that is repeated; thins `remaining` in place.

    Args:
      remaining: [states, n] mass that is alive and without the outcome.
      rate, dying: [states, n] a day; the rate while open. None: the outcome is death, nothing competes.
      fraction: ([n], [n], [n]) days before opening, open, and after closing.
      repeated: [n] how many such days.

    Returns:
      [n] float64 mass of `remaining` that has the outcome.
    """
    before, open_, after = (np.asarray(part, np.float32) for part in fraction)
    times = np.asarray(repeated, np.float32)
    if not (times * (before + open_ + after)).any():
        return np.zeros(len(times))
    if not before.any() and not after.any():
        # Open all day: the days are one stretch.
        stretch = -(open_ * times)
        gone = np.expm1((rate if dying is None else rate + dying) * stretch)
        mass = -gone if dying is None else gone * (rate / -(rate + dying))
    else:
        dying = np.float32(0) if dying is None else dying
        either = rate + dying
        # A stretch of no length leaves nobody; so that nothing is divided by nothing it counts as almost none.
        leaving = -np.maximum(dying * (before + open_ + after) + rate * open_, np.float32(1e-30))
        # A geometric series over the days.
        gone = np.expm1(leaving * times)
        mass = gone / np.expm1(leaving)
        mass *= rate / either
        mass *= -np.expm1(-either * open_)
        if before.any():
            mass *= np.exp(-dying * before)
    mass *= remaining
    gone += 1.0
    remaining *= gone
    return mass.sum(0, dtype=np.float64)
