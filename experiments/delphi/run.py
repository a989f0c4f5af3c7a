"""Ten-year risks from sampled lives: a decoder over ages on Delphi's simulated histories, beside logistic regression.

    python experiments/delphi/run.py --data=DIR [--work=DIR] [--steps=1500] [--samples=64] [--output=FILE.json]

DIR holds train.bin and labels.csv of https://github.com/gerstung-lab/Delphi (data/ukb_simulated_data). Split by person;
the model is trained on the train split and stops early on tuning. For everybody else (held out) futures are sampled
from age 70 (death) and from 60 (a first I25, E11, J44, N18 of those without), and the ten-year risks compared with
logistic regression on the bag of codes by that age, fitted on the train split for each question, its penalty chosen on
tuning. A step that is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

QUESTIONS = {
    "death": (70, "MEDS_DEATH"),
    "I25": (60, "DIAGNOSIS//ICD10//I25"),
    "E11": (60, "DIAGNOSIS//ICD10//E11"),
    "J44": (60, "DIAGNOSIS//ICD10//J44"),
    "N18": (60, "DIAGNOSIS//ICD10//N18"),
}
YEARS = 10
DAY = 86_400_000_000
YEAR = 365.25 * DAY


def verb(*arguments: object) -> None:
    """Runs a verb of ehrjax."""
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


def asked(split, strings: list[str], age: int, code: str) -> pl.DataFrame:
    """Those alive at an age without the code: subject_id, prediction_time, boolean_value, and place in the split."""
    token, dead = strings.index(code), strings.index("MEDS_DEATH")
    rows = []
    for place in range(len(split)):
        subject = split.subject(place)
        at = round(age * YEAR)
        tokens, times = subject.tokens[subject.num_static :], subject.times[subject.num_static :]
        before = times <= at
        if not before.any() or (tokens[before] == dead).any() or (tokens[before] == token).any():
            continue
        within = (times > at) & (times <= at + YEARS * YEAR)
        rows.append((subject.subject_id, at, bool((tokens[within] == token).any()), place))
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, "boolean_value": pl.Boolean, "place": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))


def bags(split, frame: pl.DataFrame, size: int, events: np.ndarray) -> np.ndarray:
    """[N, V]: which events each has had by the prediction time (1 or 0), static ones included."""
    result = np.zeros((len(frame), size), np.float32)
    for row, (place, at) in enumerate(zip(frame["place"], frame["prediction_time"].to_physical())):
        subject = split.subject(place)
        static = subject.num_static
        stop = static + int(np.searchsorted(subject.times[static:], at, side="right"))
        result[row, subject.tokens[:stop]] = 1
    return result[:, events]


def logistic(dataset, frames: dict[str, pl.DataFrame], events: np.ndarray) -> np.ndarray:
    """Risks of the held-out, the penalty chosen by the log loss on tuning."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    size = len(dataset.vocabulary)
    x = {name: bags(dataset.split(name), frame, size, events) for name, frame in frames.items()}
    y = {name: frame["boolean_value"].to_numpy() for name, frame in frames.items()}
    best = None
    for c in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        model = LogisticRegression(C=c, max_iter=2000).fit(x["train"], y["train"])
        loss = log_loss(y["tuning"], model.predict_proba(x["tuning"])[:, 1], labels=[False, True])
        if best is None or loss < best[0]:
            best = loss, model
    return best[1].predict_proba(x["held_out"])[:, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work")
    for name, default in dict(steps=1500, samples=64, max_tokens=160, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output")
    args = parser.parse_args()
    work = Path(args.work or tempfile.mkdtemp(prefix="delphi-"))
    work.mkdir(parents=True, exist_ok=True)
    meds, tokens, run = (work / name for name in ("meds", "tokens", "run"))
    if not meds.exists():
        verb("ehrjax.prepare", "events", "--source=delphi", f"--input={args.data}", f"--output={meds}")
    if not tokens.exists():
        verb("ehrjax.prepare", "tokens", "--config=configs/tokens/lifelong.py", f"--input={meds}", f"--output={tokens}")
    verb(
        "ehrjax.train",
        "--config=configs/decoder.py:base",
        f"--workdir={run}",
        f"--config.data.path={tokens}",
        "--config.data.context_length=256",
        "--config.model.hidden_dim=128",
        "--config.model.mlp_dim=512",
        "--config.model.over=ages",
        "--config.batch_size=16",
        f"--config.num_steps={args.steps}",
        "--config.eval_every=150",
        "--config.schedule.warmup_steps=100",
        "--config.report.enabled=False",
        f"--config.seed={args.seed}",
    )
    from ehrjax.data import token_dataset
    from ehrjax.generation import clock
    from ehrjax.metrics import discrimination

    dataset = token_dataset.open_tokens(tokens)
    strings = dataset.vocabulary.strings
    events = np.flatnonzero(~clock.is_time(strings, dataset.info["recipe"]) & (np.arange(len(strings)) >= 5))
    everybody = dataset.split("held_out").subject_ids
    rows, draws, differences = {}, [], []
    for name, (age, code) in QUESTIONS.items():
        frames = {split: asked(dataset.split(split), strings, age, code) for split in ("train", "tuning", "held_out")}
        labels, futures = work / f"{name}.parquet", work / f"futures-{name}"
        if not futures.exists():
            frames["held_out"].drop("place").write_parquet(labels)
            verb(
                "ehrjax.generate",
                f"--workdir={run}",
                f"--input={tokens}",
                f"--labels={labels}",
                f"--task={name}={code}@{YEARS}y",
                f"--samples={args.samples}",
                f"--max_tokens={args.max_tokens}",
                "--no_trajectories",
                f"--output={futures}",
            )
        told = frames["held_out"].join(
            pl.read_parquet(futures / "risks.parquet"), on=["subject_id", "prediction_time"], maintain_order="left"
        )
        truth, subjects = told["boolean_value"].to_numpy(), told["subject_id"].to_numpy()
        scores = np.stack([told["combined"].to_numpy(), logistic(dataset, frames, events)])
        found, drawn = discrimination.aurocs(truth, scores, subjects, population=everybody)
        draws.append(drawn[0] - drawn[1])
        differences.append(found[0].value - found[1].value)
        rows[name] = {
            "age": age,
            "people": len(told),
            "positive": int(truth.sum()),
            "mean_risk": float(told["combined"].mean()),
            "sampled": found[0].as_dict(),
            "logistic": found[1].as_dict(),
            "difference": [differences[-1], *discrimination.interval(draws[-1])],
            "truncated": float(told["truncated"].mean()),
        }
        print(name, json.dumps(rows[name]), flush=True)
    mean = [float(np.mean(differences)), *discrimination.interval(np.mean(draws, axis=0))]
    result = {"questions": rows, "mean_difference": mean}
    print(json.dumps(result, indent=1))
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
