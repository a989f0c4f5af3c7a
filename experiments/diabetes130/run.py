"""Readmission within 30 days on UCI Diabetes 130: pretrained and plain models beside linear and boosted baselines.

    python experiments/diabetes130/run.py --data=DIR [--work=DIR] [--epochs=2] [--pretrain=3] [--parallel=2]
        [--seeds=1] [--folds=1] [--first=0]

DIR holds diabetic_data.csv (https://archive.ics.uci.edu/dataset/296). Patients are split, not stays; stays that ended
in death or in hospice care have no label. BEHRT, GPT-2 and fading sums are pretrained on the stays of train (masked
codes, next token, codes of the next stay) and fine-tuned, and also trained on the labels alone; a visit LSTM on the
labels alone, each with --seeds seeds. All of them are also joined to one: by their mean log odds, and stacked, with
weights fitted on tuning, with and without the boosted trees. One report compares them all with baselines from counts,
by sex, race and age band; what is printed are the tables of README.md. With --folds=N another tenth of the patients is
held out in each of N folds (10: each patient once), and what is printed at last are the means over folds; --first=K
leaves out the first K. Steps that are finished in --work are not done again, and other data or settings than theirs are
refused.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError, exits_cleanly
from ehrjax.core.side_by_side import at_once, claim, trained, verb

if TYPE_CHECKING:
    from ehrjax.evals.seeds import Mean

TASK = "readmission_30d"
PRETRAINED = {"behrt": "BEHRT", "gpt2": "GPT-2", "fading": "fading sums"}
LINEAR, TREES, BOOSTED = "counts_lr", "counts_gbm", "counts, boosted trees"
COUNTS, TOGETHER, STACKED, WITH_TREES = "counts_stacked", "all_together", "all_stacked", "all_with_trees"
ENTRIES = {
    COUNTS: "counts, linear and trees stacked",
    TOGETHER: "all networks, mean",
    STACKED: "all networks, stacked",
    WITH_TREES: "all networks and trees, stacked",
}
# Whose groups and calibration are printed; the report has those of all.
SHOWN = (BOOSTED, ENTRIES[STACKED], ENTRIES[WITH_TREES])
CONTEXT = ("--config.data.context_length=256", "--config.data.max_segments=32", "--config.batch_size=16")
SMALL = {
    "behrt": (
        "--config.model.num_layers=2",
        "--config.model.num_heads=4",
        "--config.model.hidden_dim=128",
        "--config.model.embedding_dim=128",
    ),
    "gpt2": ("--config.model.num_layers=2", "--config.model.num_heads=4", "--config.model.hidden_dim=128"),
    # The source tells the order of stays, not their times; these are made up, 100 days apart: so one sum of what is now
    # and one of what was.
    "fading": (
        "--config.model.num_layers=1",
        "--config.model.embedding_dim=64",
        "--config.model.hidden_dim=256",
        "--config.model.half_lives_days=(3.0,100.0)",
        "--config.model.own_vectors=True",
    ),
}
PRETRAINING = {"behrt": ("--config.objective.tied=True",), "gpt2": (), "fading": ()}
DROPOUT = "--config.model.dropout=0.2", "--config.model.attention_dropout=0.2", "--config.objective.dropout=0.2"
# Sums cost a tenth of attention, and want more passes at a higher rate; what of that was better was found by moving a
# fifth of train's patients to tuning and judging there.
PASSES = {"behrt": 1, "gpt2": 1, "fading": 3}
FINETUNING = {
    "behrt": DROPOUT,
    "gpt2": DROPOUT,
    "fading": (
        "--config.model.dropout=0.4",
        "--config.model.token_dropout=0.1",
        "--config.objective.dropout=0.4",
        "--config.optimizer.learning_rate=1e-3",
        "--config.optimizer.b2=0.999",
        "--config.schedule.lr_min_ratio=0.0",
        "--config.early_stopping.patience=0",
        "--config.eval_every=500",
        "--config.checkpoint_every=500",
    ),
}
QUIET = ("--config.report.enabled=False", "--config.tensorboard=False", "--config.log_every=100")


def prepared(work: Path, data: str, fold: int) -> None:
    """Events, labels and tokens; fold: which tenth of the patients is held out."""
    if not (work / "events").exists():
        verb(
            "ehrjax.prepare", "events", "--source=uci-diabetes130", f"--input={data}", f"--output={work / 'events'}",
            "--drop_expired=true", f"--fold={fold}",
        )  # fmt: skip
    if not (work / "tokens").exists():
        # Rare codes are learnt by heart; deciles would make one token of all with three and more stays the year before.
        chosen = "--config.min_count=200", "--config.bin_values.num_bins=25"
        given = f"--input={work / 'events'}", f"--output={work / 'tokens'}"
        verb("ehrjax.prepare", "tokens", "--config=configs/tokens/behrt.py", *chosen, *given)


def ages(work: Path) -> Path:
    """Age bands as the source has them (it has no births): subject_id, prediction_time, age_band."""
    path = work / "ages.parquet"
    if not path.exists():
        labels = pl.read_parquet(work / "events" / "labels" / TASK / "labels.parquet").sort("prediction_time")
        events = pl.scan_parquet(str(work / "events" / "data" / "**" / "*.parquet"))
        told = events.filter(pl.col("code").str.starts_with("AGE//")).select(
            "subject_id", pl.col("time").alias("prediction_time"), pl.col("code").str.extract(r"\[(\d+)").cast(pl.Int64)
        )
        known = labels.join_asof(
            told.collect().sort("prediction_time"), on="prediction_time", by="subject_id", check_sortedness=False
        )
        lower = pl.col("code")
        band = (
            pl.when(lower.is_null()).then(pl.lit("unknown"))
            .when(lower < 50).then(pl.lit("below 50"))
            .when(lower < 70).then(pl.lit("50 to 69"))
            .when(lower < 80).then(pl.lit("70 to 79"))
            .otherwise(pl.lit("80 and above"))
        )  # fmt: skip
        with files.written_file(path) as temporary:
            known.select("subject_id", "prediction_time", band.alias("age_band")).write_parquet(temporary)
    return path


def pretrained(work: Path, model: str, seed: int, args: argparse.Namespace) -> Path:
    """A model that knows the stays of train, and no label."""
    return trained(
        work / f"{model}-pretrained-{seed}",
        f"--config=configs/{model}.py",
        f"--config.data.path={work / 'tokens'}",
        *CONTEXT,
        *SMALL[model],
        *PRETRAINING[model],
        "--config.num_steps=0",
        f"--config.num_epochs={args.pretrain}",
        "--config.schedule.warmup_steps=100",
        "--config.eval_every=500",
        f"--config.seed={seed}",
        *QUIET,
    )


def supervised(work: Path, name: str, seed: int, args: argparse.Namespace, config: str, *given: str) -> Path:
    """A model trained on the labels, by which it also stops; the settings given stand above those of all."""
    return trained(
        work / f"{name}-{seed}",
        f"--config={config}",
        f"--config.data.path={work / 'tokens'}",
        f"--config.data.labels={work / 'events' / 'labels' / TASK}",
        *CONTEXT,
        "--config.num_steps=0",
        f"--config.num_epochs={args.epochs}",
        "--config.optimizer.learning_rate=3e-4",
        "--config.optimizer.weight_decay=0.1",
        "--config.schedule.warmup_steps=100",
        "--config.eval_every=200",
        "--config.checkpoint_every=200",
        "--config.early_stopping.patience=5",
        f"--config.seed={seed}",
        *QUIET,
        *given,
    )


def runs(work: Path, model: str, seed: int, args: argparse.Namespace) -> dict[str, Path]:
    """The supervised runs of a model and seed."""
    if model == "visit_lstm":
        size = ("embedding_dim=128", "visit_dim=128", "hidden_dim=128", "num_layers=1")
        given = "configs/visit_lstm.py", *(f"--config.model.{setting}" for setting in size), DROPOUT[-1]
        return {f"visit_lstm_labels_alone_{seed}": supervised(work, "visit_lstm", seed, args, *given)}
    start = pretrained(work, model, seed, args)
    epochs = f"--config.num_epochs={args.epochs * PASSES[model]}"
    given = "configs/finetune.py", f"--config.init.checkpoint={start}", epochs, *FINETUNING[model]
    # The same model and head from random parameters.
    plain = (*given, "--config.init.skip=('head/','model/')")
    return {
        f"{model}_pretrained_{seed}": supervised(work, f"{model}-finetuned", seed, args, *given),
        f"{model}_labels_alone_{seed}": supervised(work, f"{model}-plain", seed, args, *plain),
    }


def every_run(work: Path, args: argparse.Namespace) -> dict[str, Path]:
    """All supervised runs, a few models at a time."""
    pairs = [(model, seed) for seed in range(args.seeds) for model in (*PRETRAINED, "visit_lstm")]
    found = at_once(args.parallel, [partial(runs, work, *pair, args) for pair in pairs])
    return {name: run for named in found for name, run in named.items()}


def reported(work: Path, named: dict[str, Path]) -> Path:
    """The report on all runs and baselines; one that is there is not made again."""
    output = work / "report"
    if not output.exists():
        verb(
            "ehrjax.evaluate",
            *(f"--workdir={name}={path}" for name, path in named.items()),
            f"--labels={work / 'events' / 'labels' / TASK}",
            f"--events={work / 'events'}",
            f"--groups={ages(work)}:age_band",
            f"--stacked={COUNTS}={LINEAR},{TREES}",
            f"--together={TOGETHER}={','.join(named)}",
            f"--stacked={STACKED}={','.join(named)}",
            f"--stacked={WITH_TREES}={','.join(named)},{TREES}",
            f"--reference={TREES}",
            f"--output={output}",
        )
    return output


def models(seeds: int) -> dict[str, list[str]]:
    """What the table calls a model -> its entries in the report, one a seed."""

    def each(name: str) -> list[str]:
        return [f"{name}_{seed}" for seed in range(seeds)]

    return {
        "counts, linear": [LINEAR],
        BOOSTED: [TREES],
        **{f"{name}, pretrained": each(f"{model}_pretrained") for model, name in PRETRAINED.items()},
        **{f"{name}, labels alone": each(f"{model}_labels_alone") for model, name in PRETRAINED.items()},
        "visit LSTM, labels alone": each("visit_lstm_labels_alone"),
        **{label: [entry] for entry, label in ENTRIES.items()},
    }


def cell(found: tuple[float, float, float], sign: str = "") -> str:
    """A value with its interval."""
    value, low, high = found
    return f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def judged(output: Path, listed: dict[str, list[str]], split: str, fold: int) -> dict[str, Mean]:
    """What each model's predictions of a split are worth."""
    from ehrjax.evals import seeds

    files = {label: [output / "predictions" / name / f"{split}.parquet" for name in of] for label, of in listed.items()}
    return seeds.means(files, seed=fold)


def tell(told: dict[str, Any], found: dict[str, Mean], listed: dict[str, list[str]]) -> None:
    """Prints how good the models are on the held-out patients."""
    metrics = {model["name"]: model["metrics"] for model in told["models"]}
    print("| | AUROC | less boosted trees | average precision | Brier | calibration slope |")
    print("|---|---|---|---|---|---|")
    for label, mean in found.items():
        cells = [cell(mean.shown()), "" if label == BOOSTED else cell(mean.less(found[BOOSTED]), "+")]
        for metric, digits in (("average_precision", 3), ("brier", 4), ("calibration_slope", 2)):
            every = [metrics[name][metric]["value"] for name in listed[label]]
            cells.append(f"{sum(every) / len(every):.{digits}f}")
        print(f"| {label} | " + " | ".join(cells) + " |")


def tell_means(found: dict[str, Mean], title: str) -> None:
    """Prints the AUROC of the models on some patients."""
    print(f"\n| {title} | | less boosted trees |\n|---|---|---|")
    for label, mean in found.items():
        print(
            f"| {label} | {cell(mean.shown())} | {'' if label == BOOSTED else cell(mean.less(found[BOOSTED]), '+')} |"
        )


def tell_differences(found: dict[str, Mean]) -> None:
    """Prints what pretraining adds, and what the models add to linear counts."""
    print("\n| difference of AUROC | |\n|---|---|")
    for name in PRETRAINED.values():
        gained = found[f"{name}, pretrained"].less(found[f"{name}, labels alone"])
        print(f"| {name}: pretraining | {cell(gained, '+')} |")
    for label in (*(f"{name}, pretrained" for name in PRETRAINED.values()), *ENTRIES.values()):
        print(f"| {label}, less linear counts | {cell(found[label].less(found['counts, linear']), '+')} |")
    for name in (TOGETHER, STACKED, WITH_TREES):
        beyond = found[ENTRIES[name]].less(found[ENTRIES[COUNTS]])
        print(f"| {ENTRIES[name]}, less {ENTRIES[COUNTS]} | {cell(beyond, '+')} |")


def tell_groups(told: dict[str, Any], shown: dict[str, str]) -> None:
    """Prints the AUROC of some models by sex, race and age band, and the widest gap between two groups of each."""
    print("\n| AUROC | labels | positive | " + " | ".join(shown) + " |\n|---|---|---|" + "---|" * len(shown))
    columns = "sex", "race", "age_band"
    for column in columns:
        for group, of in told["groups"].get(column, {}).items():
            found = [of["models"].get(name, {}).get("auroc") for name in shown.values()]
            cells = ["too few" if one is None else cell((one["value"], one["low"], one["high"])) for one in found]
            print(f"| {group} | {of['labels']:,} | {of['positives']:,} | " + " | ".join(cells) + " |")
    print("\n| widest gap of AUROC by | " + " | ".join(shown) + " |\n|---|" + "---|" * len(shown))
    for column in columns:
        found = [told["gaps"].get(column, {}).get(name, {}).get("auroc") for name in shown.values()]
        cells = [
            f"{cell((one['value'], one['low'], one['high']), '+')}, {one['lowest']} lowest" if one else "too few"
            for one in found
        ]
        print(f"| {column} | " + " | ".join(cells) + " |")


def tell_calibration(told: dict[str, Any], shown: dict[str, str]) -> None:
    """Prints the calibration error and slope of some models, as they are and refitted on tuning."""
    print("\n| calibration error, slope | as it is | temperature | isotonic |\n|---|---|---|---|")
    models = {model["name"]: model for model in told["models"]}
    for label, name in shown.items():
        again = models[name]["recalibrated"]
        kinds = [models[name]["metrics"], *(again[how]["metrics"] for how in ("temperature", "isotonic"))]
        cells = [f"{kind['ece']['value']:.3f}, {kind['calibration_slope']['value']:.2f}" for kind in kinds]
        print(f"| {label} | " + " | ".join(cells) + " |")


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work")
    for name, default in dict(epochs=2, pretrain=3, parallel=2, seeds=1, folds=1, first=0).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if not 0 <= args.first < args.folds <= 10:
        raise InputError(
            f"--first={args.first} --folds={args.folds} names no fold; there are 10, and --first is below --folds."
        )
    work = Path(args.work or tempfile.mkdtemp(prefix="diabetes130-"))
    args.data = str(Path(args.data).resolve())
    if not any(Path(args.data).glob("diabetic_data*")):
        raise InputError(f"{args.data} holds no diabetic_data.csv; name the folder that does as --data.")
    claim(work, {name: getattr(args, name) for name in ("data", "epochs", "pretrain", "seeds")})
    begun, folds = time.monotonic(), []
    for fold in range(args.first, args.folds):
        folds.append(held_out(work / f"fold-{fold}" if fold else work, fold, args))
    if len(folds) > 1:
        from ehrjax.evals import seeds

        found = {label: seeds.over_folds([fold[label] for fold in folds]) for label in folds[0]}
        print(f"\nmeans of {len(folds)} folds")
        tell_means(found, "AUROC")
        tell_differences(found)
    print(f"\n{(time.monotonic() - begun) / 60:.0f} minutes in all")


def held_out(work: Path, fold: int, args: argparse.Namespace) -> dict[str, Mean]:
    """Trains, reports and prints with one tenth of the patients held out; returns what the models are worth there."""
    work.mkdir(parents=True, exist_ok=True)
    prepared(work, args.data, fold)
    output, listed = reported(work, every_run(work, args)), models(args.seeds)
    told = json.loads((output / "metrics.json").read_text())["result"]
    found = judged(output, listed, "held_out", fold)
    print(f"{told['labels']:,} labels of {told['subjects']:,} patients, {told['positives']:,} positive\n")
    tell(told, found, listed)
    # Trees are tuned there and networks stop there; but it tells how much so many labels can say.
    tell_means(judged(output, listed, "tuning", fold), "AUROC on tuning")
    tell_differences(found)
    shown = {label: of[0] for label, of in listed.items() if label in SHOWN}
    tell_groups(told, shown)
    tell_calibration(told, shown)
    print(f"\nreport: {output / 'index.html'}", flush=True)
    return found


if __name__ == "__main__":
    main()
