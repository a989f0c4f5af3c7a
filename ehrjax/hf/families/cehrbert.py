"""CEHR-BERT's own class (cumc-dbmi/cehrbert's CehrBert, CehrBertForPreTraining)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.hf.families import bert
from ehrjax.hf.rules import FIRST, OUTPUT, TABLE, Rule
from ehrjax.hf.settings import activation, activation_name, linear, norm

MODEL_TYPES = ("cehrbert",)
MODEL = "cehr_bert"
# A checkpoint's config tells which (`settings_from`).
OBJECTIVE = "masked_codes"
OBJECTIVES = ("masked_codes", "masked_values")
PREFIX = "bert."
ARCHITECTURES = {"cehrbert": {"head": "CehrBertForPreTraining", "base": "CehrBert"}}

_IN, _PATH = "cehr_bert_embeddings", "model/embeddings"
_VALUE = "concept_value_decoder_layer.concept_value_decoder_layer"
RULES = [
    Rule(f"{_IN}.concept_embeddings.weight", f"{_PATH}/code/embedding", TABLE),
    Rule(f"{_IN}.visit_segment_embeddings.weight", f"{_PATH}/segment/embedding"),
    Rule(f"{_IN}.time_embedding_layer.w", f"{_PATH}/time/w", FIRST),
    Rule(f"{_IN}.time_embedding_layer.phi", f"{_PATH}/time/phi", FIRST),
    Rule(f"{_IN}.age_embedding_layer.w", f"{_PATH}/age/w", FIRST),
    Rule(f"{_IN}.age_embedding_layer.phi", f"{_PATH}/age/phi", FIRST),
    *linear(f"{_IN}.concept_value_transformation_layer.merge_value_transformation_layer", f"{_PATH}/merge_value"),
    *linear(f"{_IN}.linear_proj", f"{_PATH}/project"),
    *bert.encoder("encoder.layer.{i}", "model/layers/{i}"),
    *linear("cls.predictions.transform.dense", "head/transform", group="head"),
    *norm("cls.predictions.transform.LayerNorm", "head/norm", group="head"),
    Rule("cls.predictions.bias", "head/bias", TABLE, "head"),
    Rule("cls.predictions.decoder.bias", "head/codes/bias", TABLE, "head"),
    Rule("cls.predictions.decoder.weight", "head/codes/kernel", OUTPUT, "head"),
    *linear(f"{_VALUE}.0", "head/value_transform", group="head"),
    *norm(f"{_VALUE}.2", "head/value_norm", group="head"),
    *linear(f"{_VALUE}.3", "head/value", group="head"),
]
COPIES = {
    "cls.predictions.decoder.weight": f"{_IN}.concept_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
UNUSED = bert.UNUSED
# The sinusoids are a buffer; the other heads are those of fine-tuning.
HEADS = (*bert.HEADS, rf"{_IN}\.positional_embedding_layer\.pe$", r"age_batch_norm\.", r"dense_layer\.")


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective."""
    gelu, epsilon = activation(config, "hidden_act", "gelu"), config.get("layer_norm_eps", 1e-12)
    longest = config.get("max_position_embeddings", 512)
    model = dict(
        num_layers=config.get("num_hidden_layers", 12),
        num_heads=config.get("num_attention_heads", 8),
        hidden_dim=config.get("hidden_size", 128),
        mlp_dim=config.get("intermediate_size", 2048),
        time_dim=config.get("n_time_embd", 16),
        num_segments=config.get("n_visit_segments", 3),
        max_positions=max(longest, config.get("sample_packing_max_positions") or longest),
        time_scale=float(config.get("time_embedding_scaling_factor", 1000)),
        age_scale=float(config.get("age_embedding_scaling_factor", 100)),
        dropout=config.get("hidden_dropout_prob", 0.1),
        attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
        layer_norm_epsilon=epsilon,
        gelu=gelu,
    )
    objective = dict(tied=config.get("tie_word_embeddings", True), gelu=gelu, layer_norm_epsilon=epsilon)
    if config.get("include_value_prediction"):
        objective["name"] = "masked_values"
    return model, objective


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The HuggingFace config of these settings.

    Raises:
      InputError: the head is not like the layers.
    """
    bert.check_head(model, objective)
    return dict(
        model_type="cehrbert",
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        hidden_size=model["hidden_dim"],
        intermediate_size=model["mlp_dim"] or 4 * model["hidden_dim"],
        n_time_embd=model["time_dim"],
        n_visit_segments=model["num_segments"],
        max_position_embeddings=model["max_positions"],
        time_embedding_scaling_factor=model["time_scale"],
        age_embedding_scaling_factor=model["age_scale"],
        hidden_dropout_prob=model["dropout"],
        attention_probs_dropout_prob=model["attention_dropout"],
        layer_norm_eps=model["layer_norm_epsilon"],
        hidden_act=activation_name(model["gelu"]),
        include_value_prediction=objective["name"] == "masked_values",
        tie_word_embeddings=objective.get("tied", True),
    )
