"""Convert weights: `python -m ehrjax.convert {from-hf,to-hf,verify,search}`, each with --help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ehrjax.core.errors import exits_cleanly


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
    if told["fresh"]:
        print(f"not in the checkpoint, start afresh: {', '.join(told['fresh'])}")
    print(f"wrote {args.output}")


def to_hf(args: argparse.Namespace) -> None:
    """Writes a run as a folder that transformers' from_pretrained opens."""
    from ehrjax.hf import outgoing

    told = outgoing.to_hf(args.input, args.output, family=args.family)
    print(f"{told['architecture']}: {told['tensors']} tensors\nwrote {args.output}")


def verify(args: argparse.Namespace) -> None:
    """Runs a HuggingFace folder and a run of ehrjax on the same tokens (needs torch)."""
    from ehrjax.hf import verify as checks

    found = checks.verify(args.hf, args.ehrjax)
    print(f"{found.tokens} tokens compared; largest absolute difference in float32:")
    print(f"hidden states {found.hidden:.3g}")
    print(f"logits {found.logits:.3g}" if found.logits is not None else "logits: one side has no head")


def search(args: argparse.Namespace) -> None:
    """Lists models on the HuggingFace Hub."""
    from ehrjax.hf import hub

    for name, downloads, task in hub.search(args.query, limit=args.limit):
        print(f"{name}  {downloads:,} downloads  {task}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ehrjax.convert", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="{from-hf,to-hf,verify,search}")

    def verb(function, name: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(function=function)
        return sub

    sub = verb(from_hf, "from-hf")
    sub.add_argument("--input", required=True, help="a folder, or an id on the HuggingFace Hub")
    sub.add_argument("--output", required=True, help="the run's folder to write; it must not exist")
    sub = verb(to_hf, "to-hf")
    sub.add_argument("--input", required=True, help="the run's folder")
    sub.add_argument("--output", required=True, help="the folder to write; it must not exist")
    sub.add_argument("--family", default="", help="as what, where several fit: bert, roberta, distilbert, ...")
    sub = verb(verify, "verify")
    sub.add_argument("--hf", required=True, help="a HuggingFace folder")
    sub.add_argument("--ehrjax", required=True, help="the run's folder")
    sub = verb(search, "search")
    sub.add_argument("--query", required=True)
    sub.add_argument("--limit", type=int, default=20)
    return parser


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Runs a verb."""
    args = _parser().parse_args(argv)
    args.function(args)


if __name__ == "__main__":
    main()
