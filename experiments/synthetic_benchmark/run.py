"""The synthetic hospital: pretrained models, zero-shot futures, baselines, and the best possible, on three tasks.

    python experiments/synthetic_benchmark/run.py [--work=DIR] [--output=FILE.json]
    python experiments/synthetic_benchmark/run.py --smoke       # small, and one report: to see that it runs

BEHRT (masked codes), GPT-2 and an LSTM (next token) and a visit LSTM (times until codes come) are pretrained on the
patients of train and fine-tuned on three tasks at once, for three seeds; GPT-2 is also asked without fine-tuning, by
sampled futures. Fading sums (times until codes come) are pretrained and frozen, and boosted trees are fitted on what
they know. The true probability of every label is known, so the report says how much of the gap between counts and the
best possible each closes. A step that is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("readmission_30d", "new_heart_failure_1y", "new_diabetes_1y")
# Those that are fine-tuned, and the one that is not.
MODELS = ("behrt", "gpt2", "lstm", "visit_lstm")
FROZEN = "fading"
TOGETHER = f"{FROZEN}_together"
LABELS = {"behrt": "BEHRT", "gpt2": "GPT-2", "lstm": "LSTM", "visit_lstm": "visit LSTM"}
# What happens in a sampled future, and until when.
EVENTS = {
    "readmission_30d": "ENCOUNTER//INPATIENT@30d",
    "new_heart_failure_1y": "ICD10CM//I50.*@365d",
    "new_diabetes_1y": "ICD10CM//E11.*@365d",
}
BASELINES = ("age_sex", "counts_lr", "counts_gbm")
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
# Fading sums have twice as many: they gain most by it.
STEPS = {
    "behrt": (250, 350),
    "gpt2": (300, 400),
    "lstm": (250, 350),
    "visit_lstm": (2500, 1500),
    "fading": (6000, 0),
}
RATE = {"behrt": 1.5e-3, "gpt2": 1.5e-3, "lstm": 1.5e-3, "visit_lstm": 3e-3, "fading": 3e-3}
# Rows of a batch and places of a row. Only sums cost the same however long a history is.
ROWS = {"behrt": (16, 512), "gpt2": (16, 512), "lstm": (16, 512), "visit_lstm": (16, 512), "fading": (4, 2048)}
LAST_DAY = "--config.objective.observed_until=2024-12-27"  # of the hospital's data
PRETRAINING = {
    "behrt": ("--config.objective.tied=True",),
    "visit_lstm": ("--config.objective.codes=('ENCOUNTER//','ICD10CM//','RXNORM//','MEDS_DEATH')", LAST_DAY),
    # Categories of diagnoses, until they are first made; and bins of laboratory values.
    "fading": (
        "--config.objective.codes=('ENCOUNTER//','ICD10CM//','RXNORM//','MEDS_DEATH','LOINC//')", LAST_DAY,
        "--config.objective.visits=64", r"--config.objective.groups=ICD10CM//[A-Z]\d\w",
        "--config.objective.firsts=('ICD10CM//',)",
    ),
}  # fmt: skip


_mine = threading.local()


def at_once(workers: int, jobs: Iterable[Callable[[], Any]]) -> list[Any]:
    """Does jobs side by side, each on its own share of the cores: what is this small keeps one core busy."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    workers = max(1, min(workers, len(cores) or 1))
    shares: queue.Queue[list[int]] = queue.Queue()
    for worker in range(workers):
        shares.put(cores[worker::workers])

    def take() -> None:
        _mine.cores = shares.get()
        if _mine.cores:
            os.sched_setaffinity(0, _mine.cores)  # of this thread, and of what it starts

    with ThreadPoolExecutor(workers, initializer=take) as pool:
        return [done.result() for done in [pool.submit(job) for job in jobs]]


def verb(*arguments: object) -> None:
    """Runs a verb of ehrjax, and says how long it took."""
    begun, cores = time.monotonic(), getattr(_mine, "cores", [])
    threads = {name: str(len(cores)) for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS")} if cores else {}
    command = [sys.executable, "-m", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, **threads})
    told = [part for part in map(str, arguments) if part.startswith(("--workdir", "--output"))]
    print(f"took {(time.monotonic() - begun) / 60:.1f} min: {arguments[0]} {told[-1]}", flush=True)


def trained(folder: Path, *arguments: object) -> Path:
    """A finished run in a folder; one that is finished is not opened again."""
    if not (folder / "final.json").exists():
        verb("ehrjax.train", f"--workdir={folder}", *arguments)
    return folder


def prepared(work: Path, args: argparse.Namespace) -> None:
    """The hospital, its labels with true probabilities, and tokens."""
    if not (work / "events").exists():
        verb(
            "ehrjax.prepare", "synthetic", f"--patients={args.patients}", "--splits=0.955,0.015", "--labels",
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
        f"--config.schedule.warmup_steps={min(50, steps // 4)}",
        f"--config.eval_every={steps // 5}",
        "--config.early_stopping.patience=0",
        f"--config.seed={seed}",
        *QUIET,
    )


def evaluated(output: Path, work: Path, task: str, *arguments: object) -> Path:
    """A report on the labels of a task; one that is there is not made again."""
    if not output.exists():
        verb("ehrjax.evaluate", f"--labels={label_folder(work, task)}", *arguments, f"--output={output}")
    return output / "predictions"


def baselines(work: Path, task: str) -> Path:
    """What counts say."""
    chosen = f"--events={work / 'events'}", f"--baselines={','.join(BASELINES)}"
    return evaluated(work / f"baselines-{task}", work, task, *chosen)


def probed(work: Path, task: str, seed: int, args: argparse.Namespace) -> Path:
    """What boosted trees make of what the frozen model knows."""
    run = f"--workdir={FROZEN}_{seed}={pretrained(work, FROZEN, seed, args)}"
    found = evaluated(work / f"{FROZEN}-{seed}-{task}", work, task, run, "--probe=trees", "--baselines=none")
    return found / f"trees_{FROZEN}_{seed}"


def reported(work: Path, task: str, args: argparse.Namespace) -> Path:
    """The report of a task on all runs and baselines: the folder of its predictions."""
    seeds = range(args.seeds)
    runs = [f"--workdir={model}_{seed}={finetuned(work, model, seed, args)}" for seed in seeds for model in MODELS]
    given = {name: baselines(work, task) / name for name in BASELINES}
    given |= {f"{FROZEN}_{seed}": probed(work, task, seed, args) for seed in seeds}
    predictions = [f"--predictions={name}={path}" for name, path in given.items()]
    members = ",".join(f"{FROZEN}_{seed}" for seed in seeds)
    also = [f"--together={TOGETHER}={members}"] if args.seeds > 1 else []
    events = f"--events={work / 'events'}", "--baselines=none", "--reference=counts_lr"
    return evaluated(work / f"report-{task}", work, task, *runs, *predictions, *also, *events)


def zero_shot(work: Path, task: str, args: argparse.Namespace) -> Path:
    """A report on the labels that futures were sampled for: their risks beside what the first report holds."""
    futures = work / f"futures-{task}"
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
    first = reported(work, task, args)
    others = [f"--predictions={path.name}={path}" for path in sorted(first.iterdir()) if path.name != "oracle"]
    asked = f"--predictions=zero_shot_gpt2={futures / 'predictions' / (task + '.parquet')}"
    output = work / f"report-{task}-zero-shot"
    evaluated(output, work, task, asked, *others, "--reference=counts_lr", "--partial")
    return output


def summary(work: Path, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Baselines, the mean over seeds of each model, the best possible: AUROC, difference to counts, gap closed."""
    from ehrjax.evals import prediction_files
    from ehrjax.metrics import discrimination

    folder, seeds = reported(work, task, args), range(args.seeds)
    names = {
        "age and sex": ["age_sex"],
        "counts, linear": ["counts_lr"],
        "counts, boosted trees": ["counts_gbm"],
        **{label: [f"{model}_{seed}" for seed in seeds] for model, label in LABELS.items()},
        "fading sums, frozen, boosted trees": [f"{FROZEN}_{seed}" for seed in seeds],
        "the same, all seeds together": [TOGETHER] if args.seeds > 1 else [f"{FROZEN}_0"],
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
    best, rows = "best possible", {}
    for label in names:
        rows[label] = {
            "auroc": [float(mean[label]), *discrimination.interval(resampled[label])],
            "seeds": [float(values[name]) for name in names[label]],
        }
        for base in ("counts, linear", "counts, boosted trees"):
            value, above = mean[label] - mean[base], resampled[label] - resampled[base]
            closed = value / (mean[best] - mean[base]), above / (resampled[best] - resampled[base])
            rows[label][f"minus {base}"] = [float(value), *discrimination.interval(above)]
            rows[label][f"closed from {base}"] = [float(closed[0]), *discrimination.interval(closed[1])]
    return {"labels": len(first), "positives": int(first.truth.sum()), "rows": rows}


def told(work: Path, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """What is found for a task, said as a table too."""
    found = summary(work, task, args)
    futures = json.loads((zero_shot(work, task, args) / "metrics.json").read_text())["result"]
    found["zero_shot"] = {
        "labels": futures["labels"],
        **{m["name"]: m["metrics"]["auroc"] for m in futures["models"]},
    }
    print(f"\n{task}: {found['labels']:,} held-out labels, {found['positives']:,} positive")
    bases = ("counts, linear", "counts, boosted trees")
    columns = [f"{what} {base}" for base in bases for what in ("minus", "closed from")]
    print("| | AUROC | " + " | ".join(columns) + " |\n|---|" + "---|" * (len(columns) + 1))
    for label, row in found["rows"].items():
        cells = []
        for name in ("auroc", *columns):
            value, low, high = row[name]
            share = name.startswith("closed")
            cells.append(
                f"{100 * value:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
                if share
                else f"{value:.3f} ({low:.3f} to {high:.3f})"
            )
        print(f"| {label} | " + " | ".join(cells) + " |")
    shown = found["zero_shot"]
    for name in ("zero_shot_gpt2", "counts_lr", "gpt2_0", "oracle"):
        one = shown[name]
        interval = f"({one['low']:.3f} to {one['high']:.3f})"
        print(f"on {shown['labels']:,} labels, {name}: {one['value']:.3f} {interval}")
    print(flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work")
    parser.add_argument("--smoke", action="store_true")
    sizes = dict(patients=120_000, seeds=3, samples=16, limit=600, parallel=2)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=float, default=1.0, help="times the steps of each training")
    parser.add_argument("--output")
    args = parser.parse_args()
    if args.smoke:
        args.patients, args.seeds, args.steps, args.samples, args.limit = 1000, 1, 0.0, 2, 20
    begun = time.monotonic()
    work = Path(args.work or tempfile.mkdtemp(prefix="synthetic-benchmark-"))
    work.mkdir(parents=True, exist_ok=True)
    prepared(work, args)
    tasks, seeds = TASKS[:1] if args.smoke else TASKS, range(args.seeds)
    jobs = [partial(baselines, work, task) for task in tasks]
    jobs += [partial(pretrained, work, FROZEN, seed, args) for seed in seeds]
    jobs += [partial(finetuned, work, model, seed, args) for model in MODELS for seed in seeds]
    at_once(args.parallel, jobs)
    at_once(args.parallel, [partial(probed, work, task, seed, args) for task in tasks for seed in seeds])
    at_once(args.parallel, [partial(zero_shot, work, task, args) for task in tasks])
    found = {task: told(work, task, args) for task in tasks}
    print(f"{(time.monotonic() - begun) / 60:.0f} minutes in all")
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
