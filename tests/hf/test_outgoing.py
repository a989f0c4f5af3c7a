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
    from ehrjax.hf import tensors

    run = born.write(tmp_path / "run", "gpt2")
    monkeypatch.setattr(tensors, "MAX_SHARD_BYTES", 50_000)
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "back")
    assert trees.sha256(ehrjax.load(tmp_path / "back").params) == trees.sha256(run.params)


def test_what_transformers_has_not_is_said(tmp_path):
    model, objective = born.MODELS["llama"]
    born.MODELS["odd"] = ({**model, "over": "ages"}, objective)
    try:
        born.write(tmp_path / "run", "odd")
    finally:
        del born.MODELS["odd"]
    with pytest.raises(InputError, match="model.over is 'ages', which Llama in transformers has not"):
        outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    with pytest.raises(InputError, match="gpt2 is no decoder"):
        outgoing.to_hf(tmp_path / "run", tmp_path / "hf", family="gpt2")
    assert not (tmp_path / "hf").exists()
