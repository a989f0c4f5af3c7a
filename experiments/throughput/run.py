"""Real tokens per second: ehrjax on packed rows against HuggingFace BertForMaskedLM, same sequences.

    python experiments/throughput/run.py [--sizes=medium,large] [--precisions=fp32,bf16] [--repeats=2]
        [--minutes=10] [--batch=32] [--batch_rows=10] [--padded_steps=1] [--slow_repeats=1]
        [--threads=2] [--compile] [--output=FILE.json]

Prints one table a precision: the ratio of ehrjax to each way in which users of PyTorch batch. Both sides run on the
GPU where JAX and PyTorch have one, else on the CPU. The README beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

VOCABULARY, SPECIALS, MASK = 10_000, 5, 4
CONTEXT, MAX_SEGMENTS = 512, 32
GROUPS = 50
SAMPLED_GROUPS = [3, 9, 15, 21, 28, 34, 41, 47]
MASK_RATE, LEARNING_RATE = 0.15, 1e-4
SIZES = {"medium": dict(width=256, depth=4, heads=8), "large": dict(width=512, depth=6, heads=8)}
GOALS = {"padded to 512": 3.5, "padded to the longest of 32": 3.3, "grouped by length": 1.1, "dense 512": 1.0}
IGNORED = -100
COSTS = {"medium": 1, "large": 3, "fp32": 2, "bf16": 1}
"""About how long a table takes, to share the minutes out."""


def sequences(seed: int, batch: int) -> list[np.ndarray]:
    """Token sequences of the length distribution, in 8 groups of `batch` that lie near each other in length.

    As HuggingFace's `group_by_length` does it, 50 batches are sorted by length at a time. Of these 8 are
    taken, so chosen that the sample keeps the mean length (29 % of 512) and the density of the groups (97 %).
    """
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(100), 1.0, batch * GROUPS))
    lengths = np.sort(np.clip(np.round(lengths), 5, CONTEXT).astype(int)).reshape(GROUPS, batch)
    return [rng.integers(SPECIALS, VOCABULARY, n) for n in lengths[SAMPLED_GROUPS].ravel()]


@dataclasses.dataclass
class Method:
    """One way of training: `step(i)` runs step i of its pass, of `tokens[i]` real tokens; returns a loss."""

    step: Callable[[int], float]
    tokens: list[int]
    positions: int
    timed: int
    """How many steps of the pass a repeat times; the others have the same shapes, or there are none."""
    slow: bool = False
    seconds: list[list[float]] = dataclasses.field(default_factory=list)

    @property
    def density(self) -> float:
        return sum(self.tokens) / self.positions

    def repeat(self, number: int) -> None:
        """Times `timed` steps of the pass, others in each repeat."""
        taken = []
        for i in range(self.timed):
            index = (number * self.timed + i) % len(self.tokens)
            start = time.perf_counter()
            loss = self.step(index)
            taken.append(time.perf_counter() - start)
            if not np.isfinite(loss):
                raise RuntimeError(f"the loss is {loss}")
        self.seconds.append(taken)

    def speed(self, repeat: int) -> float:
        """Real tokens a second of a whole pass, at the mean time of the steps that this repeat timed.

        A slow method is not timed in every repeat; its last time then stands for the later ones.
        """
        seconds = self.seconds[min(repeat, len(self.seconds) - 1)]
        return sum(self.tokens) / (statistics.mean(seconds) * len(self.tokens))


def packed_batches(tokens: list[np.ndarray], rows: int) -> list[dict[str, np.ndarray]]:
    """The sequences packed into rows of 512, `rows` a batch; the last batch is filled with empty rows."""
    from ehrjax.data import packing

    plan = packing.plan(np.array([len(t) for t in tokens]), CONTEXT, MAX_SEGMENTS, seed=0)
    batches = []
    for start in range(0, len(plan), rows):
        batch = {name: np.zeros((rows, CONTEXT), np.int32) for name in ("tokens", "positions", "segment_ids")}
        for row in range(start, min(start + rows, len(plan))):
            at = 0
            for number, index in enumerate(plan.row(row)):
                stop = at + len(tokens[index])
                batch["tokens"][row - start, at:stop] = tokens[index]
                batch["positions"][row - start, at:stop] = np.arange(stop - at)
                batch["segment_ids"][row - start, at:stop] = number + 1
                at = stop
        batch["visit_ids"] = batch["positions"] // 5
        batch["ages"] = (40 + batch["visit_ids"] / 10).astype(np.float32)
        batch["anchors"] = np.zeros((rows, MAX_SEGMENTS), np.int32)
        batches.append(batch)
    return batches


def dense_rows(tokens: list[np.ndarray], rows: int) -> list[np.ndarray]:
    """One batch of `rows` sequences of 512 tokens each, made of the sequences."""
    return list(np.resize(np.concatenate(tokens), (rows, CONTEXT)))


def ours(
    size: str, precision_name: str, batches: dict[str, list[dict[str, np.ndarray]]]
) -> tuple[Callable[[str, int], float], int]:
    """`step(kind, i)` on the batches of that kind, and the number of parameters."""
    import jax
    import jax.numpy as jnp
    import optax

    from ehrjax.core import precision, rng
    from ehrjax.models import behrt
    from ehrjax.objectives import masked_codes

    policy = precision.policy(precision_name)
    shape = SIZES[size]
    config = behrt.config_from(
        dict(
            vocab_size=VOCABULARY,
            num_layers=shape["depth"],
            num_heads=shape["heads"],
            hidden_dim=shape["width"],
            embedding_dim=shape["width"],
            max_positions=CONTEXT,
        )
    )
    model = behrt.Model(config, policy)
    # Tied as in BertForMaskedLM, so that both have the same parameters but for the tables of ages and visits.
    objective = masked_codes.Objective(
        masked_codes.Config(mask_rate=MASK_RATE, tied=True),
        vocab_size=VOCABULARY,
        num_specials=SPECIALS,
        mask_id=MASK,
        policy=policy,
    )
    head = objective.head()
    optimizer = optax.adamw(LEARNING_RATE, weight_decay=0.01)

    def head_apply(params, hidden, table):
        return head.apply({"params": params}, hidden, table)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train_step(params, opt_state, batch, number):
        batch = objective.prepare(batch, rng.key_for(0, "objective", number))

        def mean_loss(params):
            rngs = {"dropout": rng.key_for(0, "dropout", number)}
            outputs = model.apply({"params": params["model"]}, batch, deterministic=False, rngs=rngs)
            total, weight, _ = objective.loss(head_apply, params["head"], outputs, batch)
            return total / weight

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    example = next(iter(batches.values()))[0]
    table = jnp.zeros((VOCABULARY, shape["width"]))
    params = {
        "model": model.init(rng.key_for(0, "model"), example)["params"],
        "head": head.init(rng.key_for(0, "head"), jnp.zeros((1, 1, shape["width"])), table)["params"],
    }
    state = [params, optimizer.init(params), 0]

    def step(kind: str, index: int) -> float:
        state[0], state[1], loss = train_step(state[0], state[1], batches[kind][index], state[2])
        state[2] += 1
        return float(loss)

    return step, sum(x.size for x in jax.tree.leaves(params))


def theirs(
    size: str, precision_name: str, compiled: bool, device: str
) -> tuple[Callable[[list[np.ndarray], int | None], float], int]:
    """`step(sequences, length)` pads to `length` (None: the longest) and trains; the number of parameters."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    shape = SIZES[size]
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape["width"],
            num_hidden_layers=shape["depth"],
            num_attention_heads=shape["heads"],
            intermediate_size=4 * shape["width"],
            max_position_embeddings=CONTEXT,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            pad_token_id=0,
            attn_implementation="sdpa",
        )
    )
    model = model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    forward = torch.compile(model) if compiled else model

    def drawn(shape: torch.Size, rate: float) -> torch.Tensor:
        return torch.bernoulli(torch.full(shape, rate, device=device)).bool()

    def collate(rows: list[np.ndarray], length: int | None) -> dict[str, torch.Tensor]:
        """Padding and masking as by transformers' DataCollatorForLanguageModeling, without a tokenizer."""
        length = length or max(len(row) for row in rows)
        ids = torch.zeros((len(rows), length), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.from_numpy(row)
        ids = ids.to(device)  # masking is drawn on the GPU too
        attention_mask = (ids != 0).long()
        labels = ids.clone()
        chosen = drawn(ids.shape, MASK_RATE) & (ids >= SPECIALS)
        labels[~chosen] = IGNORED
        masked = drawn(ids.shape, 0.8) & chosen
        ids[masked] = MASK
        random = drawn(ids.shape, 0.5) & chosen & ~masked
        ids[random] = torch.randint(SPECIALS, VOCABULARY, ids.shape, device=device)[random]
        return {"input_ids": ids, "attention_mask": attention_mask, "labels": labels}

    def step(rows: list[np.ndarray], length: int | None) -> float:
        batch = collate(rows, length)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision_name == "bf16"):
            loss = forward(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step, sum(p.numel() for p in model.parameters())


def methods(size: str, precision_name: str, options: argparse.Namespace) -> tuple[dict[str, Method], dict[str, int]]:
    """Every method of one table, ours first, and the numbers of parameters."""
    tokens = sequences(options.seed, options.batch)
    real = sum(len(t) for t in tokens)
    shuffled = [tokens[i] for i in np.random.default_rng(options.seed).permutation(len(tokens))]
    rows = options.batch_rows
    dense = dense_rows(tokens, rows)
    packed = packed_batches(tokens, rows)
    batches = {"packed": packed, "dense": packed_batches(dense, rows)}
    our_step, our_size = ours(size, precision_name, batches)
    their_step, their_size = theirs(size, precision_name, options.compile, options.device)

    def counts(parts: list[list[np.ndarray]]) -> list[int]:
        return [sum(len(t) for t in part) for part in parts]

    def split(order: list[np.ndarray]) -> list[list[np.ndarray]]:
        return [order[i : i + options.batch] for i in range(0, len(order), options.batch)]

    random, grouped = split(shuffled), split(tokens)
    whole, some = len(grouped), min(options.padded_steps, len(random))
    longest = [max(len(t) for t in part) for part in random]
    table = {
        "ehrjax, packed": Method(
            lambda i: our_step("packed", i),
            [int((b["segment_ids"] > 0).sum()) for b in packed],
            sum(b["tokens"].size for b in packed),
            len(packed),
        ),
        "ehrjax, dense 512": Method(lambda i: our_step("dense", i), [rows * CONTEXT], rows * CONTEXT, 1),
        "padded to 512": Method(
            lambda i: their_step(random[i], CONTEXT), counts(random), len(tokens) * CONTEXT, some, True
        ),
        "padded to the longest of 32": Method(
            lambda i: their_step(random[i], None),
            counts(random),
            options.batch * sum(longest),
            some,
            True,
        ),
        "grouped by length": Method(
            lambda i: their_step(grouped[i], None),
            counts(grouped),
            options.batch * sum(max(len(t) for t in part) for part in grouped),
            whole,
        ),
        "dense 512": Method(lambda i: their_step(dense, CONTEXT), [rows * CONTEXT], rows * CONTEXT, 1),
    }
    for name in ("ehrjax, packed", "padded to 512", "padded to the longest of 32", "grouped by length"):
        assert sum(table[name].tokens) == real
    return table, {"ehrjax": our_size, "BertForMaskedLM": their_size}


def rows_of(table: dict[str, Method], repeats: int) -> Iterator[tuple[str, float, float, list[float]]]:
    """Name, density, tokens a second (median) and ratios to it of each repeat, of each way of PyTorch."""
    for name in GOALS:
        against = table["ehrjax, dense 512" if name == "dense 512" else "ehrjax, packed"]
        method = table[name]
        ratios = [against.speed(i) / method.speed(i) for i in range(repeats)]
        yield name, method.density, statistics.median(method.speed(i) for i in range(repeats)), ratios


def measure(size: str, precision_name: str, options: argparse.Namespace, deadline: float) -> dict[str, object]:
    """Runs one table and prints it. No repeat but the first is begun that would end after the deadline."""
    table, sizes = methods(size, precision_name, options)
    for method in table.values():  # Compilation, and the first touch of parameters and optimizer states.
        for index in range(len(method.tokens) if options.compile else 1):
            if options.compile or not method.slow:
                method.step(index)
    repeats, last = 0, 0.0
    while repeats < options.repeats and (not repeats or time.perf_counter() + last <= deadline):
        start = time.perf_counter()
        for method in table.values():
            if repeats < options.slow_repeats or not method.slow:
                method.repeat(repeats)
        repeats, last = repeats + 1, sum(sum(m.seconds[-1]) for m in table.values() if not m.slow)
        print(f"repeat {repeats}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n{size}, {precision_name}: {sizes}", flush=True)
    for name in ("ehrjax, packed", "ehrjax, dense 512"):
        speeds = [table[name].speed(i) for i in range(repeats)]
        print(f"  {name:28s} {table[name].density:6.1%} dense {statistics.median(speeds):8,.0f} tokens/s")
    result = {"size": size, "precision": precision_name, "rows": []}
    for name, density, speed, ratios in rows_of(table, repeats):
        middle = statistics.median(ratios)
        goal = f"goal {GOALS[name]}: {'met' if middle >= GOALS[name] else 'MISSED'}" if precision_name == "fp32" else ""
        spread = f"{min(ratios):.2f}..{max(ratios):.2f}"
        print(f"  {name:28s} {density:6.1%} dense {speed:8,.0f} tokens/s  ratio {middle:5.2f} ({spread}) {goal}")
        result["rows"].append({"against": name, "density": density, "tokens_per_second": speed, "ratios": ratios})
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="medium,large")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=10, help="begin no repeat that would end later")
    parser.add_argument("--batch", type=int, default=32, help="sequences a step of PyTorch")
    parser.add_argument("--batch_rows", type=int, help="rows of 512 tokens a step of ehrjax; 10 for a batch of 32")
    parser.add_argument("--padded_steps", type=int, default=1, help="steps a repeat of the two padded ways")
    parser.add_argument("--slow_repeats", type=int, default=1, help="repeats of the two padded ways")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--compile", action="store_true", help="torch.compile the PyTorch model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    options.batch_rows = options.batch_rows or max(1, round(10 * options.batch / 32))

    import jax
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    options.device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    print(
        f"{name}, {options.threads} threads, jax {jax.__version__} on {jax.devices()[0].platform}, "
        f"torch {torch.__version__} on {options.device}, transformers {transformers.__version__}"
    )
    start = time.perf_counter()
    tables = [(s, p) for p in options.precisions.split(",") for s in options.sizes.split(",")]
    costs = [COSTS[s] * COSTS[p] for s, p in tables]
    shares = np.cumsum(costs) / sum(costs)
    deadlines = start + 60 * options.minutes * shares
    results = [measure(*table, options, deadline) for table, deadline in zip(tables, deadlines)]
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
