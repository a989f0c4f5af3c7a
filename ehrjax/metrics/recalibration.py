"""Corrections of probabilities, fitted on tuning and applied to held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from ehrjax.metrics.calibration import EPS

COLDEST, HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class Temperature:
    """Log probabilities divided by a temperature (Guo et al. 2017); 1 changes nothing, above it they move to even."""

    temperature: float

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """float64, corrected: [N] of yes, or [N, K] of classes, whose rows add up to 1."""
        logs = _logs(probabilities) / self.temperature
        corrected = special.softmax(logs, axis=1)
        return corrected[:, 1] if np.ndim(probabilities) == 1 else corrected

    def as_dict(self) -> dict[str, str | float]:
        """As JSON values."""
        return {"method": "temperature", "temperature": self.temperature}


@dataclass(frozen=True)
class Isotonic:
    """A non-decreasing line through points; level before the first and after the last (Zadrozny and Elkan 2002).

    Attributes:
      x: probabilities, increasing.
      y: what they become.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """[N] float64: probabilities of yes, corrected."""
        return np.interp(np.asarray(probabilities, np.float64), self.x, self.y)

    def as_dict(self) -> dict[str, str | list[float]]:
        """As JSON values."""
        return {"method": "isotonic", "x": list(self.x), "y": list(self.y)}


def fit_temperature(truth: np.ndarray, probabilities: np.ndarray) -> Temperature:
    """The temperature of least log loss, between 0.01 and 100.

    Args:
      truth: [N] bool with probabilities [N] of yes; or [N] int, 0 .. K - 1, with probabilities [N, K].
      probabilities: float, clipped to [eps, 1], eps = 2.2e-16, before the logarithm.

    Returns:
      1 where there are no rows or only one class, which say nothing about how far apart probabilities should be.
    """
    truth = np.asarray(truth).astype(np.int64)
    if len(np.unique(truth)) < 2:
        return Temperature(1.0)
    logs = _logs(probabilities)
    own = logs[np.arange(len(truth)), truth]

    def slope(log_temperature: float) -> float:
        """The derivative of the log loss by 1 / temperature, which grows with 1 / temperature."""
        expected = (special.softmax(logs * np.exp(-log_temperature), axis=1) * logs).sum(axis=1)
        return float((expected - own).sum())

    low, high = np.log(COLDEST), np.log(HOTTEST)
    if slope(low) <= 0:
        return Temperature(COLDEST)
    if slope(high) >= 0:
        return Temperature(HOTTEST)
    return Temperature(float(np.exp(optimize.brentq(slope, low, high, xtol=1e-14))))


def fit_isotonic(truth: np.ndarray, probabilities: np.ndarray) -> Isotonic:
    """The non-decreasing correction of least squared error: scikit-learn's IsotonicRegression, held beyond its ends.

    Args:
      truth: [N] bool.
      probabilities: [N] float.

    Returns:
      What changes nothing where there are no rows or only one class.
    """
    from sklearn.isotonic import IsotonicRegression

    truth = np.asarray(truth, bool)
    if truth.all() or not truth.any():
        return Isotonic((0.0, 1.0), (0.0, 1.0))
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(np.asarray(probabilities, np.float64), truth)
    return Isotonic(tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist()))


def _logs(probabilities: np.ndarray) -> np.ndarray:
    """[N, K]: logarithms; of no and yes for probabilities [N]."""
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim == 1:
        probabilities = np.stack([1 - probabilities, probabilities], axis=1)
    return np.log(np.clip(probabilities, EPS, 1.0))
