"""BEHRT, which transformers has not: exported with a modelling file for `trust_remote_code`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.hf.families import ehr_sequencing
from ehrjax.hf.rules import TABLE, Rule
from ehrjax.hf.settings import activation, activation_name, require

MODEL_TYPES = ("ehrjax_behrt",)
MODEL, OBJECTIVE = "behrt", "masked_codes"
PREFIX = "behrt."
ARCHITECTURES = {"ehrjax_behrt": {"head": "BehrtForMaskedLM", "base": "BehrtModel"}}
# The file in hf/remote that goes with the weights, and what it holds.
REMOTE = "modeling_behrt"
AUTO_MAP = {
    "AutoConfig": f"{REMOTE}.BehrtConfig",
    "AutoModel": f"{REMOTE}.BehrtModel",
    "AutoModelForMaskedLM": f"{REMOTE}.BehrtForMaskedLM",
}

RULES = [
    *ehr_sequencing.RULES,
    Rule("embeddings.segment_embedding.embedding.weight", "model/embeddings/segment/embedding"),
    Rule("mlm_head.3.bias", "head/bias", TABLE, "head"),
]
COPIES = {"mlm_head.3.weight": "embeddings.code_embedding.weight"}
HEADS: tuple[str, ...] = ()
# All of them are in a config that `to-hf` has written.
_KEYS = (
    "num_hidden_layers", "num_attention_heads", "hidden_size", "embedding_size", "intermediate_size",
    "max_position_embeddings", "max_visits", "age_bin_years", "max_age", "position_type", "visit_segments",
    "layer_norm_eps", "head_layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "tie_word_embeddings",
)  # fmt: skip


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective.

    Raises:
      InputError: the config lacks one of them.
    """
    require(config, _KEYS)
    model = dict(
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["hidden_size"],
        embedding_dim=config["embedding_size"],
        mlp_dim=config["intermediate_size"],
        max_positions=config["max_position_embeddings"],
        max_visits=config["max_visits"],
        age_bin_years=config["age_bin_years"],
        max_age=config["max_age"],
        positions=config["position_type"],
        visit_segments=config["visit_segments"],
        layer_norm_epsilon=config["layer_norm_eps"],
        gelu=activation(config, "hidden_act", "gelu"),
        dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
    )
    objective = dict(
        tied=config["tie_word_embeddings"],
        gelu=activation(config, "head_act", "gelu"),
        layer_norm_epsilon=config["head_layer_norm_eps"],
    )
    return model, objective


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The HuggingFace config of these settings."""
    return dict(
        model_type="ehrjax_behrt",
        auto_map=AUTO_MAP,
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        hidden_size=model["hidden_dim"],
        embedding_size=model["embedding_dim"],
        intermediate_size=model["mlp_dim"] or 4 * model["hidden_dim"],
        max_position_embeddings=model["max_positions"],
        max_visits=model["max_visits"],
        age_bin_years=model["age_bin_years"],
        max_age=model["max_age"],
        position_type=model["positions"],
        visit_segments=model["visit_segments"],
        layer_norm_eps=model["layer_norm_epsilon"],
        hidden_act=activation_name(model["gelu"]),
        head_act=activation_name(objective.get("gelu", "erf")),
        head_layer_norm_eps=objective.get("layer_norm_epsilon", 1e-5),
        hidden_dropout_prob=model["dropout"],
        attention_probs_dropout_prob=model["attention_dropout"],
        tie_word_embeddings=objective.get("tied", False),
    )
