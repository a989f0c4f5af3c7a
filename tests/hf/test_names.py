"""Names that transformers does not know, and classes whose heads are kept."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from ehrjax.hf import incoming, names, outgoing
from ehrjax.hf.families import bert, llama
from tests.conftest import run_here
from tests.hf import models


@pytest.mark.parametrize("wrapper", ["module.", "model."])
def test_wrappers_stay_and_are_spoken_of(wrapper, tmp_path):
    model = models.save("bert classifier", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = {wrapper + name: tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    told = outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    assert told["wrapper"] == wrapper and set(models.tensors(tmp_path / "back")) == set(state)
    told = outgoing.to_hf(tmp_path / "run", tmp_path / "plain", plain_names=True)
    assert not told["wrapper"] and set(models.tensors(tmp_path / "plain")) == set(model.state_dict())
    kind = transformers.BertForSequenceClassification
    _, info = kind.from_pretrained(tmp_path / "plain", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    if wrapper == "module.":
        result = run_here("convert", "to-hf", f"--input={tmp_path / 'run'}", f"--output={tmp_path / 'said'}")
        assert "names begin with 'module.'" in result.stdout and "--plain_names" in result.stdout


def test_a_family_s_own_prefix_is_no_wrapper():
    plain = ("bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight", "cls.predictions.bias")
    assert names.wrapper_of(plain, bert) == ""
    assert names.wrapper_of(["model.bert.pooler.dense.bias"], bert) == "model."
    assert names.wrapper_of(["model.norm.weight", "lm_head.weight", "transformer.norm.weight"], llama) == ""
    assert names.wrapper_of(["model.model.norm.weight"], llama) == "model."


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "Mistral"])
def test_classes_for_questions(kind, tmp_path):
    settings = models.GPT2 if kind == "GPT2" else models.LLAMA
    config = getattr(transformers, f"{kind}Config")(
        **settings, **({} if kind == "GPT2" else {"num_key_value_heads": 2})
    )
    model = getattr(transformers, f"{kind}ForQuestionAnswering")(config)
    model.save_pretrained(tmp_path / "hf")
    told = incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    assert told["heads"] == ["qa_outputs.bias", "qa_outputs.weight"]
    assert not outgoing.to_hf(tmp_path / "run", tmp_path / "back")["wrapper"]
    before, after = models.tensors(tmp_path / "hf"), models.tensors(tmp_path / "back")
    assert before.keys() == after.keys() and all((before[name] == after[name]).all() for name in before)
    given, returned = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("hf", "back"))
    assert given == returned
