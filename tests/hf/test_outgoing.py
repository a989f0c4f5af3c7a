"""Runs that were born here leave as folders that transformers opens, and come back the same."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
import transformers

import ehrjax
from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.data import rows
from ehrjax.hf import incoming, outgoing, verify
from tests.hf import born

DAY = 86_400_000_000


@pytest.mark.parametrize("name", born.MODELS)
def test_there_and_back(name, tmp_path, caplog):
    run = born.write(tmp_path / "run", name)
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "back")
    back = ehrjax.load(tmp_path / "back")
    assert trees.sha256(back.params) == trees.sha256(run.params)
    assert back.vocabulary.fingerprint == run.vocabulary.fingerprint
    transformers.utils.logging.enable_propagation()
    kind = transformers.AutoModelForCausalLM if name in ("gpt2", "llama") else transformers.AutoModelForMaskedLM
    with caplog.at_level(logging.INFO, logger="transformers"):
        _, info = kind.from_pretrained(tmp_path / "hf", output_loading_info=True, trust_remote_code=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not [r.message for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_the_numbers_are_those_of_transformers(name, tmp_path):
    born.write(tmp_path / "run", name)
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    found = verify.verify(tmp_path / "hf", tmp_path / "run")
    assert found.hidden < 1e-4 and found.logits < 1e-4 and found.tokens > 100


@pytest.mark.parametrize("name", [name for name in born.MODELS if name.startswith("behrt")])
def test_behrt_runs_by_its_modelling_file(name, tmp_path):
    run = born.write(tmp_path / "run", name)
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf", trust_remote_code=True).eval()
    generator = np.random.default_rng(0)
    subjects = []
    for i, length in enumerate((23, 9, 40)):
        times = np.sort(generator.integers(0, 4000, length)) * DAY
        subjects.append(
            {
                "tokens": generator.integers(5, len(run.vocabulary), length).tolist(),
                "times": times.tolist(),
                "visits": np.sort(generator.integers(0, 6, length)).tolist(),
                "birth_time": None if i == 1 else -30 * 365 * DAY,
            }
        )
    for subject in subjects:
        batch = rows.collate([subject], context_length=64)
        n = len(subject["tokens"])
        given = {
            "input_ids": torch.tensor(batch["tokens"][:, :50]),
            "ages": torch.tensor(batch["ages"][:, :50]),
            "visit_ids": torch.tensor(batch["visit_ids"][:, :50]),
            "attention_mask": torch.tensor(batch["segment_ids"][:, :50]),
        }
        given["input_ids"] = given["input_ids"].long()
        with torch.no_grad():
            expected = model(**given).logits[:, :n].numpy()
        np.testing.assert_allclose(np.asarray(run.logits(batch))[:, :n], expected, atol=1e-4)


def test_the_tokenizer_knows_the_codes(tmp_path):
    codes = [*born.CODES, "LAB//with blank//mmol per L"]
    for folder, chosen in (("plain", born.CODES), ("blanks", codes)):
        run = born.write(tmp_path / folder, "bert", codes=chosen)
        outgoing.to_hf(tmp_path / folder, tmp_path / f"{folder} hf")
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / f"{folder} hf")
        some = run.vocabulary.strings[7:]
        expected = [run.vocabulary.ids[code] for code in some]
        joined = ("\t" if folder == "blanks" else " ").join(some)
        assert tokenizer(joined, add_special_tokens=False)["input_ids"] == expected
        assert tokenizer(some, is_split_into_words=True, add_special_tokens=False)["input_ids"] == expected
        assert tokenizer("never seen")["input_ids"].count(run.vocabulary.unk) >= 1
        assert tokenizer.pad_token_id == 0 and tokenizer.mask_token_id == run.vocabulary.mask
        assert len(tokenizer) == len(run.vocabulary)


def test_large_models_leave_in_shards(tmp_path, monkeypatch):
    from ehrjax.core import checkpoint
    from ehrjax.hf import tensors

    run = born.write(tmp_path / "run", "gpt2")
    monkeypatch.setattr(tensors, "MAX_SHARD_BYTES", 50_000)
    monkeypatch.setattr(checkpoint, "_SMALL", 0)
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "back")
    assert trees.sha256(ehrjax.load(tmp_path / "back").params) == trees.sha256(run.params)


def test_what_transformers_has_not_is_said(tmp_path, monkeypatch):
    model, objective = born.MODELS["llama"]
    monkeypatch.setitem(born.MODELS, "odd", ({**model, "over": "ages"}, objective))
    born.write(tmp_path / "run", "odd")
    with pytest.raises(InputError, match="model.over is 'ages', which Llama in transformers has not"):
        outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    with pytest.raises(InputError, match="gpt2 is no decoder"):
        outgoing.to_hf(tmp_path / "run", tmp_path / "hf", family="gpt2")
    assert not (tmp_path / "hf").exists()


def test_a_roberta_with_another_vocabulary_leaves_as_a_bert(tmp_path):
    from ehrjax.hf import resize
    from tests.hf import models

    models.save("roberta mlm tied", tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    old = ehrjax.load(tmp_path / "run")
    mapping = dict(zip(born.CODES, old.vocabulary.strings[5:]))
    resize.resize(tmp_path / "run", born.vocabulary(), tmp_path / "own", mapping=mapping)
    new = ehrjax.load(tmp_path / "own")
    assert new.model.config.position_offset == 0 and new.model.config.max_positions == 62
    ids = np.array([7, 9, 30, 12, 12])
    one, other = (r.encode(rows.collate([i.tolist()], context_length=16)) for r, i in ((old, ids), (new, ids)))
    np.testing.assert_allclose(one[0, :5], other[0, :5], atol=1e-6)
    told = outgoing.to_hf(tmp_path / "own", tmp_path / "back")
    assert told["architecture"] == "BertForMaskedLM"
    found = verify.verify(tmp_path / "back", tmp_path / "own")
    assert found.hidden < 1e-4 and found.logits < 1e-4


def test_a_nanogpt_leaves_as_transformers_gpt2(tmp_path):
    from ehrjax.hf import from_torch
    from tests.hf import torch_projects as projects

    torch.manual_seed(3)
    model = projects.randomised(projects.NanoGPT(projects.config()))
    torch.save({"model": model.state_dict(), "model_args": {"n_head": 3}}, tmp_path / "ckpt.pt")
    from_torch.from_torch(tmp_path / "ckpt.pt", tmp_path / "run")
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    ids = torch.randint(0, 41, (2, 30))
    with torch.no_grad():
        np.testing.assert_allclose(there(ids).logits.numpy(), model(ids).numpy(), atol=1e-4)
    assert there.config.vocab_size == 41


@pytest.mark.parametrize(
    ("model", "objective", "message"),
    [
        ({}, {"layer_norm_epsilon": 1e-5}, "objective.layer_norm_epsilon is 1e-05"),
        ({}, {"gelu": "tanh", "layer_norm_epsilon": 1e-12}, "objective.gelu is 'tanh'"),
        (
            {"position_offset": 2, "max_positions": 66},
            {"layer_norm_epsilon": 1e-12},
            "position_offset is 2, which BERT has not",
        ),
    ],
)
def test_a_bert_that_no_class_is_like_is_refused(model, objective, message, tmp_path, monkeypatch):
    given, task = born.MODELS["bert"]
    monkeypatch.setitem(born.MODELS, "odd", ({**given, **model}, {**task, **objective}))
    born.write(tmp_path / "run", "odd")
    with pytest.raises(InputError, match=message):
        outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
