"""RoBERTa (transformers' RobertaModel, RobertaForMaskedLM): BERT whose positions begin at row 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ehrjax.core.errors import InputError
from ehrjax.hf.families import bert
from ehrjax.hf.rules import OUTPUT, TABLE, Rule
from ehrjax.hf.settings import linear, norm

MODEL_TYPES = ("roberta", "xlm-roberta", "camembert")
MODEL, OBJECTIVE = "bert", "masked_codes"
PREFIX = "roberta."
ARCHITECTURES = {
    "roberta": {"head": "RobertaForMaskedLM", "base": "RobertaModel"},
    "xlm-roberta": {"head": "XLMRobertaForMaskedLM", "base": "XLMRobertaModel"},
    "camembert": {"head": "CamembertForMaskedLM", "base": "CamembertModel"},
}

RULES = [
    *(rule for rule in bert.RULES if rule.group != "head"),
    *linear("lm_head.dense", "head/transform", group="head"),
    *norm("lm_head.layer_norm", "head/norm", group="head"),
    Rule("lm_head.bias", "head/bias", TABLE, "head"),
    Rule("lm_head.decoder.bias", "head/codes/bias", TABLE, "head"),
    Rule("lm_head.decoder.weight", "head/codes/kernel", OUTPUT, "head"),
]
COPIES = {
    "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
    "lm_head.decoder.bias": "lm_head.bias",
}
UNUSED = {"lm_head.bias": "lm_head.decoder.bias"}
HEADS = (*bert.HEADS, r"lm_head\.bias$")


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective.

    Raises:
      InputError: nothing says where positions begin.
    """
    if (pad := config.get("pad_token_id", 1)) is None or pad < 0:
        raise InputError(f"config.json says pad_token_id = {pad!r}; positions begin behind it, so it must be a row.")
    model, objective = bert.settings_from({"layer_norm_eps": 1e-5, **config})
    # The head's activation is GELU whatever the model's is (RobertaLMHead).
    return {**model, "position_offset": pad + 1}, {**objective, "gelu": "erf"}


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """The HuggingFace config of these settings.

    Raises:
      InputError: positions begin at row 0, or the head is not RoBERTa's.
    """
    if not model["position_offset"]:
        raise InputError("model.position_offset is 0, but RoBERTa's positions begin behind the id of padding.")
    bert.check_head(model, objective, gelu="erf")
    return {
        **bert.layers_to(model, objective),
        "model_type": "roberta",
        "pad_token_id": model["position_offset"] - 1,
    }


def check_born() -> None:
    """Raises InputError: there positions begin behind the id of padding, which is 0 in our vocabularies.

    A checkpoint that came goes back as it came; with another vocabulary (`hf.resize`) it is a BERT.
    """
    raise InputError(
        "RoBERTa's positions depend on its own id of padding; give the run a vocabulary, and it is a BERT."
    )
