"""Models against the best that is possible, where the true probabilities are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ehrjax.metrics import discrimination, suites

# With less between the reference and the best possible, the share of it that a model closes means nothing.
LEAST_GAP = 0.03


def compare(measured: Mapping[str, suites.Measure], *, best: str, reference: str, few: bool) -> dict[str, Any]:
    """Who goes beyond the best possible, and how much of the way to it from the reference each other model goes.

    The share is told only where there is a way to go: a gap of at least LEAST_GAP whose interval is above 0. A leak is
    not told of few subjects with the rarest answer: by resampling one or two of them, intervals come out too narrow.

    Args:
      measured: name -> one metric, of which more is better, on the same resamples.
      best: the name of the best possible.
      reference: the name of what the way starts from.
      few: whether there are too few subjects to tell a leak.
    """
    top, base = measured[best], measured[reference]
    room = suites.difference(top, base)
    worth = bool(room.value >= LEAST_GAP and room.low is not None and room.low > 0)
    models = {}
    for name, own in measured.items():
        if name == best:
            continue
        beyond = suites.difference(own, top)
        leak = bool(not few and beyond.low is not None and beyond.low > 0)
        models[name] = {"closed": None, "beyond": beyond.as_dict(), "leak": leak}
        if worth and name != reference:
            models[name]["closed"] = _share(suites.difference(own, base), room)
    return {
        "name": best,
        "reference": reference,
        "too_few_for_leaks": few,
        "room": room.as_dict(),
        "worth_telling": worth,
        "models": models,
    }


def _share(above: suites.Measure, room: suites.Measure) -> dict[str, float | None]:
    """The share of the way, with its interval over the resamples that have a way."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = above.draws / room.draws
    low, high = discrimination.interval(np.where(np.isfinite(shares), shares, np.nan))
    value = above.value / room.value
    return {"value": None if np.isnan(value) else float(value), "low": low, "high": high}
