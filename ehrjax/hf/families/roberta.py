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
ARCHITECTURES = {"head": "RobertaForMaskedLM", "base": "RobertaModel"}

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
HEADS = (*bert.HEADS, r"lm_head\.bias$")


def settings_from(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the model and of the objective."""
    model, objective = bert.settings_from({"layer_norm_eps": 1e-5, **config})
    # The head's activation is GELU whatever the model's is (RobertaLMHead).
    return {**model, "position_offset": config.get("pad_token_id", 1) + 1}, {**objective, "gelu": "erf"}


def config_to(model: Mapping[str, Any], objective: Mapping[str, Any]) -> dict[str, Any]:
    """Raises InputError: there positions begin behind the id of padding, which is 0 in our vocabularies.

    A checkpoint that came goes back as it came; with another vocabulary (`hf.resize`) it is a BERT.
    """
    raise InputError(
        "RoBERTa's positions depend on its own id of padding; give the run a vocabulary, and it is a BERT."
    )
