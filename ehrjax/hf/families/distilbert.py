"""DistilBERT (transformers' DistilBertModel, DistilBertForMaskedLM): BERT without token types, under other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.hf.families import bert
from ehrjax.hf.rules import OUTPUT, TABLE, Rule
from ehrjax.hf.settings import activation, activation_name, linear, norm, refuse

MODEL_TYPES = ("distilbert",)
MODEL, OBJECTIVE = "bert", "masked_codes"
PREFIX = "distilbert."
ARCHITECTURES = {"distilbert": {"head": "DistilBertForMaskedLM", "base": "DistilBertModel"}}

RULES = [
    Rule("embeddings.word_embeddings.weight", "model/embeddings/code/embedding", TABLE),
    Rule("embeddings.position_embeddings.weight", "model/embeddings/position/embedding"),
    *norm("embeddings.LayerNorm", "model/embeddings/norm"),
    *linear("transformer.layer.{i}.attention.q_lin", "model/layers/{i}/attention/query"),
    *linear("transformer.layer.{i}.attention.k_lin", "model/layers/{i}/attention/key"),
    *linear("transformer.layer.{i}.attention.v_lin", "model/layers/{i}/attention/value"),
    *linear("transformer.layer.{i}.attention.out_lin", "model/layers/{i}/attention/out"),
    *norm("transformer.layer.{i}.sa_layer_norm", "model/layers/{i}/attention_norm"),
    *linear("transformer.layer.{i}.ffn.lin1", "model/layers/{i}/mlp/up"),
    *linear("transformer.layer.{i}.ffn.lin2", "model/layers/{i}/mlp/down"),
    *norm("transformer.layer.{i}.output_layer_norm", "model/layers/{i}/mlp_norm"),
    *linear("vocab_transform", "head/transform", group="head"),
    *norm("vocab_layer_norm", "head/norm", group="head"),
    Rule("vocab_projector.bias", "head/bias", TABLE, "head"),
    Rule("vocab_projector.bias", "head/codes/bias", TABLE, "head"),
    Rule("vocab_projector.weight", "head/codes/kernel", OUTPUT, "head"),
]
COPIES = {"vocab_projector.weight": "embeddings.word_embeddings.weight"}
HEADS = (r"pre_classifier\.", r"classifier\.", r"qa_outputs\.", r"embeddings\.\w+_ids$")
# DistilBERT's norms have it fixed.
EPSILON = 1e-12


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective."""
    gelu = activation(config, "activation", "gelu")
    model = dict(
        num_layers=config.get("n_layers", 6),
        num_heads=config.get("n_heads", 12),
        hidden_dim=config.get("dim", 768),
        mlp_dim=config.get("hidden_dim", 3072),
        max_positions=config.get("max_position_embeddings", 512),
        dropout=config.get("dropout", 0.1),
        attention_dropout=config.get("attention_dropout", 0.1),
        layer_norm_epsilon=EPSILON,
        gelu=gelu,
    )
    return model, dict(tied=config.get("tie_word_embeddings", True), gelu=gelu, layer_norm_epsilon=EPSILON)


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The HuggingFace config of these settings.

    Raises:
      InputError: the model has token types, other positions, or another epsilon.
    """
    told = {f"model.{key}": model[key] for key in ("num_types", "position_offset", "layer_norm_epsilon")}
    expected = {"model.num_types": 0, "model.position_offset": 0, "model.layer_norm_epsilon": EPSILON}
    refuse(told, expected, who="DistilBERT")
    bert.check_head(model, objective)
    return dict(
        model_type="distilbert",
        n_layers=model["num_layers"],
        n_heads=model["num_heads"],
        dim=model["hidden_dim"],
        hidden_dim=model["mlp_dim"] or 4 * model["hidden_dim"],
        max_position_embeddings=model["max_positions"],
        dropout=model["dropout"],
        attention_dropout=model["attention_dropout"],
        activation=activation_name(model["gelu"]),
        tie_word_embeddings=objective.get("tied", True),
    )
