"""What a supervised objective must know of its labels: filled into the config before anything is built from it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import files, plugins
from ehrjax.core.errors import InputError
from ehrjax.data import labelled, pipeline, token_dataset
from ehrjax.training import run

FILE = "target.json"


def resolve(
    config: dict[str, Any], dataset: token_dataset.TokenDataset
) -> tuple[dict[str, Any], labelled.Target | None]:
    """The config with the objective's settings that hang on the labels, and what the labels are.

    Classification gets `kind` and `outputs`, and `class_weights` if it is balanced; regression `centre` and `scale`;
    all from subjects in train.

    Raises:
      InputError: an objective without the labels that it needs, or with labels that it cannot use.
    """
    name, path = config["objective"]["name"], config["data"].get("labels", "")
    module = plugins.find("ehrjax.objectives", name, "Objective", key="objective.name")
    kinds = getattr(module, "LABELS", ())
    if not path:
        if kinds:
            raise InputError(f"The objective {name} needs labels; name a label folder as --config.data.labels=DIR.")
        return config, None
    if not kinds:
        raise InputError(f"The objective {name} has no use for labels; leave config.data.labels empty.")
    settings = pipeline.Settings(**config["data"])
    labels = pipeline.read_labels(settings)
    target = labelled.target_of(labels, dataset.split("train").subject_ids)
    if target.kind not in kinds:
        raise InputError(
            f"The labels {path} are of the kind {target.kind}, which the objective {name} cannot be trained on "
            f"({', '.join(kinds)})."
        )
    objective = dict(config["objective"])
    if "kind" in module.Config.__dataclass_fields__:
        objective["kind"] = target.kind
        objective["outputs"] = len(target.names) if target.names else 1
    if objective.get("balanced"):
        train = pipeline.open_split(dataset, "train", settings)
        objective["class_weights"] = balanced_weights(train.labels, target)
    if "centre" in module.Config.__dataclass_fields__:
        train = pipeline.open_split(dataset, "train", settings)
        objective["centre"], objective["scale"] = centre_and_scale(train.labels)
    return {**config, "objective": objective}, target


def centre_and_scale(numbers: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of labels [N, 1], to six digits behind the point, and of small ones to as many behind
    the first that the latter has; 1 instead of a deviation that is only rounding."""
    mean, spread = (float(of(numbers, dtype=np.float64)) for of in (np.mean, np.std))
    digits = 6 - min(0, math.floor(math.log10(spread)) if spread else 0)
    return round(mean, digits), round(spread, digits) if spread > 1e-7 * abs(mean) else 1.0


def check_sharing(config: dict[str, Any], model: Any) -> None:
    """Raises InputError for labels that share windows under a model or a pooling that would show them their future."""
    if config["data"].get("labels_per_window", 1) == 1:
        return
    sees = run.sees_future(sys.modules[type(model).__module__], model.config)
    if sees is True:
        raise InputError(
            f"config.data.labels_per_window needs a model of the past, and {config['model']['name']} lets a token see "
            "all later ones; set it to 1."
        )
    if sees and not config["data"].get("whole_visits"):
        raise InputError(
            f"{config['model']['name']} lets a token see the rest of its visit; set config.data.whole_visits to true, "
            "or labels_per_window to 1."
        )
    if config["objective"].get("pooling") != "last":
        raise InputError("config.data.labels_per_window needs objective.pooling = 'last'; set it to 1 for others.")


def balanced_weights(labels: np.ndarray, target: labelled.Target) -> tuple[float, ...]:
    """Weights under which all classes weigh the same, or both answers of a code or task.

    Args:
      labels: [N, K] of train.
      target: what they are.

    Returns:
      Of classes N / (classes * count) each, so that their mean over the labels is 1; otherwise no / yes, an output
      each. Where a class or a yes does not occur, 1.
    """
    if target.kind == "classes":
        counts = np.bincount(labels[:, 0].astype(np.int64), minlength=len(target.names))
        weights = len(labels) / (len(counts) * np.maximum(counts, 1))
    else:
        counts = np.nansum(labels, axis=0)
        weights = (np.count_nonzero(~np.isnan(labels), axis=0) - counts) / np.maximum(counts, 1)
    return tuple(round(float(w), 6) if c and w else 1.0 for w, c in zip(weights, counts))


def write(workdir: Path, target: labelled.Target, labels: str) -> None:
    """Writes DIR/target.json: the kind of the labels, what each output stands for, and the names of the tasks."""
    files.write_json(workdir / FILE, {**labelled.as_dict(target), "tasks": pipeline.names_of(labels)})
