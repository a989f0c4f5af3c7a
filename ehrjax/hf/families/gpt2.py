"""GPT-2 (transformers' GPT2Model, GPT2LMHeadModel)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.hf.rules import FUSED_BIAS, FUSED_COLUMNS, OUTPUT, SAME, TABLE, Rule
from ehrjax.hf.settings import activation, activation_name, linear, norm, refuse

MODEL_TYPES = ("gpt2",)
MODEL, OBJECTIVE = "gpt2", "next_token"
PREFIX = "transformer."
ARCHITECTURES = {"gpt2": {"head": "GPT2LMHeadModel", "base": "GPT2Model"}}

_QKV = ("model/layers/{i}/attention/query", "model/layers/{i}/attention/key", "model/layers/{i}/attention/value")
# Conv1D holds [in, out], as our kernels do.
RULES = [
    Rule("wte.weight", "model/embeddings/code/embedding", TABLE),
    Rule("wpe.weight", "model/embeddings/position/embedding"),
    *norm("h.{i}.ln_1", "model/layers/{i}/attention_norm"),
    Rule("h.{i}.attn.c_attn.weight", tuple(f"{path}/kernel" for path in _QKV), FUSED_COLUMNS),
    Rule("h.{i}.attn.c_attn.bias", tuple(f"{path}/bias" for path in _QKV), FUSED_BIAS),
    *linear("h.{i}.attn.c_proj", "model/layers/{i}/attention/out", SAME),
    *norm("h.{i}.ln_2", "model/layers/{i}/mlp_norm"),
    *linear("h.{i}.mlp.c_fc", "model/layers/{i}/mlp/up", SAME),
    *linear("h.{i}.mlp.c_proj", "model/layers/{i}/mlp/down", SAME),
    *norm("ln_f", "model/final_norm"),
    Rule("lm_head.weight", "head/codes/kernel", OUTPUT, "head"),
]
COPIES = {"lm_head.weight": "wte.weight"}
# The causal mask is a buffer of old checkpoints.
HEADS = (r"h\.\d+\.attn\.(masked_)?bias$", r"score\.", r"multiple_choice_head\.", r"classifier\.", r"qa_outputs\.")


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective."""
    refuse(
        config,
        {
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
    )
    model = dict(
        num_layers=config.get("n_layer", 12),
        num_heads=config.get("n_head", 12),
        hidden_dim=config.get("n_embd", 768),
        mlp_dim=config.get("n_inner"),
        max_positions=config.get("n_positions", config.get("n_ctx", 1024)),
        dropout=config.get("resid_pdrop", 0.1),
        attention_dropout=config.get("attn_pdrop", 0.1),
        layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        gelu=activation(config, "activation_function", "gelu_new"),
    )
    return model, dict(tied=config.get("tie_word_embeddings", True))


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The HuggingFace config of these settings.

    Raises:
      InputError: the model has no biases, or its head has one, which GPT-2 there cannot have.
    """
    refuse(
        {"model.use_bias": model["use_bias"], "objective.use_bias": objective.get("use_bias", False)},
        {"model.use_bias": True, "objective.use_bias": False},
        who="GPT-2 in transformers",
    )
    return dict(
        model_type="gpt2",
        n_layer=model["num_layers"],
        n_head=model["num_heads"],
        n_embd=model["hidden_dim"],
        n_inner=model["mlp_dim"],
        n_positions=model["max_positions"],
        resid_pdrop=model["dropout"],
        embd_pdrop=model["dropout"],
        attn_pdrop=model["attention_dropout"],
        layer_norm_epsilon=model["layer_norm_epsilon"],
        activation_function=activation_name(model["gelu"]),
        tie_word_embeddings=objective.get("tied", True),
    )
