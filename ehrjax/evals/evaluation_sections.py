"""Sections of an evaluation's page that not every one has: groups, robustness, few examples, cost, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from ehrjax.evals.evaluation_cells import MOST_COLUMNS, Told, drawn_of, labels_of, number, reasons
from ehrjax.viz import figures
from ehrjax.viz.page import Markup, figure, table, text

# Models whose intervals are drawn as bands, at most.
MOST_BANDS = 3


def groups(result: Told) -> list[str]:
    """The primary metric of each model in each group, and the widest gap between groups that are large enough."""
    names, primary = labels_of(result), result["primary"]
    models = [m for m in result["models"] if m["role"] != "oracle"]
    in_figures, left = drawn_of(result, models)
    compared = [sum(not found["too_small"] for found in told.values()) > 1 for told in result["groups"].values()]
    parts: list[str] = left if any(compared) else []
    for column, told in result["groups"].items():
        parts.append(f"<h3>{text(column)}</h3>")
        for first in range(0, len(models), MOST_COLUMNS):
            shown = models[first : first + MOST_COLUMNS]
            yes_no = result["kind"] == "yes_no"
            rows = []
            for group, found in told.items():
                size = [f"{found['labels']:,} / {found['subjects']:,}"]
                size += [f"{found['positives']:,}"] if yes_no else []
                few = ["too few"] * len(shown)
                cells = few if found["too_small"] else [number(found["models"][m["name"]][primary]) for m in shown]
                rows.append([group, *size, *cells])
            gaps = [_gap(result["gaps"][column].get(m["name"], {}).get(primary)) for m in shown]
            rows.append(["widest gap", *[""] * (2 if yes_no else 1), *gaps])
            header = ["", "labels / subjects", *(["positive"] if yes_no else []), *(m["label"] for m in shown)]
            parts.append(table(header, rows))
        large = {g: f for g, f in told.items() if not f["too_small"]}
        told_gaps = [of[primary] for of in result["gaps"][column].values() if primary in of]
        in_groups = [found["models"][m["name"]][primary] for found in large.values() for m in models]
        parts += reasons([*in_groups, *told_gaps])
        if len(large) > 1:
            ends = ("value", "low", "high")
            drawn = {
                group: [tuple(found["models"][m["name"]][primary][end] for end in ends) for m in in_figures]
                for group, found in large.items()
            }
            labels = [m["label"] for m in in_figures]
            parts.append(figure(figures.intervals(drawn, labels, x=names[primary], from_zero=False)))
    note = (
        f"{names[primary]} within each group; all other metrics, and their gaps, are in metrics.json. Groups of fewer "
        "than 50 subjects"
        + {
            "yes_no": ", or with fewer than 10 of either answer,",
            "classes": ", or with fewer than 10 of a class,",
            "time": ", or with fewer than 10 who had the event,",
        }.get(result["kind"], "")
        + " are too small to say anything about. A gap is between the two groups that are farthest apart, chosen after "
        "looking, so its interval is a little too far from zero."
    )
    return [f'<p class="note">{text(note)}</p>', *parts]


def _gap(found: Told | None) -> Markup:
    if found is None:
        return Markup("–")
    return Markup(f"{number(found)} <small>{text(found['highest'])} over {text(found['lowest'])}</small>")


def robustness(told: Told, result: Told) -> list[str]:
    """The primary metric at each level of each kind of damage, and at other sites."""
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
        parts += reasons(p for points in found["models"].values() for p in points)
        parts.append(figure(figures.curves(lines, x=found["meaning"], y=name, bands=bands)))
    if told.get("sites"):
        rows = [[site["name"], site["model"], f"{site['labels']:,} / {site['subjects']:,}", number(site["metric"])]
                for site in told["sites"]]  # fmt: skip
        parts.append("<h3>Other sites</h3>")
        parts.append(table(["site", "model", "labels / subjects", name], rows))
        parts += reasons(site["metric"] for site in told["sites"])
        parts.append(figure(_of_sites(told["sites"], result)))
    for note in told.get("notes", ()):
        parts.append(f'<p class="note">{text(note)}</p>')
    return parts


def _of_sites(sites: Sequence[Told], result: Told) -> go.Figure:
    """The runs at home and at each site."""
    primary = result["primary"]
    models = {m["name"]: m for m in result["models"] if m["name"] in {site["model"] for site in sites}}
    at = {(site["name"], site["model"]): site["metric"] for site in sites}
    places = {"at home": {name: model["metrics"][primary] for name, model in models.items()}}
    places |= {
        site: {name: at.get((site, name)) for name in models} for site in dict.fromkeys(s["name"] for s in sites)
    }
    nothing = (None, None, None)
    drawn = {
        place: [
            nothing if found[name] is None else tuple(found[name][part] for part in ("value", "low", "high"))
            for name in models
        ]
        for place, found in places.items()
    }
    labels = [model["label"] for model in models.values()]
    return figures.intervals(drawn, labels, x=labels_of(result)[primary], from_zero=False)


def few_shot(told: Told) -> list[str]:
    """What linear models learn from k labels of each answer."""
    if not any(told["curves"].values()):
        return [f"<p>{text(told['about'])}</p>"]
    lines = {name: ([p["k"] for p in points], [p["mean"] for p in points]) for name, points in told["curves"].items()}
    ks = sorted({p["k"] for points in told["curves"].values() for p in points})
    rows = []
    for name, points in told["curves"].items():
        by_k = {p["k"]: p for p in points}
        cells = [
            Markup(f"{by_k[k]['mean']:.3f} <small>± {by_k[k]['sd']:.3f}</small>") if k in by_k else "–" for k in ks
        ]
        rows.append([name, *cells])
    bands = {
        name: ([p["low"] for p in points], [p["high"] for p in points])
        for name, points in told["curves"].items()
        if all(p["low"] is not None for p in points)
    }
    drawn = figures.curves(lines, x="examples of each answer (k)", y="AUROC", bands=bands)
    drawn.update_xaxes(type="log", tickvals=ks, ticktext=[str(k) for k in ks])
    return [
        table(["k of each answer", *map(str, ks)], rows),
        f'<p class="note">{text(told["about"])}</p>',
        figure(drawn),
    ]


def cost(told: Mapping[str, Told]) -> list[str]:
    """Parameters, speed, memory, time and energy of each run."""
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
    header = ["", "parameters", "trained", "windows/s", "tokens/s", "latency ms (median / 95 %)", "peak memory"]
    header += ["training", "energy per 1,000 windows"]
    return [
        table(header, rows),
        f'<p class="note">Measured on {device} while this report was made, one model after '
        "another. A window is the history of one label; a causal model that predicts lets labels of a subject share "
        "one, and is faster by as many as do. Memory is that of all that was loaded then, the run and its "
        "data among it; where it says so far, that of the whole evaluation up to then. Training is the "
        "time of the run's own steps, without what it started from. Of a run without a head for these labels the "
        "states are timed.</p>",
    ]


def curves(result: Told) -> list[str]:
    """ROC, precision and recall, reliability and net benefit."""
    models, left = drawn_of(result, [m for m in result["models"] if m.get("curves")])
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
    # Bands of more models would hide each other; metrics.json has them all.
    few = models if len(models) <= MOST_BANDS else []
    shares = {m["label"]: (m["curves"]["reliability"]["low"], m["curves"]["reliability"]["high"]) for m in few}
    benefits = {
        m["label"]: tuple([m["curves"]["net_benefit"][end][i] for i in kept] for end in ("low", "high")) for m in few
    }
    # Treating everybody costs far below zero at high thresholds, which would press all else together.
    floor = -0.25 * share
    everybody = [(t, benefit["all"][i]) for i, t in zip(kept, at) if benefit["all"][i] >= floor]
    against = {"treat nobody": (at, [0] * len(at))}
    if everybody:
        against["treat everybody"] = tuple(zip(*everybody))
    return [
        *left,
        "<h3>ROC</h3>",
        figure(figures.curves(roc, x="1 - specificity", y="sensitivity", against={"chance": diagonal[""]})),
        "<h3>Precision and recall</h3>",
        figure(figures.curves(pr, x="recall", y="precision", against={"share of positives": ([0, 1], [share] * 2)})),
        "<h3>Reliability</h3>",
        figure(
            figures.curves(
                reliability,
                x="predicted probability",
                y="observed share",
                against={"calibrated": diagonal[""]},
                bands=shares,
            )
        ),
        "<h3>Decision curve</h3>",
        figure(figures.curves(decision, x="threshold probability", y="net benefit", against=against, bands=benefits)),
        '<p class="note">Net benefit: true positives a label, less false positives at the price that the threshold '
        "implies (Vickers and Elkin 2006). Intervals of reliability and net benefit, over resampled subjects, are in "
        f"metrics.json, and drawn where there are at most {MOST_BANDS} models.</p>",
    ]


def _highest(models: Sequence[Told]) -> float:
    """The threshold up to which some model still says yes: beyond it every decision curve is flat."""
    last = 0.05
    for model in models:
        told = model["curves"]["net_benefit"]
        last = max([last, *(t for t, b in zip(told["threshold"], told["model"]) if b)])
    return last
