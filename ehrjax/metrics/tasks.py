"""What is measured: targets of five kinds, what was predicted for them, and the metrics of each kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.metrics import codes, thresholds


@dataclass(frozen=True)
class Target:
    """The truth of one task's rows.

    Attributes:
      kind: "yes_no", "classes", "codes", "number" or "time".
      truth: yes_no [N] bool; classes [N] int, 0 .. K - 1; codes [N, K] bool; number [N] float; time [N, 2] float, days
        to the event or to censoring, and 1 for the event.
      subjects: [N] int64 whose row it is.
      names: of the K classes or codes, else empty.
    """

    kind: str
    truth: np.ndarray
    subjects: np.ndarray
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prediction:
    """What one model says of the same rows.

    Attributes:
      values: yes_no [N] probabilities; classes and codes [N, K] probabilities; number [N]; time [N] risks, larger where
        the event is sooner.
      survival: time: [N, E] probabilities of no event by each edge, or None.
      edges_days: time: [E] increasing.
      threshold: yes_no: probabilities from here on mean yes; chosen on tuning.
    """

    values: np.ndarray
    survival: np.ndarray | None = None
    edges_days: tuple[float, ...] = ()
    threshold: float = thresholds.DEFAULT


@dataclass(frozen=True)
class Context:
    """What metrics of times to an event need beside the rows.

    Attributes:
      train_times: [M] float, days to the event or to censoring, of train: censoring is estimated on it.
      train_events: [M] bool.
      horizons: days, increasing; the last is where Uno's C and the integrated Brier score end.
      followed_days: the longest follow-up of all that is judged, so that the integrated Brier score of groups is over
        the same times; None: that of the rows.
    """

    train_times: np.ndarray
    train_events: np.ndarray
    horizons: tuple[float, ...]
    followed_days: float | None = None


@dataclass(frozen=True)
class Metric:
    """One column of a report.

    Attributes:
      name: stable, for machines.
      label: for people.
      explanation: one short sentence.
      higher_is_better: None where neither is: the ideal is in between.
    """

    name: str
    label: str
    explanation: str
    higher_is_better: bool | None


_ACCURACY = Metric("accuracy", "Accuracy", "The share of rows predicted right.", True)
_LOG_LOSS = Metric("log_loss", "Log loss", "Minus the mean log probability of what happened.", False)

METRICS: dict[str, tuple[Metric, ...]] = {
    "yes_no": (
        Metric("auroc", "AUROC", "How often a yes scores above a no; 0.5 is chance.", True),
        Metric("average_precision", "Average precision", "Mean precision at the yes; chance is their share.", True),
        Metric("brier", "Brier score", "Mean squared difference of probability and outcome.", False),
        _LOG_LOSS,
        Metric("ece", "Calibration error", "Mean distance of probability and share of yes over ten bins.", False),
        Metric("calibration_slope", "Calibration slope", "1 is ideal; below, the probabilities are too extreme.", None),
        Metric(
            "calibration_intercept", "Calibration intercept", "0 is ideal; below, they are too high on the whole.", None
        ),
        _ACCURACY,
        Metric("f1", "F1", "Harmonic mean of sensitivity and positive predictive value.", True),
        Metric("sensitivity", "Sensitivity", "The share of the yes that are predicted yes.", True),
        Metric("specificity", "Specificity", "The share of the no that are predicted no.", True),
        Metric("ppv", "Positive predictive value", "The share of those predicted yes that are yes.", True),
        Metric(
            "sensitivity_at_90_specificity",
            "Sensitivity at 90 % specificity",
            "The share of the yes found when at most one no in ten is taken for a yes.",
            True,
        ),
    ),
    "classes": (
        _ACCURACY,
        Metric("macro_auroc", "Macro AUROC", "Mean over classes of the AUROC against all others.", True),
        _LOG_LOSS,
        Metric("brier", "Brier score", "Mean squared distance of probabilities and truth, from 0 to 2.", False),
        Metric("quadratic_kappa", "Quadratic kappa", "Agreement beyond chance, for classes with an order.", True),
    ),
    "codes": (
        *(Metric(f"recall_at_{k}", f"Recall at {k}", f"Share of codes among the first {k}.", True) for k in codes.TOP),
        *(
            Metric(f"precision_at_{k}", f"Precision at {k}", f"Share of the first {k} that are right.", True)
            for k in codes.TOP
        ),
        Metric("average_precision", "Average precision by row", "Of each row's ranking of the codes.", True),
        Metric("micro_auroc", "Micro AUROC", "AUROC of all pairs of row and code together.", True),
        Metric("macro_auroc", "Macro AUROC", "Mean over codes of their AUROCs.", True),
        Metric("micro_average_precision", "Micro average precision", "Of all pairs of row and code together.", True),
        Metric("macro_average_precision", "Macro average precision", "Mean over codes of theirs.", True),
    ),
    "number": (
        Metric("mae", "Mean absolute error", "In the number's own unit.", False),
        Metric("rmse", "Root mean squared error", "In the number's own unit; large errors weigh more.", False),
        Metric("r2", "R²", "The share of the variance that is explained; below 0 the mean would do better.", True),
    ),
    "time": (
        Metric("harrell_c", "Harrell's C", "How often the earlier event has the larger risk; 0.5 is chance.", True),
        Metric(
            "uno_c", "Uno's C", "The same up to the last horizon; censoring that depends on the risk biases it.", True
        ),
        Metric("mean_auc", "Mean AUC", "Mean of the AUCs at the horizons, weighted by the events up to each.", True),
        Metric("integrated_brier", "Integrated Brier score", "Mean over time of the error of survival.", False),
    ),
}


def metrics(kind: str, context: Context | None = None) -> tuple[Metric, ...]:
    """The metrics of a kind in the order of display: with a context also the AUC at each of its horizons.

    Raises:
      InputError: there is no such kind.
    """
    if kind not in METRICS:
        raise InputError(f"a target's kind is {kind!r}; choose one of {', '.join(METRICS)}")
    if kind != "time" or context is None:
        return METRICS[kind]
    at = (
        Metric(auc_name(h), f"AUC at {h:g} days", "Those with the event by then against those without.", True)
        for h in context.horizons
    )
    return *METRICS[kind][:2], *at, *METRICS[kind][2:]


def auc_name(horizon: float) -> str:
    """The name of the AUC at a horizon in days."""
    return f"auc_{horizon:g}_days"


def check(target: Target, prediction: Prediction) -> None:
    """Whether the two are of the same rows and of the shapes of their kind.

    Raises:
      InputError: they are not, a class has no name, or a prediction is NaN.
    """
    rows, size = len(target.subjects), len(target.names)
    truth = {"codes": (rows, size), "time": (rows, 2)}.get(target.kind, (rows,))
    values = (rows, size) if target.kind in ("classes", "codes") else (rows,)
    for what, array, shape in (("truth", target.truth, truth), ("predictions", prediction.values, values)):
        if np.shape(array) != shape:
            raise InputError(f"the {what} of {target.kind} have shape {np.shape(array)}; they should have {shape}")
    if target.kind == "classes" and rows and not (0 <= target.truth.min() and target.truth.max() < size):
        raise InputError(f"a class is not one of 0 to {size - 1}; name every class")
    if np.isnan(prediction.values).any():
        raise InputError("a prediction is NaN; leave out no row, and predict a number for each")
    if prediction.survival is not None and np.shape(prediction.survival) != (rows, len(prediction.edges_days)):
        raise InputError(f"survival has shape {np.shape(prediction.survival)}; give a column for each edge")
