"""One evaluation from runs, files of predictions and events: who predicts what, measured and written down.

OUTPUT/index.html    the report
OUTPUT/metrics.json  everything in it, and more
OUTPUT/predictions/<name>/{tuning,held_out}.parquet
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import ehrjax
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import labelled, prepare_tokens
from ehrjax.evals import (
    checking,
    comparing,
    efficiency,
    entries,
    evaluation_page,
    joined,
    judged,
    judging,
    predicting,
    prediction_files,
    rated,
    sites,
    stress,
)
from ehrjax.evals.baselines import fitting, subject_groups
from ehrjax.evals.comparing import Entry
from ehrjax.evals.judged import Judged
from ehrjax.evals.prediction_files import KEYS, Predictions
from ehrjax.evals.settings import LINEAR, TREES, Settings
from ehrjax.evals.simple_models import EDGES_DAYS, POOLS, Simple, tree_pool
from ehrjax.ingest import meds
from ehrjax.ingest.fingerprint import fingerprint
from ehrjax.ingest.meds import TRAIN, TUNING
from ehrjax.vocab import grammar

# Groups that a warning names at most.
_MOST_NAMED = 8
_REFERENCES = (fitting.COUNTS_LR, fitting.PREVIOUS)


def evaluate(
    runs: Mapping[str, Any], predictions: Mapping[str, str], settings: Settings, say: Callable[[str], None]
) -> dict[str, Any]:
    """Evaluates and writes the report; that its folder can be made is seen first.

    Args:
      runs: name -> an opened run.
      predictions: name -> a file, or a folder with a file a split.
      settings: everything else.
      say: called with a line about each stage.

    Returns:
      What metrics.json holds.

    Raises:
      InputError: something given cannot be used, or the folder cannot be written.
    """
    with files.written_folder(settings.output, what="evaluation") as folder:
        told, made = _measured(runs, predictions, settings, say)
        for entry in made:
            _write_predictions(folder / "predictions" / entry.name, entry, settings.split)
        files.write_json(folder / "metrics.json", told)
        evaluation_page.make(told).write(folder / "index.html")
    return told


def _measured(
    runs: Mapping[str, Any], predictions: Mapping[str, str], settings: Settings, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[Entry]]:
    """What metrics.json holds, and who predicted what."""
    supervised = {name: run for name, run in runs.items() if (run.folder / predicting.TARGET_FILE).is_file()}
    checking.given(runs, supervised, predictions, settings)
    found = judging.collect(runs, predictions, settings)
    others = [run for name, run in runs.items() if name not in supervised]
    asked = rated.asked(runs, found.labels, found.target, settings.zero_shot)
    unused = [run for run in others if not settings.probes and not any(run is runs[name] for name in asked)]
    if unused:
        predicting.target_of(unused[0])  # says what is missing
    simple = _simple(supervised, found, settings)
    own_events = fingerprint(simple.dataset) if simple.dataset is not None else ""
    baselines, probes = checking.baselines(found, settings), settings.probes
    if settings.split == TRAIN and (baselines or probes):
        found.warnings.append("Baselines and probes are fitted on train, so they are left out.")
        baselines, probes = (), ()
    if simple.dataset is not None:
        options = {"counted": bool(baselines or settings.few_shot), "period": bool(settings.since or settings.until)}
        checking.events(simple.dataset, found, own_events, **options)
    if TREES in probes:
        fitting.check_trees(found.target.kind)
    kinds = {LINEAR: fitting.PROBE, TREES: fitting.TREES}
    probed = [f"{kinds[kind]}_{name}" for name in runs for kind in probes]
    zero_shot = [entries.zero_shot_name(name) for name in asked]
    checking.names([*baselines, *supervised, *zero_shot, *predictions, *probed], found, settings)
    shots = simple.shots(settings.few_shot, settings.shots) if settings.few_shot else None
    elsewhere = sites.opened(supervised, found, settings)
    groups = _groups(found.truth[settings.split], settings)
    # What may be refused comes before what takes long.
    best = entries.oracle(found, settings.split)
    if best is None and settings.reference == checking.ORACLE:
        raise InputError(f"--reference is {checking.ORACLE}, and not all labels have a true_probability.")
    given = [
        entries.of_file(name, path, found, settings.split, partial=settings.partial)
        for name, path in predictions.items()
    ]
    for name, asked_for in settings.joined.items():
        if asked_for.stacked:
            joined.check_tuning(name, asked_for.members, given)
    trained: list[Entry] = []
    for name, run in supervised.items():
        say(f"predictions of {name}")
        trained.append(entries.of_run(name, run, found, settings.split))
    for name, event in asked.items():
        say(f"risks of {name} without labels")
        trained.append(entries.of_rates(name, runs[name], found, settings.split, event))
    made: list[Entry] = []
    for name in baselines:
        say(f"baseline {name}")
        made.append(simple.baseline(name))
    on_vectors, vectors = _on_vectors(runs if probes else {}, probes, simple, say)
    made += [*trained, *given, *on_vectors]
    for name, asked_for in settings.joined.items():
        made.append((joined.stacked if asked_for.stacked else joined.together)(name, asked_for.members, made))
    if best is not None:
        made.append(best)
    made = entries.on_common_labels(made, found.truth[settings.split].keys)
    if shots and len(made[0].held_out) < len(found.truth[settings.split]):
        found.warnings.append(
            "Few-shot curves are judged by those labels too that not every model has predictions for."
        )
    shown = _of_rows(groups, found.truth[settings.split], made[0].held_out)
    if alone := [name for name in settings.group_columns if name not in shown]:
        found.warnings.append(f"The labels are of one group by {', '.join(alone)}, so there is nothing to compare.")
    say("measuring")
    times = found.truth[TRAIN].truth if found.target.kind == "time" and TRAIN in found.truth else None
    result = comparing.compare(
        made,
        reference=_reference(made, settings),
        groups=shown,
        context=comparing.context_of(times, comparing.common_edges(made) or simple.edges_days, made[0].held_out.truth),
        resamples=settings.resamples,
        seed=settings.seed,
    )
    told: dict[str, Any] = {"task": found.labels.name, "split": settings.split, "warnings": found.warnings}
    told["result"] = result
    for name, of in (result["oracle"] or {"models": {}})["models"].items():
        if of["leak"]:
            found.warnings.append(
                f"{name} is better than the best possible beyond its interval: a leak, or chance (one in forty)."
            )
    found.warnings += _too_small(result["groups"])
    if shots:
        say("few-shot curves")
        options = {"resamples": settings.resamples, "seed": settings.seed}
        told["few_shot"] = simple.few_shot(vectors, shots, **options)
    if settings.robustness or settings.sites:
        say("robustness")
        own = judged.aligned(found.truth[settings.split], made[0].held_out.keys)
        common = replace(found, truth={**found.truth, settings.split: own})
        told["robustness"] = _robustness(supervised, elsewhere, common, settings)
    if runs:
        say("cost")
        told["efficiency"] = {
            name: efficiency.measure(run, found.tokens[name].parts[settings.split]) for name, run in runs.items()
        }
    told["about"] = _about(runs, predictions, found, settings, own_events)
    told["settings"] = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(settings).items()
    }
    return told, made


def _simple(supervised: Mapping[str, Any], found: Judged, settings: Settings) -> Simple:
    """Baselines and probes; intervals of time are those of the runs, where they agree."""
    own = {
        tuple(float(edge) for edge in run.objective.config.edges_days)
        for run in supervised.values()
        if hasattr(run.objective.config, "edges_days")
    }
    edges = own.pop() if len(own) == 1 else EDGES_DAYS
    dataset = meds.open_dataset(settings.events) if settings.events else None
    return Simple(found, settings.split, edges, dataset, settings.seed)


def _reference(made: list[Entry], settings: Settings) -> str:
    names = [entry.name for entry in made]
    return settings.reference or next((name for name in _REFERENCES if name in names), names[0])


def _groups(made: Predictions, settings: Settings) -> dict[str, np.ndarray]:
    """Columns of groups of the judged labels: from events, from the user's file, and the time of prediction."""
    own = ("sex", "age", *subject_groups.FAMILIES, "period")
    if clash := [name for name in settings.group_columns if name in own]:
        raise InputError(f"--groups has a column {clash[0]!r}, which the report has of its own; give it another name.")
    found: dict[str, np.ndarray] = {}
    if settings.events:
        dataset = meds.open_dataset(settings.events)
        file = settings.group_file or None
        found = subject_groups.groups(dataset, made.keys, file=file, columns=settings.group_columns)
        if prepare_tokens.times_good_for(dataset) != grammar.DATES:
            return found  # years that were made up are no periods
    elif settings.group_columns:
        found = subject_groups.from_file(Path(settings.group_file), made.keys, settings.group_columns)
    return found | periods(made.keys)


def _of_rows(groups: Mapping[str, np.ndarray], every: Predictions, made: Predictions) -> dict[str, np.ndarray]:
    """The groups of those labels that are compared; columns of one group say nothing and are left out."""
    at = made.keys.join(every.keys.with_row_index("_at"), on=list(KEYS), how="left", maintain_order="left")["_at"]
    found = {name: members[at.to_numpy()] for name, members in groups.items()}
    return {name: members for name, members in found.items() if len(set(members.tolist())) > 1}


def periods(keys: pl.DataFrame) -> dict[str, np.ndarray]:
    """The prediction time in up to four bands of whole years with about as many labels each: {"period": [N] names}."""
    years = keys["prediction_time"].dt.year().to_numpy()
    edges = np.unique(np.quantile(years, [0.25, 0.5, 0.75], method="higher"))
    band = np.searchsorted(edges[edges > years.min()], years, side="right")
    names = {b: f"{years[band == b].min()} to {years[band == b].max()}" for b in np.unique(band)}
    return {"period": np.array([names[b] for b in band])}


def _on_vectors(
    runs: Mapping[str, Any], probes: tuple[str, ...], simple: Simple, say: Callable[[str], None]
) -> tuple[list[Entry], dict[str, np.ndarray]]:
    """The models that are fitted on what frozen runs know, and run name -> the vectors that few-shot curves take."""
    made, vectors = [], {}
    for name, run in runs.items():
        say(f"vectors of {name}")
        own = simple.vectors(name, run, POOLS if LINEAR in probes else (tree_pool(run),))
        if LINEAR in probes:
            say(f"linear probe on {name}")
            made.append(simple.probe(name, own))
        if TREES in probes:
            say(f"boosted trees on {name}")
            made.append(simple.tree_probe(name, run, own))
        vectors[name] = own[tree_pool(run)]  # with few labels none can be chosen
    return made, vectors


def _too_small(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A warning that names the groups too small to say anything about."""
    small = [f"{column} {group}" for column, of in groups.items() for group, told in of.items() if told["too_small"]]
    if not small:
        return []
    more = f" and {len(small) - _MOST_NAMED} more" if len(small) > _MOST_NAMED else ""
    return [f"Groups too small to say anything about: {', '.join(small[:_MOST_NAMED])}{more}."]


def _robustness(
    supervised: Mapping[str, Any], elsewhere: Sequence[sites.Site], found: Judged, settings: Settings
) -> dict[str, Any]:
    told: dict[str, Any] = {"degraded": {}, "sites": [], "notes": []}
    options = {"resamples": settings.resamples, "seed": settings.seed}
    if settings.robustness:
        told["degraded"], told["notes"] = stress.degraded(supervised, found, settings.split, **options)
    if elsewhere:
        told["sites"] = sites.measured(supervised, elsewhere, found, **options)
        told["notes"] += [note for site in elsewhere for note in site.notes]
    return told


def _about(
    runs: Mapping[str, Any], predictions: Mapping[str, str], found: Judged, settings: Settings, events: str
) -> dict[str, Any]:
    """Fingerprints, counts and versions."""
    told: dict[str, Any] = {"task": found.labels.info.get("text", found.labels.name)}
    told |= {f"labels in {split}": f"{len(own):,}" for split, own in found.truth.items()}
    if "dataset" in found.labels.info:
        told["events of the labels"] = found.labels.info["dataset"].get("fingerprint", "not told")
    if settings.labels:
        told["label files"] = files.sha256_tree(settings.labels)[:16]
    if events:
        told["events"] = events
    for name, path in predictions.items():
        told[f"{name}: predictions"] = files.sha256_tree(path)[:16]
    for name, tokens in found.tokens.items():
        aside = tokens.parts[settings.split].set_aside.items()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in aside if reason != labelled.ELSEWHERE)
        told[f"{name}: tokens"] = tokens.dataset.fingerprint
        told[f"{name}: vocabulary"] = runs[name].vocabulary.fingerprint
        told[f"{name}: labels set aside"] = reasons or "none"
    return {**told, "ehrjax": ehrjax.__version__, "python": platform.python_version()}


def _write_predictions(folder: Path, entry: Entry, split: str) -> None:
    folder.mkdir(parents=True)
    cut = comparing.threshold_of(entry)
    prediction_files.write(folder / f"{split}.parquet", entry.held_out, cut)
    if entry.tuning is not None and split != TUNING:
        prediction_files.write(folder / f"{TUNING}.parquet", entry.tuning, cut)
