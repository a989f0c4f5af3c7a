"""nanoGPT, and the token pipeline's GPT-2, which is one: GPT-2 with Linear layers, erf-GELU, biases by option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ehrjax.core.errors import InputError
from ehrjax.hf.families import gpt2
from ehrjax.hf.rules import FUSED_COLUMNS, FUSED_ROWS, SAME, TRANSPOSED, Rule

SIGNATURE = "h.0.attn.c_attn.weight"
MODEL, OBJECTIVE = "gpt2", "next_token"
PREFIX = "transformer."
# Ids of specials where no vocabulary says them.
SPECIALS_AT: dict[str, int] = {}


def _linear(rule: Rule) -> Rule:
    """GPT-2's rule for a checkpoint with Linear layers."""
    if rule.how is FUSED_COLUMNS:
        return Rule(rule.names, rule.paths, FUSED_ROWS)
    kernel = rule.how is SAME and isinstance(rule.paths, str) and rule.paths.endswith("kernel")
    return Rule(rule.names, rule.paths, TRANSPOSED) if kernel else rule


RULES = [_linear(rule) for rule in gpt2.RULES]
COPIES = gpt2.COPIES
HEADS = gpt2.HEADS


def settings_of(
    there: Mapping[str, tuple[int, ...]], told: Mapping[str, Any], num_heads: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, from the shapes and from what the checkpoint says (`model_args`).

    Raises:
      InputError: nothing says how many heads there are, or the dropout is no number.
    """
    arguments = next((told[key] for key in ("model_args", "config") if isinstance(told.get(key), Mapping)), {})
    heads = num_heads or arguments.get("n_head") or arguments.get("n_heads")
    if not isinstance(heads, int) or heads < 1:
        raise InputError("The checkpoint does not say how many attention heads it has; add --heads=N.")
    dropout = arguments.get("dropout", 0.0)
    if not isinstance(dropout, (int, float)):
        raise InputError(f"The checkpoint says dropout = {dropout!r}, which is no number; save the arguments again.")
    width = there["wte.weight"][1]
    layers = 1 + max(int(m[1]) for name in there if (m := re.match(r"h\.(\d+)\.", name)))
    model = dict(
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=there["h.0.mlp.c_fc.weight"][0],
        max_positions=there["wpe.weight"][0],
        use_bias="ln_f.bias" in there,
        dropout=float(dropout),
        attention_dropout=float(dropout),
        gelu="erf",
    )
    return model, dict(tied=True)
