"""Vectors from a run: `python -m ehrjax.encode {codes,visits,patients,notes,nearest}`, each with --help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ehrjax.core import memory
from ehrjax.core.errors import InputError, exits_cleanly


def codes(args: argparse.Namespace) -> None:
    """A vector a token: the run's table, or with --contextual the mean of its hidden states over a dataset."""
    import numpy as np

    from ehrjax.evals import encodings, vector_files

    if args.contextual and not args.input:
        raise InputError("--contextual needs --input=TOKENS, the dataset whose occurrences count.")
    if args.attention:
        if not args.contextual:
            raise InputError("--attention needs --contextual: a table of vectors attends to nothing.")
        if Path(args.attention) == Path(args.output):
            raise InputError("--attention and --output name the same file; name two.")
        vector_files.check_output(Path(args.attention), (".npz",))
    run = _opened(args)
    strings = np.array(run.vocabulary.strings)
    if args.contextual:
        splits = _splits(args, run)
        # First, for a model without attention is refused at once.
        if args.attention:
            encodings.write_attention(Path(args.attention), encodings.received_attention(run, splits), strings)
            print(f"wrote {args.attention}")
        found = encodings.contextual_codes(run, splits)
        found = vector_files.Vectors({**found.columns, "str": strings[found.columns["token"]]}, found.vectors)
    else:
        table = encodings.code_table(run)
        found = vector_files.Vectors({"token": np.arange(len(table), dtype=np.int32), "str": strings}, table)
    print(f"{vector_files.write(Path(args.output), found):,} codes; wrote {args.output}")


def visits(args: argparse.Namespace) -> None:
    """A vector a visit: each visit by itself, or with --history as a part of the subject's record."""
    from ehrjax.evals import encodings

    encodings.check_pool(args.pool)
    run = _opened(args)
    make = partial(encodings.visits, run, pool=args.pool, alone=not args.history)
    print(f"{_stream(make, args, run):,} visits; wrote {args.output}")


def patients(args: argparse.Namespace) -> None:
    """A vector a subject."""
    from ehrjax.evals import encodings

    encodings.check_pool(args.pool)
    run = _opened(args)
    make = partial(encodings.patients, run, pool=args.pool)
    print(f"{_stream(make, args, run):,} subjects; wrote {args.output}")


def notes(args: argparse.Namespace) -> None:
    """A vector a clinical note, by a frozen text encoder: what a run with config.data.notes reads."""
    from ehrjax.core import files, progress
    from ehrjax.ingest import notes as tables
    from ehrjax.texts import encoders, vectors

    files.refuse_existing(args.output, what="folder of note vectors")
    source = tables.find(args.input)
    bar, advance = progress.bar()
    with encoders.opened(args.encoder, max_tokens=args.max_tokens) as encoder, bar:
        summary = vectors.write(source, args.output, encoder, progress=advance)
    aside = "; ".join(f"{count:,} {reason}" for reason, count in summary["set_aside"].items())
    told = f" (set aside: {aside})" if aside else ""
    print(f"{summary['notes']:,} notes of {summary['width']} numbers{told}; wrote {args.output}")


def nearest(args: argparse.Namespace) -> None:
    """The subjects whose vectors are most similar to a subject's (cosine)."""
    import numpy as np

    from ehrjax.evals import vector_files
    from ehrjax.metrics import similarity

    if args.k < 1:
        raise InputError(f"--k is {args.k}; ask for at least 1.")
    found = vector_files.read(args.vectors)
    if "subject_id" not in found.columns:
        raise InputError(f"{args.vectors} holds no vectors of subjects; make them with ehrjax.encode patients.")
    ids = found.columns["subject_id"]
    places = np.flatnonzero(ids == args.subject)
    if len(places) != 1:
        raise InputError(f"{args.vectors} has {len(places)} vectors of subject {args.subject}; it must have one.")
    for place, cosine in similarity.nearest(found.vectors, int(places[0]), args.k):
        print(f"{ids[place]}  {cosine:.4f}")


def _opened(args: argparse.Namespace) -> Any:
    """The run; what else is wrong is said before it is read."""
    import ehrjax
    from ehrjax.evals import encodings, vector_files

    encodings.chosen_splits(args.split)
    vector_files.check_output(Path(args.output))
    return ehrjax.load(args.workdir)


def _tokens(args: argparse.Namespace, run: Any) -> Any:
    """The token dataset, which must be in the run's vocabulary."""
    from ehrjax.data import token_dataset

    dataset = token_dataset.open_tokens(args.input)
    if dataset.vocabulary.fingerprint != run.vocabulary.fingerprint:
        raise InputError(
            f"{args.input} is in another vocabulary ({len(dataset.vocabulary)} tokens) than {args.workdir} "
            f"({len(run.vocabulary)}); prepare the tokens with --fitted-from, or convert the run's vocabulary."
        )
    return dataset


def _stream(make: Any, args: argparse.Namespace, run: Any) -> int:
    from ehrjax.evals import encodings

    return encodings.stream(make, _splits(args, run), args.output)


def _splits(args: argparse.Namespace, run: Any) -> Any:
    """The splits that are asked for, with the notes that the run reads."""
    from ehrjax.evals import encodings
    from ehrjax.training import noted

    return encodings.splits_of(_tokens(args, run), args.split, noted.open_for(run, args.notes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ehrjax.encode", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="{codes,visits,patients,notes,nearest}")

    def verb(function: Any) -> argparse.ArgumentParser:
        sub = verbs.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        return sub

    for function in (codes, visits, patients):
        sub = verb(function)
        sub.add_argument("--workdir", required=True, help="the run")
        sub.add_argument("--input", required=function is not codes, help="a token dataset in the run's vocabulary")
        sub.add_argument("--output", required=True, help="the .parquet or .npz file to write")
        sub.add_argument("--split", default="all", help="train, tuning, held_out (some, with commas) or all")
        sub.add_argument("--notes", default="", help="vectors of notes, for a run that reads notes; default its own")
        if function is codes:
            sub.add_argument("--contextual", action="store_true", help="mean hidden states instead of the table")
            sub.add_argument("--attention", default="", help="with --contextual: an .npz file for attention received")
        else:
            sub.add_argument("--pool", default="mean", help="cls, mean, max or last")
        if function is visits:
            sub.add_argument("--history", action="store_true", help="visits as parts of the record, not by themselves")
    sub = verb(notes)
    sub.add_argument("--encoder", required=True, help="a converted text model, a HuggingFace model, or hashing[:WIDTH]")
    sub.add_argument("--input", required=True, help="a file of notes, or a folder with notes/notes.parquet")
    sub.add_argument("--output", required=True, help="the folder to write")
    sub.add_argument("--max_tokens", type=int, default=512, help="of a note, for text models")
    sub = verb(nearest)
    sub.add_argument("--vectors", required=True, help="what encode patients has written")
    sub.add_argument("--subject", type=int, required=True)
    sub.add_argument("--k", type=int, default=5)
    return parser


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Runs a verb."""
    memory.keep_freed()
    args = _parser().parse_args(argv)
    args.function(args)


if __name__ == "__main__":
    main()
