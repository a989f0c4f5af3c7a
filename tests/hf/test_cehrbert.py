"""CEHR-BERT's class, written again in PyTorch from its equations and names (Pang et al. 2021; cumc-dbmi/cehrbert).

The class itself (cehrbert 1.5.0 with transformers 4.49) gave the same numbers within 4e-6 when this was written; it
cannot be imported with transformers 5.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEncoder, BertOnlyMLMHead, BertPooler

import ehrjax
from ehrjax.hf import incoming, outgoing, source
from tests.hf import models

BASE = dict(vocab_size=61, hidden_size=32, n_time_embd=8, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=50, max_position_embeddings=40, n_visit_segments=3, layer_norm_eps=1e-12,
            hidden_act="gelu", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            time_embedding_scaling_factor=1000, age_embedding_scaling_factor=100,
            include_value_prediction=False, tie_word_embeddings=True, pad_token_id=0)  # fmt: skip
CASES = {
    "plain": {},
    "values, 3 heads": dict(include_value_prediction=True, num_attention_heads=3, hidden_size=48, n_time_embd=10),
    "untied, gelu_new, 4 segments": dict(tie_word_embeddings=False, hidden_act="gelu_new", n_visit_segments=4),
}
GELU = nn.GELU(approximate="tanh")


class Waves(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.w, self.phi = nn.Parameter(torch.randn(1, width)), nn.Parameter(torch.randn(1, width))

    def forward(self, x):
        return torch.sin((x.float() / self.scale)[..., None] * self.w + self.phi)


class Embeddings(nn.Module):
    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.concept_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.visit_segment_embeddings = nn.Embedding(c.n_visit_segments, c.hidden_size)
        self.time_embedding_layer = Waves(c.n_time_embd, c.time_embedding_scaling_factor)
        self.age_embedding_layer = Waves(c.n_time_embd, c.age_embedding_scaling_factor)
        self.positional_embedding_layer = nn.Module()
        rates = torch.exp(torch.arange(0, c.n_time_embd, 2) * (-math.log(10000.0) / c.n_time_embd))
        angles = torch.arange(c.max_position_embeddings)[:, None] * rates
        waves = torch.stack([angles.sin(), angles.cos()], dim=2).reshape(c.max_position_embeddings, -1)
        self.positional_embedding_layer.register_buffer("pe", waves)
        self.concept_value_transformation_layer = nn.Module()
        self.concept_value_transformation_layer.merge_value_transformation_layer = nn.Linear(
            c.hidden_size + 1, c.hidden_size
        )
        self.linear_proj = nn.Linear(c.hidden_size + 3 * c.n_time_embd, c.hidden_size)

    def forward(self, ids, ages, dates, orders, values, masks, segments):
        x = self.concept_embeddings(ids)
        merge = self.concept_value_transformation_layer.merge_value_transformation_layer
        merged = GELU(merge(torch.cat([x, values.clamp(-10, 10)[..., None]], dim=-1)))
        x = torch.where(masks[..., None].bool(), merged, x)
        pe = self.positional_embedding_layer.pe
        place = pe[(orders - orders[orders > 0].min()).clamp(0, len(pe) - 1)]
        parts = [x, self.time_embedding_layer(dates), self.age_embedding_layer(ages), place]
        return GELU(self.linear_proj(torch.cat(parts, dim=-1))) + self.visit_segment_embeddings(segments)


class CehrBert(nn.Module):
    def __init__(self, c: BertConfig) -> None:
        super().__init__()
        self.bert = nn.Module()
        self.bert.cehr_bert_embeddings = Embeddings(c)
        self.bert.encoder = BertEncoder(c)
        self.bert.pooler = BertPooler(c)
        self.cls = BertOnlyMLMHead(c)
        if c.tie_word_embeddings:
            self.cls.predictions.decoder.weight = self.bert.cehr_bert_embeddings.concept_embeddings.weight
            self.cls.predictions.decoder.bias = self.cls.predictions.bias
        if c.include_value_prediction:
            half = c.hidden_size // 2
            self.concept_value_decoder_layer = nn.Module()
            self.concept_value_decoder_layer.concept_value_decoder_layer = nn.Sequential(
                nn.Linear(c.hidden_size, half), GELU, nn.LayerNorm(half, eps=c.layer_norm_eps), nn.Linear(half, 1), GELU
            )

    def forward(self, **inputs):
        x = self.bert.cehr_bert_embeddings(**inputs)
        hidden = self.bert.encoder(x, attention_mask=None).last_hidden_state
        values = None
        if hasattr(self, "concept_value_decoder_layer"):
            values = self.concept_value_decoder_layer.concept_value_decoder_layer(hidden)[..., 0]
        return hidden, self.cls(hidden), values


def save(case: str, folder: Path) -> CehrBert:
    config = BertConfig(**{**BASE, **CASES[case]})
    config._attn_implementation = "eager"
    torch.manual_seed(len(case))
    model = CehrBert(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir()
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state["cls.predictions.decoder.weight"], state["cls.predictions.decoder.bias"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**BASE, **CASES[case], "model_type": "cehrbert"}))
    return model


@pytest.mark.parametrize("case", CASES)
def test_the_same_numbers_and_the_way_back(case, tmp_path):
    model = save(case, tmp_path / "hf")
    told = incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    assert told["objective"] == ("masked_values" if "values" in case else "masked_codes") and not told["fresh"]
    run = ehrjax.load(tmp_path / "run")
    rows = source.read(tmp_path / "run").rows
    ours = np.zeros(61, np.int32)
    ours[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    generator, length = np.random.default_rng(0), 33
    orders = np.sort(generator.integers(0, 12, (1, length))) + 4
    visits = (orders - orders.min()).astype(np.int32)
    masks = generator.integers(0, 2, (1, length))
    given = {
        "ids": generator.integers(5, 61, (1, length)),
        "ages": np.sort(generator.integers(0, 90, (1, length))),
        "dates": np.sort(generator.integers(12_000, 16_000, (1, length))),
        "orders": orders,
        "values": generator.normal(0, 6, (1, length)).astype(np.float32),
        "masks": masks,
        "segments": visits.astype(np.int64) % 2 + 1,
    }
    with torch.no_grad():
        hidden, logits, values = model(**{name: torch.tensor(array) for name, array in given.items()})
    zeros = np.zeros((1, length), np.int32)
    batch = {
        "tokens": ours[given["ids"]],
        "segment_ids": zeros + 1,
        "visit_ids": visits,
        # A person of 45.7 years is 45 there.
        "ages": given["ages"].astype(np.float32) + np.float32(0.7),
        "days": given["dates"].astype(np.int32),
        "values": np.where(masks > 0, given["values"], np.nan).astype(np.float32),
    }
    states = np.asarray(run.encode(batch))
    np.testing.assert_allclose(states, hidden.numpy(), atol=1e-5)
    there = rows >= 0
    np.testing.assert_allclose(np.asarray(run.logits(batch))[..., there], logits.numpy()[..., rows[there]], atol=1e-4)
    if values is not None:
        predicted = run.objective.head().apply({"params": run.params["head"]}, states, None, "values")
        np.testing.assert_allclose(np.asarray(predicted), values.numpy(), atol=1e-5)

    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    before, after = models.tensors(tmp_path / "hf"), models.tensors(tmp_path / "back")
    assert set(before) == set(after)
    for name, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)


def test_a_run_that_was_trained_here_has_its_class_s_names(tmp_path):
    """Our own pretraining, with values, leaves with the names of the class."""
    from tests.conftest import run_here

    result = run_here("train", "--config=configs/cehr_bert.py:smoke", f"--workdir={tmp_path / 'run'}",
                   "--config.num_steps=6", "--config.embedded.patients=60",
                   "--config.report.enabled=False")  # fmt: skip
    assert result.returncode == 0, result.stderr
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["include_value_prediction"] and config["architectures"] == ["CehrBertForPreTraining"]
    names = set(models.tensors(tmp_path / "hf"))
    value = "concept_value_decoder_layer.concept_value_decoder_layer.0.weight"
    assert {"bert.cehr_bert_embeddings.time_embedding_layer.w", "cls.predictions.bias", value} <= names
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "back")
    from ehrjax.core import trees

    assert trees.sha256(ehrjax.load(tmp_path / "back").params) == trees.sha256(ehrjax.load(tmp_path / "run").params)
