"""Prepare data: `python -m ehrjax.prepare {synthetic,download,events,...}`, each with --help."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pkgutil
import time
from collections.abc import Callable, Sequence

from ehrjax.core import config as configs
from ehrjax.core import memory, progress, remote
from ehrjax.core.errors import InputError, exits_cleanly

# Sources whose events are tokens already: they become a token dataset at once.
TOKEN_SOURCES = {"tokens": "ehrjax.data.token_files"}


def sources() -> dict[str, str]:
    """Source -> its reader: a module of ehrjax.ingest that has a function `read`, or one of TOKEN_SOURCES.

    The source is called as the module (`mimic_iv`: mimic-iv), or as its SOURCE_NAME says.
    """
    from ehrjax import ingest

    readers = dict(TOKEN_SOURCES)
    for found in pkgutil.iter_modules(ingest.__path__):
        module = importlib.import_module(f"ehrjax.ingest.{found.name}")
        if hasattr(module, "read"):
            readers[getattr(module, "SOURCE_NAME", found.name.replace("_", "-"))] = module.__name__
    return dict(sorted(readers.items()))


def synthetic(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the synthetic hospital as a MEDS dataset."""
    from ehrjax.ingest import synthetic as hospital

    bar, advance = progress.bar()
    with bar:
        summary = hospital.write(
            args.output,
            patients=args.patients,
            seed=args.seed,
            site=args.site,
            missing=args.missing,
            labels=args.labels,
            fractions=_shares(args.splits),
            truth=tuple(args.truth.split(",")),
            progress=lambda done, total: advance("simulating patients", done, total),
        )
    _print_summary(summary)


def _shares(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError as error:
        raise InputError(f"--splits is {text!r}; write two shares such as 0.8,0.1.") from error


def download(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Fetches an open dataset, checked by its published checksums."""
    from ehrjax.ingest import download as downloads

    bar, advance = progress.bar()
    with bar:
        summary = downloads.download(
            args.source, args.output, progress=lambda done, total: advance("downloading files", done, total)
        )
    _print_summary(summary or {})


def events(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Reads a source's raw tables into a MEDS dataset (token files: into a token dataset)."""
    known = sources()
    if args.source not in known:
        raise InputError(f"There is no source {args.source!r}; the sources are {', '.join(known)}.")
    reader = importlib.import_module(known[args.source])
    settings = configs.from_options(getattr(reader, "Settings", None), rest, verb=f"the source {args.source}")
    bar, advance = progress.bar()
    with bar:
        summary = reader.read(args.input, args.output, *settings, progress=advance)
    _print_summary(summary)


def tokens(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Turns a MEDS dataset into a token dataset by a recipe."""
    memory.keep_freed()
    from ehrjax.data import engines, prepare_tokens
    from ehrjax.vocab import recipe

    chosen = recipe.from_config(configs.from_argv(rest))
    bar, advance = progress.bar()
    with bar:
        info = prepare_tokens.prepare(
            args.input,
            args.output,
            chosen,
            fitted_from=args.fitted_from,
            engine=engines.make(args.engine),
            progress=advance,
        )
    splits = {f"{name}: {key}": n for name, counts in info["splits"].items() for key, n in counts.items()}
    _print_summary({"vocabulary": info["vocabulary_size"], **splits})


def tfds(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Publishes a token dataset as a TensorFlow dataset, or (--back) makes one of it again."""
    from ehrjax.data import tfds as publishing

    if args.back:
        publishing.read_back(args.input, args.output)
        return
    bar, advance = progress.bar()
    with bar:
        found = publishing.write(args.input, args.output, name=args.name, progress=advance)
    _print_summary({"dataset": str(found)})


def inspect(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes a page that shows a MEDS dataset or a token dataset."""
    from ehrjax.evals import dataset_page

    bar, advance = progress.bar()
    with bar:
        page = dataset_page.write(args.input, args.output, subject=args.timeline, progress=advance)
    _print_summary({"page": str(page)})


def notes(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes a note for each visit of a MEDS dataset from what its codes mean, for data without notes."""
    from ehrjax.ingest import visit_notes

    bar, advance = progress.bar()
    with bar:
        summary = visit_notes.write(args.input, args.output, progress=advance)
    _print_summary(summary)


def labels(args: argparse.Namespace, rest: Sequence[str]) -> None:
    """Makes the labels of a task from a MEDS dataset."""
    from ehrjax.ingest.labels import making, settings

    chosen = settings.from_arguments(args.task, rest)
    bar, advance = progress.bar()
    with bar:
        info = making.make(args.input, args.output, chosen, progress=advance)
    _print_summary({"labels": f"{args.output}/{chosen.name}", **info["splits"]})


def _print_summary(summary: dict, indent: str = "") -> None:
    for key, value in summary.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _print_summary(value, indent + "  ")
        elif isinstance(value, (list, tuple)):
            print(f"{indent}{key}: {', '.join(map(str, value)) or '-'}")
        else:
            print(f"{indent}{key}: {value:,}" if isinstance(value, int) else f"{indent}{key}: {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ehrjax.prepare", description=__doc__)
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="{synthetic,download,events,tokens,notes,labels,tfds,inspect}"
    )

    def verb(function: Callable[..., None]) -> argparse.ArgumentParser:
        sub = verbs.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(run=function)
        sub.add_argument("--output", required=True, help="the folder to write; it must not exist")
        return sub

    sub = verb(synthetic)
    sub.add_argument("--patients", type=int, default=5000)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--site", default="first", help="first, or second: other people, codes and units")
    sub.add_argument("--missing", type=float, default=0.0, help="share of results and prescriptions not recorded")
    sub.add_argument("--labels", action="store_true", help="also write label files with the true probabilities")
    sub.add_argument("--splits", default="0.8,0.1", help="shares of patients in train and tuning; others are held out")
    sub.add_argument(
        "--truth", default="train,tuning,held_out", help="splits whose labels get true probabilities, which take long"
    )
    sub = verb(download)
    sub.add_argument("--source", default="mimic-iv-demo", help="mimic-iv-demo")
    sub = verb(events)
    sub.add_argument("--source", required=True, help="the reader, for example mimic-iv")
    sub.add_argument("--input", required=True, help="the folder of raw tables")
    sub.epilog = "A source's own options follow as --KEY=VALUE; README lists them."
    sub = verb(tokens)
    sub.add_argument("--input", required=True, help="the MEDS dataset")
    sub.add_argument("--engine", default="local", help="local (default) or spark; the result is the same")
    sub.add_argument("--fitted-from", help="use this token dataset's vocabulary and bins instead of fitting")
    sub.epilog = "--config=configs/tokens/NAME.py names the recipe; --config.KEY=VALUE changes it."
    sub = verb(tfds)
    sub.add_argument("--input", required=True, help="the token dataset; with --back the TFDS folder")
    sub.add_argument("--name", default="ehrjax_tokens", help="the dataset's name in TFDS")
    sub.add_argument("--back", action="store_true", help="write the token dataset that a TFDS folder holds")
    sub = verb(inspect)
    sub.add_argument("--input", required=True, help="the MEDS dataset or the token dataset")
    sub.add_argument("--timeline", type=int, help="draw this subject's record (made-up people's is drawn anyway)")
    sub = verb(notes)
    sub.add_argument("--input", required=True, help="the MEDS dataset")
    sub = verb(labels)
    sub.add_argument("--input", required=True, help="the MEDS dataset")
    sub.add_argument("--task", help="the task, for example readmission_30d; docs/labels.md lists them")
    sub.epilog = "--config=configs/tasks/NAME.py names a task with its settings; --config.KEY=VALUE changes them."
    return parser


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Runs one preparation verb."""
    args, rest = _parser().parse_known_args(argv)
    if args.verb not in ("tokens", "events", "labels") and rest:
        raise InputError(f"Unknown argument {rest[0]}; see python -m ehrjax.prepare {args.verb} --help.")
    started, output = time.perf_counter(), args.output
    with contextlib.ExitStack() as stack:
        # Remote places (s3://...) are copied here before and there after.
        for name in ("input", "fitted_from"):
            if remote.is_remote(getattr(args, name, None)):
                setattr(args, name, stack.enter_context(remote.local_input(getattr(args, name))))
        if remote.is_remote(output):
            args.output = stack.enter_context(remote.local_output(output))
        args.run(args, rest)
    print(f"wrote {output} in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
