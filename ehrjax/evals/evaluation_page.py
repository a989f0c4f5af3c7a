"""The page of an evaluation: a picture of what metrics.json holds. Tables first, then figures; sections that
not every page has bring their own. Nothing is computed."""

from __future__ import annotations

import json

from ehrjax.evals.evaluation_cells import MOST_COLUMNS, Told, labels_of, number, reasons, verdict
from ehrjax.evals.evaluation_sections import cost, curves, few_shot, groups, robustness
from ehrjax.viz import figures
from ehrjax.viz.page import Markup, Page, facts, figure, table, text

FEW_SUBJECTS, FEW_OF_A_CLASS = 100, 10
# Metrics that the first table shows; the others follow in one of their own.
SHOWN = {
    "yes_no": ("auroc", "average_precision", "brier", "log_loss", "ece", "calibration_slope"),
    "classes": ("accuracy", "macro_auroc", "log_loss", "quadratic_kappa"),
    "codes": ("micro_auroc", "macro_auroc", "average_precision", "recall_at_10", "precision_at_10"),
    "number": ("mae", "rmse", "r2"),
    "time": ("harrell_c", "uno_c", "mean_auc", "integrated_brier"),
}


def make(told: Told) -> Page:
    """The page of metrics.json's content."""
    result = told["result"]
    page = Page(f"{told['task']} · {len(result['models'])} models compared")
    page.lead = _lead(told)
    page.add("Result", *_result(result, told))
    if result["oracle"]:
        page.add("Against the best possible", *_oracle(result))
    page.add("Differences", *_differences(result))
    page.add("All metrics", *_all_metrics(result))
    if any(model.get("recalibrated") for model in result["models"]):
        page.add("Recalibration", *_recalibration(result))
    page.add("Intervals", *_intervals(result))
    if result["groups"]:
        page.add("Groups", *groups(result))
    if told.get("robustness"):
        page.add("Robustness", *robustness(told["robustness"], result))
    if told.get("few_shot"):
        page.add("Few examples", *few_shot(told["few_shot"]))
    if told.get("efficiency"):
        page.add("Cost", *cost(told["efficiency"]))
    if any("curves" in model for model in result["models"]):
        page.add("Curves", *curves(result))
    page.add("Models", *_models(result))
    page.add("Data and configuration", *_configuration(told))
    return page


def _lead(told: Told) -> str:
    result = told["result"]
    sentences = [
        f"{result['labels']:,} labels of {result['subjects']:,} subjects in the split {text(told['split'])}"
        + (f", {result['positives']:,} of them positive" if "positives" in result else "")
        + "."
    ]
    for note in told.get("warnings", ()):
        sentences.append(f"<strong>{text(note)}</strong>")
    if result["subjects"] <= FEW_SUBJECTS:
        sentences.append(
            f"<strong>{result['subjects']} subjects show very little.</strong> The intervals say how little: a "
            "difference between models smaller than they are wide is no finding, and none of these numbers should be "
            "published as one."
        )
    rarest = result.get("subjects_of_the_rarest_answer", FEW_OF_A_CLASS)
    if rarest < FEW_OF_A_CLASS:
        what = {"yes_no": "the rarer answer", "classes": "the rarest class", "time": "an event"}[result["kind"]]
        sentences.append(
            f"<strong>Subjects with {what}: only {rarest}.</strong> With so few to draw from, the intervals "
            "themselves are too narrow."
        )
    sentences += [_leading(result)]
    return "".join(f"<p>{sentence}</p>" for sentence in sentences if sentence)


def _leading(result: Told) -> str:
    """The best model in a sentence, and what can be said of it against the reference."""
    primary, models = result["primary"], [m for m in result["models"] if m["role"] != "oracle"]
    rising = _rising(result)[primary]
    known = [m for m in models if m["metrics"][primary]["value"] is not None]
    if not known:
        return "No model could be measured: " + text(models[0]["metrics"][primary].get("reason", "")) + "."
    best = max(known, key=lambda m: m["metrics"][primary]["value"] * (1 if rising else -1))
    name = labels_of(result)[primary]
    told = f"The best {text(name)} has {text(best['label'])}: {number(best['metrics'][primary])}."
    if best["name"] == result["reference"]:
        return told
    difference = result["differences"][best["name"]][primary]
    reference = next(m["label"] for m in result["models"] if m["name"] == result["reference"])
    said = _said(result, difference)
    return told + (
        f" Difference to {text(reference)}: {number(difference, signed=True)}, {said}."
        " Picking the best of several models flatters it a little."
    )


def _said(result: Told, difference: Told) -> str:
    """What can be said of a difference of the first metric: nothing where the intervals themselves are too narrow."""
    rarest = result.get("subjects_of_the_rarest_answer", FEW_OF_A_CLASS)
    if result["subjects"] <= FEW_SUBJECTS or rarest < FEW_OF_A_CLASS:
        return "too few subjects to say"
    return verdict(difference, higher_is_better=_rising(result)[result["primary"]])


def _rising(result: Told) -> dict[str, bool | None]:
    return {metric["name"]: metric["higher_is_better"] for metric in result["metrics"]}


def _shown(result: Told) -> list[str]:
    """The metrics of the first tables."""
    return [name for name in SHOWN[result["kind"]] if name in labels_of(result)]


def _result(result: Told, told: Told) -> list[str]:
    names = labels_of(result)
    shown = _shown(result)
    rows = [[model["label"], *(number(model["metrics"][name]) for name in shown)] for model in result["models"]]
    strong = [i for i, model in enumerate(result["models"]) if model["role"] == "model"]
    resamples = told["settings"].get("resamples", 1000)
    fitted = "What was fitted or chosen here (thresholds, penalties, recalibration) was so on train and tuning."
    if told["split"] != "held_out":
        fitted = f"Judged by {told['split']}, by which models were fitted or chosen: these numbers are too good."
    return [
        table(["", *(names[name] for name in shown)], rows, strong=strong),
        *reasons(model["metrics"][name] for model in result["models"] for name in shown),
        f'<p class="note">In brackets: 95 % intervals from {resamples:,} resamples of subjects, the same for all '
        f"models. {text(fitted)}</p>",
    ]


def _intervals(result: Told) -> list[str]:
    primary = result["primary"]
    name = labels_of(result)[primary]
    drawn = {
        model["label"]: [tuple(model["metrics"][primary][part] for part in ("value", "low", "high"))]
        for model in result["models"]
    }
    return [figure(figures.intervals(drawn, [name], x=name, from_zero=False))]


def _differences(result: Told) -> list[str]:
    names, shown = labels_of(result), _shown(result)
    reference = next(m["label"] for m in result["models"] if m["name"] == result["reference"])
    rows = []
    for model in result["models"]:
        if model["name"] == result["reference"]:
            continue
        found = result["differences"][model["name"]]
        said = _said(result, found[result["primary"]])
        rows.append([model["label"], said, *(number(found[name], signed=True) for name in shown)])
    return [
        table([f"minus {reference}", f"by {names[result['primary']]}", *(names[n] for n in shown)], rows),
        *reasons(found[name] for found in result["differences"].values() for name in shown),
        '<p class="note">Paired: each resample of subjects is the same for both sides.</p>',
    ]


def _oracle(result: Told) -> list[str]:
    told = result["oracle"]
    name = labels_of(result)[told["metric"]]
    label = {m["name"]: m["label"] for m in result["models"]}
    parts = [
        f"<p>The data come from a known process, so the best possible {text(name)} is known too. Between "
        f"{text(label[told['reference']])} and it lie {number(told['room'])}.</p>"
    ]
    if not told["worth_telling"]:
        parts.append("<p>That is too little for a share of it to mean anything.</p>")
    rows = []
    for model, found in told["models"].items():
        closed = number(found["closed"], digits=2)
        if model == told["reference"]:
            closed = Markup("–")
        elif found["closed"] is not None and found["closed"]["value"] < 0:
            closed = Markup("none: below the reference")
        rows.append([label[model], closed, number(found["beyond"], signed=True)])
    parts.append(table(["", "share of the gap closed", f"{name} beyond the best possible"], rows))
    parts += reasons(found["beyond"] for found in told["models"].values())
    if told["too_few_for_leaks"]:
        parts.append("<p>So few subjects have the rarer answer that a leak cannot be told from chance.</p>")
    for model, found in told["models"].items():
        if found["leak"]:
            parts.append(
                f"<p><strong>{text(label[model])} is better than the best possible beyond its interval: a leak, unless "
                "it is the one in forty that chance puts there.</strong></p>"
            )
    return parts


def _all_metrics(result: Told) -> list[str]:
    metrics = result["metrics"]
    drawn = result["models"]
    tables = []
    for first in range(0, len(drawn), MOST_COLUMNS):
        shown = drawn[first : first + MOST_COLUMNS]
        rows = [[m["label"], *(number(model["metrics"][m["name"]]) for model in shown)] for m in metrics]
        tables.append(table(["", *(model["label"] for model in shown)], rows))
    explained = "".join(f"<dt>{text(m['label'])}</dt><dd>{text(m['explanation'])}</dd>" for m in metrics)
    parts = [*tables, *reasons(model["metrics"][m["name"]] for model in drawn for m in metrics)]
    if result["kind"] == "yes_no":
        by = {"tuning": "best F1 on tuning", "fixed": "fixed"}
        cuts = [[m["label"], f"{m['threshold']:.4f}", by[m["threshold_from"]]] for m in drawn]
        parts.append(table(["threshold", "", "chosen by"], cuts))
    return [*parts, f"<details><summary>What the metrics mean</summary><dl>{explained}</dl></details>"]


def _recalibration(result: Told) -> list[str]:
    names = labels_of(result)
    rows = []
    for model in result["models"]:
        told = model.get("recalibrated") or {}
        if told:
            chosen = [name for name in next(iter(told.values()))["metrics"]]
            rows.append([model["label"], "as it is", *(number(model["metrics"][name]) for name in chosen)])
            rows += [["", how, *(number(found["metrics"][n]) for n in chosen)] for how, found in told.items()]
    told = [model.get("recalibrated") or {} for model in result["models"]]
    return [
        table(["", "", *(names[name] for name in chosen)], rows),
        *reasons(own for maps in told for found in maps.values() for own in found["metrics"].values()),
        '<p class="note">Temperature scaling, and of yes or no isotonic regression, fitted on the tuning labels.</p>',
    ]


def _models(result: Told) -> list[str]:
    parts = []
    for model in result["models"]:
        told = {"role": model["role"], **model["told"]}
        # Everything that was tried is in metrics.json.
        chosen = {name: value for name, value in (told.pop("chosen", None) or {}).items() if name != "tried"}
        if chosen:
            told["chosen on tuning"] = ", ".join(f"{name.replace('_', ' ')} {_short(v)}" for name, v in chosen.items())
        parts.append(f"<h3>{text(model['label'])}</h3>" + facts(told.items()))
    return parts


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _configuration(told: Told) -> list[str]:
    pairs = [(name, value) for name, value in told["about"].items()]
    return [
        facts(pairs),
        f"<details><summary>Settings</summary><pre>{text(json.dumps(told['settings'], indent=2))}</pre></details>",
        '<p><a href="metrics.json">metrics.json</a> · <a href="predictions/">predictions</a></p>',
    ]
