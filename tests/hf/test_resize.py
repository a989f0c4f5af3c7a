"""Another vocabulary: loaded rows are used and not started again, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

import ehrjax
from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.hf import incoming, resize
from tests.conftest import run_here
from tests.hf import born, models


@pytest.mark.parametrize("name", ["behrt", "bert", "gpt2"])
def test_rows_move_with_their_tokens(name, tmp_path):
    run = born.write(tmp_path / "run", name)
    codes = ["NEW//1", *reversed(born.CODES[3:]), "DIAGNOSIS//ICD10CM//E10.9", "NEW//2"]
    wanted = born.vocabulary(codes)
    found, share = resize.resize(tmp_path / "run", wanted, tmp_path / "new", mapping={"NEW//2": "DEATH"})
    new = ehrjax.load(tmp_path / "new")
    assert new.vocabulary.fingerprint == wanted.fingerprint
    old_params, new_params = trees.flatten(run.params), trees.flatten(new.params)
    sources = dict(found.select("str", "source").rows())
    assert sources["NEW//2"] == "DEATH" and sources["DIAGNOSIS//ICD10CM//E10.9"] == "DIAGNOSIS//ICD10CM//E10"
    assert share["all"]["tokens"] == pytest.approx((len(codes) - 1) / len(codes))
    for path, leaf in old_params.items():
        axis = resize.AXES.get(path)
        if axis is None:
            np.testing.assert_array_equal(new_params[path], leaf)
            continue
        old, moved = np.moveaxis(leaf, axis, 0), np.moveaxis(new_params[path], axis, 0)
        for row, token in enumerate(wanted.strings):
            if sources[token] is not None:
                np.testing.assert_array_equal(moved[row], old[run.vocabulary.ids[sources[token]]])
    fresh = new_params[trees.CODE_TABLE][wanted.ids["NEW//1"]]
    table = old_params[trees.CODE_TABLE]
    assert 0.3 < fresh.std() / table.std() < 3 and not (table == fresh).all(axis=1).any()


def test_the_numbers_stay_for_tokens_that_stay(tmp_path):
    run = born.write(tmp_path / "run", "bert")
    wanted = born.vocabulary([*born.CODES[5:], *born.CODES[:5], "NEW//1"])
    resize.resize(tmp_path / "run", wanted, tmp_path / "new")
    new = ehrjax.load(tmp_path / "new")
    from ehrjax.data import rows

    codes = [born.CODES[i] for i in (3, 9, 30, 4, 4, 17)]
    ours, theirs = ([r.vocabulary.ids[c] for c in codes] for r in (run, new))
    one, other = (
        np.asarray(r.logits(rows.collate([ids], context_length=16))) for r, ids in ((run, ours), (new, theirs))
    )
    same_old = [run.vocabulary.ids[c] for c in born.CODES]
    same_new = [new.vocabulary.ids[c] for c in born.CODES]
    np.testing.assert_allclose(one[0, :6][:, same_old], other[0, :6][:, same_new], atol=1e-5)


def test_a_vocabulary_with_nothing_alike_is_refused(tmp_path):
    born.write(tmp_path / "run", "gpt2")
    wanted = born.vocabulary(["X//1"])
    found, _ = resize.resize(tmp_path / "run", wanted, tmp_path / "new")  # the specials are alike
    assert found["source"].to_list()[5:] == [None]
    with pytest.raises(InputError, match="already exists"):
        resize.resize(tmp_path / "run", wanted, tmp_path / "new")


def test_training_goes_on_from_a_converted_checkpoint(toy_tokens, tmp_path):
    """HuggingFace BERT -> run -> the data's vocabulary -> training -> HuggingFace BERT: its layers are the start."""
    models.save("bert mlm tied", tmp_path / "hf")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    from ehrjax.data import token_dataset

    dataset = token_dataset.open_tokens(toy_tokens)
    resize.resize(tmp_path / "run", dataset.vocabulary, tmp_path / "own")
    own = ehrjax.load(tmp_path / "own")
    shape = ["--config.model.num_layers=2", "--config.model.num_heads=4", "--config.model.hidden_dim=48",
             "--config.model.mlp_dim=96", "--config.model.max_positions=64", "--config.model.num_types=2",
             "--config.data.context_length=64"]  # fmt: skip
    command = ["train", "--config=configs/bert.py:smoke", f"--workdir={tmp_path / 'trained'}", *shape,
               f"--config.data.path={toy_tokens}", f"--config.init.checkpoint={tmp_path / 'own'}",
               "--config.num_steps=6", "--config.optimizer.learning_rate=1e-9",
               "--config.report.enabled=False"]  # fmt: skip
    result = run_here(*command)
    assert result.returncode == 0, result.stderr
    trained = trees.flatten(ehrjax.load(tmp_path / "trained").params)
    for path, leaf in trees.flatten(own.params).items():
        np.testing.assert_allclose(trained[path], leaf, atol=1e-6, err_msg=path)


def test_a_head_that_was_trained_here_leaves_too(toy_tokens, tmp_path):
    """A model without a head, in the data's vocabulary, comes in, is trained, and leaves with the head it got."""
    import transformers

    from ehrjax.data import token_dataset
    from ehrjax.hf import outgoing, source

    vocabulary = token_dataset.open_tokens(toy_tokens).vocabulary
    config = transformers.BertConfig(**{**models.BERT, "vocab_size": len(vocabulary)})
    transformers.BertModel(config).save_pretrained(tmp_path / "hf")
    vocabulary.write(tmp_path / "hf" / "ehrjax_vocab.csv")
    told = incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    assert "head/transform/kernel" in told["fresh"]
    outgoing.to_hf(tmp_path / "run", tmp_path / "untrained")
    assert not any(name.startswith("cls.") for name in models.tensors(tmp_path / "untrained"))
    shape = ["--config.model.num_layers=2", "--config.model.num_heads=4", "--config.model.hidden_dim=48",
             "--config.model.mlp_dim=96", "--config.model.max_positions=64", "--config.model.num_types=2",
             "--config.model.types=zero", "--config.data.context_length=64", "--config.num_steps=6"]  # fmt: skip
    result = run_here("train", "--config=configs/bert.py:smoke", f"--workdir={tmp_path / 'trained'}", *shape,
                   f"--config.data.path={toy_tokens}", f"--config.init.checkpoint={tmp_path / 'run'}",
                   "--config.report.enabled=False")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert source.read(tmp_path / "trained").fresh == ()
    outgoing.to_hf(tmp_path / "trained", tmp_path / "back")
    model, info = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not info["missing_keys"] and model.config.architectures == ["BertForMaskedLM"]
    from ehrjax.hf import verify

    found = verify.verify(tmp_path / "back", tmp_path / "trained")
    assert found.hidden < 1e-4 and found.logits < 1e-4
