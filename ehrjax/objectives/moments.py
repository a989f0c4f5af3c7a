"""When a label is predicted, as a head may know it: the age then, and how long the record has been silent.

A window ends with the last event before the prediction time, which may be years before it: to the model, somebody who
was seen yesterday and somebody who has not come for three years look the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

AGES = tuple(float(years) for years in range(0, 100, 10))
"""Years at which the weight of an age is learnt; between two of them it is a mixture of both."""
GAPS = (0.0, 1.0, 7.0, 30.0, 90.0, 180.0, 365.0, 730.0, 1825.0, 3650.0)
"""Days of silence at which a weight is learnt, and mixed on the scale of log(1 + days)."""
COUNT = len(AGES) + len(GAPS)
_MINUTES_PER_DAY, _MINUTES_PER_YEAR = 1440.0, 525_960.0


def features(batch: Mapping[str, Array]) -> Float[Array, "batch labels 20"]:
    """What is known of the prediction time of each label, float32: at most two of AGES and two of GAPS are not 0.

    batch: `ages` [B, L], and `label_anchors` and `label_gaps` [B, T]; without these, the last token of each window is
    where it is predicted, at once. An unknown age is zeros.
    """
    anchors = batch.get("label_anchors", batch["anchors"])
    minutes = batch.get("label_gaps", jnp.zeros_like(anchors)).astype(jnp.float32)
    ages = jnp.take_along_axis(batch["ages"], jnp.maximum(anchors, 0), axis=1) + minutes / _MINUTES_PER_YEAR
    known = jnp.isfinite(ages)[..., None]
    age = jnp.where(known, _mixture(jnp.nan_to_num(ages), np.asarray(AGES)), 0.0)
    return jnp.concatenate([age, _mixture(jnp.log1p(minutes / _MINUTES_PER_DAY), np.log1p(GAPS))], axis=-1)


def _mixture(values: Float[Array, " ..."], knots: np.ndarray) -> Float[Array, "... k"]:
    """The shares of the two knots around each value; outside all of them the nearest has it whole."""
    knots = knots.astype(np.float32)
    return jnp.stack([jnp.interp(values, knots, one) for one in np.eye(len(knots), dtype=np.float32)], axis=-1)
