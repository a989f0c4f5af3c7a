"""The token pipeline's transformer decoder: linear layers a head for query, key and value, sinusoids, no last norm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ehrjax.hf.rules import JOINED_BIAS, JOINED_ROWS, OUTPUT, TABLE, Rule
from ehrjax.hf.settings import linear, norm

SIGNATURE = "layers.0.attn.heads.0.q.weight"
MODEL, OBJECTIVE = "decoder", "next_token"
PREFIX = ""
# Ids of specials where no vocabulary says them: <unknown>, <start>, <end>.
SPECIALS_AT = {"unk_token": 0, "bos_token": 1, "eos_token": 2}


def rules_for(model: Mapping[str, Any]) -> list[Rule]:
    """The table of a decoder with so many heads."""
    layer, path = "layers.{i}", "model/layers/{i}"
    heads = []
    for short, name in (("q", "query"), ("k", "key"), ("v", "value")):
        each = [f"{layer}.attn.heads.{head}.{short}" for head in range(model["num_heads"])]
        heads.append(Rule(tuple(f"{n}.weight" for n in each), f"{path}/attention/{name}/kernel", JOINED_ROWS))
        heads.append(Rule(tuple(f"{n}.bias" for n in each), f"{path}/attention/{name}/bias", JOINED_BIAS))
    return [
        Rule("embedding.weight", "model/embeddings/code/embedding", TABLE),
        *norm(f"{layer}.ln1", f"{path}/attention_norm"),
        *heads,
        *linear(f"{layer}.attn.out_proj", f"{path}/attention/out"),
        *norm(f"{layer}.ln2", f"{path}/mlp_norm"),
        *linear(f"{layer}.mlp.0", f"{path}/mlp/up"),
        *linear(f"{layer}.mlp.2", f"{path}/mlp/down"),
        Rule("linear.weight", "head/codes/kernel", OUTPUT, "head"),
        Rule("linear.bias", "head/codes/bias", TABLE, "head"),
    ]


COPIES: dict[str, str] = {}
# The sinusoids, and the causal mask.
HEADS = (r"pos_encoding\.pe$", r".*mask$")


def settings_of(
    there: Mapping[str, tuple[int, ...]], told: Mapping[str, Any], num_heads: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, from the shapes."""
    layers = 1 + max(int(m[1]) for name in there if (m := re.match(r"layers\.(\d+)\.", name)))
    heads = 1 + max(int(m[1]) for name in there if (m := re.match(r"layers\.0\.attn\.heads\.(\d+)\.", name)))
    positions = there.get("pos_encoding.pe", (1, 2048, 0))
    model = dict(
        num_layers=layers,
        num_heads=heads,
        hidden_dim=there["embedding.weight"][1],
        mlp_dim=there["layers.0.mlp.0.weight"][0],
        max_positions=max(positions[:-1]),
        positions="sinusoidal",
        final_norm=False,
    )
    return model, dict(tied=False, use_bias=True)
