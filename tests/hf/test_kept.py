"""What the way back keeps of a folder beside its model: vocabularies, small files, dtypes, other heads."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import ehrjax
from ehrjax.core.errors import InputError
from ehrjax.hf import from_torch, incoming, outgoing, resize, source, tables, tensors, verify
from ehrjax.hf.embeddings import Embeddings
from tests.hf import born, models
from tests.hf import torch_projects as projects


def test_vectors_in_its_table_leave_the_rest_as_it_came(tmp_path):
    models.save("roberta mlm tied", tmp_path / "hf", dtype=torch.float16)
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    run = ehrjax.load(tmp_path / "run")
    token = run.vocabulary.strings[20]
    tables.into_run(tmp_path / "run", Embeddings(np.full((1, 48), 0.5, np.float32), (token,)), tmp_path / "new")
    outgoing.to_hf(tmp_path / "new", tmp_path / "back")
    before, after = models.tensors(tmp_path / "hf"), models.tensors(tmp_path / "back")
    assert set(before) == set(after)
    row = source.read(tmp_path / "run").rows[20]
    for name, tensor in before.items():
        expected = tensor.copy()
        if name.endswith("word_embeddings.weight"):
            expected[row] = 0.5
        assert tensor.dtype == after[name].dtype
        np.testing.assert_array_equal(expected, after[name], err_msg=name)


def test_our_vocabulary_makes_the_second_trip(tmp_path):
    run = born.write(tmp_path / "run", "gpt2")
    outgoing.to_hf(tmp_path / "run", tmp_path / "one")
    incoming.from_hf(str(tmp_path / "one"), tmp_path / "there")
    outgoing.to_hf(tmp_path / "there", tmp_path / "two")
    files = [{p.name: p.read_bytes() for p in (tmp_path / side).iterdir()} for side in ("one", "two")]
    assert files[0] == files[1] and "ehrjax_vocab.csv" in files[0]
    incoming.from_hf(str(tmp_path / "two"), tmp_path / "again")
    assert ehrjax.load(tmp_path / "again").vocabulary.fingerprint == run.vocabulary.fingerprint


def test_the_vocabulary_of_a_pytorch_project_leaves_with_it(tmp_path):
    torch.manual_seed(3)
    strings = ["<unknown>", "<start>", "<end>", *(f"ICD//{i}" for i in range(38))]
    (tmp_path / "vocab.csv").write_text("token,str\n" + "".join(f"{i},{s}\n" for i, s in enumerate(strings)))
    model = projects.randomised(projects.NanoGPT(projects.config()))
    torch.save({"model": model.state_dict(), "model_args": {"n_head": 3}}, tmp_path / "ckpt.pt")
    from_torch.from_torch(tmp_path / "ckpt.pt", tmp_path / "run", vocab=tmp_path / "vocab.csv")
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer("ICD//0 ICD//37", add_special_tokens=False)["input_ids"] == [3, 40] and len(tokenizer) == 41
    assert tokenizer.pad_token is None and tokenizer.unk_token_id == 0
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "back")
    run, back = ehrjax.load(tmp_path / "run"), ehrjax.load(tmp_path / "back")
    assert run.vocabulary.fingerprint == back.vocabulary.fingerprint
    assert run.config["objective"]["absent"] == back.config["objective"]["absent"]


def test_tensors_without_axes_and_of_any_dtype_come_back(tmp_path):
    models.save("gpt2 base", tmp_path / "hf")
    state = {name: torch.tensor(array) for name, array in models.tensors(tmp_path / "hf").items()}
    (tmp_path / "hf" / "model.safetensors").unlink()
    kinds = ("uint16", "uint32", "uint64", "complex64", "bool", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64")
    more = {f"score.{kind}": torch.tensor([0.0, 1, 2]).to(getattr(torch, kind)) for kind in kinds}
    more["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    more["h.1.attn.masked_bias"] = torch.tensor(-1e4, dtype=torch.bfloat16)
    torch.save({**state, **more}, tmp_path / "hf" / "pytorch_model.bin")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    after = tensors.open_folder(tmp_path / "back")
    for name, tensor in more.items():
        expected = tensors.to_numpy(tensor)
        assert after[name].shape == tuple(tensor.shape) and after[name].dtype == expected.dtype.name
        assert after[name].read().tobytes() == expected.tobytes(), name


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.eye(3).to_sparse(), "score.odd is sparse_coo"),
        (torch.zeros(3, dtype=torch.complex128), "score.odd is complex128"),
    ],
)
def test_tensors_that_no_file_could_hold_are_refused_at_the_start(tensor, said, tmp_path):
    torch.save({"score.odd": tensor}, tmp_path / "model.bin")
    with pytest.raises(InputError, match=f"{said}, which is not supported"):
        tensors.open_torch(tmp_path / "model.bin")


def test_small_files_come_back(tmp_path):
    models.save("bert base", tmp_path / "hf")
    small = {
        "generation_config.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "modules.json": "[]",
        "sentence_bert_config.json": "{}",
        "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
    }
    left = {"onnx/config.json": "{}", "modeling_own.py": "1 / 0", "training_args.bin": "x", "flax_model.msgpack": "x"}
    for name, text in {**small, **left}.items():
        (tmp_path / "hf" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "hf" / name).write_text(text)
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    for name, text in small.items():
        assert (tmp_path / "back" / name).read_text() == text
    assert not any((tmp_path / "back" / name).exists() for name in left)
    resize.resize(tmp_path / "run", born.vocabulary(), tmp_path / "own")
    outgoing.to_hf(tmp_path / "own", tmp_path / "new")
    assert (tmp_path / "new" / "1_Pooling" / "config.json").exists()
    assert not (tmp_path / "new" / "generation_config.json").exists(), "it speaks of the old vocabulary's ids"


@pytest.mark.parametrize("case", ["bert pretraining, gelu_new, many types", "bert classifier"])
def test_another_vocabulary_keeps_heads_that_have_no_rows_of_it(case, tmp_path):
    models.save(case, tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    vocabulary = born.vocabulary()
    resize.resize(tmp_path / "run", vocabulary, tmp_path / "own")
    outgoing.to_hf(tmp_path / "own", tmp_path / "back")
    before, after = models.tensors(tmp_path / "hf"), models.tensors(tmp_path / "back")
    assert set(before) == set(after)
    kept = [name for name in before if name.startswith(("bert.pooler", "cls.seq_relationship", "classifier"))]
    assert len(kept) == 4 and all(np.array_equal(before[name], after[name]) for name in kept)
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config["vocab_size"] == len(vocabulary) and config["pad_token_id"] == 0
    kind = getattr(transformers, config["architectures"][0])
    model, info = kind.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path / "back")) == len(vocabulary)
    if "classifier" in case:
        assert model.config.num_labels == 5
    assert verify.verify(tmp_path / "back", tmp_path / "own").alike


def test_a_roberta_that_becomes_a_bert_keeps_its_heads_beside(tmp_path):
    models.save("roberta base", tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    resize.resize(tmp_path / "run", born.vocabulary(), tmp_path / "own")
    told = outgoing.to_hf(tmp_path / "own", tmp_path / "back")
    assert told["architecture"] == "BertModel" and told["beside"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert verify.verify(tmp_path / "back", tmp_path / "own").alike


def test_a_tokenizer_may_hold_the_name_of_a_number():
    from ehrjax.hf import tokens

    found = tokens.from_strings({0: "a", 1: "token//2", 2: "a", 3: "token//3"}, {}, 4)
    strings = found.vocabulary.strings
    assert len(set(strings)) == len(strings) and strings[-4:] == ["a", "token//2", "token//2//", "token//3"]


def test_codes_with_blanks_and_tabs_are_texts_too(tmp_path):
    codes = [*born.CODES, "LAB//with blank", "LAB//with\ttab"]
    run = born.write(tmp_path / "run", "bert", codes=codes)
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    expected = [run.vocabulary.ids[code] for code in codes]
    assert tokenizer("\n".join(codes), add_special_tokens=False)["input_ids"] == expected
    assert tokenizer(codes, is_split_into_words=True, add_special_tokens=False)["input_ids"] == expected
