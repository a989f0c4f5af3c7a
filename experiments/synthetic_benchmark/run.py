"""The synthetic hospital: pretrained models, zero-shot futures, baselines, and the best possible, on four tasks.

    python experiments/synthetic_benchmark/run.py [--work=DIR] [--output=FILE.json]
    python experiments/synthetic_benchmark/run.py --smoke       # small, and one report: to see that it runs

BEHRT (masked codes), GPT-2 and an LSTM (next token), a visit LSTM and fading sums over visits (times until codes come)
are pretrained on the patients of train and fine-tuned on four tasks at once, for three seeds; GPT-2 is also asked
without fine-tuning, by sampled futures. The true probability of every label is known, so the report says how much of
the gap between counts and the best possible each closes. A step that is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("readmission_30d", "new_heart_failure_1y", "new_diabetes_1y", "death_1y")
MODELS = ("behrt", "gpt2", "lstm", "visit_lstm", "fading")
LABELS = {"behrt": "BEHRT", "gpt2": "GPT-2", "lstm": "LSTM", "visit_lstm": "visit LSTM", "fading": "fading sums"}
# What happens in a sampled future, and until when.
EVENTS = {
    "readmission_30d": "ENCOUNTER//INPATIENT@30d",
    "new_heart_failure_1y": "ICD10CM//I50.*@365d",
    "new_diabetes_1y": "ICD10CM//E11.*@365d",
    "death_1y": "MEDS_DEATH@365d",
}
QUIET = ("--config.report.enabled=False", "--config.tensorboard=False", "--config.log_every=100")
SIZE = {
    "behrt": ("num_layers=2", "num_heads=4", "hidden_dim=128", "embedding_dim=128", "dropout=0.1"),
    "gpt2": ("num_layers=2", "num_heads=4", "hidden_dim=128", "dropout=0.1"),
    "lstm": ("num_layers=1", "hidden_dim=192", "embedding_dim=128", "dropout=0.1"),
    "visit_lstm": (
        "num_layers=1", "hidden_dim=192", "visit_dim=192", "embedding_dim=128", "dropout=0.1", "encoder=sum",
    ),
    "fading": ("num_layers=1", "hidden_dim=64", "embedding_dim=32", "dropout=0.1"),
}  # fmt: skip
CONFIG = {
    "behrt": "behrt.py", "gpt2": "gpt2.py", "lstm": "lstm.py", "visit_lstm": "time_to_events.py:visit_lstm",
    "fading": "time_to_events.py:fading",
}  # fmt: skip
# Steps of pretraining and of fine-tuning, and the rate of the first, so that each model has about as many minutes.
STEPS = {
    "behrt": (250, 350),
    "gpt2": (300, 400),
    "lstm": (250, 350),
    "visit_lstm": (2500, 1500),
    "fading": (1600, 8000),
}
RATE = {"behrt": 1.5e-3, "gpt2": 1.5e-3, "lstm": 1.5e-3, "visit_lstm": 3e-3, "fading": 3e-3}
# Rows of a batch and places of a row. Only sums cost the same however long a history is.
ROWS = {"behrt": (16, 512), "gpt2": (16, 512), "lstm": (16, 512), "visit_lstm": (16, 512), "fading": (4, 2048)}
TIMES = (
    "--config.objective.codes=('ENCOUNTER//','ICD10CM//','RXNORM//','MEDS_DEATH')",
    "--config.objective.observed_until=2024-12-27",  # the hospital's last day of data
)
PRETRAINING = {
    "behrt": ("--config.objective.tied=True",),
    "visit_lstm": TIMES,
    # Categories of diagnoses, until they are first made.
    "fading": (
        *TIMES, "--config.objective.visits=256", r"--config.objective.groups=ICD10CM//[A-Z]\d\w",
        "--config.objective.firsts=('ICD10CM//',)",
    ),
}  # fmt: skip
FINETUNING = {"fading": ("--config.model.dropout=0.3",)}


def verb(*arguments: object) -> None:
    """Runs a verb of ehrjax, and says how long it took."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)
    told = [part for part in map(str, arguments) if part.startswith(("--workdir", "--output"))]
    print(f"took {(time.monotonic() - begun) / 60:.1f} min: {arguments[0]} {told[-1]}", flush=True)


def trained(folder: Path, *arguments: object) -> Path:
    """A finished run in a folder; one that is finished is not opened again."""
    if not (folder / "final.json").exists():
        verb("ehrjax.train", f"--workdir={folder}", *arguments)
    return folder


def prepared(work: Path, args: argparse.Namespace) -> None:
    """The hospital, its labels with true probabilities, and tokens. A large share is held out, for narrow intervals."""
    if not (work / "events").exists():
        verb(
            "ehrjax.prepare", "synthetic", f"--patients={args.patients}", "--splits=0.79,0.05", "--labels",
            "--truth=tuning,held_out", f"--output={work / 'events'}",
        )  # fmt: skip
    if not (work / "tokens").exists():
        # Tokens for the time that passes, since not all models know ages or times.
        given = f"--input={work / 'events'}", f"--output={work / 'tokens'}"
        verb("ehrjax.prepare", "tokens", "--config=configs/tokens/generative.py", *given)


def steps_of(model: str, args: argparse.Namespace) -> tuple[int, int]:
    """Steps of pretraining and of fine-tuning."""
    pretraining, finetuning = (max(round(args.steps * steps), 10) for steps in STEPS[model])
    return pretraining, finetuning


def label_folder(work: Path, task: str) -> Path:
    return work / "events" / "labels" / task


def pretrained(work: Path, model: str, seed: int, args: argparse.Namespace) -> Path:
    """A model that knows the records of train, and no label."""
    folder, steps, (rows, places) = work / f"{model}-pretrained-{seed}", steps_of(model, args)[0], ROWS[model]
    return trained(
        folder,
        f"--config=configs/{CONFIG[model]}",
        f"--config.data.path={work / 'tokens'}",
        *(f"--config.model.{setting}" for setting in SIZE[model]),
        *PRETRAINING.get(model, ()),
        f"--config.num_steps={steps}",
        f"--config.batch_size={rows}",
        f"--config.data.context_length={places}",
        f"--config.data.max_segments={places // 32}",
        f"--config.optimizer.learning_rate={RATE[model]}",
        f"--config.schedule.warmup_steps={min(100, steps // 4)}",
        f"--config.eval_every={steps // 4}",
        "--config.early_stopping.patience=0",
        "--config.data.eval_batches=10",
        f"--config.seed={seed}",
        *QUIET,
    )


def finetuned(work: Path, model: str, seed: int, args: argparse.Namespace) -> Path:
    """The model, trained on all tasks at once; it keeps what was best on tuning."""
    folder, steps, (rows, places) = work / f"{model}-finetuned-{seed}", steps_of(model, args)[1], ROWS[model]
    return trained(
        folder,
        "--config=configs/finetune.py",
        f"--config.init.checkpoint={pretrained(work, model, seed, args)}",
        f"--config.data.labels={','.join(str(label_folder(work, task)) for task in TASKS)}",
        "--config.num_epochs=0",
        f"--config.num_steps={steps}",
        f"--config.batch_size={rows}",
        f"--config.data.max_segments={places // 21}",
        "--config.optimizer.learning_rate=7e-4",
        "--config.optimizer.weight_decay=0.1",
        *FINETUNING.get(model, ()),
        f"--config.schedule.warmup_steps={min(50, steps // 4)}",
        f"--config.eval_every={steps // 5}",
        "--config.early_stopping.patience=0",
        f"--config.seed={seed}",
        *QUIET,
    )


def reported(work: Path, task: str, args: argparse.Namespace) -> Path:
    """The report of a task on all runs and baselines."""
    output = work / f"report-{task}"
    if not output.exists():
        runs = [
            f"--workdir={model}_{seed}={finetuned(work, model, seed, args)}"
            for seed in range(args.seeds)
            for model in MODELS
        ]
        where = f"--labels={label_folder(work, task)}", f"--events={work / 'events'}", f"--output={output}"
        verb("ehrjax.evaluate", *runs, *where)
    return output


def zero_shot(work: Path, task: str, args: argparse.Namespace) -> Path:
    """A report on the labels that futures were sampled for: their risks beside what the first report holds."""
    output, futures = work / f"report-{task}-zero-shot", work / f"futures-{task}"
    if not futures.exists():
        verb(
            "ehrjax.generate",
            f"--workdir={pretrained(work, 'gpt2', 0, args)}",
            f"--input={work / 'tokens'}",
            f"--labels={label_folder(work, task)}",
            f"--task={task}={EVENTS[task]}",
            f"--samples={args.samples}",
            "--max_tokens=256",
            f"--limit={args.limit}",
            "--no_trajectories",
            f"--output={futures}",
        )
    if not output.exists():
        first = reported(work, task, args) / "predictions"
        others = [f"--predictions={path.name}={path}" for path in sorted(first.iterdir()) if path.name != "oracle"]
        where = f"--labels={label_folder(work, task)}", f"--output={output}", "--reference=counts_lr", "--partial"
        asked = f"--predictions=zero_shot_gpt2={futures / 'predictions' / (task + '.parquet')}"
        verb("ehrjax.evaluate", asked, *others, *where)
    return output


def summary(work: Path, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Baselines, the mean over seeds of each model, the best possible: AUROC, difference to counts, gap closed."""
    from ehrjax.evals import prediction_files
    from ehrjax.metrics import discrimination

    folder = reported(work, task, args) / "predictions"
    names = {
        "age and sex": ["age_sex"],
        "counts, linear": ["counts_lr"],
        "counts, boosted trees": ["counts_gbm"],
        **{LABELS[model]: [f"{model}_{seed}" for seed in range(args.seeds)] for model in MODELS},
        "best possible": ["oracle"],
    }
    flat = [name for group in names.values() for name in group]
    read = {name: prediction_files.read(folder / name / "held_out.parquet") for name in flat}
    first = read[flat[0]]
    scores = np.stack([read[name].values[:, 0] for name in flat])
    subjects = first.keys["subject_id"].to_numpy()
    found, drawn = discrimination.aurocs(first.truth[:, 0] > 0, scores, subjects)
    values = {name: estimate.value for name, estimate in zip(flat, found)}
    draws = dict(zip(flat, drawn))
    mean = {label: np.mean([values[name] for name in group]) for label, group in names.items()}
    resampled = {label: np.mean([draws[name] for name in group], axis=0) for label, group in names.items()}
    base, best = "counts, linear", "best possible"
    rows = {}
    for label in names:
        above = resampled[label] - resampled[base]
        closed = above / (resampled[best] - resampled[base])
        rows[label] = {
            "auroc": [float(mean[label]), *discrimination.interval(resampled[label])],
            "seeds": [float(values[name]) for name in names[label]],
            "difference": [float(mean[label] - mean[base]), *discrimination.interval(above)],
            "closed": [
                float((mean[label] - mean[base]) / (mean[best] - mean[base])),
                *discrimination.interval(closed),
            ],
        }
    return {"labels": len(first), "positives": int(first.truth.sum()), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work")
    parser.add_argument("--smoke", action="store_true")
    sizes = dict(patients=72_000, seeds=3, samples=16, limit=600, parallel=2)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=float, default=1.0, help="times the steps of each training")
    parser.add_argument("--output")
    args = parser.parse_args()
    if args.smoke:
        args.patients, args.seeds, args.steps, args.samples, args.limit = 1000, 1, 0.0, 2, 20
    work = Path(args.work or tempfile.mkdtemp(prefix="synthetic-benchmark-"))
    work.mkdir(parents=True, exist_ok=True)
    prepared(work, args)
    # A model this small keeps one core busy.
    with ThreadPoolExecutor(args.parallel) as pool:
        pairs = [(model, seed) for model in MODELS for seed in range(args.seeds)]
        list(pool.map(lambda pair: finetuned(work, *pair, args), pairs))
    told = {}
    for task in TASKS[:1] if args.smoke else TASKS:
        told[task] = summary(work, task, args)
        futures = json.loads((zero_shot(work, task, args) / "metrics.json").read_text())["result"]
        told[task]["zero_shot"] = {
            "labels": futures["labels"],
            **{m["name"]: m["metrics"]["auroc"] for m in futures["models"]},
        }
        print(f"\n{task}: {told[task]['labels']:,} held-out labels, {told[task]['positives']:,} positive")
        print("| | AUROC | minus counts, linear | gap closed |\n|---|---|---|---|")
        for label, row in told[task]["rows"].items():
            cells = [f"{v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})" for v in (row["auroc"], row["difference"])]
            share = row["closed"]
            cells.append(f"{100 * share[0]:.0f} % ({100 * share[1]:.0f} to {100 * share[2]:.0f})")
            print(f"| {label} | " + " | ".join(cells) + " |")
        shown = told[task]["zero_shot"]
        for name in ("zero_shot_gpt2", "counts_lr", "gpt2_0", "oracle"):
            found = shown[name]
            interval = f"({found['low']:.3f} to {found['high']:.3f})"
            print(f"on {shown['labels']:,} labels, {name}: {found['value']:.3f} {interval}")
        print(flush=True)
    if args.output:
        Path(args.output).write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
