"""ehr-sequencing's BEHRT (BEHRTForMLM and the other tasks' classes): summed embeddings, torch.nn.TransformerEncoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ehrjax.hf.rules import FUSED_BIAS, FUSED_ROWS, OUTPUT, TABLE, Rule
from ehrjax.hf.settings import linear, norm

SIGNATURE = "embeddings.code_embedding.weight"
MODEL, OBJECTIVE = "behrt", "masked_codes"
PREFIX = "behrt."
# Ids of specials where no vocabulary says them.
SPECIALS_AT = {"pad_token": 0, "unk_token": 1, "mask_token": 2, "cls_token": 3, "sep_token": 4}

_LAYER, _PATH = "encoder.layers.{i}", "model/layers/{i}"
_QKV = tuple(f"{_PATH}/attention/{name}" for name in ("query", "key", "value"))
RULES = [
    Rule("embeddings.code_embedding.weight", "model/embeddings/code/embedding", TABLE),
    Rule("embeddings.age_embedding.embedding.weight", "model/embeddings/age/embedding"),
    Rule("embeddings.visit_embedding.embedding.weight", "model/embeddings/visit/embedding"),
    Rule("embeddings.position_embedding.embedding.weight", "model/embeddings/position/embedding"),
    *norm("embeddings.layer_norm", "model/embeddings/norm"),
    *linear("embedding_projection", "model/embeddings/project"),
    Rule(f"{_LAYER}.self_attn.in_proj_weight", tuple(f"{path}/kernel" for path in _QKV), FUSED_ROWS),
    Rule(f"{_LAYER}.self_attn.in_proj_bias", tuple(f"{path}/bias" for path in _QKV), FUSED_BIAS),
    *linear(f"{_LAYER}.self_attn.out_proj", f"{_PATH}/attention/out"),
    *norm(f"{_LAYER}.norm1", f"{_PATH}/attention_norm"),
    *linear(f"{_LAYER}.linear1", f"{_PATH}/mlp/up"),
    *linear(f"{_LAYER}.linear2", f"{_PATH}/mlp/down"),
    *norm(f"{_LAYER}.norm2", f"{_PATH}/mlp_norm"),
    *norm("layer_norm", "model/final_norm"),
    *linear("mlm_head.0", "head/transform", group="head"),
    *norm("mlm_head.2", "head/norm", group="head"),
    Rule("mlm_head.3.weight", "head/codes/kernel", OUTPUT, "head"),
    Rule("mlm_head.3.bias", "head/codes/bias", TABLE, "head"),
]
COPIES: dict[str, str] = {}
HEADS = (r"nvp_head\.", r"classifier\.", r"embeddings\.position_embedding\.pe$")
# Heads of its named sizes, by the width.
_NUM_HEADS = {128: 4, 256: 8, 512: 8}


def settings_of(
    there: Mapping[str, tuple[int, ...]], told: Mapping[str, Any], num_heads: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, from the shapes; heads are those of the named sizes unless they are given."""
    learned = "embeddings.position_embedding.embedding.weight"
    width = there["layer_norm.weight"][0]
    model = dict(
        num_layers=1 + max(int(m[1]) for name in there if (m := re.match(r"encoder\.layers\.(\d+)\.", name))),
        num_heads=num_heads or _NUM_HEADS.get(width, 8),
        hidden_dim=width,
        embedding_dim=there[SIGNATURE][1],
        mlp_dim=there["encoder.layers.0.linear1.weight"][0],
        max_positions=there[learned][0] if learned in there else max(there["embeddings.position_embedding.pe"][:-1]),
        max_visits=there["embeddings.visit_embedding.embedding.weight"][0],
        # Rows are max_age / 5 + 2.
        max_age=5 * (there["embeddings.age_embedding.embedding.weight"][0] - 2),
        positions="learned" if learned in there else "sinusoidal",
    )
    return model, dict(tied=False)
