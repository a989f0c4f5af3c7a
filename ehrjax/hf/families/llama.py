"""Llama-style decoders (transformers' LlamaForCausalLM, MistralForCausalLM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.core.errors import InputError
from ehrjax.hf.rules import OUTPUT, SAME, TABLE, TRANSPOSED, Rule
from ehrjax.hf.settings import activation, activation_name, refuse

MODEL_TYPES = ("llama", "mistral")
MODEL, OBJECTIVE = "decoder", "next_token"
# The second one is LlamaForQuestionAnswering's.
PREFIX = ("model.", "transformer.")
ARCHITECTURES = {
    "llama": {"head": "LlamaForCausalLM", "base": "LlamaModel"},
    "mistral": {"head": "MistralForCausalLM", "base": "MistralModel"},
}

_LAYER = "layers.{i}"
_PATH = "model/layers/{i}"
RULES = [
    Rule("embed_tokens.weight", "model/embeddings/code/embedding", TABLE),
    Rule(f"{_LAYER}.input_layernorm.weight", f"{_PATH}/attention_norm/scale"),
    Rule(f"{_LAYER}.self_attn.q_proj.weight", f"{_PATH}/attention/query/kernel", TRANSPOSED),
    Rule(f"{_LAYER}.self_attn.k_proj.weight", f"{_PATH}/attention/key/kernel", TRANSPOSED),
    Rule(f"{_LAYER}.self_attn.v_proj.weight", f"{_PATH}/attention/value/kernel", TRANSPOSED),
    Rule(f"{_LAYER}.self_attn.o_proj.weight", f"{_PATH}/attention/out/kernel", TRANSPOSED),
    Rule(f"{_LAYER}.post_attention_layernorm.weight", f"{_PATH}/mlp_norm/scale"),
    Rule(f"{_LAYER}.mlp.gate_proj.weight", f"{_PATH}/mlp/gate/kernel", TRANSPOSED),
    Rule(f"{_LAYER}.mlp.up_proj.weight", f"{_PATH}/mlp/up/kernel", TRANSPOSED),
    Rule(f"{_LAYER}.mlp.down_proj.weight", f"{_PATH}/mlp/down/kernel", TRANSPOSED),
    Rule("norm.weight", "model/final_norm/scale", SAME),
    Rule("lm_head.weight", "head/codes/kernel", OUTPUT, "head"),
]
COPIES = {"lm_head.weight": "embed_tokens.weight"}
HEADS = (r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq$", r"score\.", r"qa_outputs\.")


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective.

    Raises:
      InputError: biases or scaled rotary positions, which our decoder has not, or an odd width of heads.
    """
    refuse(config, {"attention_bias": False, "mlp_bias": False, "pretraining_tp": 1})
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        raise InputError(f"config.json says rope_type = {kind!r}, which ehrjax has not; it must be 'default'.")
    base = rope.get("rope_theta", config.get("rope_theta", 10_000.0))
    if isinstance(base, bool) or not isinstance(base, (int, float)) or not 0 < base < float("inf"):
        raise InputError(f"config.json says rope_theta = {base!r}; it must be a number above 0.")
    heads = config.get("num_attention_heads", 32)
    width = config.get("head_dim") or config.get("hidden_size", 4096) // max(heads, 1)
    if width % 2:
        raise InputError(f"config.json gives heads of {width} columns; rotary positions need an even number.")
    window = config.get("sliding_window") if config.get("model_type") == "mistral" else None
    model = dict(
        num_layers=config.get("num_hidden_layers", 32),
        num_heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim"),
        hidden_dim=config.get("hidden_size", 4096),
        mlp_dim=config.get("intermediate_size", 11008),
        max_positions=config.get("max_position_embeddings", 2048),
        # There a window of w holds the token itself and w - 1 before it.
        window=None if window is None else window - 1,
        positions="rotary",
        rotary_base=float(base),
        norm="rms",
        final_norm=True,
        gated=True,
        use_bias=False,
        dropout=0.0,
        attention_dropout=config.get("attention_dropout", 0.0),
        layer_norm_epsilon=config.get("rms_norm_eps", 1e-6),
        gelu=activation(config, "hidden_act", "silu"),
        init="normal",
    )
    return model, dict(tied=config.get("tie_word_embeddings", False))


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The HuggingFace config of these settings.

    Raises:
      InputError: the decoder has parts that Llama has not.
    """
    refuse(
        {
            **{f"model.{key}": value for key, value in model.items()},
            "objective.use_bias": objective.get("use_bias", False),
        },
        {
            "model.positions": "rotary",
            "model.over": "places",
            "model.norm": "rms",
            "model.final_norm": True,
            "model.gated": True,
            "model.use_bias": False,
            "objective.use_bias": False,
        },
        who="Llama in transformers",
    )
    windowed = model["window"] is not None
    return dict(
        model_type="mistral" if windowed else "llama",
        **({"sliding_window": model["window"] + 1} if windowed else {}),
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        num_key_value_heads=model["kv_heads"] or model["num_heads"],
        head_dim=model["head_dim"] or model["hidden_dim"] // model["num_heads"],
        hidden_size=model["hidden_dim"],
        intermediate_size=model["mlp_dim"] or 4 * model["hidden_dim"],
        max_position_embeddings=model["max_positions"],
        rope_parameters={"rope_type": "default", "rope_theta": model["rotary_base"]},
        attention_dropout=model["attention_dropout"],
        rms_norm_eps=model["layer_norm_epsilon"],
        hidden_act=activation_name(model["gelu"]),
        tie_word_embeddings=objective.get("tied", True),
    )
