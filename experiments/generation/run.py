"""Sampled futures per second: ehrjax against HuggingFace `generate` on the same weights and prompts, same machine.

    python experiments/generation/run.py [--prompts=256,512] [--samples=32] [--new=256] [--subjects=4] [--repeats=3]
        [--layers=4] [--width=256] [--heads=8] [--vocabulary=10000] [--groups=1] [--window_tokens=6] [--threads=2]
        [--output=FILE.json]

Three ways take turns inside each repeat, in one process: ehrjax.generation; transformers' GPT2LMHeadModel.generate with
its KV cache; and the same model computing its whole window anew for each token, as pipelines without a cache do (timed
on --window_tokens tokens in the middle of a future). All run on the GPU where JAX and PyTorch have one, else on a CPU.
Then the floor: the time that the memory traffic of parameters and cache and the arithmetic would take alone, from
bandwidth and FLOP/s that are measured here. See the README.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def made(folder: Path, args: argparse.Namespace, positions: int) -> Path:
    """A GPT-2 with fresh weights, as a run and, beside it, as a HuggingFace folder; the run's folder."""
    import jax
    import polars as pl

    from ehrjax.core import files
    from ehrjax.hf import made as runs_made
    from ehrjax.hf import outgoing
    from ehrjax.training import run as runs
    from ehrjax.vocab import vocabulary as vocabularies

    codes = [f"CODE//{i}" for i in range(args.vocabulary - 5)]
    counts = pl.DataFrame({"str": codes, "code": codes, "bin": [None] * len(codes), "count": [1] * len(codes)})
    vocabulary = vocabularies.build(counts, min_count=1, bin_bounds={}, descriptions={})
    config = {
        "model": dict(
            name="gpt2",
            num_layers=args.layers,
            num_heads=args.heads,
            hidden_dim=args.width,
            max_positions=positions,
        ),
        "objective": dict(name="next_token", tied=True),
        "precision": "fp32",
        "data": {"context_length": positions},
    }
    params = runs.build(config, vocabulary).init(jax.random.key(0))
    with files.written_folder(folder / "run", what="run") as temporary:
        runs_made.write(temporary, jax.tree.map(np.asarray, params), config, vocabulary, was="nothing")
    outgoing.to_hf(folder / "run", folder / "hf")
    return folder / "run"


def ours(run: Path, tokens: np.ndarray, args: argparse.Namespace) -> Callable[[int], int]:
    """Samples every prompt; returns how many tokens were drawn."""
    import ehrjax
    from ehrjax.data import rows
    from ehrjax.generation import decode, prompts, sampling, schedule

    opened = ehrjax.load(run)
    count = len(opened.vocabulary)
    tables = decode.Tables(
        gaps=np.full((1, count), 60, np.int32),
        is_time=np.zeros(count, bool),
        stops=np.zeros(count, bool),
        never=np.zeros(count, bool),
        tasks=np.zeros((0, count), bool),
        horizons=np.zeros(0, np.int32),
    )
    decoder = decode.of_run(opened, decode.limits(opened, args.new), sampling.Settings(), tables)
    asked = [
        prompts.Prompt(rows.subject(row.tolist(), subject_id=i, times=range(len(row))), 0, len(row), len(row))
        for i, row in enumerate(tokens)
    ]
    shape = schedule.Shape(groups=min(args.groups, len(asked)), each=args.samples, prefill=min(args.groups, 4))

    def sample(repeat: int) -> int:
        drawn = schedule.run(decoder, asked, samples=args.samples, seed=repeat, shape=shape)
        return sum(len(trajectory.tokens) for trajectory in drawn)

    return sample


def huggingface(folder: Path, tokens: np.ndarray, args: argparse.Namespace) -> tuple[Callable, Callable]:
    """The two ways in PyTorch: with the cache, and one token with the whole window computed anew."""
    import jax
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).to(device).eval()

    def cached(repeat: int) -> int:
        torch.manual_seed(repeat)
        drawn = 0
        for row in tokens:
            with torch.inference_mode():
                out = model.generate(
                    torch.tensor(row[None], device=device),
                    attention_mask=torch.ones(1, len(row), dtype=torch.long, device=device),
                    do_sample=True,
                    top_k=0,
                    num_return_sequences=args.samples,
                    max_new_tokens=args.new,
                    min_new_tokens=args.new,
                    pad_token_id=0,
                    eos_token_id=None,
                ).cpu()  # waits for the GPU
            drawn += int(out.shape[0] * (out.shape[1] - len(row)))
        return drawn

    def whole(repeat: int) -> int:
        generator = torch.Generator(device).manual_seed(repeat)
        middle = len(tokens[0]) + args.new // 2
        window = torch.randint(5, args.vocabulary, (args.samples, middle), generator=generator, device=device)
        with torch.inference_mode():
            for _ in range(args.window_tokens):
                logits = model(window, use_cache=False, logits_to_keep=1).logits[:, -1]
                new = torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
                window = torch.cat([window, new], dim=1)
        window.cpu()  # waits for the GPU
        return args.samples * args.window_tokens

    return cached, whole


def floor(args: argparse.Namespace, prompt: int) -> dict[str, float]:
    """Seconds that a step of all rows costs at least: bytes read over bandwidth, or operations over FLOP/s."""
    import jax
    import jax.numpy as jnp

    rows = args.groups * args.samples
    layer = 12 * args.width**2
    parameters = args.layers * layer + args.vocabulary * args.width
    middle = args.new / 2
    own = 2 * args.layers * args.width * middle * rows
    shared = 2 * args.layers * args.width * prompt * args.groups
    moved = 4 * (parameters + own + shared)
    operations = 2 * rows * (parameters + 2 * args.layers * args.width * (middle + prompt))

    big = jnp.ones(1 << (28 if jax.default_backend() == "gpu" else 26), jnp.float32)
    total = jax.jit(lambda x: x.sum())
    square = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))  # fp32 on a GPU too

    def best(function: Callable, argument: object) -> float:
        function(argument).block_until_ready()
        times = []
        for _ in range(7):
            start = time.perf_counter()
            function(argument).block_until_ready()
            times.append(time.perf_counter() - start)
        return min(times)

    bandwidth = big.nbytes / best(total, big)
    flops = 2 * 2048**3 / best(product, square)
    return {
        "bandwidth_gb_s": bandwidth / 1e9,
        "gflop_s": flops / 1e9,
        "megabytes_a_step": moved / 1e6,
        "megaflop_a_step": operations / 1e6,
        "tokens_s": rows / max(moved / bandwidth, operations / flops),
    }


def measure(args: argparse.Namespace, prompt: int) -> dict[str, object]:
    """All ways on prompts of one length."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, args.vocabulary, (args.subjects, prompt)).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        run = made(Path(folder), args, prompt + args.new)
        cached, whole = huggingface(Path(folder) / "hf", tokens, args)
        ways: dict[str, Callable[[int], int]] = {
            "ehrjax": ours(run, tokens, args),
            "HuggingFace, KV cache": cached,
            "HuggingFace, whole window": whole,
        }
        ways["ehrjax"](0)  # compiles
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(args.repeats):
            for name, way in ways.items():
                start = time.perf_counter()
                drawn = way(repeat)
                speeds[name].append(drawn / (time.perf_counter() - start))
                print(f"  {name}: {speeds[name][-1]:,.0f} tokens/s", flush=True)
    ratios = {name: [mine / other for mine, other in zip(speeds["ehrjax"], speeds[name])] for name in list(ways)[1:]}
    return {"prompt": prompt, "tokens_s": speeds, "ratios": ratios, "floor": floor(args, prompt)}


def span(values: list[float], form: str) -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="256,512")
    for name, default in dict(
        samples=32, new=256, subjects=4, repeats=3, layers=4, width=256, heads=8, vocabulary=10_000, window_tokens=6,
        threads=2, groups=1,
    ).items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--output")
    args = parser.parse_args()
    results = []
    for prompt in map(int, args.prompts.split(",")):
        print(f"prompts of {prompt} tokens, {args.samples} samples of {args.new} tokens, {args.subjects} subjects")
        result = measure(args, prompt)
        results.append(result)
        speeds, ratios, least = result["tokens_s"], result["ratios"], result["floor"]
        for name, values in speeds.items():
            ratio = f"; ehrjax is {span(ratios[name], '.1f')} times as fast" if name in ratios else ""
            print(
                f"{name}: {span(values, ',.0f')} tokens/s, "
                f"{span([v / args.new for v in values], ',.2f')} trajectories/s{ratio}"
            )
        reached = 100 * statistics.median(speeds["ehrjax"]) / least["tokens_s"]
        print(
            f"floor: {least['tokens_s']:,.0f} tokens/s at {least['bandwidth_gb_s']:.1f} GB/s and "
            f"{least['gflop_s']:.0f} GFLOP/s ({least['megabytes_a_step']:.0f} MB and "
            f"{least['megaflop_a_step']:.0f} MFLOP a step); ehrjax reaches {reached:.0f} % of it",
            flush=True,
        )
    if args.output:
        Path(args.output).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
