"""Token datasets as TensorFlow Datasets, and back without loss. TensorFlow itself is not needed.

A record is a subject; everything else of the dataset (dataset.json, the vocabulary, fitted tables) travels as text in
TFDS's metadata. The files are array_record: random access, but about fifty times slower to read than the memory-mapped
Arrow files, so training from a TFDS directory writes it back to Arrow first, once.
Format: https://www.tensorflow.org/datasets/external_tfrecord and the TFDS API docs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset
from ehrjax.data.token_dataset import RAGGED, TokenDataset
from ehrjax.ingest.meds import SPLITS

NAME, VERSION = "ehrjax_tokens", "1.0.0"
FILES, SHARD, HAS_BIRTH = "files", "shard", "has_birth"

Progress = Callable[[str, int, int], None]


def write(source: str | Path, output: str | Path, *, name: str = NAME, progress: Progress | None = None) -> Path:
    """Publishes a token dataset as `output/<name>/1.0.0`, which `tfds.builder(name, data_dir=output)` opens.

    Args:
      source: the token dataset.
      output: the TFDS data folder to write; it must not exist or be empty.
      name: the dataset's name in TFDS: small letters, digits and _.
      progress: called as progress(stage, subjects done, subjects in all).

    Returns:
      The dataset's folder.

    Raises:
      InputError: the source is no token dataset, or the name is none for TFDS.
    """
    if not name.isidentifier() or name != name.lower():
        raise InputError(f"--name is {name!r}; TFDS wants small letters, digits and _.")
    dataset = token_dataset.open_tokens(source)
    output = Path(output)
    with files.written_folder(output, what="TFDS folder") as folder:
        builder = _builder(dataset, name, progress)(data_dir=str(folder), file_format="array_record")
        with _quiet():
            builder.download_and_prepare()
    return output / name / VERSION


def is_tfds(path: str | Path) -> bool:
    """Whether a folder is one that `write` has written, or the folder of its version."""
    return bool(_found(Path(path)))


def read_back(source: str | Path, output: str | Path) -> Path:
    """Writes a token dataset as it was before `write`: the same files, byte for byte.

    Args:
      source: a TFDS folder that `write` has written, or its version's folder.
      output: the token dataset to write; it must not exist or be empty.

    Raises:
      InputError: the source is no such folder, holds several datasets, or is damaged.
    """
    import tensorflow_datasets as tfds

    source, output = Path(source), Path(output)
    found = _found(source)
    if len(found) != 1:
        what = f"holds {len(found)} TFDS datasets; name the folder of one version" if found else "is no TFDS folder"
        raise InputError(f"{source} {what}.")
    with files.written_folder(output, what="token dataset") as folder:
        try:
            builder = tfds.builder_from_directory(str(found[0]))
            texts = dict(builder.info.metadata or {})[FILES]
            for name, text in texts.items():
                if Path(name).name != name:
                    raise InputError(f"{found[0] / 'metadata.json'} names a file {name!r} outside of the dataset.")
                (folder / name).write_bytes(text.encode())
            for split in SPLITS:
                if split in builder.info.splits:
                    _write_split(builder.as_data_source(split), folder / "data" / split)
        except InputError:
            raise
        except Exception as error:  # TFDS and array_record raise many unrelated classes for what is damaged
            raise InputError(
                f"{found[0]} is damaged or was not written by ehrjax ({type(error).__name__}); publish it again."
            ) from error
        opened = token_dataset.open_tokens(folder)
        for split in SPLITS:
            opened.split(split)
    return output


def ensure(source: str | Path, folder: Path) -> None:
    """Writes `tokens_of(source, folder)` unless it is there."""
    if not (tokens := tokens_of(source, folder)).exists():
        read_back(source, tokens)


def tokens_of(source: str | Path, folder: Path) -> Path:
    """Where below `folder` the token dataset of a TFDS folder belongs."""
    found = _found(Path(source))
    return folder / f"tokens-{files.sha256_file(found[0] / 'metadata.json')[:16]}"


def _found(path: Path) -> list[Path]:
    """The folders at or below a path that TFDS has written."""
    if (path / "dataset_info.json").is_file():
        return [path]
    return sorted(info.parent for info in path.glob("*/*/dataset_info.json"))


def _builder(dataset: TokenDataset, name: str, progress: Progress | None) -> type:
    """The class of a builder that writes one dataset."""
    import tensorflow_datasets as tfds

    texts = {path.name: path.read_bytes().decode() for path in sorted(dataset.folder.iterdir()) if path.is_file()}
    splits = {name: dataset.split(name) for name in SPLITS}
    total = sum(map(len, splits.values()))

    def info(self: Any) -> Any:
        ragged = {
            column: tfds.features.Tensor(
                shape=(None,), dtype=token_dataset.ARROW_SCHEMA.field(column).type.value_type.to_pandas_dtype()
            )
            for column in RAGGED
        }
        scalar = tfds.features.Scalar
        features = {
            "subject_id": scalar(np.int64),
            "birth_time": scalar(np.int64),
            HAS_BIRTH: scalar(np.bool_),
            "num_static": scalar(np.int32),
            SHARD: scalar(np.int32),
            **ragged,
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Tokens of health records, one subject a record; times are microseconds since 1970.",
            features=tfds.features.FeaturesDict(features),
            # The order is part of the dataset.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict({FILES: texts}),
        )

    done = 0

    def examples(shard: token_dataset.Shard) -> Iterator[tuple[int, dict[str, Any]]]:
        nonlocal done
        for row in range(len(shard.subject_id)):
            span = slice(int(shard.offsets[row]), int(shard.offsets[row + 1]))
            yield (
                row,
                {
                    "subject_id": shard.subject_id[row],
                    "birth_time": shard.birth_time[row],
                    HAS_BIRTH: shard.has_birth[row],
                    "num_static": shard.num_static[row],
                    SHARD: int(shard.path.stem),
                    **{column: shard.columns[column][span] for column in RAGGED},
                },
            )
            done += 1
            if progress and not done % 1000:
                progress("writing records", done, total)

    return type(
        # TFDS makes the dataset's name of the class's.
        "".join(part.capitalize() for part in name.split("_")),
        # Shard by shard, one file each: the generator-based builder holds a split in memory to sort it, and past a
        # gigabyte moves it to files through TensorFlow.
        (tfds.core.ShardBasedBuilder,),
        {
            "VERSION": tfds.core.Version(VERSION),
            "name": name,
            "_info": info,
            "_shard_iterators_per_split": lambda self, manager: {
                n: [partial(examples, shard) for shard in split.shards if len(shard.subject_id)]
                for n, split in splits.items()
                if len(split)
            },
            "__module__": __name__,
        },
        # A name is TFDS's for the whole process otherwise, and a second dataset of that name refused.
        skip_registration=True,
    )


def _write_split(records: Any, folder: Path) -> None:
    """Writes a split's records as the Arrow files that they came from."""
    held: list[dict[str, Any]] = []
    for record in (records[at] for at in range(len(records))):
        if held and record[SHARD] != held[0][SHARD]:
            _write_shard(held, folder)
            held = []
        held.append(record)
    if held:
        _write_shard(held, folder)


def _write_shard(records: list[dict[str, Any]], folder: Path) -> None:
    schema = token_dataset.ARROW_SCHEMA
    offsets = pa.array(np.cumsum([0, *(len(record["tokens"]) for record in records)]), pa.int32())
    columns: dict[str, pa.Array] = {
        "subject_id": pa.array([int(record["subject_id"]) for record in records], pa.int64()),
        "birth_time": pa.array(
            [int(record["birth_time"]) if record[HAS_BIRTH] else None for record in records], pa.int64()
        ),
        "num_static": pa.array([int(record["num_static"]) for record in records], pa.int32()),
    }
    for name in RAGGED:
        values = np.concatenate([record[name] for record in records])
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values, schema.field(name).type.value_type))
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    token_dataset.write_table(table, folder / f"{int(records[0][SHARD]):05d}.arrow")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS shows progress bars of its own."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
        yield
    finally:
        if before is None:
            os.environ.pop("TQDM_DISABLE", None)
        else:
            os.environ["TQDM_DISABLE"] = before
