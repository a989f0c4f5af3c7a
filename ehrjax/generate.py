"""Futures sampled from a run, and the risks that they show: `python -m ehrjax.generate --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ehrjax.core import memory, progress
from ehrjax.core.errors import InputError, exits_cleanly


def generate(args: argparse.Namespace) -> None:
    """Runs the command."""
    import ehrjax
    from ehrjax.core import files
    from ehrjax.data import token_dataset
    from ehrjax.generation import asking, clock, decode, generating, prompts, sampling, schedule
    from ehrjax.vocab import events

    if (args.labels is None) == (args.at is None):
        raise InputError("Say when is asked: --labels=FILE or --at=TIME, one of them.")
    whole = dict(samples=1, max_tokens=1, limit=0, groups=1, rows=1, chunk=1, seed=0, prompt_tokens=0)
    for name, least in whole.items():
        if getattr(args, name) < least:
            raise InputError(f"--{name} is {getattr(args, name)}; it must be at least {least}.")
    files.refuse_existing(args.output, what="generation")
    run = ehrjax.load(args.workdir)
    dataset = token_dataset.open_tokens(args.input)
    if dataset.vocabulary.fingerprint != run.vocabulary.fingerprint:
        raise InputError(
            f"{args.input} is in another vocabulary ({len(dataset.vocabulary)} tokens) than {args.workdir} "
            f"({len(run.vocabulary)}); prepare the tokens with --fitted-from, or convert the run's vocabulary."
        )
    horizon = events.minutes(args.horizon) if args.horizon else None
    any_time = events.NO_HORIZON if horizon is None else horizon
    stops = events.ends(run.vocabulary, args.stop)
    splits = [dataset.split(name) for name in _splits(args.split)]
    asked, known, truth_of = _asked(args, splits, run, horizon)
    asked, dead = asking.alive(splits, asked, events.ends(run.vocabulary, []))
    if dead:
        print(f"{dead:,} prediction times lie at or behind a death on record: left out", flush=True)
    chosen = [events.parse(text, run.vocabulary, any_time) for text in args.task]
    if not chosen and known is not None:
        chosen = [known]
    if not chosen:
        chosen = [
            events.Event(_file_name(code), events.tokens_of(run.vocabulary, [code], where="--stop"), any_time)
            for code in args.stop
        ]
    if len({event.name for event in chosen}) < len(chosen):
        raise InputError("Two tasks have one name; give each --task=NAME=... its own.")
    if "boolean_value" in asked.columns and chosen and truth_of not in {event.name for event in chosen}:
        print(f"none of the tasks is called {truth_of}, as the labels are: predictions have no truth beside them")
    if not chosen and args.no_trajectories:
        raise InputError("There is nothing to tell: --no_trajectories needs --task, --stop or labels of a known task.")
    shape = schedule.Shape(
        groups=args.groups, each=min(args.rows, args.samples), prefill=min(args.groups, 4), chunk=args.chunk
    )
    settings = generating.Settings(
        samples=args.samples,
        max_tokens=args.max_tokens,
        seed=args.seed,
        sampling=sampling.Settings(args.temperature, args.top_k, args.top_p),
        shape=shape,
        trajectories=not args.no_trajectories,
        estimator=args.estimator,
        prompt_tokens=args.prompt_tokens,
        horizon=horizon or 0,
    )
    limits = decode.limits(run, args.max_tokens)
    context = run.config["data"]["context_length"]
    if args.prompt_tokens > context:
        raise InputError(
            f"--prompt_tokens={args.prompt_tokens} is more than the context of {context} tokens of {args.workdir}."
        )
    made = prompts.make(splits, asked, most=generating.room(limits, context, settings))
    fitted = dataset if args.clock is None else token_dataset.open_tokens(args.clock)
    if fitted.vocabulary.fingerprint != run.vocabulary.fingerprint:
        raise InputError(f"{args.clock} is in another vocabulary than {args.workdir}; name its training tokens.")
    if not len(fitted.split("train")):
        raise InputError(f"{fitted.folder} has no train split; name the tokens of training as --clock.")
    ticks = clock.fit(fitted.split("train"), run.vocabulary.strings, fitted.info["recipe"])
    bar, advance = progress.bar()
    begun = time.perf_counter()
    with bar:
        summary = generating.generate(
            run,
            asked,
            made,
            args.output,
            settings,
            ticks=ticks,
            stops=stops,
            events=chosen,
            truth_of=truth_of,
            progress=advance,
        )
    seconds = time.perf_counter() - begun
    _tell(args, summary, seconds)


def _asked(args: argparse.Namespace, splits: Sequence[Any], run: Any, horizon: int | None) -> tuple[Any, Any, str]:
    """(subject_id, prediction_time, perhaps boolean_value); the event that a label folder asks about; its name."""
    import polars as pl

    from ehrjax.generation import asking
    from ehrjax.ingest.labels import reading
    from ehrjax.vocab import events

    offset = 0
    if args.offset:
        offset = events.minutes(args.offset)
    if args.at is not None:
        tokens = None
        if args.at.startswith(asking.AFTER):
            tokens = events.tokens_of(run.vocabulary, [args.at.removeprefix(asking.AFTER)], where="--at")
        asked, known, name = asking.at(splits, args.at, tokens=tokens, offset=offset), None, ""
    else:
        if offset:
            raise InputError("--offset goes with --at; labels have prediction times of their own.")
        labels = reading.read_labels(args.labels)
        names = [split.name for split in splits]
        frame = labels.frame
        # Labels that do not say their split are looked for in the chosen splits.
        frame = frame.filter(pl.col("split").is_in(names) | pl.col("split").is_null())
        columns = ["subject_id", "prediction_time"] + (["boolean_value"] if labels.value == "boolean_value" else [])
        asked = frame.select(columns).unique(maintain_order=True)
        twice = asked.filter(~pl.struct("subject_id", "prediction_time").is_unique())
        if len(twice):
            raise InputError(
                f"{args.labels} has labels of subject {twice['subject_id'][0]} at {twice['prediction_time'][0]} that "
                "contradict each other; keep one."
            )
        if not len(asked):
            raise InputError(f"{args.labels} has no label in {', '.join(names)}; choose another --split.")
        name = labels.name
        known = events.of_labels(labels.info, name, run.vocabulary, horizon)
    return (asked.head(args.limit) if args.limit else asked), known, name


def _splits(text: str) -> tuple[str, ...]:
    every = ("train", "tuning", "held_out")
    chosen = every if text == "all" else tuple(text.split(","))
    if unknown := [name for name in chosen if name not in every]:
        raise InputError(f"--split is {unknown[0]!r}; choose {', '.join(every)} or all.")
    return chosen


def _file_name(code: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in code)


def _tell(args: argparse.Namespace, summary: dict[str, Any], seconds: float) -> None:
    """A few lines about what was made."""
    import polars as pl

    ended = summary["ended_by"]
    print(f"{summary['trajectories']:,} trajectories of {summary['prompts']:,} prompts in {seconds:.1f} s")
    print("ended by " + ", ".join(f"{name}: {count:,}" for name, count in ended.items()))
    path = Path(args.output) / "risks.parquet"
    if path.exists():
        risks = pl.read_parquet(path)
        for (name,), rows in risks.group_by("task", maintain_order=True):
            known = rows.filter(pl.col("combined").is_not_nan())
            if unknown := len(rows) - len(known):
                print(
                    f"{name}: no risk for {unknown:,} of {len(rows):,} prompts, since every try fell before the "
                    "prediction time, which lies far behind the last event on record"
                )
            if len(known):
                print(
                    f"{name}: mean risk {known['combined'].mean():.4f} (Monte-Carlo error "
                    f"{_mean(known['combined_error'])}; by counting {known['count'].mean():.4f}, error "
                    f"{_mean(known['count_error'])}); {100 * known['truncated'].mean():.1f} % of the trajectories ran "
                    "out of tokens first"
                )
    told = summary.get("rollouts")
    if told and told["with_a_true_end"]:
        print(
            f"first end token: right for {told['first_end_right']:,} of {told['with_a_true_end']:,} prompts; mean "
            f"share of samples that end as the record does {told['mean_share_of_truth']:.3f}"
        )
    print(f"wrote {args.output}")


def _mean(column: Any) -> str:
    value = column.fill_nan(None).mean()
    return "unknown: one sample" if value is None else f"{value:.4f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ehrjax.generate",
        description="Samples futures behind prompts and tells risks; docs/generation.md explains the output.",
    )
    add = parser.add_argument
    add("--workdir", required=True, help="the run: a causal model trained on the next token")
    add("--input", required=True, help="a token dataset in the run's vocabulary")
    add("--output", required=True, help="the folder to write")
    add("--labels", help="ask at the prediction times of a label folder or file")
    add("--at", help="ask everybody alive once: last, after:CODE, age:60, or a time such as 2015-06-30")
    add("--offset", default="", help="with --at: so much later, for example 24h")
    add("--split", default="held_out", help="train, tuning, held_out (some, with commas) or all")
    add("--samples", type=int, default=32, help="trajectories a prompt")
    add("--max_tokens", type=int, default=256, help="of a trajectory")
    add(
        "--horizon",
        default="",
        help="how far a trajectory goes at least, and within what time tasks without @HORIZON count: 30d, 2y, 24h",
    )
    add("--stop", nargs="*", default=[], metavar="CODE", help="codes, or regular expressions, that end a trajectory")
    add("--task", action="append", default=[], metavar="NAME=CODE[@HORIZON]", help="an event whose risk is told")
    add(
        "--estimator",
        choices=("combined", "expected", "count"),
        default="combined",
        help="whose risks are the predictions",
    )
    add("--temperature", type=float, default=1.0)
    add("--top_k", type=int, default=0)
    add("--top_p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--prompt_tokens", type=int, default=0, help="of a prompt at most; 0: as many as leave room")
    add("--limit", type=int, default=0, help="so many prediction times only")
    add("--clock", help="a token dataset whose train split tells how time passes; default: the input")
    add("--no_trajectories", action="store_true", help="risks only; a row ends once every task's event has happened")
    add("--groups", type=int, default=4, help="prompts that decode at once")
    add("--rows", type=int, default=16, help="rows a prompt that decode at once")
    add("--chunk", type=int, default=16, help="steps between two looks at who has ended")
    return parser


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    memory.keep_freed()
    generate(_parser().parse_args(argv if argv is not None else sys.argv[1:]))


if __name__ == "__main__":
    main()
