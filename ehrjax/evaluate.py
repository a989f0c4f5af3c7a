"""Judges runs and files of predictions by labels, and writes one report: `python -m ehrjax.evaluate --help`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ehrjax.core import memory
from ehrjax.core.errors import InputError, exits_cleanly
from ehrjax.evals.settings import BY_LABELS, LINEAR, PROBES, SHOTS, WHERE_POSSIBLE, Joined

# A file system's names are of 255 bytes, and to ours something may be added.
_LONGEST_NAME = 60


def evaluate(args: argparse.Namespace) -> None:
    """Runs the command."""
    import ehrjax
    from ehrjax.core import files
    from ehrjax.evals import evaluating
    from ehrjax.evals.settings import Settings

    files.refuse_existing(args.output, what="evaluation")
    for name, least in (("resamples", 1), ("seed", 0)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} is {getattr(args, name)}; it must be at least {least}.")
    if args.seed >= 2**32:
        raise InputError(f"--seed is {args.seed}; it must be below 2^32.")
    runs = _named(args.workdir)
    given = _named(args.predictions)
    if twice := sorted(set(runs) & set(given)):
        raise InputError(f"A run and a file are called {twice[0]}; give one another name (NAME=PATH).")
    if runs and not args.labels:
        raise InputError("Runs are judged by labels; name a label folder as --labels=DIR.")
    opened = {name: ehrjax.load(path) for name, path in runs.items()}
    events = args.events if args.events is not None else "" if args.input else _embedded_events(opened)
    baselines = args.baselines.split(",") if args.baselines is not None else ([WHERE_POSSIBLE] if events else [])
    groups, columns = _groups(args.groups)
    settings = Settings(
        labels=args.labels,
        output=args.output,
        split=args.split,
        since=_date(args.since, "since"),
        until=_date(args.until, "until"),
        input=args.input,
        events=events,
        decode=args.decode,
        baselines=tuple(name for name in baselines if name and name != "none"),
        probes=_probes(args.probe, few_shot=bool(args.few_shot and opened)),
        zero_shot=args.zero_shot,
        joined=_joined(args.joined),
        few_shot=_sizes(args.few_shot),
        shots=args.shots,
        group_file=groups,
        group_columns=columns,
        robustness=args.robustness,
        sites={name: _site(name, path) for name, path in _named(args.site).items()},
        reference=args.reference,
        resamples=args.resamples,
        seed=args.seed,
        force=args.force,
        partial=args.partial,
    )
    told = evaluating.evaluate(opened, given, settings, lambda line: print(line, flush=True))
    _tell(told)
    print(f"report: {Path(args.output) / 'index.html'}")


def _named(given: Sequence[str]) -> dict[str, str]:
    """NAME=PATH, or PATH, whose last part is the name (of one called `run` or `predictions` the one before)."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or "/" in name:  # a path may hold an = of its own
            path = text
            bare = Path(text.removesuffix(".parquet").removesuffix(".csv"))
            parts = [part for part in bare.parts if part not in ("run", "predictions", "/", "..")]
            name = parts[-1] if parts else "model"
        if not path:
            raise InputError(f"{text!r} names no path; write NAME=PATH.")
        name = _name(name, text)
        if name in found:
            raise InputError(f"Two are called {name}; give one another name (NAME=PATH).")
        found[name] = path
    return found


def _name(name: str, text: str) -> str:
    """The name of a model, as a folder can have it."""
    name = re.sub(r"[^\w.-]+", "_", name)
    if not re.search(r"\w", name) or len(name) > _LONGEST_NAME:
        raise InputError(f"{text!r} has no name that a folder could have; write NAME=PATH, or --together=NAME=A,B.")
    return name


def _embedded_events(runs: dict[str, Any]) -> str:
    """The events of the embedded hospital that a run was trained on, or nothing."""
    for run in runs.values():
        tokens = Path(run.config["data"].get("path", ""))
        if tokens.parent.name == "data" and (tokens.parent / "events").is_dir():
            return str(tokens.parent / "events")
    return ""


def _groups(text: str) -> tuple[str, tuple[str, ...]]:
    if not text:
        return "", ()
    path, _, columns = text.rpartition(":")
    if not path or not columns:
        raise InputError(f"--groups is {text!r}; write FILE:COLUMN,COLUMN.")
    chosen = tuple(columns.split(","))
    if wrong := [name for name in chosen if chosen.count(name) > 1 or name in ("subject_id", "prediction_time", "")]:
        raise InputError(f"--groups names {wrong[0]!r}; name columns of groups, each once.")
    return path, chosen


def _joined(given: Sequence[tuple[bool, str]]) -> dict[str, Joined]:
    found: dict[str, Joined] = {}
    for stacked, text in given:
        given_name, _, members = text.partition("=")
        own = Joined(tuple(filter(None, members.split(","))), stacked)
        name = _name(given_name, text)
        if len(own.members) < 2:
            raise InputError(f"{own.option} is {text!r}; write NAME=A,B with the names of at least two models.")
        if name in found:
            raise InputError(f"Two are called {name}; give one another name ({own.option}=NAME=A,B).")
        found[name] = own
    return found


def _probes(text: str, *, few_shot: bool) -> tuple[str, ...]:
    """In the order of PROBES; few-shot curves take vectors as the linear ones do."""
    chosen = {*filter(None, text.split(",")), *([LINEAR] if few_shot else [])}
    if unknown := sorted(chosen - set(PROBES)):
        raise InputError(f"--probe has {unknown[0]!r}; choose {', '.join(PROBES)}.")
    return tuple(kind for kind in PROBES if kind in chosen)


def _sizes(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    try:
        sizes = SHOTS if text == "all" else tuple(sorted({int(k) for k in text.split(",")}))
    except ValueError as error:
        raise InputError(f"--few_shot is {text!r}; write whole numbers with commas, or all.") from error
    if sizes[0] < 1:
        raise InputError(f"--few_shot has {sizes[0]}; it takes numbers of labels of each answer, from 1 on.")
    return sizes


def _date(text: str, option: str) -> datetime | None:
    """A date or time as MEDS has them: in UTC, without a time zone."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found
    except (ValueError, OverflowError) as error:
        raise InputError(f"--{option} is {text!r}; write a date such as 2019-01-31.") from error


def _site(name: str, text: str) -> tuple[str, str]:
    tokens, comma, labels = text.partition(",")
    if not comma or not tokens or not labels:
        raise InputError(f"--site {name} is {text!r}; write NAME=TOKENS,LABELS.")
    return tokens, labels


def _tell(told: dict[str, Any]) -> None:
    """The primary metric of each model, a line each."""
    result = told["result"]
    label = next(m["label"] for m in result["metrics"] if m["name"] == result["primary"])
    print(f"{result['labels']:,} labels of {result['subjects']:,} subjects; {label}:")
    width = max(len(model["label"]) for model in result["models"])
    for model in result["models"]:
        found = model["metrics"][result["primary"]]
        shown = f"no value: {found['reason']}" if found["value"] is None else f"{found['value']:.3f}"
        if found["low"] is not None:
            shown += f" ({found['low']:.3f} to {found['high']:.3f})"
        print(f"  {model['label']:<{width}}  {shown}")
    for note in told["warnings"]:
        print(f"warning: {note}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ehrjax.evaluate",
        description="Judges runs and files of predictions by labels: one report (docs/evaluation.md).",
    )
    add = parser.add_argument
    add("--workdir", action="append", default=[], metavar="[NAME=]RUN", help="a run; repeat it to compare several")
    add(
        "--predictions",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="anybody's predictions: a file in the MEDS prediction schema, or a folder with tuning.parquet beside it",
    )
    add("--labels", default="", help="a label folder or file; without it the predictions' own truth is taken")
    add("--output", required=True, help="the folder to write")
    add("--split", default="held_out", choices=("held_out", "tuning", "train"), help="whose labels judge")
    add("--since", default="", metavar="DATE", help="judge only labels from this prediction time on")
    add("--until", default="", metavar="DATE", help="judge only labels before this prediction time")
    add("--input", default="", help="a token dataset for all runs; default: each run's own")
    add("--events", help="the MEDS dataset of the labels: baselines and groups come from it")
    add("--decode", default="", help="what whole numbers in labels mean: at_least_one or chexpert")
    add("--baselines", help="with commas, none or all; default all where there are events")
    add(
        "--probe",
        nargs="?",
        const=LINEAR,
        default="",
        metavar="KIND,KIND",
        help="also models on the frozen vectors of each run: linear (default), trees",
    )
    add(
        "--zero_shot",
        nargs="?",
        const=BY_LABELS,
        default="",
        metavar="CODE@HORIZON",
        help="also the risk of a code that runs of times to events know without labels; default: what the labels ask",
    )
    # In the order in which they are given, since each may name those before it.
    join = partial(add, action="append", dest="joined", default=[], metavar="NAME=A,B")
    join("--together", type=lambda text: (False, text), help="also the mean log odds of A and B")
    join("--stacked", type=lambda text: (True, text), help="also A's and B's log odds, weighted as tuning says best")
    add("--few_shot", default="", metavar="K,K,...", help="curves over k labels of each answer; all: 1 to 128")
    add("--shots", default="", help="EHRSHOT's all_shots_data.json; default: seeded draws")
    add("--groups", default="", metavar="FILE:COLUMN,...", help="further groups, by subject_id (and prediction_time)")
    add("--robustness", action="store_true", help="also on records made worse: less recorded, noise, unknown codes")
    add("--site", action="append", default=[], metavar="NAME=TOKENS,LABELS", help="also at another site")
    add("--reference", default="", help="what differences are taken to; default counts_lr, or the first")
    add("--resamples", type=int, default=1000, help="of subjects, for the intervals")
    add("--seed", type=int, default=0)
    add("--force", action="store_true", help="judge by subjects that were trained on; the report says so")
    add("--partial", action="store_true", help="leave out labels without predictions, and the other way round")
    return parser


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    memory.keep_freed()
    evaluate(_parser().parse_args(argv if argv is not None else sys.argv[1:]))


if __name__ == "__main__":
    main()
