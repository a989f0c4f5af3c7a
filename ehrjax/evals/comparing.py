"""Several predictions of the same labels side by side: metrics, paired differences, calibration, groups, oracle.

What comes out is plain JSON values; the report is a picture of it and computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ehrjax.evals import best_possible
from ehrjax.evals.prediction_files import Predictions
from ehrjax.metrics import calibration, discrimination, recalibration, suites, thresholds
from ehrjax.metrics.bootstrap import Resamples, ratio

# A group is too small to say anything about with fewer subjects, or fewer subjects of the rarest answer.
FEW_SUBJECTS, FEW_EACH = 50, 10
PRIMARY = {"yes_no": "auroc", "classes": "macro_auroc", "codes": "micro_auroc", "number": "mae", "time": "harrell_c"}
CURVE_POINTS = 200
NET_BENEFIT_AT = np.round(np.arange(0.01, 1.0, 0.01), 2)
# What recalibration changes, by the kind of the labels.
RECALIBRATED = {
    "yes_no": ("brier", "log_loss", "ece", "calibration_slope", "calibration_intercept"),
    "classes": ("brier", "log_loss"),
}


@dataclass(frozen=True)
class Entry:
    """One of the predictions that are compared.

    Attributes:
      name: short and unique; names its files.
      label: for people.
      role: 'model', 'probe', 'baseline' or 'oracle'.
      held_out: what it says of the labels to judge it by.
      tuning: what it says of the tuning labels, on which threshold and recalibration are chosen; None: 0.5, and none.
      told: more about it, JSON values.
    """

    name: str
    label: str
    role: str
    held_out: Predictions
    tuning: Predictions | None = None
    told: Mapping[str, Any] = field(default_factory=dict)


def compare(
    entries: Sequence[Entry],
    *,
    reference: str,
    groups: Mapping[str, np.ndarray] | None = None,
    context: suites.Context | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measures all entries on the same labels.

    Args:
      entries: whose `held_out` are about the same labels in the same order.
      reference: the name of the entry that differences are taken to.
      groups: column -> [N] group of each label.
      context: for time to event: the censoring of the train labels, and the horizons.
      resamples: of subjects; all entries, metrics and groups share them, so everything is paired.
      seed: draws them.

    Returns:
      `models`, `differences`, `groups`, `gaps`, `oracle`, `primary`, `reference`; see docs/evaluation.md.
    """
    first = entries[0].held_out
    subjects = first.keys["subject_id"].to_numpy()
    drawn = Resamples.of(subjects, resamples=resamples, seed=seed)
    kind = first.target.kind
    primary = PRIMARY[kind]
    entries = on_common_edges(entries) if kind == "time" else entries
    measured: dict[str, dict[str, suites.Measure]] = {}
    models = []
    for entry in entries:
        cut = threshold_of(entry)
        target, prediction = as_target(entry.held_out), as_prediction(entry.held_out, cut)
        measured[entry.name] = suites.measure(target, prediction, drawn, context=context)
        told: dict[str, Any] = {
            "name": entry.name,
            "label": entry.label,
            "role": entry.role,
            "threshold": cut,
            "threshold_from": "tuning" if has_chosen_threshold(entry) else "fixed",
            "metrics": _plain(measured[entry.name]),
            "told": dict(entry.told),
        }
        if kind == "yes_no":
            told["curves"] = curves(target, prediction.values, drawn)
        if kind in RECALIBRATED:
            told["recalibrated"] = recalibrated(entry, drawn)
        models.append(told)
    result: dict[str, Any] = {
        "kind": kind,
        "primary": primary,
        "metrics": [vars(metric) for metric in suites.metrics(kind, context)],
        "reference": reference,
        "labels": len(first),
        "subjects": int(len(np.unique(subjects))),
        "models": models,
        "differences": {
            entry.name: _plain(_differences(measured[entry.name], measured[reference]))
            for entry in entries
            if entry.name != reference
        },
    }
    if kind == "yes_no":
        result["positives"] = int((first.truth[:, 0] > 0).sum())
    if (rarest := subjects_of_the_rarest_answer(first)) is not None:
        result["subjects_of_the_rarest_answer"] = rarest
    result["groups"], result["gaps"] = by_group(entries, groups or {}, drawn, context)
    few = rarest is not None and rarest < FEW_EACH
    result["oracle"] = None
    if (best := next((entry.name for entry in entries if entry.role == "oracle"), None)) is not None:
        found = {name: own[primary] for name, own in measured.items()}
        result["oracle"] = best_possible.compare(found, best=best, reference=reference, few=few) | {"metric": primary}
    return result


def context_of(
    train: np.ndarray | None, horizons: Sequence[float], judged: np.ndarray | None = None
) -> suites.Context | None:
    """What metrics of times need.

    Args:
      train: [M, 2] the follow-up of the train labels: days, and 1 for an event.
      horizons: in days.
      judged: [N, 2] the same of all labels that are judged.
    """
    if train is None:
        return None
    longest = None if judged is None else float(judged[:, 0].max())
    return suites.Context(train[:, 0].astype(np.float64), train[:, 1] > 0, tuple(horizons), longest)


def as_target(made: Predictions) -> suites.Target:
    """The truth of predictions as the metrics take it."""
    truth = made.truth
    shaped = {
        "yes_no": lambda: truth[:, 0] > 0,
        "classes": lambda: truth[:, 0].astype(np.int64),
        "codes": lambda: truth > 0,
        "number": lambda: truth[:, 0].astype(np.float64),
        "time": lambda: truth.astype(np.float64),
    }[made.target.kind]()
    return suites.Target(made.target.kind, shaped, made.keys["subject_id"].to_numpy(), made.target.names)


def as_prediction(made: Predictions, threshold: float) -> suites.Prediction:
    """The values of predictions as the metrics take them, in float64."""
    values = made.values.astype(np.float64)
    if made.target.kind == "time":
        survival = values[:, 1:] if values.shape[1] > 1 else None
        return suites.Prediction(values[:, 0], survival=survival, edges_days=made.edges_days)
    if made.target.kind in ("classes", "codes"):
        return suites.Prediction(values)
    return suites.Prediction(values[:, 0], threshold=threshold)


def common_edges(entries: Sequence[Entry]) -> tuple[float, ...]:
    """The times in days that all entries with any survival tell it for; fewer than two of these are none."""
    told = [set(entry.held_out.edges_days) for entry in entries if entry.held_out.edges_days]
    common = tuple(sorted(set.intersection(*told))) if told else ()
    return common if len(common) > 1 else ()


def on_common_edges(entries: Sequence[Entry]) -> list[Entry]:
    """Survival at those times that all tell it for, as its errors are a mean over times; without such, none at all."""
    common = common_edges(entries)

    def kept(made: Predictions | None) -> Predictions | None:
        if made is None or made.edges_days == common or not made.edges_days:
            return made
        columns = [0, *(1 + made.edges_days.index(edge) for edge in common)]
        return replace(made, values=made.values[:, columns], edges_days=common)

    return [replace(entry, held_out=kept(entry.held_out), tuning=kept(entry.tuning)) for entry in entries]


def chosen_on_tuning(entry: Entry) -> bool:
    """Whether the tuning labels have several answers, so that a threshold or temperature can be chosen by them."""
    if entry.tuning is None or entry.held_out.target.kind not in RECALIBRATED or not len(entry.tuning):
        return False
    return len(np.unique(entry.tuning.truth[:, 0])) > 1


def has_chosen_threshold(entry: Entry) -> bool:
    """Whether its threshold is chosen on tuning: only yes and no have one."""
    return entry.held_out.target.kind == "yes_no" and chosen_on_tuning(entry)


def threshold_of(entry: Entry) -> float:
    """The probability from which on an entry says yes: that of the best F1 on tuning, or a half."""
    if not has_chosen_threshold(entry):
        return 0.5
    truth = entry.tuning.truth[:, 0] > 0
    return float(thresholds.best_f1(truth, entry.tuning.values[:, 0].astype(np.float64)))


def curves(target: suites.Target, probabilities: np.ndarray, drawn: Resamples) -> dict[str, Any]:
    """ROC, precision-recall, reliability and net benefit as lists of numbers, thinned for drawing.

    Reliability and net benefit have intervals over the resampled subjects, as all metrics have.
    """
    truth, subjects = np.asarray(target.truth, bool), target.subjects
    if truth.all() or not truth.any():
        return {}
    false, true, _ = discrimination.roc_curve(truth, probabilities)
    precision, recall, _ = discrimination.precision_recall_curve(truth, probabilities)
    bins = calibration.reliability(truth, probabilities)
    sums = drawn.sums(calibration.bin_columns(truth, probabilities), subjects)
    size = sums.shape[1] // 2
    shares = _ends(ratio(sums[:, size:], sums[:, :size]))
    benefit = thresholds.net_benefit(truth, probabilities, NET_BENEFIT_AT)
    count = drawn.sums(np.ones((len(truth), 1)), subjects)
    # Some thresholds at a time, so that memory stays bounded.
    parts = np.array_split(NET_BENEFIT_AT, 9)
    worth = np.hstack([drawn.sums(thresholds.worth(truth, probabilities, part), subjects) for part in parts])
    return {
        "roc": {"x": _thinned(false), "y": _thinned(true)},
        "precision_recall": {"x": _thinned(recall), "y": _thinned(precision)},
        "reliability": {
            "count": bins.count.tolist(),
            "predicted": np.round(bins.predicted, 5).tolist(),
            "observed": np.round(bins.observed, 5).tolist(),
            **shares,
        },
        "net_benefit": {
            "threshold": NET_BENEFIT_AT.tolist(),
            "model": np.round(benefit.model[0], 6).tolist(),
            **_ends(ratio(worth, count)),
            "all": np.round(benefit.treat_all[0], 6).tolist(),
        },
    }


def _ends(drawn: np.ndarray) -> dict[str, list[float | None]]:
    """The ends of the intervals of resampled columns [R, K]."""
    ends = [discrimination.interval(column) for column in drawn.T]
    return {
        name: [None if end[at] is None else round(end[at], 6) for end in ends]
        for at, name in enumerate(("low", "high"))
    }


def recalibrated(entry: Entry, drawn: Resamples) -> dict[str, Any]:
    """Calibration on the judged labels behind a temperature and (of yes or no) isotonic regression fitted on tuning."""
    target, kind = as_target(entry.held_out), entry.held_out.target.kind
    before = as_prediction(entry.held_out, 0.5).values
    maps: dict[str, Any] = {}
    if chosen_on_tuning(entry):
        truth, given = as_target(entry.tuning).truth, as_prediction(entry.tuning, 0.5).values
        maps["temperature"] = recalibration.fit_temperature(truth, given)
        if kind == "yes_no":
            maps["isotonic"] = recalibration.fit_isotonic(truth, given)
    result = {}
    for name, mapped in maps.items():
        measures = suites.measure(target, suites.Prediction(mapped(before)), drawn)
        kept = {metric: measures[metric] for metric in RECALIBRATED[kind]}
        result[name] = {"metrics": _plain(kept), "fitted": mapped.as_dict()}
    return result


def by_group(
    entries: Sequence[Entry], groups: Mapping[str, np.ndarray], drawn: Resamples, context: suites.Context | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every metric within every group, and its widest gap between groups that are large enough."""
    told: dict[str, Any] = {}
    gaps: dict[str, Any] = {}
    judged = {entry.name: (entry, threshold_of(entry)) for entry in entries if entry.role != "oracle"}
    for column, members in groups.items():
        told[column], measures = {}, {}
        for group in sorted(set(members.tolist())):
            chosen = np.flatnonzero(members == group)
            size = group_size(entries[0].held_out, chosen)
            told[column][group] = {**size, "models": {}}
            if size["too_small"]:  # nothing could be said with the numbers
                continue
            measures[group] = {
                name: suites.measure(
                    as_target(subset(entry.held_out, chosen)),
                    as_prediction(subset(entry.held_out, chosen), cut),
                    drawn,
                    context=context,
                )
                for name, (entry, cut) in judged.items()
            }
            told[column][group]["models"] = {name: _plain(found) for name, found in measures[group].items()}
        gaps[column] = {name: gap(measures, entry) for name, (entry, _) in judged.items()}
    return told, gaps


def group_size(made: Predictions, chosen: np.ndarray) -> dict[str, Any]:
    """How many labels and subjects a group has, of yes or no how many yes, and whether that is too few to say."""
    own = subset(made, chosen)
    subjects = int(own.keys["subject_id"].n_unique())
    size: dict[str, Any] = {"labels": int(len(chosen)), "subjects": subjects}
    if made.target.kind == "yes_no":
        size["positives"] = int(own.truth[:, 0].sum())
    rarest = subjects_of_the_rarest_answer(own)
    return {**size, "too_small": bool(subjects < FEW_SUBJECTS or (rarest is not None and rarest < FEW_EACH))}


def subjects_of_the_rarest_answer(made: Predictions) -> int | None:
    """How many subjects have it: the rarer of yes and no, the rarest class that is there, or an event; else None.

    Intervals from so few are too narrow, since no resample draws anybody else.
    """
    subjects, truth = made.keys["subject_id"].to_numpy(), made.truth
    answers = {
        "yes_no": lambda: [truth[:, 0] > 0, truth[:, 0] <= 0],
        "classes": lambda: [truth[:, 0] == one for one in np.unique(truth[:, 0])],
        "time": lambda: [truth[:, 1] > 0],
    }.get(made.target.kind)
    return None if answers is None else min(len(np.unique(subjects[rows])) for rows in answers())


def gap(measures: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """Metric -> its paired difference between the two groups that are farthest apart; those with two groups only."""
    found = {}
    for metric in next(iter(measures.values()))[entry.name] if measures else ():
        known = {group: own[entry.name][metric] for group, own in measures.items()}
        ordered = sorted((g for g in known if not np.isnan(known[g].value)), key=lambda g: known[g].value)
        if len(ordered) > 1:
            lowest, highest = ordered[0], ordered[-1]
            apart = suites.difference(known[highest], known[lowest])
            found[metric] = {"highest": highest, "lowest": lowest, **apart.as_dict()}
    return found


def subset(made: Predictions, chosen: np.ndarray) -> Predictions:
    """Some rows of predictions."""
    return Predictions(
        made.target, made.keys[chosen], None if made.truth is None else made.truth[chosen], made.values[chosen],
        made.edges_days,
    )  # fmt: skip


def _differences(own: Mapping[str, suites.Measure], base: Mapping[str, suites.Measure]) -> dict[str, suites.Measure]:
    return {name: suites.difference(measure, base[name]) for name, measure in own.items() if name in base}


def _plain(measures: Mapping[str, suites.Measure]) -> dict[str, Any]:
    return {name: measure.as_dict() for name, measure in measures.items()}


def _thinned(values: np.ndarray) -> list[float]:
    """At most CURVE_POINTS of the points, the ends kept."""
    if len(values) > CURVE_POINTS:
        values = values[np.unique(np.linspace(0, len(values) - 1, CURVE_POINTS).round().astype(int))]
    return np.round(values, 5).tolist()
