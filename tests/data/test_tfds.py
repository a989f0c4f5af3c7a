"""Token datasets as TensorFlow Datasets: nothing is lost, nothing needs TensorFlow, and training is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.data import prepare_tokens, tfds, token_dataset, token_stages
from ehrjax.ingest.meds import MedsWriter
from tests.conftest import ROOT, behrt_recipe, run_here


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def published(toy_meds, tmp_path_factory):
    """A token dataset of several shards, and its TFDS folder."""
    folder = tmp_path_factory.mktemp("tfds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_stages, "SHARD_EVENTS", 3_000)
        prepare_tokens.prepare(toy_meds, folder / "tokens", behrt_recipe(min_count=2))
    tfds.write(folder / "tokens", folder / "out", name="toy_records")
    return folder / "tokens", folder / "out"


def test_the_way_there_and_back_loses_nothing(published, tmp_path):
    tokens, out = published
    assert len([name for name in content(tokens) if name.startswith("data/train/")]) > 3
    tfds.read_back(out, tmp_path / "back")
    assert content(tmp_path / "back") == content(tokens)
    tfds.read_back(out / "toy_records" / "1.0.0", tmp_path / "again")
    assert content(tmp_path / "again") == content(tokens)


def test_tfds_itself_reads_the_records(published):
    import tensorflow_datasets

    tokens, out = published
    dataset = token_dataset.open_tokens(tokens)
    builder = tensorflow_datasets.builder("toy_records", data_dir=str(out))
    for name in ("train", "tuning", "held_out"):
        split, records = dataset.split(name), builder.as_data_source(name)
        assert len(records) == len(split)
        for at in (0, len(split) - 1):
            subject, record = split.subject(at), records[at]
            assert record["subject_id"] == subject.subject_id and record["num_static"] == subject.num_static
            for column in ("tokens", "times", "visits", "values"):
                np.testing.assert_array_equal(record[column], getattr(subject, column))
                assert record[column].dtype == getattr(subject, column).dtype
            assert (record["birth_time"] if record["has_birth"] else None) == subject.birth_time


def test_tensorflow_is_not_needed(published, tmp_path):
    code = (
        f"import sys\nfrom ehrjax.data import tfds\ntfds.write({str(published[0])!r}, {str(tmp_path / 'o')!r})\n"
        f"tfds.read_back({str(tmp_path / 'o')!r}, {str(tmp_path / 'b')!r})\nprint('tensorflow' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "False"


def test_a_split_of_any_size_is_written_without_tensorflow(published, tmp_path, monkeypatch):
    """TFDS's sorting writer moves more than this many bytes to files through TensorFlow, which need not be there."""
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1 << 10)
    tfds.write(published[0], tmp_path / "out")
    tfds.read_back(tmp_path / "out", tmp_path / "back")
    assert content(tmp_path / "back") == content(published[0])


def test_odd_values_unicode_and_an_empty_split_survive(tmp_path):
    writer = MedsWriter(
        tmp_path / "meds", "odd", "1", splits=pl.DataFrame({"subject_id": [1, 2], "split": ["train"] * 2})
    )
    nan_with_payload = np.array([0x7FC00123], np.uint32).view(np.float32)[0]
    events = pl.DataFrame(
        {
            "subject_id": [1, 1, 1, 2, 2],
            "time": pl.Series([None, -(10**17), -5, 7, 7], dtype=pl.Int64).cast(pl.Datetime("us")),
            "code": ["GENDER//F", "MEDS_BIRTH", "LAB//\u00b5g \u5b57", "LAB//x", "DX//\U0001f600"],
            "numeric_value": pl.Series([None, None, np.inf, nan_with_payload, -0.0], dtype=pl.Float32),
        }
    )
    writer.write_shard(events)
    writer.finish({})
    prepare_tokens.prepare(tmp_path / "meds", tmp_path / "tokens", behrt_recipe(min_count=1))
    tfds.write(tmp_path / "tokens", tmp_path / "out")
    tfds.read_back(tmp_path / "out", tmp_path / "back")
    assert content(tmp_path / "back") == content(tmp_path / "tokens")


def test_training_from_tfds_is_training_from_the_tokens(published, tmp_path):
    shas = []
    for name, path in (("arrow", published[0]), ("tfds", published[1])):
        result = run_here("train", "--config=configs/behrt.py:smoke", f"--workdir={tmp_path / name}",
                          f"--config.data.path={path}", "--config.num_steps=8",
                          "--config.report.enabled=False", "--config.tensorboard=False")  # fmt: skip
        assert result.returncode == 0, result.stderr
        shas.append(json.loads((tmp_path / name / "final.json").read_text())["params_sha256"])
    assert shas[0] == shas[1]


@pytest.mark.parametrize("damage", ["cut", "features", "metadata", "foreign", "escape"])
def test_damage_is_one_sentence(damage, published, tmp_path):
    import shutil

    shutil.copytree(published[1], tmp_path / "out")
    folder = tmp_path / "out" / "toy_records" / "1.0.0"
    records = next(folder.glob("*train.array_record*"))
    if damage == "cut":
        records.write_bytes(records.read_bytes()[: records.stat().st_size // 2])
    elif damage == "features":
        (folder / "features.json").unlink()
    elif damage == "metadata":
        (folder / "metadata.json").write_text("{")
    elif damage == "foreign":
        (folder / "metadata.json").write_text("{}")
    else:
        (folder / "metadata.json").write_text(json.dumps({"files": {"../evil": "x"}}))
    with pytest.raises(InputError) as error:
        tfds.read_back(tmp_path / "out", tmp_path / "back")
    assert "\n" not in str(error.value) and not (tmp_path / "back").exists()
    assert not (tmp_path / "evil").exists()


def test_what_is_no_dataset_is_refused(published, tmp_path):
    with pytest.raises(InputError, match="is no TFDS folder"):
        tfds.read_back(tmp_path, tmp_path / "back")
    with pytest.raises(InputError, match="small letters"):
        tfds.write(published[0], tmp_path / "out", name="Toy-Records")
    with pytest.raises(InputError, match="does not exist"):
        tfds.write(tmp_path / "none", tmp_path / "out")
