"""Readmission within 30 days on UCI Diabetes 130: pretrained and plain models beside linear and boosted baselines.

    python experiments/diabetes130/run.py --data=DIR [--work=DIR] [--epochs=4] [--pretrain=3] [--seeds=3]
        [--parallel=2]

DIR holds diabetic_data.csv (https://archive.ics.uci.edu/dataset/296). Patients are split, not stays; stays that ended
in death or in hospice care have no label. BEHRT and GPT-2 are pretrained on the stays of train (masked codes, next
token) and fine-tuned, and also trained on the labels alone; a visit LSTM on the labels alone. The pretrained ones have
--seeds seeds, whose mean log odds are the last entry. One report compares them all with baselines from counts, by sex,
race and age band. Steps that are finished in --work are not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

TASK = "readmission_30d"
MODELS = ("behrt", "gpt2", "visit_lstm")
TOGETHER = "pretrained_together"
CONTEXT = ("--config.data.context_length=128", "--config.data.max_segments=16")
SMALL = {
    "behrt": (
        "--config.model.num_layers=2",
        "--config.model.num_heads=4",
        "--config.model.hidden_dim=128",
        "--config.model.embedding_dim=128",
    ),
    "gpt2": ("--config.model.num_layers=2", "--config.model.num_heads=4", "--config.model.hidden_dim=128"),
}
PRETRAINING = {"behrt": ("--config.objective.tied=True",), "gpt2": ()}
QUIET = ("--config.report.enabled=False", "--config.tensorboard=False", "--config.log_every=100")


def verb(*arguments: object) -> None:
    """Runs a verb of ehrjax."""
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


def train(folder: Path, *arguments: object) -> Path:
    """The run of these arguments; one that is finished, maybe on another machine, is taken as it is."""
    if not (folder / "final.json").exists():
        verb("ehrjax.train", *arguments, f"--workdir={folder}")
    return folder


def prepared(work: Path, data: str) -> None:
    """Events, labels and tokens."""
    if not (work / "events").exists():
        verb(
            "ehrjax.prepare", "events", "--source=uci-diabetes130", f"--input={data}", f"--output={work / 'events'}",
            "--drop_expired=true",
        )  # fmt: skip
    if not (work / "tokens").exists():
        given = f"--input={work / 'events'}", f"--output={work / 'tokens'}"
        verb("ehrjax.prepare", "tokens", "--config=configs/tokens/behrt.py", *given)


def ages(work: Path) -> Path:
    """Age bands as the source has them (it has no births): subject_id, prediction_time, age_band."""
    path = work / "ages.parquet"
    if not path.exists():
        labels = pl.read_parquet(work / "events" / "labels" / TASK / "labels.parquet").sort("prediction_time")
        events = pl.scan_parquet(str(work / "events" / "data" / "**" / "*.parquet"))
        told = events.filter(pl.col("code").str.starts_with("AGE//")).select(
            "subject_id", pl.col("time").alias("prediction_time"), pl.col("code").str.extract(r"\[(\d+)").cast(pl.Int64)
        )
        known = labels.join_asof(told.collect().sort("prediction_time"), on="prediction_time", by="subject_id")
        lower = pl.col("code")
        band = (
            pl.when(lower < 50).then(pl.lit("below 50"))
            .when(lower < 70).then(pl.lit("50 to 69"))
            .when(lower < 80).then(pl.lit("70 to 79"))
            .otherwise(pl.lit("80 and above"))
        )  # fmt: skip
        known.select("subject_id", "prediction_time", band.alias("age_band")).write_parquet(path)
    return path


def pretrained(work: Path, model: str, seed: int, args: argparse.Namespace) -> Path:
    """A model that knows the stays of train, and no label."""
    return train(
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


def supervised(work: Path, name: str, seed: int, args: argparse.Namespace, *given: str) -> Path:
    """A model trained on the labels, by which it also stops."""
    return train(
        work / f"{name}-{seed}",
        *given,
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
        "--config.objective.dropout=0.2",
        f"--config.seed={seed}",
        *QUIET,
    )


def runs(work: Path, model: str, seed: int, args: argparse.Namespace) -> dict[str, Path]:
    """The supervised runs of a model and seed; what is not pretrained has the first seed alone."""
    if model == "visit_lstm":
        size = ("embedding_dim=128", "visit_dim=128", "hidden_dim=128", "num_layers=1")
        given = "--config=configs/visit_lstm.py", *(f"--config.model.{setting}" for setting in size)
        return {"visit_lstm_labels_alone": supervised(work, "visit_lstm", seed, args, *given)}
    start = pretrained(work, model, seed, args)
    given = (
        "--config=configs/finetune.py",
        f"--config.init.checkpoint={start}",
        "--config.model.dropout=0.2",
        "--config.model.attention_dropout=0.2",
    )
    # The same model and head from random parameters.
    plain = (*given, "--config.init.skip=('head/','model/')")
    found = {f"{model}_pretrained_{seed}": supervised(work, f"{model}-finetuned", seed, args, *given)}
    if not seed:
        found[f"{model}_labels_alone"] = supervised(work, f"{model}-plain", seed, args, *plain)
    return found


def trained(work: Path, args: argparse.Namespace) -> dict[str, Path]:
    """All supervised runs, a few models at a time."""
    pairs = [(model, seed) for seed in range(args.seeds) for model in MODELS if not seed or model in SMALL]
    with ThreadPoolExecutor(args.parallel) as pool:
        found = list(pool.map(lambda pair: runs(work, *pair, args), pairs))
    return {name: run for named in found for name, run in named.items()}


def shown(found: dict[str, Any], sign: str = "") -> str:
    """A value with its interval."""
    if found["value"] is None:
        return "-"
    interval = "" if found["low"] is None else f" ({found['low']:{sign}.3f} to {found['high']:{sign}.3f})"
    return f"{found['value']:{sign}.3f}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work")
    for name, default in dict(epochs=4, pretrain=3, seeds=3, parallel=2).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    work = Path(args.work or tempfile.mkdtemp(prefix="diabetes130-"))
    work.mkdir(parents=True, exist_ok=True)
    prepared(work, args.data)
    named, output = trained(work, args), work / "report"
    pretrained_ones = [name for name in named if "_pretrained_" in name]
    if not output.exists():
        verb(
            "ehrjax.evaluate",
            *(f"--workdir={name}={path}" for name, path in named.items()),
            f"--labels={work / 'events' / 'labels' / TASK}",
            f"--events={work / 'events'}",
            f"--groups={ages(work)}:age_band",
            f"--together={TOGETHER}={','.join(pretrained_ones)}",
            "--reference=counts_gbm",
            f"--output={output}",
        )
    told = json.loads((output / "metrics.json").read_text())["result"]
    print(f"{told['labels']:,} labels of {told['subjects']:,} patients, {told['positives']:,} positive")
    print("| | AUROC | average precision | calibration slope | AUROC less boosted trees |\n|---|---|---|---|---|")
    for model in told["models"]:
        cells = [shown(model["metrics"][name]) for name in ("auroc", "average_precision", "calibration_slope")]
        differs = told["differences"].get(model["name"], {})
        cells.append(shown(differs["auroc"], "+") if "auroc" in differs else "-")
        print(f"| {model['label']} | " + " | ".join(cells) + " |")
    print(f"report: {output / 'index.html'}")


if __name__ == "__main__":
    main()
