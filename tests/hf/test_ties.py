"""Output layers that are the table itself, or are not: one name in the file, both, or both with other values."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

import ehrjax
from ehrjax.hf import incoming, outgoing, source, verify
from tests.hf import born, models


def loads_cleanly(folder, caplog) -> torch.nn.Module:
    """The model of a folder by its own architecture; nothing is missing, unexpected or warned of."""
    (kind,) = json.loads((folder / "config.json").read_text())["architectures"]
    transformers.utils.logging.enable_propagation()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="transformers"):
        model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert not [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    return model


def same_files(one, other) -> None:
    before, after = models.tensors(one), models.tensors(other)
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert tensor.shape == after[name].shape and tensor.dtype == after[name].dtype, name
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)


@pytest.mark.parametrize(
    ("case", "table", "head"),
    [
        ("gpt2 lm tied", "transformer.wte.weight", "lm_head.weight"),
        ("llama tied, shared keys", "model.embed_tokens.weight", "lm_head.weight"),
        ("roberta mlm tied", "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
        ("distilbert mlm tied", "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    ],
)
def test_the_table_under_the_head_s_name_alone(case, table, head, tmp_path, caplog):
    models.save(case, tmp_path / "plain")
    incoming.from_hf(str(tmp_path / "plain"), tmp_path / "expected")
    (tmp_path / "hf").mkdir()
    config = (tmp_path / "plain" / "config.json").read_text()
    (tmp_path / "hf" / "config.json").write_text(config)
    state = safetensors.torch.load_file(tmp_path / "plain" / "model.safetensors")
    state[head] = state.pop(table)
    if case.startswith("roberta"):
        state["lm_head.decoder.bias"] = state.pop("lm_head.bias")
    safetensors.torch.save_file(state, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    from ehrjax.core import trees

    assert trees.sha256(ehrjax.load(tmp_path / "run").params) == trees.sha256(ehrjax.load(tmp_path / "expected").params)
    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    same_files(tmp_path / "hf", tmp_path / "back")
    loads_cleanly(tmp_path / "back", caplog)
    # What stood for the table may become a layer of its own.
    born.go_on(tmp_path / "run", tmp_path / "trained", objective={"tied": False})
    outgoing.to_hf(tmp_path / "trained", tmp_path / "again")
    loads_cleanly(tmp_path / "again", caplog)
    after = models.tensors(tmp_path / "again")
    assert {table, head} <= set(after) and not np.array_equal(after[table], after[head])


def test_what_save_model_leaves(tmp_path):
    """safetensors.torch.save_model keeps one name of those that share memory."""
    model = models.save("gpt2 lm tied", tmp_path / "hf")
    safetensors.torch.save_model(model, str(tmp_path / "hf" / "model.safetensors"), {"format": "pt"})
    assert "transformer.wte.weight" not in models.tensors(tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    same_files(tmp_path / "hf", tmp_path / "back")


@pytest.mark.parametrize("case", ["bert mlm tied", "gpt2 lm tied"])
def test_a_head_that_differs_is_not_tied_whatever_the_config_says(case, tmp_path):
    models.save(case, tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    state = safetensors.torch.load_file(file)
    table = next(name for name in state if name.endswith(("word_embeddings.weight", "wte.weight")))
    head = "cls.predictions.decoder.weight" if "bert" in case else "lm_head.weight"
    state[head] = state[table] + torch.randn_like(state[table])
    safetensors.torch.save_file(state, file, {"format": "pt"})
    told = incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    assert told["untied"] == [head] and not told["heads"]
    assert ehrjax.load(tmp_path / "run").config["objective"]["tied"] is False
    assert verify.verify(tmp_path / "hf", tmp_path / "run").logits < 1e-4
    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    same_files(tmp_path / "hf", tmp_path / "back")
    given, returned = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("hf", "back"))
    assert given == returned


def test_a_bert_that_is_not_tied_loads_without_a_warning(tmp_path, caplog, monkeypatch):
    model, objective = born.MODELS["bert"]
    monkeypatch.setitem(born.MODELS, "untied", (model, {**objective, "tied": False}))
    born.write(tmp_path / "run", "untied")
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    loads_cleanly(tmp_path / "hf", caplog)
    from ehrjax.hf import resize

    models.save("bert mlm untied, 3 heads, narrow", tmp_path / "foreign")
    incoming.from_hf(str(tmp_path / "foreign"), tmp_path / "came")
    resize.resize(tmp_path / "came", born.vocabulary(), tmp_path / "own")
    outgoing.to_hf(tmp_path / "own", tmp_path / "back")
    loads_cleanly(tmp_path / "back", caplog)


@pytest.mark.parametrize("case", ["roberta base", "bert base", "bert classifier"])
def test_a_head_that_was_trained_here_loads_without_a_warning(case, tmp_path, caplog):
    """Not tied; the pooler and the classifier, which no masked language model has, lie in a file of their own."""
    models.save(case, tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    born.go_on(tmp_path / "run", tmp_path / "trained", objective={"tied": False})
    told = outgoing.to_hf(tmp_path / "trained", tmp_path / "back")
    loads_cleanly(tmp_path / "back", caplog)
    kept = source.read(tmp_path / "run").heads
    beside = safetensors.torch.load_file(tmp_path / "back" / source.OTHER_HEADS)
    assert told["beside"] == sorted(kept) == sorted(beside) and any("pooler" in name for name in kept)
    before = models.tensors(tmp_path / "hf")
    assert all(np.array_equal(before[name], tensor.numpy()) for name, tensor in beside.items())
    # They stay with it on the next trip.
    incoming.from_hf(str(tmp_path / "back"), tmp_path / "again")
    outgoing.to_hf(tmp_path / "again", tmp_path / "there")
    assert (tmp_path / "there" / source.OTHER_HEADS).read_bytes() == (
        tmp_path / "back" / source.OTHER_HEADS
    ).read_bytes()
    same_files(tmp_path / "back", tmp_path / "there")
