"""Label files with the true probability of every label, for all tasks that the synthetic hospital supports.

They lie beside the events as labels/<task>, laid out as `ingest/labels/making.py` says; the extension holds
`true_probability`, from the exact filter, and task.json the AUROC that knowing it gives: no model's is expected to be
higher.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import files
from ehrjax.ingest import meds
from ehrjax.ingest.fingerprint import fingerprint
from ehrjax.ingest.labels.making import EXTENSION, FORMAT, TASK_FILE, write_extension, write_labels
from ehrjax.ingest.synthetic.evidence import read_evidence
from ehrjax.ingest.synthetic.sites import Site
from ehrjax.ingest.synthetic.tasks import TASKS, labels_of, probabilities_of

TRUE_PROBABILITY = "true_probability"
VALUE = "boolean_value"


def true_labels(
    events: pl.DataFrame, site: Site, of: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, pl.DataFrame]:
    """The labels of whole subjects with their true probabilities, by task.

    Args:
      events: of a site.
      site: which.
      of: [N] subject ids -> [N] bool, whose labels get one; None: everybody's. The filter runs only for them.

    Returns:
      Task -> subject_id, prediction_time, boolean_value, true_probability (float64, null where not asked).
    """
    process = site.process
    evidence = read_evidence(process, site.read_back(events))
    labels = {name: labels_of(evidence, name) for name in TASKS}
    asked = {
        name: np.ones(len(frame), bool) if of is None else of(frame["subject_id"].to_numpy())
        for name, frame in labels.items()
    }
    truth = probabilities_of(process, evidence, {name: frame.filter(asked[name]) for name, frame in labels.items()})
    found = {}
    for name, frame in labels.items():
        values = np.full(len(frame), np.nan)
        values[asked[name]] = truth[name]
        found[name] = frame.with_columns(pl.Series(TRUE_PROBABILITY, values, nan_to_null=True))
    return found


class TruthFiles:
    """The label files of all tasks under way."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the dataset's."""
        self._folder = folder / "labels"
        self._seen: dict[str, dict[str, list[pl.DataFrame]]] = {
            name: {split: [] for split in meds.SPLITS} for name in TASKS
        }

    def add(self, number: int, labels: Mapping[str, pl.DataFrame], writer: meds.MedsWriter) -> None:
        """Writes the labels of chunk `number`."""
        for name, frame in labels.items():
            split = writer.split_subjects(frame["subject_id"].to_numpy())
            for wanted in meds.SPLITS:
                part = frame.filter(pl.Series(split == wanted))
                if len(part):
                    write_labels(part, self._folder / name / wanted / f"{number:05d}.parquet", VALUE)
                    beside = self._folder / name / EXTENSION / wanted / f"{number:05d}.arrow"
                    write_extension(part, beside, {TRUE_PROBABILITY: pl.Float64()})
                    self._seen[name][wanted].append(part.select("subject_id", VALUE, TRUE_PROBABILITY))

    def finish(self) -> dict[str, Any]:
        """Writes each task.json, once the dataset's metadata is there; task -> its splits' counts."""
        dataset = meds.open_dataset(self._folder.parent)
        about = {
            "name": dataset.metadata["dataset_name"],
            "version": dataset.metadata["dataset_version"],
            "fingerprint": fingerprint(dataset),
        }
        found = {}
        for name, seen in self._seen.items():
            found[name] = {split: _counts(parts) for split, parts in seen.items()}
            told = {
                "format": FORMAT,
                "task": name,
                "name": name,
                "text": TASKS[name].text,
                "value": VALUE,
                "extension": [TRUE_PROBABILITY],
                "dataset": about,
                "splits": found[name],
            }
            files.write_json(self._folder / name / TASK_FILE, told)
        return found


def _counts(parts: list[pl.DataFrame]) -> dict[str, Any]:
    """How many labels and subjects, how many came true, and how well knowing the truth ranks them (if it is told)."""
    if not parts:
        return {"labels": 0, "subjects": 0, "positives": 0, "expected_positives": 0.0, "oracle_auroc": None}
    frame = pl.concat(parts)
    outcome, truth = frame[VALUE].to_numpy(), frame[TRUE_PROBABILITY]
    told = not truth.null_count()
    return {
        "labels": len(frame),
        "subjects": frame["subject_id"].n_unique(),
        "positives": int(outcome.sum()),
        "expected_positives": float(truth.sum()) if told else None,
        "oracle_auroc": _auroc(outcome, truth.to_numpy()) if told else None,
    }


def _auroc(outcome: np.ndarray, score: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(outcome, score)) if 0 < outcome.sum() < len(outcome) else None
