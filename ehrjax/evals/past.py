"""Whom a run has learnt from: the subjects of its own tokens, and of those that the runs it started from had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset
from ehrjax.ingest.meds import TRAIN, TUNING


@dataclass(frozen=True)
class Past:
    """What a run and all that it started from were trained on.

    Attributes:
      train: ids of the subjects in the train splits of all of their tokens.
      tuning: ids of those in the tuning splits, by which they stopped.
      sources: dataset.json of each of the token datasets.
      whole: whether all of these are still there, as they were then.
    """

    train: np.ndarray
    tuning: np.ndarray
    sources: tuple[dict[str, Any], ...]
    whole: bool

    def trained(self, subjects: np.ndarray) -> int:
        """How many of some subjects were trained on."""
        return int(np.isin(np.unique(subjects), self.train).sum())

    def tuned(self, subjects: np.ndarray) -> int:
        """How many of some subjects were not trained on, but decided when training stopped."""
        return int(np.isin(np.unique(subjects), np.setdiff1d(self.tuning, self.train)).sum())

    def knows(self, info: dict[str, Any]) -> bool:
        """Whether a token dataset is of the data of one of them: then equal ids are the same people."""
        named = info["source"].get("dataset_name")
        return any(
            own["source_fingerprint"] == info["source_fingerprint"]
            or (named is not None and own["source"].get("dataset_name") == named)
            for own in self.sources
        )


def of(run: Any) -> Past:
    """The past of an opened run."""
    train, tuning, sources, whole = np.zeros(0, np.int64), np.zeros(0, np.int64), [], True
    folder, met = str(run.folder), set()
    while folder and folder not in met:
        met.add(folder)
        try:
            saved = files.read_json(Path(folder) / "config.json", what="run's folder")
        except InputError:
            whole = False
            break
        # A converted run says neither: it was trained elsewhere.
        path = saved["config"]["data"].get("path", "")
        start = saved["config"].get("init", {}).get("checkpoint", "")
        try:
            tokens = token_dataset.open_tokens(path or Path(folder) / "data" / "tokens")
            train = np.union1d(train, tokens.split(TRAIN).subject_ids)
            tuning = np.union1d(tuning, tokens.split(TUNING).subject_ids)
            sources.append(tokens.info)
            # Others may lie there by now: the same people, but split in another way.
            whole &= saved["dataset"].get("fingerprint", tokens.fingerprint) == tokens.fingerprint
        except InputError:
            whole = False
        folder = start
    return Past(train, tuning, tuple(sources), whole)
