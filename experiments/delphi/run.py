"""Ten-year risks from sampled lives: a log-linear bag on Delphi's simulated histories, beside logistic regression.

    python experiments/delphi/run.py --data=DIR [--work=DIR] [--folds=5] [--steps=600] [--samples=160] [--parallel=2]
        [--output=FILE.json]

DIR holds train.bin and labels.csv of https://github.com/gerstung-lab/Delphi (data/ukb_simulated_data). Split by person
into folds, each held out once: of the others a tenth is for tuning, and the model is trained on the rest. For the
people of the fold futures are sampled from age 70 (death) and from 60 (a first I25, E11, J44, N18 of those without),
and the ten-year risks compared with logistic regression on sex and the bag of codes by that age, fitted on the same
people for each question, its penalty chosen on the same tuning people. AUROCs are means over folds; intervals resample
people within folds. Beside them, for scale, stands the same regression fitted on people at many ages (pooled).
A step that is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

QUESTIONS = {
    "death": (70, "MEDS_DEATH"),
    "I25": (60, "DIAGNOSIS//ICD10//I25"),
    "E11": (60, "DIAGNOSIS//ICD10//E11"),
    "J44": (60, "DIAGNOSIS//ICD10//J44"),
    "N18": (60, "DIAGNOSIS//ICD10//N18"),
}
MODELS = ("sampled", "logistic", "pooled")
YEARS = 10
OBSERVED = 80  # years; nobody is seen longer
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


def bags(frame: pl.DataFrame, size: int, age: int) -> sparse.csr_matrix:
    """[N, V + 1]: what each has had by the prediction time, sex included (1 or 0), and decades from `age`."""
    lengths = frame["known"].list.len().to_numpy()
    rows, columns = np.repeat(np.arange(len(frame)), lengths), frame["known"].explode().to_numpy()
    had = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(frame), size))
    had.data[:] = 1  # a code may come twice
    decades = (frame["prediction_time"].to_physical().to_numpy() / YEAR - age) / 10
    return sparse.hstack([had, sparse.csr_matrix(decades[:, None].astype(np.float32))], format="csr")


def logistic(frames: dict[str, pl.DataFrame], size: int, age: int) -> np.ndarray:
    """Risks of the held-out, the penalty chosen by the log loss on tuning."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x = {name: bags(frame, size, age) for name, frame in frames.items()}
    y = {name: frame["boolean_value"].to_numpy() for name, frame in frames.items()}
    best = None
    for c in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        model = LogisticRegression(C=c, max_iter=2000).fit(x["train"], y["train"])
        loss = log_loss(y["tuning"], model.predict_proba(x["tuning"])[:, 1], labels=[False, True])
        if best is None or loss < best[0]:
            best = loss, model
    return best[1].predict_proba(x["held_out"])[:, 1]


def trained(folder: Path, args: argparse.Namespace) -> Path:
    """The run on the people of a fold."""
    run = folder / "run"
    verb(
        "ehrjax.train",
        "--config=configs/bag.py",
        f"--workdir={run}",
        f"--config.data.path={folder / 'tokens'}",
        "--config.data.context_length=128",
        "--config.data.max_segments=12",
        # Blocks, chapters, and how many diagnoses there are.
        "--config.model.groups=('ICD10//([A-Z][0-9])','ICD10//([A-Z])','(DIAGNOSIS)//')",
        f"--config.objective.observed_until_age={float(OBSERVED)}",
        f"--config.optimizer.l2={args.l2}",
        "--config.optimizer.learning_rate=0.03",
        "--config.batch_size=32",
        f"--config.num_steps={args.steps}",
        "--config.eval_every=100",
        "--config.checkpoint_every=200",
        "--config.report.enabled=False",
        f"--config.seed={args.seed}",
    )
    return run


def sampled(folder: Path, age: int, args: argparse.Namespace) -> pl.DataFrame:
    """Of everybody alive at an age the risk of each question of that age, a row each."""
    output = folder / f"run-from{age}"
    if not output.exists():
        verb(
            "ehrjax.generate",
            f"--workdir={folder / 'run'}",
            f"--input={folder / 'tokens'}",
            f"--at=age:{age}",
            *(f"--task={name}={code}@{YEARS}y" for name, (at, code) in QUESTIONS.items() if at == age),
            f"--samples={args.samples}",
            f"--max_tokens={args.max_tokens}",
            "--no_trajectories",
            f"--output={output}",
        )
    return pl.read_parquet(output / "risks.parquet")


def compared(folder: Path, args: argparse.Namespace) -> dict[str, dict]:
    """One fold: of each question the AUROCs of MODELS with their resampled values."""
    from ehrjax.data import token_dataset
    from ehrjax.metrics import discrimination

    trained(folder, args)
    dataset = token_dataset.open_tokens(folder / "tokens")
    strings = dataset.vocabulary.strings
    everybody = dataset.split("held_out").subject_ids
    result = {}
    for age in sorted({age for age, _ in QUESTIONS.values()}):
        dead = strings.index("MEDS_DEATH")
        people = {name: histories(dataset.split(name), age, dead) for name in ("train", "tuning", "held_out")}
        # The same regression on people at many ages, as the model sees them.
        years = range(age - 10, min(age + 10, OBSERVED - YEARS) + 1, 2)
        many = pl.concat([histories(dataset.split("train"), year, dead) for year in years])
        risks = sampled(folder, age, args)
        for name, (at, code) in QUESTIONS.items():
            if at != age:
                continue
            frames = {part: asked(frame, strings.index(code)) for part, frame in people.items()}
            told = frames["held_out"].join(
                risks.filter(pl.col("task") == name), on=["subject_id", "prediction_time"], maintain_order="left"
            )
            truth, subjects = told["boolean_value"].to_numpy(), told["subject_id"].to_numpy()
            pooled = {**frames, "train": asked(many, strings.index(code))}
            regressions = [logistic(given, len(strings), age) for given in (frames, pooled)]
            scores = np.stack([told["combined"].to_numpy(), *regressions])
            found, drawn = discrimination.aurocs(truth, scores, subjects, population=everybody, seed=args.seed)
            result[name] = {
                "people": len(told),
                "positive": int(truth.sum()),
                "risk": float(scores[0].sum()),
                "error": float(told["combined_error"].sum()),
                "truncated": float(told["truncated"].sum()),
                "aurocs": np.array([one.value for one in found]),
                "drawn": drawn,
            }
            shown = ", ".join(f"{model} {one.value:.3f}" for model, one in zip(MODELS, found))
            print(f"{folder.name} {name}: {shown}", flush=True)
    return result


def of_fold(work: Path, fold: int, args: argparse.Namespace) -> dict[str, dict]:
    """A fold prepared and compared."""
    folder = work / f"fold{fold}"
    folder.mkdir(exist_ok=True)
    if not (folder / "meds").exists():
        split(work / "meds", folder / "meds", fold, args.folds)
    if not (folder / "tokens").exists():
        given = f"--input={folder / 'meds'}", f"--output={folder / 'tokens'}"
        verb("ehrjax.prepare", "tokens", "--config=configs/tokens/lifelong.py:ages", *given)
    return compared(folder, args)


def told(values: np.ndarray, drawn: np.ndarray) -> dict[str, list[float | None]]:
    """Of [models] AUROCs and [models, resamples]: each with its interval, and how much the sampled ones are above."""
    from ehrjax.metrics import discrimination

    found = {name: [float(v), *discrimination.interval(d)] for name, v, d in zip(MODELS, values, drawn)}
    for i, name in enumerate(MODELS[1:], 1):
        above = discrimination.interval(drawn[0] - drawn[i])
        found[f"sampled_minus_{name}"] = [float(values[0] - values[i]), *above]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work")
    for name, default in dict(folds=5, only=0, steps=600, samples=160, max_tokens=96, seed=0, parallel=2).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--l2", type=float, default=4e-4, help="strength of the prior")
    parser.add_argument("--output")
    args = parser.parse_args()
    work = Path(args.work or tempfile.mkdtemp(prefix="delphi-"))
    work.mkdir(parents=True, exist_ok=True)
    meds = work / "meds"
    if not meds.exists():
        verb("ehrjax.prepare", "events", "--source=delphi", f"--input={args.data}", f"--output={meds}")
    with ThreadPoolExecutor(args.parallel) as pool:
        folds = list(pool.map(lambda fold: of_fold(work, fold, args), range(args.only or args.folds)))
    rows, values, draws = {}, [], []
    for name, (age, _) in QUESTIONS.items():
        parts = [fold[name] for fold in folds]
        values.append(np.mean([part["aurocs"] for part in parts], axis=0))
        draws.append(np.mean([part["drawn"] for part in parts], axis=0))
        people = sum(part["people"] for part in parts)
        rows[name] = {
            "age": age,
            "people": people,
            "share": sum(part["positive"] for part in parts) / people,
            "mean_risk": sum(part["risk"] for part in parts) / people,
            "monte_carlo_error": sum(part["error"] for part in parts) / people,
            "truncated": sum(part["truncated"] for part in parts) / people,
            **told(values[-1], draws[-1]),
        }
    result = {"questions": rows, "mean": told(np.mean(values, axis=0), np.mean(draws, axis=0))}
    print(json.dumps(result, indent=1))
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
