"""Who comes to a hospital, apart from what the process of disease does to everyone alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CaseMix:
    """Who comes to a hospital.

    Attributes:
      age_mean, age_deviation: of the years at registration (normal, cut at 1 and 95).
      men: share.
      newborn: share of those registered at their birth.
      advance: (chronic component, factor on its chance to advance).
      settings: (setting of REASONS, factor on its rates).
    """

    age_mean: float = 48.0
    age_deviation: float = 21.0
    men: float = 0.49
    newborn: float = 0.04
    advance: tuple[tuple[str, float], ...] = ()
    settings: tuple[tuple[str, float], ...] = ()
