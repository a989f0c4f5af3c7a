"""The synthetic hospital: pretrained models, zero-shot futures, baselines, and the best possible, on three tasks.

    python experiments/synthetic_benchmark/run.py [--work=DIR] [--output=FILE.json]
    python experiments/synthetic_benchmark/run.py --smoke       # small, and one report: to see that it runs

BEHRT (masked codes), GPT-2 and an LSTM (next token) and a visit LSTM (times until codes come) are pretrained on the
records of train and fine-tuned on three tasks at once, for three seeds. Labels are known of few patients only, drawn
anew for each seed; baselines and all models learn from the same, and what is joined of all seeds is compared with
counts that are joined so too. GPT-2 is also asked without any label, by sampled futures, and so are fading sums (times
until codes come), by their rates; on what these know, frozen, boosted trees are fitted. The true probability of every
label is known, so the report says how much of the gap between counts and the best possible each closes. A step that is
finished in --work is not done again, and other sizes than its are refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import files, side_by_side
from ehrjax.core.errors import exits_cleanly
from ehrjax.core.side_by_side import at_once

TASKS = ("readmission_30d", "new_heart_failure_1y", "new_diabetes_1y")
TITLES = {
    "readmission_30d": "Readmission within 30 days",
    "new_heart_failure_1y": "First heart failure within a year",
    "new_diabetes_1y": "First type 2 diabetes within a year",
}
# Those that are fine-tuned, and the one that is not.
MODELS = ("behrt", "gpt2", "lstm", "visit_lstm")
FROZEN = "fading"
# What the table calls them.
LABELS = {
    "age_sex": "age and sex",
    "counts_lr": "counts, linear",
    "counts_gbm": "counts, boosted trees",
    "behrt": "BEHRT",
    "gpt2": "GPT-2",
    "lstm": "LSTM",
    "visit_lstm": "visit LSTM",
    f"zero_shot_{FROZEN}": "fading sums, no labels",
    f"trees_{FROZEN}": "fading sums, frozen, boosted trees",
    "both": "the last two together",
}
# What happens, and until when: asked of sampled futures, and of rates.
EVENTS = {
    "readmission_30d": "ENCOUNTER//INPATIENT@30d",
    "new_heart_failure_1y": "ICD10CM//I50.*@365d",
    "new_diabetes_1y": "ICD10CM//E11.*@365d",
}
BASELINES = ("age_sex", "counts_lr", "counts_gbm")
COUNTS = ("counts, linear", "counts, boosted trees")
# The models of all seeds joined have learnt from the labels of all; what they are compared with is joined too.
ALL = ", all seeds"
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
# Fading sums have more: they gain most by it.
STEPS = {
    "behrt": (200, 200),
    "gpt2": (160, 100),
    "lstm": (200, 100),
    "visit_lstm": (1000, 400),
    "fading": (7000, 0),
}
RATE = {"behrt": 1.5e-3, "gpt2": 1.5e-3, "lstm": 1.5e-3, "visit_lstm": 3e-3, "fading": 3e-3}
# Rows of a batch and places of a row. Only sums cost the same however long a history is; BEHRT has a window a label.
ROWS = {"behrt": (16, 256), "gpt2": (16, 512), "lstm": (16, 512), "visit_lstm": (16, 512), "fading": (4, 2048)}
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


# How programs are compiled: settings of jax, as the environment has them.
_compiling: dict[str, str] = {}


def verb(*arguments: object) -> None:
    """Runs a verb of ehrjax."""
    side_by_side.verb(*arguments, environment=_compiling)


def trained(folder: Path, *arguments: object) -> Path:
    """A finished run in a folder; one that is finished is not opened again."""
    return side_by_side.trained(folder, *arguments, environment=_compiling)


def prepared(work: Path, args: argparse.Namespace) -> None:
    """The hospital, its labels with true probabilities, and tokens."""
    if not (work / "events").exists():
        verb(
            "ehrjax.prepare", "synthetic", f"--patients={args.patients}", "--splits=0.96,0.01", "--labels",
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


def known_labels(work: Path, task: str, seed: int, args: argparse.Namespace) -> Path:
    """The labels of a few patients of train, the same ones in all tasks, and of all of tuning and held-out."""
    import polars as pl

    every, folder = label_folder(work, task), work / f"labels-{seed}" / task
    if not folder.exists():
        split = pl.col("split") == "train"
        ids = pl.read_parquet(work / "events" / "metadata" / "subject_splits.parquet").filter(split)["subject_id"]
        chosen = np.random.default_rng(seed).permutation(ids.sort().to_numpy())[: args.labelled]
        unfinished = folder.with_name(f"{task}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(every, unfinished)
        known = pl.col("subject_id").is_in(chosen.tolist())
        for path in (unfinished / "train").glob("*.parquet"):
            pl.read_parquet(path).filter(known).write_parquet(path)
            beside = unfinished / "extension" / "train" / f"{path.stem}.arrow"
            pl.read_ipc(beside.read_bytes()).filter(known).write_ipc(beside)
        unfinished.rename(folder)
    return folder


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
        f"--config.data.labels={','.join(str(known_labels(work, task, seed, args)) for task in TASKS)}",
        "--config.num_epochs=0",
        f"--config.num_steps={steps}",
        f"--config.batch_size={rows}",
        f"--config.data.max_segments={places // 21}",
        "--config.optimizer.learning_rate=7e-4",
        "--config.optimizer.weight_decay=0.1",
        f"--config.schedule.warmup_steps={min(50, steps // 4)}",
        f"--config.eval_every={steps // 3}",
        "--config.early_stopping.patience=0",
        f"--config.seed={seed}",
        *QUIET,
    )


def evaluated(output: Path, labels: Path, *arguments: object) -> Path:
    """A report on the labels of a task; one that is there is not made again."""
    if not output.exists():
        verb("ehrjax.evaluate", f"--labels={labels}", *arguments, f"--output={output}")
    return output / "predictions"


def baselines(work: Path, task: str, seed: int, args: argparse.Namespace) -> Path:
    """What counts say."""
    chosen = f"--events={work / 'events'}", f"--baselines={','.join(BASELINES)}"
    return evaluated(work / f"baselines-{task}-{seed}", known_labels(work, task, seed, args), *chosen)


def frozen(work: Path, task: str, seed: int, args: argparse.Namespace) -> Path:
    """What the frozen model says without labels, and what boosted trees make of what it knows."""
    return evaluated(
        work / f"{FROZEN}-{task}-{seed}",
        known_labels(work, task, seed, args),
        f"--workdir={FROZEN}={pretrained(work, FROZEN, seed, args)}",
        f"--zero_shot={EVENTS[task]}",
        "--probe=trees",
        "--baselines=none",
    )


def reported(work: Path, task: str, args: argparse.Namespace) -> Path:
    """The report of a task on all runs and baselines: the folder of its predictions."""
    seeds = range(args.seeds)
    runs = [f"--workdir={model}_{seed}={finetuned(work, model, seed, args)}" for seed in seeds for model in MODELS]
    given = {f"{name}_{seed}": baselines(work, task, seed, args) / name for seed in seeds for name in BASELINES}
    own = [f"{kind}_{FROZEN}" for kind in ("zero_shot", "trees")]
    given |= {f"{name}_{seed}": frozen(work, task, seed, args) / name for seed in seeds for name in own}
    predictions = [f"--predictions={name}={path}" for name, path in given.items()]
    both = [f"--together=both_{seed}=" + ",".join(f"{name}_{seed}" for name in own) for seed in seeds]
    joined = {"all": own, **{f"{name}_all": [name] for name in BASELINES[1:]}} if args.seeds > 1 else {}
    every = [
        f"--together={name}=" + ",".join(f"{one}_{seed}" for seed in seeds for one in members)
        for name, members in joined.items()
    ]
    events = f"--events={work / 'events'}", "--baselines=none", "--reference=counts_lr_0"
    return evaluated(work / f"report-{task}", label_folder(work, task), *runs, *predictions, *both, *every, *events)


def sampled(work: Path, task: str, args: argparse.Namespace) -> Path:
    """Futures that GPT-2 samples behind some labels' histories, and its risks."""
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
    return futures


def zero_shot(work: Path, task: str, args: argparse.Namespace) -> Path:
    """A report on the labels that futures were sampled for: their risks beside what the first report holds."""
    first = reported(work, task, args)
    others = [f"--predictions={path.name}={path}" for path in sorted(first.iterdir()) if path.name != "oracle"]
    asked = f"--predictions=zero_shot_gpt2={sampled(work, task, args) / 'predictions' / (task + '.parquet')}"
    output = work / f"report-{task}-zero-shot"
    evaluated(output, label_folder(work, task), asked, *others, "--reference=counts_lr_0", "--partial")
    return output


def summary(work: Path, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """Baselines, the mean over seeds of each model, the best possible: AUROC, difference to counts, gap closed."""
    from ehrjax.evals import prediction_files, seeds

    folder, every, best = reported(work, task, args), range(args.seeds), "best possible"
    names = {label: [f"{name}_{seed}" for seed in every] for name, label in LABELS.items()}
    if args.seeds > 1:
        joined = {f"{name}_all": LABELS[name] for name in BASELINES[1:]} | {"all": LABELS["both"]}
        names |= {f"{label}{ALL}": [name] for name, label in joined.items()}
    names[best] = ["oracle"]
    given = {label: [folder / name / "held_out.parquet" for name in group] for label, group in names.items()}
    found = seeds.means(given)
    rows: dict[str, dict[str, Any]] = {}
    for label, mean in found.items():
        rows[label] = {"auroc": mean.shown(), "seeds": mean.seeds}
        for base in COUNTS:
            counts = found[f"{base}{ALL}" if label.endswith(ALL) else base]
            rows[label][f"less {base}"] = mean.less(counts)
            rows[label][f"closed from {base}"] = mean.closed(counts, found[best])
    truth = prediction_files.read(given[best][0]).truth
    return {"labels": len(truth), "positives": int(truth.sum()), "rows": rows}


def cell(found: Sequence[float | None], kind: str = ".3f") -> str:
    """A value with its interval, where there are such: as it is, as a difference, or as a share."""
    value, low, high = found
    if value is None:
        return "-"
    if kind == "share":
        return f"{100 * value:.0f} %" + ("" if low is None else f" ({100 * low:.0f} to {100 * high:.0f})")
    return f"{value:{kind}}" + ("" if low is None else f" ({low:{kind}} to {high:{kind}})")


def told(work: Path, task: str, args: argparse.Namespace) -> dict[str, Any]:
    """What is found for a task, said as a table too."""
    found = summary(work, task, args)
    print(f"\n**{TITLES[task]}**: {found['labels']:,} labels, {found['positives']:,} positive.\n")
    print("| | AUROC | less linear counts | gap closed | less trees on counts | gap closed |")
    print("|---|" + "---|" * 5)
    for label, row in found["rows"].items():
        cells = [cell(row["auroc"])]
        for base in COUNTS:
            less, closed = cell(row[f"less {base}"], "+.3f"), cell(row[f"closed from {base}"], "share")
            cells += ["", ""] if label.removesuffix(ALL) == base else [less, "" if label == "best possible" else closed]
        print(f"| {label} | " + " | ".join(cells) + " |")
    return found


def told_of_seeds(found: dict[str, Any]) -> None:
    """Says how far apart the seeds are, each of which has other labels to learn from."""
    labels = [label for label in LABELS.values() if len(next(iter(found.values()))["rows"][label]["seeds"]) > 1]
    if not labels:
        return
    print("\n| AUROC of each seed | " + " | ".join(TITLES[task] for task in found) + " |")
    print("|---|" + "---|" * len(found))
    for label in labels:
        cells = [", ".join(f"{one:.3f}" for one in own["rows"][label]["seeds"]) for own in found.values()]
        print(f"| {label} | " + " | ".join(cells) + " |")


def told_of_futures(work: Path, tasks: Iterable[str], args: argparse.Namespace) -> dict[str, Any]:
    """What is known without any label, beside what learnt from labels, said as a table too."""
    asked = {
        "zero_shot_gpt2": f"GPT-2, {args.samples} sampled futures",
        f"zero_shot_{FROZEN}_0": "fading sums, rates",
        "gpt2_0": "GPT-2, fine-tuned",
        "counts_lr_0": "counts, linear",
        "oracle": "best possible",
    }
    found = {}
    for task in tasks:
        result = json.loads((zero_shot(work, task, args) / "metrics.json").read_text())["result"]
        found[task] = {"labels": result["labels"], **{m["name"]: m["metrics"]["auroc"] for m in result["models"]}}
    print(f"\n| AUROC on up to {args.limit} labels | " + " | ".join(TITLES[task] for task in found) + " |")
    print("|---|" + "---|" * len(found))
    for name, label in asked.items():
        cells = [cell([one[name][what] for what in ("value", "low", "high")]) for one in found.values()]
        print(f"| {label} | " + " | ".join(cells) + " |")
    return found


@exits_cleanly
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work")
    parser.add_argument("--smoke", action="store_true")
    sizes = dict(patients=100_000, labelled=1000, seeds=3, samples=16, limit=600, parallel=2)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=float, default=1.0, help="times the steps of each training")
    parser.add_argument("--output")
    args = parser.parse_args()
    if args.smoke:
        args.patients, args.labelled, args.seeds, args.steps, args.samples, args.limit = 1000, 200, 1, 0.0, 2, 20
        _compiling["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # what runs for a moment need not be fast
        ROWS.update(dict.fromkeys(ROWS, (4, 128)))
    if args.output:
        files.check_place(Path(args.output))
    begun = time.monotonic()
    work = Path(args.work or tempfile.mkdtemp(prefix="synthetic-benchmark-"))
    side_by_side.claim(work, {name: getattr(args, name) for name in (*sizes, "smoke", "steps") if name != "parallel"})
    _compiling["JAX_COMPILATION_CACHE_DIR"] = str(work.resolve() / "programs")  # the seeds have the same programs
    prepared(work, args)
    tasks, seeds = TASKS[:1] if args.smoke else TASKS, range(args.seeds)
    for seed in seeds:
        for task in TASKS:
            known_labels(work, task, seed, args)
    jobs = [partial(pretrained, work, FROZEN, seed, args) for seed in seeds]
    jobs += [partial(finetuned, work, model, seed, args) for model in MODELS for seed in seeds]
    jobs += [partial(baselines, work, task, seed, args) for task in tasks for seed in seeds]
    at_once(args.parallel, jobs)
    jobs = [partial(sampled, work, task, args) for task in tasks]
    jobs += [partial(frozen, work, task, seed, args) for task in tasks for seed in seeds]
    at_once(args.parallel, jobs)
    jobs = [partial(zero_shot, work, task, args) for task in tasks]
    at_once(len(jobs) if args.parallel > 1 else 1, jobs, shared=True)
    found = {task: told(work, task, args) for task in tasks}
    told_of_seeds(found)
    for task, futures in told_of_futures(work, tasks, args).items():
        found[task]["zero_shot"] = futures
    print(f"\n{(time.monotonic() - begun) / 60:.0f} minutes in all")
    if args.output:
        # JSON has no NaN: a share of nothing is null.
        files.write_json(args.output, json.loads(json.dumps(found), parse_constant=lambda _: None))


if __name__ == "__main__":
    main()
