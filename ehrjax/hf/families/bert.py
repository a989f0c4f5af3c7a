"""BERT (transformers' BertModel, BertForMaskedLM, BertForPreTraining; Bio_ClinicalBERT, BioBERT, MiniLM, Med-BERT)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.core.errors import InputError
from ehrjax.hf.rules import OUTPUT, TABLE, Rule
from ehrjax.hf.settings import activation, activation_name, linear, norm, refuse

MODEL_TYPES = ("bert",)
MODEL, OBJECTIVE = "bert", "masked_codes"
PREFIX = "bert."
ARCHITECTURES = {"bert": {"head": "BertForMaskedLM", "base": "BertModel"}}
# What the head has of its own here, and where a config does not say it.
_HEAD = {"gelu": "erf", "layer_norm_epsilon": 1e-5}


def encoder(layer: str, path: str) -> list[Rule]:
    """The rules of BERT's encoder layers, which several families have."""
    return [
        *linear(f"{layer}.attention.self.query", f"{path}/attention/query"),
        *linear(f"{layer}.attention.self.key", f"{path}/attention/key"),
        *linear(f"{layer}.attention.self.value", f"{path}/attention/value"),
        *linear(f"{layer}.attention.output.dense", f"{path}/attention/out"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{path}/attention_norm"),
        *linear(f"{layer}.intermediate.dense", f"{path}/mlp/up"),
        *linear(f"{layer}.output.dense", f"{path}/mlp/down"),
        *norm(f"{layer}.output.LayerNorm", f"{path}/mlp_norm"),
    ]


RULES = [
    Rule("embeddings.word_embeddings.weight", "model/embeddings/code/embedding", TABLE),
    Rule("embeddings.position_embeddings.weight", "model/embeddings/position/embedding"),
    Rule("embeddings.token_type_embeddings.weight", "model/embeddings/type/embedding"),
    *norm("embeddings.LayerNorm", "model/embeddings/norm"),
    *encoder("encoder.layer.{i}", "model/layers/{i}"),
    *linear("cls.predictions.transform.dense", "head/transform", group="head"),
    *norm("cls.predictions.transform.LayerNorm", "head/norm", group="head"),
    Rule("cls.predictions.bias", "head/bias", TABLE, "head"),
    # Not tied, the bias that counts is the decoder's; old checkpoints have it under the other name alone.
    Rule("cls.predictions.decoder.bias", "head/codes/bias", TABLE, "head"),
    Rule("cls.predictions.decoder.weight", "head/codes/kernel", OUTPUT, "head"),
]
COPIES = {
    "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
# What the class has all the same where the head is not tied, beside the tensor that it uses.
UNUSED = {"cls.predictions.bias": "cls.predictions.decoder.bias"}
HEADS = (
    r"pooler\.",
    r"cls\.seq_relationship\.",
    r"cls\.predictions\.bias$",
    r"classifier\.",
    r"qa_outputs\.",
    r"embeddings\.\w+_ids$",
)


def check_head(model: Mapping[str, Any], objective: Mapping[str, Any], **fixed: Any) -> None:
    """Raises InputError for a masked-code head whose activation or norm is not the model's, or one that is `fixed`."""
    if objective["name"] in ("masked_codes", "masked_values"):
        told = {f"objective.{key}": objective.get(key, default) for key, default in _HEAD.items()}
        wanted = {f"objective.{key}": fixed.get(key, model[key]) for key in _HEAD}
        refuse(told, wanted, who="this class, whose head is like its layers,")


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective."""
    refuse(config, {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False})
    gelu, epsilon = activation(config, "hidden_act", "gelu"), config.get("layer_norm_eps", 1e-12)
    model = dict(
        num_layers=config.get("num_hidden_layers", 12),
        num_heads=config.get("num_attention_heads", 12),
        hidden_dim=config.get("hidden_size", 768),
        mlp_dim=config.get("intermediate_size", 3072),
        max_positions=config.get("max_position_embeddings", 512),
        num_types=config.get("type_vocab_size", 2),
        dropout=config.get("hidden_dropout_prob", 0.1),
        attention_dropout=config.get("attention_probs_dropout_prob", 0.1),
        layer_norm_epsilon=epsilon,
        gelu=gelu,
    )
    tied = config.get("tie_word_embeddings", True)
    return model, dict(tied=tied, gelu=gelu, layer_norm_epsilon=epsilon)


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The HuggingFace config of these settings.

    Raises:
      InputError: positions do not begin at row 0, there are no token types, or the head is no BERT's.
    """
    refuse({"model.position_offset": model["position_offset"]}, {"model.position_offset": 0}, who="BERT")
    check_head(model, objective)
    return {"model_type": "bert", **layers_to(model, objective)}


def layers_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """What the configs of BERT and RoBERTa have in common.

    Raises:
      InputError: there are no token types.
    """
    if not model["num_types"]:
        raise InputError("model.num_types is 0, but BERT has token types.")
    return dict(
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        hidden_size=model["hidden_dim"],
        intermediate_size=model["mlp_dim"] or 4 * model["hidden_dim"],
        max_position_embeddings=model["max_positions"],
        type_vocab_size=model["num_types"],
        hidden_dropout_prob=model["dropout"],
        attention_probs_dropout_prob=model["attention_dropout"],
        layer_norm_eps=model["layer_norm_epsilon"],
        hidden_act=activation_name(model["gelu"]),
        tie_word_embeddings=objective.get("tied", True),
    )
