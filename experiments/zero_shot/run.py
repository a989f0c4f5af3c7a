"""Zero-shot readmission on the synthetic hospital: trained on no label, how near does GPT-2 come to the best possible?

    python experiments/zero_shot/run.py [--work=DIR] [--patients=8000] [--steps=1700] [--samples=16] [--limit=800]
        [--output=FILE.json]

Simulates patients, trains `configs/gpt2.py:micro` on the next token, measures its tuning perplexity against an
interpolated trigram model on the same targets, samples futures behind every discharge of the held-out patients, and
compares the risks with age-sex logistic regression (fitted on the train labels) and the true probabilities. A step that
is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

TASK, EVENT = "readmission_30d", "ENCOUNTER//INPATIENT"


def verb(*arguments: object) -> float:
    """Runs a verb of ehrjax; the seconds it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)
    return time.perf_counter() - start


def perplexities(run: Path, tokens: Path) -> dict[str, float]:
    """Of the model and of the trigram model (its weights fitted on the tuning split itself), a target each."""
    import jax

    import ehrjax
    from ehrjax.core import mesh as meshes
    from ehrjax.data import pipeline, token_dataset
    from ehrjax.evals import tuning
    from ehrjax.metrics import ngrams
    from ehrjax.training import step

    opened = ehrjax.load(run)
    dataset = token_dataset.open_tokens(tokens)
    settings = pipeline.Settings(**{**opened.config["data"], "path": str(tokens), "eval_batches": 0})
    rows = opened.config["batch_size"]
    batches = tuning.SplitBatches(
        dataset.split("tuning"), settings, meshes.make(meshes.Settings()), opened.parts.fields, rows, 0
    )
    loss = tuning.TuningLoss(batches, jax.jit(step.make_eval_step(opened.model, opened.objective)))(opened.params)
    train = dataset.split("train")
    epoch = pipeline.plan_epoch(train, settings, seed=None)
    seen = []
    for index in range(epoch.num_batches(rows)):
        batch = pipeline.make_batch(train, epoch, settings, rows=range(rows), batch_size=rows, index=index)
        seen.append(ngrams.windows(batch["tokens"], batch["segment_ids"]))
    held = [ngrams.windows(host["tokens"], host["segment_ids"]) for host, _, _ in batches]
    contexts, targets = (np.concatenate(parts) for parts in zip(*seen))
    held_pair = tuple(np.concatenate(parts) for parts in zip(*held))
    trigrams = ngrams.fit(contexts, targets, len(dataset.vocabulary), held_pair)
    return {
        "targets": len(held_pair[1]),
        "gpt2": float(np.exp(loss["tuning_loss"])),
        "trigrams": float(np.exp(trigrams.losses(*held_pair).mean())),
    }


def age_and_sex(tokens: Path, labels: Path, asked: pl.DataFrame) -> np.ndarray:
    """Risks by logistic regression on age (with its square) and sex, fitted on the labels of train."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from ehrjax.data import token_dataset
    from ehrjax.ingest.labels import reading

    dataset = token_dataset.open_tokens(tokens)
    male = dataset.vocabulary.ids["GENDER//M"]

    def features(split: str, frame: pl.DataFrame) -> np.ndarray:
        subjects = dataset.split(split)
        places = {int(s): i for i, s in enumerate(subjects.subject_ids)}
        rows = []
        for subject_id, at in zip(frame["subject_id"], frame["prediction_time"].to_physical()):
            subject = subjects.subject(places[subject_id])
            age = (at - subject.birth_time) / (365.25 * 86_400e6)
            rows.append((age, age**2, male in subject.tokens[: subject.num_static]))
        return np.array(rows, np.float64)

    train = reading.read_labels(labels).frame.filter(pl.col("split") == "train")
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(features("train", train), train["boolean_value"].to_numpy())
    return model.predict_proba(features("held_out", asked))[:, 1]


def compare(work: Path, tokens: Path, labels: Path) -> dict[str, object]:
    """AUROCs with intervals over subjects, and the share of the gap from age and sex to the truth that is closed."""
    from ehrjax.ingest.labels import reading
    from ehrjax.metrics import discrimination

    risks = pl.read_parquet(work / "futures" / "risks.parquet")
    truth = reading.read_labels(labels).frame.filter(pl.col("split") == "held_out")
    joined = risks.join(truth, on=["subject_id", "prediction_time"], how="inner", maintain_order="left")
    names = ["combined", "expected", "count", "age and sex", "truth"]
    scores = [joined[name].to_numpy() for name in names[:3]]
    scores += [age_and_sex(tokens, labels, joined), joined["true_probability"].to_numpy()]
    happened, subjects = joined["boolean_value"].to_numpy(), joined["subject_id"].to_numpy()
    found, drawn = discrimination.aurocs(happened, np.stack(scores), subjects)
    by_name, draws = dict(zip(names, found)), dict(zip(names, drawn))
    base, top = by_name["age and sex"].value, by_name["truth"].value
    closed = (draws["combined"] - draws["age and sex"]) / (draws["truth"] - draws["age and sex"])
    above = discrimination.interval(draws["combined"] - draws["age and sex"])
    errors = {name: float((joined[f"{name}_error"] ** 2).mean()) for name in names[:3]}
    return {
        "labels": len(joined),
        "subjects": len(np.unique(subjects)),
        "positive": float(happened.mean()),
        "mean_risk": float(joined["combined"].mean()),
        "auroc": {name: estimate.as_dict() for name, estimate in by_name.items()},
        "above_age_and_sex": [by_name["combined"].value - base, *above],
        "gap_closed": [(by_name["combined"].value - base) / (top - base), *discrimination.interval(closed)],
        "samples_for_the_same_error": {name: errors["count"] / errors[name] for name in ("expected", "combined")},
        "truncated": float(joined["truncated"].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work")
    for name, default in dict(patients=8_000, steps=1700, samples=16, limit=800, batch_size=4, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output")
    args = parser.parse_args()
    work = Path(args.work or tempfile.mkdtemp(prefix="zero-shot-"))
    work.mkdir(parents=True, exist_ok=True)
    meds, tokens, run, futures = (work / name for name in ("meds", "tokens", "run", "futures"))
    seconds = {}
    if not meds.exists():
        verb(
            "ehrjax.prepare",
            "synthetic",
            f"--patients={args.patients}",
            f"--seed={args.seed}",
            "--labels",
            f"--output={meds}",
        )
    if not tokens.exists():
        verb(
            "ehrjax.prepare", "tokens", "--config=configs/tokens/generative.py", f"--input={meds}", f"--output={tokens}"
        )
    seconds["training"] = verb(
        "ehrjax.train",
        "--config=configs/gpt2.py:micro",
        f"--workdir={run}",
        f"--config.data.path={tokens}",
        f"--config.num_steps={args.steps}",
        f"--config.batch_size={args.batch_size}",
        f"--config.seed={args.seed}",
        f"--config.schedule.warmup_steps={min(200, args.steps // 5)}",
        # Two passes leave nothing to learn by heart.
        "--config.model.dropout=0.0",
        "--config.model.attention_dropout=0.0",
        "--config.data.eval_batches=40",
        "--config.log_every=100",
    )
    if not futures.exists():
        seconds["sampling"] = verb(
            "ehrjax.generate",
            f"--workdir={run}",
            f"--input={tokens}",
            f"--labels={meds / 'labels' / TASK}",
            f"--task={TASK}={EVENT}@30d",
            f"--samples={args.samples}",
            f"--limit={args.limit}",
            "--no_trajectories",
            f"--output={futures}",
        )
    result = {
        "seconds": seconds,
        **compare(work, tokens, meds / "labels" / TASK),
        "perplexity": perplexities(run, tokens),
    }
    print(json.dumps(result, indent=1))
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
