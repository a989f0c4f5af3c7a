"""The report of a pretraining run: DIR/report/index.html, self-contained, with the numbers beside it as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import files, trees
from ehrjax.core.writer import read_metrics
from ehrjax.data import labelled, pipeline, token_dataset
from ehrjax.evals import masked_code_accuracy as accuracy
from ehrjax.evals.tuning import SplitBatches
from ehrjax.viz import embedding_map, figures
from ehrjax.viz.page import Markup, Page, facts, figure, table, text
from ehrjax.vocab.vocabulary import Vocabulary

FEW_SUBJECTS = 50
NAMES = {
    "model": "model",
    "train": "most frequent code",
    "subject": "subject's most frequent code",
    "neighbour": "neighbouring code",
}


def write(
    workdir: str | Path,
    *,
    saved: Mapping[str, Any],
    step: int,
    params: Any,
    dataset: token_dataset.TokenDataset,
    tuning: SplitBatches,
    evaluate: accuracy.EvalStep,
) -> Path:
    """Measures the model on the tuning split and writes the report.

    Args:
      workdir: the run's folder; metrics.jsonl is read from it.
      saved: what config.json holds.
      step: the step that the parameters are from.
      params: {"model": ..., "head": ...}.
      dataset: the token dataset.
      tuning: the tuning split's batches.
      evaluate: the jitted evaluation step.

    Returns:
      The page's path.
    """
    folder = Path(workdir) / "report"
    train = dataset.split("train")
    lines = read_metrics(Path(workdir) / "metrics.jsonl")
    page = Page(f"{saved['config']['model']['name'].upper()} on {saved['dataset']['source']['dataset_name']}")
    page.lead = _about(saved, step)
    if saved["config"]["objective"]["name"].startswith("masked_"):
        measured = accuracy.measure(tuning, train, evaluate, params, dataset.vocabulary)
        files.write_json(folder / "masked_code_accuracy.json", {"step": step, "split": "tuning", **measured})
        page.lead += _lead(measured)
        page.add("Masked-code accuracy", *_accuracy(measured))
        page.add("By code family", *_families(measured))
    elif isinstance(tuning.split, labelled.LabelledSplit):
        page.lead += _tuned(lines, step)
    else:
        page.lead += _perplexity(lines, step)
    page.add("Training", *_curves(lines))
    page.add("Data", *_data(dataset, saved, tuning))
    page.add("Code embeddings", *_map(params, dataset.vocabulary))
    page.add("Configuration", *_configuration(saved, measured=(folder / "masked_code_accuracy.json").is_file()))
    page.write(folder / "index.html")
    return folder / "index.html"


def _number(estimate: Mapping[str, Any], *, percent: bool = True) -> Markup:
    """A number with its interval, or a dash where there is none."""
    if estimate["value"] is None:
        return Markup("–")
    scale, unit = (100, " %") if percent else (1, "")
    shown = f"{estimate['value'] * scale:.{1 if percent else 3}f}{unit}"
    if estimate["low"] is None:
        return Markup(f"{shown} <small>(one subject)</small>")
    digits = 1 if percent else 3
    return Markup(
        f"{shown} <small>({estimate['low'] * scale:.{digits}f} to {estimate['high'] * scale:.{digits}f})</small>"
    )


def _best_baseline(overall: Mapping[str, Any]) -> str:
    return max(accuracy.BASELINES, key=lambda name: overall[f"{name}_top1"]["value"] or 0.0)


def verdict(overall: Mapping[str, Any], baseline: str) -> str:
    """In words, whether the model's top-1 accuracy is above a baseline's, by the interval of the difference."""
    difference = overall[f"model_minus_{baseline}_top1"]
    if difference["low"] is None:
        return "too few subjects to say"
    if difference["low"] > 0:
        return "above"
    return "below" if difference["high"] < 0 else "not distinguishable"


def _about(saved: Mapping[str, Any], step: int) -> str:
    splits = saved["dataset"]["splits"]
    return (
        f"<p>Trained by {text(saved['config']['objective']['name'].replace('_', ' '))} on "
        f"{splits['train'].get('subjects', 0):,} subjects ({splits['train'].get('tokens', 0):,} tokens); "
        f"these are the parameters of step {step:,}.</p>"
    )


def _perplexity(lines: Sequence[Mapping[str, Any]], step: int) -> str:
    """The tuning loss of these parameters, per token, and what it is as a perplexity."""
    losses = [line["tuning_loss"] for line in lines if "tuning_loss" in line and line["step"] == step]
    if not losses:
        return "<p>The tuning split was not evaluated.</p>"
    return f"<p>Tuning loss {losses[-1]:.4f} a token: a perplexity of {math.exp(min(losses[-1], 700)):,.1f}.</p>"


def _tuned(lines: Sequence[Mapping[str, Any]], step: int) -> str:
    """What the tuning labels said of these parameters."""
    found = [line for line in lines if "tuning_loss" in line and line["step"] == step]
    if not found:
        return "<p>The tuning split was not evaluated.</p>"
    told = "; ".join(
        f"{name.removeprefix('tuning_').replace('_', ' ')} {value:.4f}"
        for name, value in found[-1].items()
        if name.startswith("tuning_")
    )
    return f"<p>On the tuning labels: {text(told)}.</p>"


def _lead(measured: Mapping[str, Any]) -> str:
    sentences = []
    if not measured["targets"]:
        sentences.append("The tuning split has no hidden codes, so nothing can be said about accuracy.")
    else:
        overall = measured["overall"]
        best = _best_baseline(overall)
        sentences.append(
            f"On the tuning split ({measured['subjects']:,} subjects, {measured['targets']:,} hidden codes) the model "
            f"names the hidden code first in {_number(overall['model_top1'])} of cases; the best baseline "
            f"({NAMES[best]}) in {_number(overall[f'{best}_top1'])}. Difference: "
            f"{_number(overall[f'model_minus_{best}_top1'])}: {verdict(overall, best)}."
        )
        if measured["subjects"] < FEW_SUBJECTS:
            sentences.append(
                f"{measured['subjects']} subjects are few: the intervals say how little they can show, and a ranking "
                "of models should not rest on them."
            )
    return "".join(f"<p>{sentence}</p>" for sentence in sentences)


def _accuracy(measured: Mapping[str, Any]) -> list[str]:
    if not measured["targets"]:
        return ["<p>No hidden codes in the tuning split.</p>"]
    overall = measured["overall"]
    rows = [
        [NAMES[method], *(_number(overall[f"{method}_top{k}"]) for k in accuracy.TOP)] for method in accuracy.METHODS
    ]
    differences = [
        [
            f"model minus {NAMES[b]}",
            *(_number(overall[f"model_minus_{b}_top{k}"]) for k in accuracy.TOP),
            verdict(overall, b),
        ]
        for b in accuracy.BASELINES
    ]
    loss = measured["loss"]
    return [
        table(["", *(f"top {k}" for k in accuracy.TOP)], rows, strong=[0]),
        table(["difference, paired by subject", *(f"top {k}" for k in accuracy.TOP), "top 1 is"], differences),
        f"<p>Tuning loss {_number(loss, percent=False)} nats a hidden code "
        f"(perplexity {np.exp(loss['value']):,.1f}).</p>",
        '<p class="note">In brackets: 95 % intervals, 1,000 resamples of subjects. All methods are asked about the '
        "same hidden positions and see the same visible tokens; the most frequent codes are the train split's; where "
        "a baseline has fewer than ten codes to name, the most frequent codes fill up its list.</p>",
    ]


def _families(measured: Mapping[str, Any]) -> list[str]:
    families = sorted(measured["families"].items(), key=lambda item: -item[1]["targets"])
    if not families:
        return ["<p>No hidden codes in the tuning split.</p>"]
    rows = []
    for name, values in families:
        best = _best_baseline(values)
        rows.append(
            [
                name,
                f"{values['targets']:,}",
                *(_number(values[f"model_top{k}"]) for k in accuracy.TOP),
                _number(values[f"{best}_top1"]),
                NAMES[best],
            ]
        )
    drawn = {
        name: [tuple(values[f"{m}_top1"][part] for part in ("value", "low", "high")) for m in accuracy.METHODS]
        for name, values in families[:12]
    }
    return [
        table(
            ["family", "hidden codes", *(f"top {k}" for k in accuracy.TOP), "baseline, top 1", "best baseline"], rows
        ),
        figure(figures.intervals(drawn, [NAMES[m] for m in accuracy.METHODS], x="top-1 accuracy")),
    ]


def _curves(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    train = [line for line in lines if "loss" in line]
    tuning = [line for line in lines if "tuning_loss" in line]
    if not train:
        return ["<p>No step was logged.</p>"]
    steps = [line["step"] for line in train]
    span = max(1, len(train) // 40)
    named = {"train loss": (steps, figures.smoothed([line["loss"] for line in train], span))}
    if tuning:
        named["tuning loss"] = ([line["step"] for line in tuning], [line["tuning_loss"] for line in tuning])
    parts = [figure(figures.curves(named, x="step", y="loss (nats a hidden code)"))]
    shown = {f"top {k}": f"tuning_top{k}" for k in accuracy.TOP}
    hits = {
        name: ([line["step"] for line in tuning], [line[key] for line in tuning])
        for name, key in shown.items()
        if tuning and key in tuning[0]
    }
    if hits:
        parts.append(figure(figures.curves(hits, x="step", y="tuning accuracy")))
    parts.append(
        figure(
            figures.curves(
                {"learning rate": (steps, [line["learning_rate"] for line in train])}, x="step", y="learning rate"
            )
        )
    )
    speed = np.median([line["tokens_per_second"] for line in train])
    parts.append(f'<p class="note">Median speed {speed:,.0f} tokens a second (padding not counted).</p>')
    return parts


def _data(dataset: token_dataset.TokenDataset, saved: Mapping[str, Any], tuning: SplitBatches) -> list[str]:
    rows = []
    for name in token_dataset.SPLITS:
        counts = saved["dataset"]["splits"].get(name, {})
        events = counts.get("events", 0)
        coverage = f"{100 * counts.get('known', 0) / events:.1f} %" if events else "–"
        rows.append([name, *(f"{counts.get(key, 0):,}" for key in ("subjects", "events", "tokens")), coverage])
    train = dataset.split("train")
    seen = pipeline.open_split(dataset, "train", tuning.settings)
    epoch = pipeline.plan_epoch(seen, tuning.settings, seed=tuning.seed)
    density = epoch.num_tokens / max(len(epoch.plan) * tuning.settings.context_length, 1)
    words = dataset.vocabulary.table
    families = words.filter(words["family"] != "special").group_by("family").len().sort("len", descending=True)
    return [
        table(["split", "subjects", "events", "tokens", "events in the vocabulary"], rows),
        f"<p>{len(dataset.vocabulary):,} tokens in the vocabulary. Packed into rows of "
        f"{tuning.settings.context_length}, {100 * density:.1f} % of the positions hold a token.</p>",
        figure(figures.histogram(train.lengths, x="tokens a subject", y="train subjects")),
        figure(figures.bars(families["family"].to_list(), families["len"].to_list(), x="vocabulary entries")),
    ]


def _map(params: Any, vocabulary: Vocabulary) -> list[str]:
    codes = np.arange(vocabulary.num_specials, len(vocabulary))[: embedding_map.LIMIT]
    learned = np.asarray(trees.flatten(params)[trees.CODE_TABLE])[codes]
    points, method = embedding_map.project(learned)
    rows = vocabulary.table[codes]
    hover = []
    for name, description, count, low, high in rows.select("str", "description", "count", "low", "high").iter_rows():
        band = "" if low is None else f"<br>value {low:g} to {high:g}"
        hover.append(f"<b>{text(name)}</b><br>{text(description or 'no description')}{band}<br>{count:,} in train")
    sizes = 4 + 2 * np.log10(rows["count"].to_numpy().clip(1))
    note = (
        f"The {len(codes):,} most frequent tokens by the cosine distance of their learned vectors ({method}). "
        "Neighbours mean something, distances between far groups do not. Hover to read; click a family to hide it."
    )
    return [
        f'<p class="note">{note}</p>',
        figure(figures.embedding_map(points, rows["family"].to_list(), hover, sizes)),
    ]


def _configuration(saved: Mapping[str, Any], *, measured: bool) -> list[str]:
    lines = [
        ("data fingerprint", saved["dataset"]["fingerprint"]),
        ("vocabulary fingerprint", saved["dataset"]["vocabulary_fingerprint"]),
        ("commit", saved["git"] or "not a checkout"),
        *saved["versions"].items(),
    ]
    resolved = text(json.dumps(saved["config"], indent=2))
    return [
        facts(lines),
        f"<details><summary>The resolved config</summary><pre>{resolved}</pre></details>",
        '<p><a href="../metrics.jsonl">metrics.jsonl</a> · '
        + ('<a href="masked_code_accuracy.json">masked_code_accuracy.json</a> · ' if measured else "")
        + '<a href="../config.json">config.json</a></p>',
    ]
