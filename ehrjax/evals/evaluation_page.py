"""The page of an evaluation: a picture of what metrics.json holds. Tables first, then figures; nothing is computed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ehrjax.viz import figures
from ehrjax.viz.page import Markup, Page, facts, figure, table, text

FEW_SUBJECTS, FEW_OF_A_CLASS = 100, 10
MOST_DRAWN = 9
# Metrics that the first table shows; the others follow in one of their own.
SHOWN = {
    "yes_no": ("auroc", "average_precision", "brier", "log_loss", "ece", "calibration_slope"),
    "classes": ("accuracy", "macro_auroc", "log_loss", "quadratic_kappa"),
    "codes": ("micro_auroc", "macro_auroc", "average_precision", "recall_at_10", "precision_at_10"),
    "number": ("mae", "rmse", "r2"),
    "time": ("harrell_c", "uno_c", "dynamic_auc"),
}
Told = Mapping[str, Any]


def make(told: Told) -> Page:
    """The page of metrics.json's content."""
    result = told["result"]
    page = Page(f"{told['task']} · {len(result['models'])} models compared")
    page.lead = _lead(told)
    page.add("Result", *_result(result))
    if result["oracle"]:
        page.add("Against the best possible", *_oracle(result))
    page.add("Differences", *_differences(result))
    page.add("All metrics", *_all_metrics(result))
    if any(model.get("recalibrated") for model in result["models"]):
        page.add("Recalibration", *_recalibration(result))
    if result["groups"]:
        page.add("Groups", *_groups(result))
    if told.get("robustness"):
        page.add("Robustness", *_robustness(told["robustness"], result))
    if told.get("few_shot"):
        page.add("Few examples", *_few_shot(told["few_shot"]))
    if told.get("efficiency"):
        page.add("Cost", *_cost(told["efficiency"]))
    if any("curves" in model for model in result["models"]):
        page.add("Curves", *_curves(result))
    page.add("Models", *_models(result))
    page.add("Data and configuration", *_configuration(told))
    return page


def labels_of(result: Told) -> dict[str, str]:
    """Metric name -> what people call it."""
    return {metric["name"]: metric["label"] for metric in result["metrics"]}


def number(measure: Told | None, *, digits: int = 3, signed: bool = False) -> Markup:
    """A number with its interval; a dash with the reason where there is none."""
    if measure is None or measure["value"] is None:
        reason = (measure or {}).get("reason", "")
        return Markup(f'–<small title="{text(reason)}">{" " + text(reason) if reason else ""}</small>')
    sign = "+" if signed else ""
    shown = f"{measure['value']:{sign}.{digits}f}"
    if measure["low"] is None:
        return Markup(shown)
    return Markup(f"{shown} <small>({measure['low']:{sign}.{digits}f} to {measure['high']:{sign}.{digits}f})</small>")


def verdict(difference: Told, *, higher_is_better: bool | None) -> str:
    """In words, what the interval of a difference allows to say."""
    if difference["low"] is None:
        return "too little to say"
    if difference["low"] <= 0 <= difference["high"]:
        return "not distinguishable"
    if higher_is_better is None:
        return "different"
    return "better" if (difference["low"] > 0) == higher_is_better else "worse"


def _lead(told: Told) -> str:
    result = told["result"]
    sentences = [
        f"{result['labels']:,} labels of {result['subjects']:,} subjects in the split {text(told['split'])}"
        + (f", {result['positives']:,} of them positive" if "positives" in result else "")
        + "."
    ]
    for note in told.get("warnings", ()):
        sentences.append(f"<strong>{text(note)}</strong>")
    if result["subjects"] < FEW_SUBJECTS:
        sentences.append(
            f"<strong>{result['subjects']} subjects show very little.</strong> The intervals say how little: a "
            "difference between models smaller than they are wide is no finding, and none of these numbers should be "
            "published as one."
        )
    rarer = result.get("subjects_of_the_rarer_answer", FEW_OF_A_CLASS)
    if rarer < FEW_OF_A_CLASS:
        sentences.append(
            f"<strong>Only {rarer} subjects have the rarer answer.</strong> With so few to draw from, the intervals "
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
    said = verdict(difference, higher_is_better=rising)
    return told + (
        f" Difference to {text(reference)}: {number(difference, signed=True)}, {said}."
        " Picking the best of several models flatters it a little."
    )


def _rising(result: Told) -> dict[str, bool | None]:
    return {metric["name"]: metric["higher_is_better"] for metric in result["metrics"]}


def _shown(result: Told) -> list[str]:
    """The metrics of the first tables."""
    return [name for name in SHOWN[result["kind"]] if name in labels_of(result)]


def _result(result: Told) -> list[str]:
    names = labels_of(result)
    shown = _shown(result)
    rows = [[model["label"], *(number(model["metrics"][name]) for name in shown)] for model in result["models"]]
    strong = [i for i, model in enumerate(result["models"]) if model["role"] == "model"]
    primary = result["primary"]
    drawn = {
        model["label"]: [tuple(model["metrics"][primary][part] for part in ("value", "low", "high"))]
        for model in result["models"]
    }
    return [
        table(["", *(names[name] for name in shown)], rows, strong=strong),
        '<p class="note">In brackets: 95 % intervals from 1,000 resamples of subjects, the same for all models. '
        "Everything fitted or chosen (thresholds, penalties, recalibration) was so on train and tuning.</p>",
        figure(figures.intervals(drawn, [names[primary]], x=names[primary], from_zero=False)),
    ]


def _differences(result: Told) -> list[str]:
    names, rising = labels_of(result), _rising(result)
    shown = _shown(result)
    reference = next(m["label"] for m in result["models"] if m["name"] == result["reference"])
    rows = []
    for model in result["models"]:
        if model["name"] == result["reference"]:
            continue
        found = result["differences"][model["name"]]
        said = verdict(found[result["primary"]], higher_is_better=rising[result["primary"]])
        rows.append([model["label"], *(number(found[name], signed=True) for name in shown), said])
    return [
        table([f"minus {reference}", *(names[n] for n in shown), f"by {names[result['primary']]}"], rows),
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
    rows = [
        [label[model], number(found["closed"], digits=2), number(found["beyond"], signed=True)]
        for model, found in told["models"].items()
    ]
    parts.append(table(["", "share of the gap closed", f"{name} beyond the best possible"], rows))
    for model, found in told["models"].items():
        if found["leak"]:
            parts.append(
                f"<p><strong>{text(label[model])} is better than the best possible beyond its interval: it has seen "
                "what it must not know (a leak).</strong></p>"
            )
    return parts


def _all_metrics(result: Told) -> list[str]:
    metrics = result["metrics"]
    drawn = result["models"]
    rows = [[m["label"], *(number(model["metrics"][m["name"]]) for model in drawn)] for m in metrics]
    explained = "".join(f"<dt>{text(m['label'])}</dt><dd>{text(m['explanation'])}</dd>" for m in metrics)
    parts = [table(["", *(model["label"] for model in drawn)], rows)]
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
    return [
        table(["", "", *(names[name] for name in chosen)], rows),
        '<p class="note">Temperature scaling and isotonic regression, fitted on the tuning labels.</p>',
    ]


def _groups(result: Told) -> list[str]:
    names, primary = labels_of(result), result["primary"]
    models = [m for m in result["models"] if m["role"] != "oracle"]
    parts: list[str] = []
    for column, told in result["groups"].items():
        rows = []
        for group, found in told.items():
            size = f"{found['labels']:,} / {found['subjects']:,}"
            yes = f"{found['positives']:,}" if "positives" in found else ""
            cells = [Markup("too few to say")] * len(models) if found["too_small"] else [
                number(found["models"][m["name"]][primary]) for m in models]  # fmt: skip
            rows.append([group, size, yes, *cells])
        widest = ["widest gap", "", "", *(_gap(result["gaps"][column].get(m["name"])) for m in models)]
        parts.append(f"<h3>{text(column)}</h3>")
        parts.append(table(["", "labels / subjects", "positive", *(m["label"] for m in models)], [*rows, widest]))
        large = {g: f for g, f in told.items() if not f["too_small"]}
        if len(large) > 1:
            shown = models[:MOST_DRAWN]
            drawn = {
                group: [tuple(found["models"][m["name"]][primary][k] for k in ("value", "low", "high")) for m in shown]
                for group, found in large.items()
            }
            parts.append(
                figure(figures.intervals(drawn, [m["label"] for m in shown], x=names[primary], from_zero=False))
            )
    note = (
        f"{names[primary]} within each group; all other metrics are in metrics.json. Groups of fewer than 50 subjects, "
        "or with fewer than 10 labels of either answer, are too small to say anything about. A gap is between the two "
        "groups that are farthest apart, chosen after looking, so its interval is a little too far from zero."
    )
    return [f'<p class="note">{text(note)}</p>', *parts]


def _gap(found: Told | None) -> Markup:
    if found is None:
        return Markup("–")
    return Markup(f"{number(found)} <small>{text(found['highest'])} over {text(found['lowest'])}</small>")


def _robustness(told: Told, result: Told) -> list[str]:
    name = labels_of(result)[result["primary"]]
    parts: list[str] = []
    for found in told["degraded"].values():
        lines, bands, rows = {}, {}, []
        for model, points in found["models"].items():
            xs = [p["level"] for p in points]
            known = [p for p in points if p["value"] is not None]
            lines[model] = [p["level"] for p in known], [p["value"] for p in known]
            if known and all(p["low"] is not None for p in known):
                bands[model] = [p["low"] for p in known], [p["high"] for p in known]
            rows.append([model, *(number(p) for p in points)])
        parts.append(f"<h3>{text(found['meaning'])}</h3>")
        parts.append(table(["", *(f"{x:g}" for x in xs)], rows))
        parts.append(figure(figures.curves(lines, x=found["meaning"], y=name, bands=bands)))
    if told.get("sites"):
        rows = [[site["name"], site["model"], f"{site['labels']:,} / {site['subjects']:,}", number(site["metric"])]
                for site in told["sites"]]  # fmt: skip
        parts.append("<h3>Other sites</h3>")
        parts.append(table(["site", "model", "labels / subjects", name], rows))
    for note in told.get("notes", ()):
        parts.append(f'<p class="note">{text(note)}</p>')
    return parts


def _few_shot(told: Told) -> list[str]:
    lines = {name: ([p["k"] for p in points], [p["mean"] for p in points]) for name, points in told["curves"].items()}
    ks = sorted({p["k"] for points in told["curves"].values() for p in points})
    rows = []
    for name, points in told["curves"].items():
        by_k = {p["k"]: p for p in points}
        cells = [
            Markup(f"{by_k[k]['mean']:.3f} <small>± {by_k[k]['sd']:.3f}</small>") if k in by_k else "–" for k in ks
        ]
        rows.append([name, *cells])
    drawn = figures.curves(lines, x="examples of each answer (k)", y="AUROC")
    drawn.update_xaxes(type="log", tickvals=ks, ticktext=[str(k) for k in ks])
    return [
        table(["k of each answer", *map(str, ks)], rows),
        f'<p class="note">{text(told["about"])}</p>',
        figure(drawn),
    ]


def _cost(told: Mapping[str, Told]) -> list[str]:
    rows = []
    for name, found in told.items():
        seconds, joules = found["training_seconds"], found["joules_per_thousand_windows"]
        rows.append(
            [
                name,
                f"{found['parameters']:,}",
                f"{found['trainable_parameters']:,}",
                f"{found['windows_per_second']:,.0f}",
                f"{found['tokens_per_second']:,.0f}",
                f"{found['latency_ms']:.1f} / {found['latency_ms_95']:.1f}",
                f"{found['peak_memory_bytes'] / 2**30:.2f} GiB ({found['memory_of']})",
                "–" if seconds is None else f"{seconds / 60:.1f} min",
                "not told" if joules is None else f"{joules:,.1f} J",
            ]
        )
    device = text(next(iter(told.values()))["device"])
    header = ["", "parameters", "trained", "labels/s", "tokens/s", "latency ms (median / 95 %)", "peak memory"]
    header += ["training", "energy per 1,000 labels"]
    return [table(header, rows), f'<p class="note">Measured on {device} while this report was made.</p>']


def _curves(result: Told) -> list[str]:
    models = [m for m in result["models"] if m.get("curves")][:MOST_DRAWN]
    if not models:
        return ["<p>One class only: there are no curves.</p>"]
    share = result["positives"] / result["labels"]
    diagonal = {"": ([0, 1], [0, 1])}
    roc = {m["label"]: (m["curves"]["roc"]["x"], m["curves"]["roc"]["y"]) for m in models}
    pr = {m["label"]: (m["curves"]["precision_recall"]["x"], m["curves"]["precision_recall"]["y"]) for m in models}
    bins = {m["label"]: m["curves"]["reliability"] for m in models}
    reliability = {name: (own["predicted"], own["observed"]) for name, own in bins.items()}
    benefit = models[0]["curves"]["net_benefit"]
    top = _highest(models)
    kept = [i for i, t in enumerate(benefit["threshold"]) if t <= top]
    at = [benefit["threshold"][i] for i in kept]
    decision = {m["label"]: (at, [m["curves"]["net_benefit"]["model"][i] for i in kept]) for m in models}
    # Treating everybody costs far below zero at high thresholds, which would press all else together.
    floor = -0.25 * share
    everybody = [(t, benefit["all"][i]) for i, t in zip(kept, at) if benefit["all"][i] >= floor]
    against = {"treat nobody": (at, [0] * len(at))}
    if everybody:
        against["treat everybody"] = tuple(zip(*everybody))
    return [
        "<h3>ROC</h3>",
        figure(figures.curves(roc, x="1 - specificity", y="sensitivity", against={"chance": diagonal[""]})),
        "<h3>Precision and recall</h3>",
        figure(figures.curves(pr, x="recall", y="precision", against={"share of positives": ([0, 1], [share] * 2)})),
        "<h3>Reliability</h3>",
        figure(
            figures.curves(
                reliability, x="predicted probability", y="observed share", against={"calibrated": diagonal[""]}
            )
        ),
        "<h3>Decision curve</h3>",
        figure(figures.curves(decision, x="threshold probability", y="net benefit", against=against)),
        '<p class="note">Net benefit: true positives a label, less false positives at the price that the threshold '
        "implies (Vickers and Elkin 2006).</p>",
    ]


def _highest(models: Sequence[Told]) -> float:
    """The threshold up to which some model still says yes: beyond it every decision curve is flat."""
    last = 0.05
    for model in models:
        told = model["curves"]["net_benefit"]
        last = max([last, *(t for t, b in zip(told["threshold"], told["model"]) if b)])
    return last


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
