"""Convert weights: `python -m ehrjax.convert {from-hf,to-hf,from-torch,...}`, each with --help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ehrjax.core.errors import InputError, exits_cleanly


def from_hf(args: argparse.Namespace) -> None:
    """Converts a HuggingFace checkpoint (a folder or an id on the Hub) into a run of ehrjax."""
    from ehrjax.hf import incoming

    told = incoming.from_hf(args.input, args.output)
    _say(told, args)


def _say(told: dict, args: argparse.Namespace) -> None:
    print(f"{told['family']} -> {told['model']} with {told['objective']}: {told['parameters']:,} parameters")
    print(f"{told['tensors']} tensors used, {told['tokens']:,} tokens in the vocabulary")
    if told["absent"]:
        print(f"specials without a row of their own: {', '.join(told['absent'])}")
    if told["heads"]:
        print(f"kept for the way back, not used: {', '.join(told['heads'])}")
    if told["untied"]:
        print(f"not tied, though its config says so, since it differs from the table: {', '.join(told['untied'])}")
    if told["fresh"]:
        print(f"not in the checkpoint, start afresh: {', '.join(told['fresh'])}")
    print(f"wrote {args.output}")


def from_torch(args: argparse.Namespace) -> None:
    """Converts a PyTorch checkpoint of ehr-sequencing's BEHRT, nanoGPT, or the token pipeline's models."""
    from ehrjax.hf import from_torch as torch_files

    told = torch_files.from_torch(
        args.input, args.output, vocab=args.vocab, kind=args.kind, num_heads=args.heads or None
    )
    _say(told, args)


def to_hf(args: argparse.Namespace) -> None:
    """Writes a run as a folder that transformers' from_pretrained opens."""
    from ehrjax.hf import outgoing

    told = outgoing.to_hf(args.input, args.output, family=args.family, plain_names=args.plain_names)
    print(f"{told['architecture']}: {told['tensors']} tensors")
    if told["beside"]:
        print(f"in a file of their own, since {told['architecture']} has none of them: {', '.join(told['beside'])}")
    if told["wrapper"]:
        print(
            f"names begin with {told['wrapper']!r} as they came, so transformers ignores every tensor; "
            "for names that it knows add --plain_names"
        )
    print(f"wrote {args.output}")


def verify(args: argparse.Namespace) -> None:
    """Runs a HuggingFace folder and a run of ehrjax on the same tokens (needs torch); exits with 1 if they differ."""
    from ehrjax.core.errors import RunError
    from ehrjax.hf import verify as checks

    found = checks.verify(args.hf, args.ehrjax)
    print(f"{found.tokens} tokens compared; largest absolute difference in float32:")
    print(f"hidden states {found.hidden:.3g}")
    print(f"logits {found.logits:.3g}" if found.logits is not None else "logits: one side has no head")
    if not found.alike:
        raise RunError(
            f"{args.hf} and {args.ehrjax} differ by more than {checks.TOLERANCE:g} of the largest value (at least 1); "
            "they are not the same model."
        )


def vocabulary(args: argparse.Namespace) -> None:
    """Gives a run another vocabulary: rows of tokens that are known move, others start afresh."""
    from ehrjax.hf import resize

    found, share = resize.resize(
        args.input, _vocabulary(args.vocab), args.output, mapping=_mapping(args), ways=_ways(args), seed=args.seed
    )
    _coverage(found, share, args)
    print(f"wrote {args.output}")


def embeddings(args: argparse.Namespace) -> None:
    """Reads an embedding table from a file, a run or a HuggingFace model; describes, aligns or writes it."""
    from ehrjax.hf import embeddings as tables_in_files
    from ehrjax.hf import tables

    _check_options(args)
    found = tables_in_files.read(args.input, codes=args.codes or None)
    if args.describe:
        _describe(found, args)
    if args.into:
        told, share = tables.into_run(
            args.into,
            found,
            args.output,
            mapping=_mapping(args),
            ways=_ways(args),
            pca=args.pca,
            rescale=args.rescale,
        )
        _coverage(told, share, args)
    elif args.vocab:
        wanted = _vocabulary(args.vocab)
        rows, told, share = tables.align(found, wanted, mapping=_mapping(args), ways=_ways(args))
        _coverage(told, share, args)
        kept = [i for i, row in enumerate(rows) if row >= 0]
        strings = wanted.strings
        found = tables_in_files.Embeddings(found.vectors[rows[kept]], tuple(strings[i] for i in kept), found.metadata)
    if args.output and not args.into:
        tables_in_files.write(args.output, found)
    if args.output:
        print(f"wrote {args.output}")


def _check_options(args: argparse.Namespace) -> None:
    """Raises InputError for options of `embeddings` that would do nothing beside the others."""
    if not (args.output or args.describe):
        raise InputError("Nothing is to be done; add --output=FILE, or --describe.")
    if args.into and not args.output:
        raise InputError("--into needs --output=DIR, the run to write.")
    if args.into and args.vocab:
        raise InputError("--into takes the vocabulary of its run; leave --vocab out.")
    for name in ("pca", "rescale"):
        if getattr(args, name) and not args.into:
            raise InputError(f"--{name} fits vectors to a run's table; name the run with --into, or leave it out.")
    for name in ("map", "unmapped"):
        if getattr(args, name) and not (args.into or args.vocab):
            raise InputError(f"--{name} is for matching; add --vocab or --into, or leave it out.")
    if args.nearest and not args.describe:
        raise InputError("--nearest is printed by --describe; add it, or leave --nearest out.")


def _describe(found, args: argparse.Namespace) -> None:
    from ehrjax.hf import tables

    if args.nearest and not found.codes:
        raise InputError(f"--nearest needs codes, which {args.input} does not have; add --codes=FILE.")
    told = tables.describe(found)
    print(f"{told['rows']:,} x {told['columns']:,}, mean {told['mean']:.4g}, std {told['std']:.4g}")
    norms = " ".join(f"{norm:.4g}" for norm in told["norms"])
    print(f"norms of rows (lowest, quartiles, highest): {norms}; {told['zero_rows']} rows are zero")
    for name, value in found.metadata.items():
        print(f"{name}: {value}")
    if found.codes:
        asked = [code for code in args.nearest.split(",") if code] or list(found.codes[-3:])
        for code, near in tables.neighbours(found, asked).items():
            print(f"nearest to {code}: " + ", ".join(f"{name} {similarity:.3f}" for name, similarity in near))


def _vocabulary(name: str):
    """The vocabulary of a vocab.csv, or of a folder that has one (a token dataset or a run)."""
    from pathlib import Path

    from ehrjax.vocab import vocabulary as vocabularies

    path = Path(name)
    return vocabularies.read(path / "vocab.csv" if path.is_dir() else path)


def _mapping(args: argparse.Namespace) -> dict[str, str]:
    from ehrjax.vocab import matching

    return matching.read_mapping(args.map) if args.map else {}


def _ways(args: argparse.Namespace) -> tuple[str, ...]:
    return tuple(way for way in args.ways.split(",") if way)


def _coverage(found, share: dict, args: argparse.Namespace) -> None:
    """Says what matched, and lists what did not."""
    for way, told in share.items():
        if told["tokens"] or way == "all":
            print(
                f"{way:10s} {100 * told['tokens']:6.2f} % of tokens  {100 * told['occurrences']:6.2f} % of occurrences"
            )
    lost = found.filter(found["how"].is_null())["str"].to_list()
    if args.unmapped:
        from ehrjax.core import files

        with files.written_file(args.unmapped) as path:
            path.write_text("".join(f"{token}\n" for token in lost), encoding="utf-8")
    if lost:
        shown = ", ".join(lost[:10]) + (f", ... ({len(lost):,} in all)" if len(lost) > 10 else "")
        print(f"not mapped: {shown}")


def search(args: argparse.Namespace) -> None:
    """Lists models on the HuggingFace Hub."""
    from ehrjax.hf import hub

    for name, downloads, task in hub.search(args.query, limit=args.limit):
        print(f"{name}  {downloads:,} downloads  {task}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ehrjax.convert", description=__doc__)
    verbs = parser.add_subparsers(
        required=True, metavar="{from-hf,to-hf,from-torch,vocabulary,embeddings,verify,search}"
    )

    def verb(function, name: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        return sub

    sub = verb(from_hf, "from-hf")
    sub.add_argument("--input", required=True, help="a folder, or an id on the HuggingFace Hub")
    sub.add_argument("--output", required=True, help="the run's folder to write; it must not exist")
    sub = verb(from_torch, "from-torch")
    sub.add_argument("--input", required=True, help="the file that torch.save has written, or .safetensors")
    sub.add_argument("--output", required=True, help="the run's folder to write; it must not exist")
    sub.add_argument("--vocab", default="", help="its vocabulary, a CSV of token,str; default: tokens are numbers")
    sub.add_argument("--kind", default="", help="whose checkpoint it is, where its names do not tell")
    sub.add_argument("--heads", type=int, default=0, help="attention heads, where the checkpoint does not tell")
    sub = verb(to_hf, "to-hf")
    sub.add_argument("--input", required=True, help="the run's folder")
    sub.add_argument("--output", required=True, help="the folder to write; it must not exist")
    sub.add_argument("--family", default="", help="as what, where several fit: bert, roberta, distilbert, ...")
    sub.add_argument("--plain_names", action="store_true", help="the names of transformers' classes, not those it had")
    sub = verb(vocabulary, "vocabulary")
    sub.add_argument("--input", required=True, help="the run's folder")
    sub.add_argument("--vocab", required=True, help="the new vocab.csv, or a token dataset or run that has it")
    sub.add_argument("--output", required=True, help="the run's folder to write; it must not exist")
    sub.add_argument("--seed", type=int, default=0, help="of the rows that start afresh")
    _add_matching(sub)
    sub = verb(embeddings, "embeddings")
    sub.add_argument("--input", required=True, help="a file (.safetensors .npy .pt .txt .bin .csv), a run, or a model")
    sub.add_argument("--output", help="the file to write, of a kind told by its ending; with --into the run's folder")
    sub.add_argument("--codes", default="", help="a file that names the rows: a line each, vocab.csv, or a .pkl list")
    sub.add_argument("--describe", action="store_true", help="print shape, mean, spread, norms, neighbours")
    sub.add_argument("--nearest", default="", help="codes whose neighbours --describe prints, with commas between")
    sub.add_argument("--vocab", default="", help="keep the rows of this vocabulary's tokens, in its order")
    sub.add_argument("--into", default="", help="a run whose input table takes the vectors")
    sub.add_argument("--pca", action="store_true", help="with --into: project to the table's width")
    sub.add_argument("--rescale", action="store_true", help="with --into: to the spread of the run's table")
    _add_matching(sub)
    sub = verb(verify, "verify")
    sub.add_argument("--hf", required=True, help="a HuggingFace folder")
    sub.add_argument("--ehrjax", required=True, help="the run's folder")
    sub = verb(search, "search")
    sub.add_argument("--query", required=True)
    sub.add_argument("--limit", type=int, default=20)
    return parser


def _add_matching(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--map", default="", help="a CSV file with the columns code (the new token) and to (the old one)")
    sub.add_argument(
        "--ways",
        default="exact,map,normalised,hierarchy",
        help="how tokens are matched, in order; hierarchy: E11.65 takes E11.6's or E11's row",
    )
    sub.add_argument("--unmapped", default="", help="a file to list the tokens that nothing stands for")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Runs a verb."""
    args = _parser().parse_args(argv)
    args.function(args)


if __name__ == "__main__":
    main()
