"""Ten-year risks from sampled lives: a decoder over ages on Delphi's simulated histories, beside logistic regression.

    python experiments/delphi/run.py --data=DIR [--work=DIR] [--folds=5] [--models=2] [--steps=1500] [--samples=64]
        [--output=FILE.json]

DIR holds train.bin and labels.csv of https://github.com/gerstung-lab/Delphi (data/ukb_simulated_data). Split by person
into folds, each held out once: of the others a tenth is for tuning, and the model is trained on the rest (--models of
them, whose risks are averaged). For the people of the fold futures are sampled from age 70 (death) and from 60 (a first
I25, E11, J44, N18 of those without), and the ten-year risks compared with logistic regression on sex and the bag of
codes by that age, fitted on the same people for each question, its penalty chosen on the same tuning people. AUROCs are
means over folds; intervals resample people within folds. A step that is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
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
YEAR = 365.25 * 86_400_000_000


def verb(*arguments: object) -> None:
    """Runs a verb of ehrjax."""
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True)


def split(meds: Path, folder: Path, fold: int, folds: int) -> None:
    """The dataset with one fold held out and a tenth of the others for tuning."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(meds, part)
    path = part / "metadata" / "subject_splits.parquet"
    people = pl.read_parquet(path).sort("subject_id")
    rank = np.random.default_rng(0).permutation(len(people))
    others = np.where(rank // folds % 10 == 0, "tuning", "train")
    people.with_columns(pl.Series("split", np.where(rank % folds == fold, "held_out", others))).write_parquet(path)
    part.rename(folder)


def histories(split, age: int, dead: int) -> pl.DataFrame:
    """Those alive at an age with a history: subject_id, prediction_time, tokens by then, and within ten years after."""
    rows = []
    at = round(age * YEAR)
    for place in range(len(split)):
        subject = split.subject(place)
        tokens, times = subject.tokens, subject.times
        known = (times <= at) | (np.arange(len(tokens)) < subject.num_static)
        if known[subject.num_static :].any() and dead not in tokens[known]:
            later = tokens[~known & (times <= at + YEARS * YEAR)]
            rows.append((subject.subject_id, at, tokens[known].tolist(), later.tolist()))
    tokens = pl.List(pl.Int32)
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, "known": tokens, "later": tokens}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))


def asked(frame: pl.DataFrame, token: int) -> pl.DataFrame:
    """Those without the code, and whether they get it."""
    frame = frame.filter(~pl.col("known").list.contains(token))
    return frame.with_columns(pl.col("later").list.contains(token).alias("boolean_value"))


def bags(frame: pl.DataFrame, size: int) -> np.ndarray:
    """[N, V]: what each has had by the prediction time, sex included (1 or 0)."""
    result = np.zeros((len(frame), size), np.float32)
    for row, tokens in enumerate(frame["known"]):
        result[row, tokens.to_numpy()] = 1
    return result


def logistic(frames: dict[str, pl.DataFrame], size: int) -> np.ndarray:
    """Risks of the held-out, the penalty chosen by the log loss on tuning."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x = {name: bags(frame, size) for name, frame in frames.items()}
    y = {name: frame["boolean_value"].to_numpy() for name, frame in frames.items()}
    best = None
    for c in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        model = LogisticRegression(C=c, max_iter=2000).fit(x["train"], y["train"])
        loss = log_loss(y["tuning"], model.predict_proba(x["tuning"])[:, 1], labels=[False, True])
        if best is None or loss < best[0]:
            best = loss, model
    return best[1].predict_proba(x["held_out"])[:, 1]


def trained(folder: Path, seed: int, args: argparse.Namespace) -> Path:
    """The run of one model on the people of a fold."""
    run = folder / f"run{seed}"
    verb(
        "ehrjax.train",
        "--config=configs/decoder.py:timed",
        f"--workdir={run}",
        f"--config.data.path={folder / 'tokens'}",
        "--config.data.context_length=64",
        "--config.data.max_segments=8",
        "--config.model.num_layers=2",
        "--config.model.hidden_dim=128",
        "--config.model.mlp_dim=512",
        "--config.model.dropout=0.2",
        "--config.model.attention_dropout=0.2",
        "--config.model.init=normal",
        "--config.model.bag=True",
        "--config.optimizer.weight_decay=0.1",
        "--config.batch_size=32",
        "--config.objective.observed_until_age=80.0",
        f"--config.num_steps={args.steps}",
        "--config.eval_every=100",
        "--config.schedule.warmup_steps=60",
        "--config.report.enabled=False",
        f"--config.seed={seed}",
    )
    return run


def sampled(folder: Path, age: int, args: argparse.Namespace) -> pl.DataFrame:
    """Of everybody alive at an age the risk of each question of that age: the mean over the models, a row each."""
    told = []
    for seed in range(args.seed, args.seed + args.models):
        output = folder / f"run{seed}-from{age}"
        if not output.exists():
            verb(
                "ehrjax.generate",
                f"--workdir={folder / f'run{seed}'}",
                f"--input={folder / 'tokens'}",
                f"--at=age:{age}",
                *(f"--task={name}={code}@{YEARS}y" for name, (at, code) in QUESTIONS.items() if at == age),
                f"--samples={-(-args.samples // args.models)}",
                f"--max_tokens={args.max_tokens}",
                "--no_trajectories",
                f"--output={output}",
            )
        told.append(pl.read_parquet(output / "risks.parquet"))
    keys = ["subject_id", "prediction_time", "task"]
    return pl.concat(told).group_by(keys, maintain_order=True).agg(pl.col("combined", "truncated").mean())


def compared(folder: Path, args: argparse.Namespace) -> dict[str, dict]:
    """One fold: a question's truth, and AUROCs of the models and of logistic regression with their resampled values."""
    from ehrjax.data import token_dataset
    from ehrjax.metrics import discrimination

    for seed in range(args.seed, args.seed + args.models):
        trained(folder, seed, args)
    dataset = token_dataset.open_tokens(folder / "tokens")
    strings = dataset.vocabulary.strings
    everybody = dataset.split("held_out").subject_ids
    result = {}
    for age in sorted({age for age, _ in QUESTIONS.values()}):
        dead = strings.index("MEDS_DEATH")
        people = {name: histories(dataset.split(name), age, dead) for name in ("train", "tuning", "held_out")}
        risks = sampled(folder, age, args)
        for name, (at, code) in QUESTIONS.items():
            if at != age:
                continue
            frames = {part: asked(frame, strings.index(code)) for part, frame in people.items()}
            told = frames["held_out"].join(
                risks.filter(pl.col("task") == name), on=["subject_id", "prediction_time"], maintain_order="left"
            )
            truth, subjects = told["boolean_value"].to_numpy(), told["subject_id"].to_numpy()
            scores = np.stack([told["combined"].to_numpy(), logistic(frames, len(strings))])
            found, drawn = discrimination.aurocs(truth, scores, subjects, population=everybody, seed=args.seed)
            result[name] = {
                "people": len(told),
                "positive": int(truth.sum()),
                "risk": float(scores[0].sum()),
                "truncated": float(told["truncated"].sum()),
                "aurocs": np.array([one.value for one in found]),
                "drawn": drawn,
            }
            print(f"{folder.name} {name}: {found[0].value:.3f} against {found[1].value:.3f}", flush=True)
    return result


def told(values: np.ndarray, drawn: np.ndarray) -> list[float | None]:
    """A value and its interval."""
    from ehrjax.metrics import discrimination

    return [float(values), *discrimination.interval(drawn)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work")
    for name, default in dict(folds=5, only=0, models=2, steps=1500, samples=64, max_tokens=96, seed=0).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output")
    args = parser.parse_args()
    work = Path(args.work or tempfile.mkdtemp(prefix="delphi-"))
    work.mkdir(parents=True, exist_ok=True)
    meds = work / "meds"
    if not meds.exists():
        verb("ehrjax.prepare", "events", "--source=delphi", f"--input={args.data}", f"--output={meds}")
    folds = []
    for fold in range(args.only or args.folds):
        folder = work / f"fold{fold}"
        folder.mkdir(exist_ok=True)
        if not (folder / "meds").exists():
            split(meds, folder / "meds", fold, args.folds)
        if not (folder / "tokens").exists():
            given = f"--input={folder / 'meds'}", f"--output={folder / 'tokens'}"
            verb("ehrjax.prepare", "tokens", "--config=configs/tokens/lifelong.py:ages", *given)
        folds.append(compared(folder, args))
    rows, values, draws = {}, [], []
    for name, (age, _) in QUESTIONS.items():
        parts = [fold[name] for fold in folds]
        found = np.mean([part["aurocs"] for part in parts], axis=0)
        drawn = np.mean([part["drawn"] for part in parts], axis=0)
        values.append(found[0] - found[1])
        draws.append(drawn[0] - drawn[1])
        people = sum(part["people"] for part in parts)
        rows[name] = {
            "age": age,
            "people": people,
            "share": sum(part["positive"] for part in parts) / people,
            "mean_risk": sum(part["risk"] for part in parts) / people,
            "truncated": sum(part["truncated"] for part in parts) / people,
            "sampled": told(found[0], drawn[0]),
            "logistic": told(found[1], drawn[1]),
            "difference": told(values[-1], draws[-1]),
        }
    result = {"questions": rows, "mean_difference": told(np.mean(values), np.mean(draws, axis=0))}
    print(json.dumps(result, indent=1))
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
