"""All numbers of one task: each metric of its kind, with an interval over resampled subjects or a reason for none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.metrics import calibration, classes, codes, regression, survival, thresholds
from ehrjax.metrics.bootstrap import LEVEL, Resamples, ratio
from ehrjax.metrics.discrimination import Steps, interval
from ehrjax.metrics.tasks import METRICS, Context, Metric, Prediction, Target, auc_name, check, metrics

__all__ = ["METRICS", "Context", "Measure", "Metric", "Prediction", "Target", "difference", "measure", "metrics"]

ONE_CLASS, ONE_SUBJECT = "only one class", "one subject"
# Below this share of resamples that have a value, the interval says so.
_ENOUGH = 0.95
_SPECIFICITY = 0.9
# Few enough resamples at a time for the processor's cache; more where each has little to add up.
_CHUNK, _LARGE_CHUNK, _CELLS = 16, 128, 2**22


@dataclass(frozen=True)
class Measure:
    """One metric of one model on one task.

    Attributes:
      value: NaN where it is undefined.
      low, high: the interval's ends, or None.
      draws: [R] the resampled values, NaN where undefined.
      subjects: how many contribute.
      reason: why there is no value or no interval, or what is wrong with it; else empty.
      higher_is_better: None where neither is.
    """

    value: float
    low: float | None
    high: float | None
    draws: np.ndarray
    subjects: int
    reason: str
    higher_is_better: bool | None

    def as_dict(self) -> dict[str, float | int | str | bool | None]:
        """The same as JSON values, without the draws (NaN becomes None)."""
        return {
            "value": None if np.isnan(self.value) else self.value,
            "low": self.low,
            "high": self.high,
            "subjects": self.subjects,
            "reason": self.reason,
            "higher_is_better": self.higher_is_better,
        }


@dataclass(frozen=True)
class _Found:
    """A metric's values [1 + R], the whole sample's first.

    reason: why the first is NaN, if it is. subjects: how many contribute, where not all do. doubt: what to know of a
    value that there is.
    """

    values: np.ndarray
    reason: str = ""
    subjects: int | None = None
    doubt: str = ""


@dataclass(frozen=True)
class _Sample:
    """A target and what is predicted, with 1 + R weightings: all subjects once, and the resamples."""

    target: Target
    prediction: Prediction
    every: Resamples
    context: Context | None
    places: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", self.every.places(self.target.subjects))

    @property
    def columns(self) -> int:
        return len(self.every.subjects)

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """[1 + R, K] for rows [N, K]."""
        return self.every.sums(rows, self.target.subjects)

    def contributing(self, rows: np.ndarray) -> int:
        """The subjects of rows [N] bool."""
        return len(np.unique(self.target.subjects[rows]))

    def gathered(
        self, of: Callable[[np.ndarray], Iterable[np.ndarray]], *, rows: bool = False, size: int = _CHUNK
    ) -> np.ndarray:
        """[M, 1 + R]: what a function makes, M arrays [chunk], of the weights [chunk, S or, by rows, N]."""
        chunks = self.every.chunks(self.target.subjects if rows else None, size)
        return np.concatenate([np.stack(list(of(weights))) for _, weights in chunks], axis=1)


def measure(
    target: Target,
    prediction: Prediction,
    resamples: Resamples,
    *,
    level: float = LEVEL,
    context: Context | None = None,
) -> dict[str, Measure]:
    """Every metric of a target's kind.

    Args:
      target: the truth.
      prediction: of the same rows.
      resamples: of a population that the rows' subjects belong to; those of one population pair models and tasks.
      level: the intervals' coverage.
      context: for times to an event; without it only Harrell's C has a value.

    Returns:
      By name, in the order of `metrics(target.kind, context)`. What the rows do not determine is NaN with a reason.

    Raises:
      InputError: target and prediction do not fit, or a subject is not in the population.
    """
    wanted = metrics(target.kind, context)
    check(target, prediction)
    count = len(resamples.counts)
    if not len(target.subjects):
        return {m.name: _measure(_Found(np.full(1 + count, np.nan), "no rows"), 0, level, m) for m in wanted}
    # The whole sample is one more weighting, so that value and draws come from the same code.
    every = resamples.among(target.subjects).with_whole
    found = _KINDS[target.kind](_Sample(target, prediction, every, context))
    subjects = len(np.unique(target.subjects))
    return {m.name: _measure(found[m.name], subjects, level, m) for m in wanted}


def difference(a: Measure, b: Measure, *, level: float = LEVEL) -> Measure:
    """a - b of one metric, paired by resample.

    Args:
      a, b: measured with the same Resamples.
      level: the interval's coverage.

    Returns:
      The difference; without a value where either has none, for the first's reason or else the second's.

    Raises:
      InputError: they have different numbers of resamples.
    """
    if len(a.draws) != len(b.draws):
        raise InputError(f"{len(a.draws)} and {len(b.draws)} resamples cannot be paired; measure both with the same")
    missing = next((m.reason for m in (a, b) if np.isnan(m.value)), "")
    found = _Found(np.concatenate([[a.value - b.value], a.draws - b.draws]), missing)
    return _measure(found, min(a.subjects, b.subjects), level, a)


def _measure(found: _Found, subjects: int, level: float, like: Metric | Measure) -> Measure:
    """Value, interval and reason of a metric's values."""
    value, draws = float(found.values[0]), found.values[1:]
    subjects = subjects if found.subjects is None else found.subjects
    if np.isnan(value) or subjects < 2:
        reason = found.reason if np.isnan(value) else ONE_SUBJECT
        return Measure(value, None, None, np.full(len(draws), np.nan), subjects, reason, like.higher_is_better)
    undefined = int(np.isnan(draws).sum())
    low, high = interval(draws, level)
    reason = found.doubt
    if len(draws) - undefined < _ENOUGH * len(draws):
        reason = f"undefined in {undefined} of {len(draws)} resamples"
    elif low is not None and not low <= value <= high:
        # A row drawn twice is tied with itself, which flatters the precision of rare codes; see also the ECE.
        reason = "resampling shifts this metric, and the interval leaves the value out"
    return Measure(value, low, high, draws, subjects, reason, like.higher_is_better)


def _equal(scores: np.ndarray) -> str:
    """What to know of a ranking by scores [N, ...] that rank nothing; empty where they do."""
    return "all scores are equal" if (scores == scores[0]).all() else ""


def _yes_no(sample: _Sample) -> dict[str, _Found]:
    truth, p = np.asarray(sample.target.truth, bool), np.asarray(sample.prediction.values, np.float64)
    steps, start = Steps.of(truth, p, sample.places, sample.columns), calibration.line(truth, p)

    def ranks(weights: np.ndarray) -> tuple[np.ndarray, ...]:
        tally = steps.tally(weights)
        # Of yes alone every ranking is perfect, which says nothing.
        precision = np.where(tally.noes > 0, tally.average_precision(), np.nan)
        return tally.auroc(), precision, tally.sensitivity_at_specificity(_SPECIFICITY)

    def lines(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        line = calibration.line(truth, p, weights, start=start)
        return line.slope, line.intercept

    decided = thresholds.confusion(truth, p, sample.prediction.threshold)
    losses = np.stack([np.ones(len(p)), calibration.squared_errors(truth, p), calibration.log_losses(truth, p)], axis=1)
    gaps = calibration.gaps(truth, p, calibration.bin_edges(p))
    sums = sample.sums(np.concatenate([losses, decided, gaps], axis=1))
    auroc, precision, sensitivity = sample.gathered(ranks)
    slope, intercept = sample.gathered(lines, rows=True)
    one_class = len(np.unique(truth)) < 2
    equal = _equal(p)
    among = {"sensitivity": truth, "specificity": ~truth, "ppv": decided[:, :2].any(axis=1)}
    rates = {
        name: _Found(
            values,
            "nobody is predicted yes" if name == "ppv" else ONE_CLASS,
            sample.contributing(among[name]) if name in among else None,
        )
        for name, values in thresholds.rates(sums[:, 3:7]).items()
    }
    return rates | {
        "auroc": _Found(auroc, ONE_CLASS, doubt=equal),
        "average_precision": _Found(precision, ONE_CLASS, doubt=equal),
        "brier": _Found(ratio(sums[:, 1], sums[:, 0])),
        "log_loss": _Found(ratio(sums[:, 2], sums[:, 0])),
        "ece": _Found(ratio(np.abs(sums[:, 7:]).sum(axis=1), sums[:, 0])),
        "calibration_slope": _Found(slope, ONE_CLASS if one_class else equal or "the scores separate the classes"),
        "calibration_intercept": _Found(intercept, ONE_CLASS),
        "sensitivity_at_90_specificity": _Found(sensitivity, ONE_CLASS, doubt=equal),
    }


def _classes(sample: _Sample) -> dict[str, _Found]:
    truth, p = np.asarray(sample.target.truth), np.asarray(sample.prediction.values, np.float64)
    sums = classes.of_sums(sample.sums(classes.columns(truth, p)))
    steps = [Steps.of(truth == k, p[:, k], sample.places, sample.columns) for k in range(p.shape[1])]
    (auroc,) = sample.gathered(lambda weights: [classes.macro_of(steps, weights)])
    found = {name: _Found(values, ONE_CLASS) for name, values in sums.items()}
    return found | {"macro_auroc": _Found(auroc, ONE_CLASS, doubt=_equal(p))}


def _codes(sample: _Sample) -> dict[str, _Found]:
    truth, p = np.asarray(sample.target.truth, bool), np.asarray(sample.prediction.values, np.float64)
    sums = codes.of_sums(sample.sums(codes.columns(truth, p)))
    some = sample.contributing(truth.any(axis=1))
    found = {name: _Found(values, "no row has a code", some) for name, values in sums.items()}
    together = codes.micro_steps(truth, p, sample.places, sample.columns)
    size = max(1, min(_CHUNK, _CELLS // together.no.shape[0]))
    areas = sample.gathered(lambda weights: codes.micro(together, weights).values(), size=size)
    found |= {name: _Found(values, ONE_CLASS) for name, values in zip(codes.MICRO, areas)}
    # A code at a time has few steps, and larger chunks mean fewer calls.
    singles = [Steps.of(truth[:, k], p[:, k], sample.places, sample.columns) for k in range(p.shape[1])]
    areas = sample.gathered(lambda weights: codes.macro(singles, weights).values(), size=_LARGE_CHUNK)
    no_code = "no code has both classes"
    return found | {name: _Found(values, no_code, doubt=_equal(p)) for name, values in zip(codes.MACRO, areas)}


def _number(sample: _Sample) -> dict[str, _Found]:
    sums = sample.sums(regression.columns(sample.target.truth, sample.prediction.values))
    return {name: _Found(values, "all true values are equal") for name, values in regression.of_sums(sums).items()}


def _time(sample: _Sample) -> dict[str, _Found]:
    times, events, context = *_followed(sample), sample.context
    pairs = survival.Pairs(times, events, sample.prediction.values)
    no_pairs, equal = "no comparable pairs" if events.any() else "no events", _equal(sample.prediction.values)
    if context is None or not len(context.train_times):
        (harrell,) = sample.gathered(pairs.concordance, rows=True)
        unknown = _Found(np.full(len(harrell), np.nan), "no follow-up of train is given")
        return {m.name: unknown for m in metrics("time", context)} | {
            "harrell_c": _Found(harrell, no_pairs, doubt=equal)
        }
    censoring = survival.Censoring.of(context.train_times, context.train_events)
    factors, problem = np.stack([np.ones(len(times)), np.zeros(len(times))]), no_pairs
    try:
        factors[1] = survival.uno_factors(times, events, censoring, context.horizons[-1])
        problem = problem if not events.any() or factors[1].any() else "no events before the last horizon"
    except InputError as error:
        problem = str(error)
    harrell, uno = sample.gathered(lambda weights: pairs.concordance(weights, factors), rows=True)
    found = {"harrell_c": _Found(harrell, no_pairs, doubt=equal), "uno_c": _Found(uno, problem, doubt=equal)}
    return found | _horizons(sample, censoring) | {"integrated_brier": _integrated(sample, censoring)}


def _followed(sample: _Sample) -> tuple[np.ndarray, np.ndarray]:
    """Times [N] and events [N] bool."""
    times, events = np.asarray(sample.target.truth, np.float64).T
    return times, events > 0


def _horizons(sample: _Sample, censoring: survival.Censoring) -> dict[str, _Found]:
    """The AUC at each horizon, and their mean."""
    (times, events), horizons = _followed(sample), sample.context.horizons
    aucs = np.full((len(horizons), len(sample.every.counts)), np.nan)
    found = {}
    for k, horizon in enumerate(horizons):
        problem = (
            "nobody is followed beyond the horizon" if (events & (times <= horizon)).any() else "no events by then"
        )
        risk = _risk_by(sample.prediction, horizon)
        try:
            steps = survival.dynamic_steps(times, events, risk, censoring, horizon, sample.places, sample.columns)
            (aucs[k],) = sample.gathered(lambda weights, steps=steps: [steps.tally(weights).auroc()])
        except InputError as error:
            problem = str(error)
        found[auc_name(horizon)] = _Found(aucs[k], problem, doubt=_equal(risk))
    left = sample.gathered(lambda weights: survival.kaplan_meier(times, events, horizons, weights).T, rows=True)
    mean = survival.mean_of(aucs.T, left.T)
    first = next((found[auc_name(h)].reason for h, auc in zip(horizons, aucs) if np.isnan(auc[0])), "")
    equal = min((own.doubt for own in found.values()), default="")  # where it is so at each of them
    return found | {"mean_auc": _Found(mean, f"the AUC at a horizon is undefined: {first}", doubt=equal)}


def _risk_by(prediction: Prediction, horizon: float) -> np.ndarray:
    """[N] the risk of the event by a horizon where survival is told for it, else the one risk there is."""
    if prediction.survival is None or horizon not in prediction.edges_days:
        return prediction.values
    return 1.0 - prediction.survival[:, list(prediction.edges_days).index(horizon)]


def _integrated(sample: _Sample, censoring: survival.Censoring) -> _Found:
    """The integrated Brier score over the edges up to the last horizon that some of all that is judged go beyond."""
    (times, events), prediction = _followed(sample), sample.prediction
    nothing = np.full(len(sample.every.counts), np.nan)
    if prediction.survival is None:
        return _Found(nothing, "no survival is predicted")
    edges = np.asarray(prediction.edges_days, np.float64)
    followed = times.max() if sample.context.followed_days is None else sample.context.followed_days
    used = (edges <= sample.context.horizons[-1]) & (edges < followed)
    if used.sum() < 2:
        return _Found(nothing, "fewer than two edges are within follow-up")
    if edges[used][-1] >= times.max():
        return _Found(nothing, "nobody is followed beyond the last edge that all are judged by")
    try:
        if not censoring.probability(edges[used]).all():  # such rows would count as if predicted without an error
            return _Found(nothing, "all of train were censored by one of the edges")
        rows = survival.brier_rows(times, events, prediction.survival[:, used], censoring, edges[used])
    except InputError as error:
        return _Found(nothing, str(error))
    sums = sample.sums(np.column_stack([np.ones(len(times)), rows]))
    return _Found(survival.integrated_brier(ratio(sums[:, 1:], sums[:, :1]), edges[used]))


_KINDS = {"yes_no": _yes_no, "classes": _classes, "codes": _codes, "number": _number, "time": _time}
