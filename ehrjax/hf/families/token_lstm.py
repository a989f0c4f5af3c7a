"""The token pipeline's LSTM: embedding, torch.nn.LSTM, one linear layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ehrjax.hf.rules import OUTPUT, SUMMED, TABLE, TRANSPOSED, Rule

SIGNATURE = "lstm.weight_ih_l0"
MODEL, OBJECTIVE = "lstm", "next_token"
PREFIX = ""
# Ids of specials where no vocabulary says them: <unknown>, <start>, <end>.
SPECIALS_AT = {"unk_token": 0, "bos_token": 1, "eos_token": 2}

RULES = [
    Rule("embedding.weight", "model/embeddings/code/embedding", TABLE),
    Rule("lstm.weight_ih_l{i}", "model/lstm_{i}/input", TRANSPOSED),
    Rule("lstm.weight_hh_l{i}", "model/lstm_{i}/hidden", TRANSPOSED),
    Rule(("lstm.bias_ih_l{i}", "lstm.bias_hh_l{i}"), "model/lstm_{i}/bias", SUMMED),
    Rule("fc.weight", "head/codes/kernel", OUTPUT, "head"),
    Rule("fc.bias", "head/codes/bias", TABLE, "head"),
]
COPIES: dict[str, str] = {}
HEADS: tuple[str, ...] = ()


def settings_of(
    there: Mapping[str, tuple[int, ...]], told: Mapping[str, Any], num_heads: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, from the shapes."""
    layers = 1 + max(int(m[1]) for name in there if (m := re.match(r"lstm\.weight_ih_l(\d+)$", name)))
    model = dict(
        embedding_dim=there["embedding.weight"][1],
        hidden_dim=there["lstm.weight_hh_l0"][1],
        num_layers=layers,
    )
    return model, dict(tied=False, use_bias=True)
