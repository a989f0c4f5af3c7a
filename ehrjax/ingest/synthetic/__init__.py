"""The synthetic hospital: a known stochastic process that writes MEDS, and the true probability of its tasks.

The hidden state is small and discrete, so an exact forward filter (`filtering`) gives the probability of
each of TASKS given everything recorded so far. Order of reading: `process` (the states and rates), `reasons`,
`chronic`, `laboratory` (the medicine), `lives` and `record` (drawing lives and writing them down),
`evidence` and `filtering` (reading the record back), `tasks`.
"""

from ehrjax.ingest.synthetic.process import VERSION
from ehrjax.ingest.synthetic.tasks import (
    TASKS,
    all_true_probabilities,
    labels,
    true_probabilities,
    true_probability,
)
from ehrjax.ingest.synthetic.writing import simulate, write

__all__ = [
    "TASKS",
    "VERSION",
    "all_true_probabilities",
    "labels",
    "simulate",
    "true_probabilities",
    "true_probability",
    "write",
]
