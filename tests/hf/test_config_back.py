"""The config.json that a run leaves with says what its settings are now."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import transformers

import ehrjax
from ehrjax.core.errors import InputError
from ehrjax.hf import incoming, outgoing, verify
from ehrjax.models import bert, decoder
from ehrjax.training import initial
from tests.hf import born, models

MISTRAL = "mistral, window of 7"
CASES = {
    "bert": ("bert mlm tied", {"num_heads": 2, "gelu": "tanh", "dropout": 0.25}, {"gelu": "tanh"},
             {"num_attention_heads": 2, "hidden_act": "gelu_new", "hidden_dropout_prob": 0.25}),
    "bert, not tied": ("bert mlm tied", {}, {"tied": False}, {"tie_word_embeddings": False}),
    "bert, tied": ("bert mlm untied, 3 heads, narrow", {}, {"tied": True}, {"tie_word_embeddings": True}),
    "roberta, not tied": ("roberta mlm tied", {"num_heads": 2}, {"tied": False},
                          {"num_attention_heads": 2, "tie_word_embeddings": False, "pad_token_id": 1}),
    "distilbert": ("distilbert mlm tied", {"num_heads": 2, "gelu": "relu"}, {"gelu": "relu"},
                   {"n_heads": 2, "activation": "relu"}),
    "gpt2": ("gpt2 lm tied", {"num_heads": 2, "gelu": "erf"}, {"tied": False},
             {"n_head": 2, "activation_function": "gelu", "tie_word_embeddings": False}),
    "llama": ("llama", {"rotary_base": 100.0, "layer_norm_epsilon": 0.1, "window": 4}, {},
              {"rms_norm_eps": 0.1, "model_type": "mistral", "sliding_window": 5}),
    "mistral": (MISTRAL, {"window": 2}, {}, {"sliding_window": 3, "model_type": "mistral"}),
    "mistral that sees all": (MISTRAL, {"window": None}, {}, {"model_type": "llama"}),
}  # fmt: skip

# These are compared with transformers, number by number.
RUN_TOO = ("bert", "roberta, not tied", "llama")


@pytest.mark.parametrize("case", CASES)
def test_changed_settings_are_in_the_config(case, tmp_path, caplog):
    start, model, objective, expected = CASES[case]
    models.save(start, tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    born.go_on(tmp_path / "run", tmp_path / "trained", model=model, objective=objective)
    outgoing.to_hf(tmp_path / "trained", tmp_path / "back")
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: config.get(key) for key in expected} == expected
    kind = config["architectures"][0]
    assert kind.startswith("Mistral") == (config["model_type"] == "mistral")
    transformers.utils.logging.enable_propagation()
    with caplog.at_level(logging.INFO, logger="transformers"):
        _, info = getattr(transformers, kind).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    if case in RUN_TOO:
        found = verify.verify(tmp_path / "back", tmp_path / "trained")
        assert found.alike and found.hidden < 1e-4 and found.logits < 1e-4


def test_what_the_class_cannot_have_is_said(tmp_path):
    models.save("bert mlm tied", tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    born.go_on(tmp_path / "run", tmp_path / "trained", model={"gelu": "tanh"})
    with pytest.raises(InputError, match="can no longer leave as bert: objective.gelu is 'erf'"):
        outgoing.to_hf(tmp_path / "trained", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_another_objective_leaves_as_the_base_model(tmp_path):
    models.save("bert mlm tied", tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    run = ehrjax.load(tmp_path / "run")
    from ehrjax.core import trees
    from ehrjax.hf import configs, source

    came = source.read(tmp_path / "run")
    supervised = SimpleNamespace(config={**run.config, "objective": {"name": "another"}}, model=run.model, folder="run")
    from ehrjax.hf.families import bert as family

    told = configs.of_came(came, family, supervised)
    assert told == config and trees.CODE_TABLE in trees.flatten(run.params)
    assert configs.set_architecture(told, family, came, {"embeddings.word_embeddings.weight"}, supervised)
    assert told["architectures"] == ["BertModel"]


def test_a_window_that_was_born_here_is_a_mistral(tmp_path, monkeypatch):
    model, objective = born.MODELS["llama"]
    monkeypatch.setitem(born.MODELS, "windowed", ({**model, "window": 5}, objective))
    born.write(tmp_path / "run", "windowed")
    assert outgoing.to_hf(tmp_path / "run", tmp_path / "hf")["architecture"] == "MistralForCausalLM"
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["sliding_window"] == 6


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    models.save("bert mlm tied", folder / "hf")
    incoming.from_hf(str(folder / "hf"), folder / "run")
    return ehrjax.load(folder / "run")


class _State(SimpleNamespace):
    def replace(self, **changes):
        return _State(**{**vars(self), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 2}, "was trained with model.num_heads = 4, the config says 2"),
        ({"gelu": "tanh"}, "model.gelu = 'erf', the config says 'tanh'"),
        ({"layer_norm_epsilon": 1e-5}, "model.layer_norm_epsilon = 1e-12"),
        ({"position_offset": 1}, "model.position_offset = 0"),
        ({"dropout": 0.3, "attention_dropout": 0.3, "remat": "full", "types": "alternate"}, None),
    ],
)
def test_a_start_from_another_model_is_refused(converted, changes, message):
    import dataclasses

    import jax

    config = dataclasses.replace(converted.model.config, **changes)
    state = _State(params=jax.tree.map(jax.numpy.asarray, converted.params))
    start = initial.Settings(checkpoint=str(converted.folder))
    if message is None:
        initial.start_from(start, state, converted.vocabulary, config)
        return
    with pytest.raises(InputError, match=message):
        initial.start_from(start, state, converted.vocabulary, config)
    # Tables mean the same in any model.
    tables = initial.Settings(checkpoint=str(converted.folder), skip=("layers/", "^head/", "(bias|scale)$"))
    initial.start_from(tables, state, converted.vocabulary, config)


def test_settings_that_say_the_same_in_other_words_are_the_same():
    one = decoder.Config(vocab_size=9, num_heads=4, hidden_dim=32)
    other = decoder.Config(vocab_size=9, num_heads=4, hidden_dim=32, kv_heads=4, head_dim=8, mlp_dim=128)
    initial._check_model(one, other, "run")
    with pytest.raises(InputError, match="model.name = 'bert'"):
        initial._check_model(one, bert.Config(vocab_size=9), "run")
