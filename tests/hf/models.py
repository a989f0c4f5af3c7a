"""Random models of transformers, one of each class and several configurations, saved as people get them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

BERT = dict(vocab_size=83, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)  # fmt: skip
DISTIL = dict(vocab_size=83, dim=48, n_layers=2, n_heads=4, hidden_dim=96, max_position_embeddings=64)
GPT2 = dict(vocab_size=83, n_embd=48, n_layer=2, n_head=4, n_positions=64, bos_token_id=82, eos_token_id=82)
LLAMA = dict(vocab_size=83, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
             max_position_embeddings=64)  # fmt: skip

# name -> class, config, what changes
CASES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "bert base": (hf.BertModel, hf.BertConfig, BERT),
    "bert mlm tied": (hf.BertForMaskedLM, hf.BertConfig, BERT),
    "bert mlm untied, 3 heads, narrow": (
        hf.BertForMaskedLM,
        hf.BertConfig,
        {**BERT, "num_attention_heads": 3, "intermediate_size": 31, "tie_word_embeddings": False},
    ),
    "bert pretraining, gelu_new, many types": (
        hf.BertForPreTraining,
        hf.BertConfig,
        {**BERT, "hidden_act": "gelu_new", "type_vocab_size": 9, "layer_norm_eps": 1e-5, "num_hidden_layers": 3},
    ),
    "bert classifier": (hf.BertForSequenceClassification, hf.BertConfig, {**BERT, "num_labels": 5}),
    "roberta base": (hf.RobertaModel, hf.RobertaConfig, {**BERT, "type_vocab_size": 1}),
    "roberta mlm tied": (hf.RobertaForMaskedLM, hf.RobertaConfig, {**BERT, "type_vocab_size": 1}),
    "roberta mlm untied, 6 heads, wide": (
        hf.RobertaForMaskedLM,
        hf.RobertaConfig,
        {**BERT, "num_attention_heads": 6, "intermediate_size": 200, "tie_word_embeddings": False},
    ),
    "distilbert base": (hf.DistilBertModel, hf.DistilBertConfig, DISTIL),
    "distilbert mlm tied": (hf.DistilBertForMaskedLM, hf.DistilBertConfig, DISTIL),
    "distilbert mlm untied, sinusoids, relu": (
        hf.DistilBertForMaskedLM,
        hf.DistilBertConfig,
        {
            **DISTIL,
            "n_heads": 3,
            "hidden_dim": 50,
            "activation": "relu",
            "sinusoidal_pos_embds": True,
            "tie_word_embeddings": False,
        },
    ),
    "gpt2 base": (hf.GPT2Model, hf.GPT2Config, GPT2),
    "gpt2 lm tied": (hf.GPT2LMHeadModel, hf.GPT2Config, GPT2),
    "gpt2 lm untied, 3 heads, narrow, relu": (
        hf.GPT2LMHeadModel,
        hf.GPT2Config,
        {**GPT2, "n_head": 3, "n_inner": 37, "activation_function": "relu", "tie_word_embeddings": False},
    ),
    "gpt2 erf, deep": (hf.GPT2LMHeadModel, hf.GPT2Config, {**GPT2, "n_layer": 5, "activation_function": "gelu"}),
    "llama": (hf.LlamaForCausalLM, hf.LlamaConfig, LLAMA),
    "llama tied, shared keys": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig,
        {**LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True},
    ),
    "llama 3 heads of 8, one key, theta 500": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig,
        {
            **LLAMA,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
        },
    ),
    "mistral, window of 7": (
        hf.MistralForCausalLM,
        hf.MistralConfig,
        {**LLAMA, "num_key_value_heads": 2, "sliding_window": 7},
    ),
}


def save(case: str, folder: Path, *, dtype: torch.dtype = torch.float32, **how: Any) -> torch.nn.Module:
    """Saves the model of a case with random weights, biases and norms among them."""
    cls, config_class, settings = CASES[case]
    torch.manual_seed(sum(map(ord, case)))
    config = config_class(**settings)
    # Eager attention, so that the reference is the plain formula.
    config._attn_implementation = "eager"
    model = cls(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model = model.to(dtype)
    model.save_pretrained(folder, **how)
    return model


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor of a folder's safetensors files."""
    from safetensors import safe_open

    result = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            result.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return result
