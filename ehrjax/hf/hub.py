"""The HuggingFace Hub, where there is a network."""

from __future__ import annotations

from pathlib import Path

from ehrjax.core.errors import InputError

_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "*.bin")


def local(name: str) -> Path:
    """The folder of a model: the one that is named, or the download of a Hub id.

    Raises:
      InputError: there is no such folder, and no model of that id can be downloaded.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"The folder {name} does not exist; name a model's folder or an id on the HuggingFace Hub.")
    from huggingface_hub import snapshot_download

    try:
        # Weights once: a folder that has safetensors is not also fetched as pickles.
        path = Path(snapshot_download(name, allow_patterns=[p for p in _FILES if p != "*.bin"]))
        if not any(path.glob("*.safetensors")):
            path = Path(snapshot_download(name, allow_patterns=list(_FILES)))
        return path
    except Exception as error:  # the Hub's client raises many classes, those of its HTTP library among them
        raise InputError(
            f"{name} is no folder here and cannot be downloaded from the HuggingFace Hub ({type(error).__name__}); "
            f"where there is a network run `hf download {name} --local-dir DIR`, copy DIR here and name it."
        ) from error


def search(query: str, *, limit: int = 20) -> list[tuple[str, int, str]]:
    """Models on the Hub: id, downloads, what it is for; the most downloaded first.

    Raises:
      InputError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    try:
        found = HfApi().list_models(search=query, sort="downloads", limit=limit)
        return [(model.id, model.downloads or 0, model.pipeline_tag or "-") for model in found]
    except Exception as error:
        raise InputError(
            f"The HuggingFace Hub cannot be reached ({type(error).__name__}); search on https://huggingface.co/models."
        ) from error
