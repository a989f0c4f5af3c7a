"""What a model must know of the clinical notes beside its tokens: filled into the config before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ehrjax.core import files, plugins
from ehrjax.core.batch import NOTES
from ehrjax.core.errors import InputError
from ehrjax.data import notes

FILE = "notes.json"
_ENCODER = ("encoder_sha256", "max_tokens", "width")


def check(config: dict[str, Any]) -> None:
    """Raises InputError for a model without the notes that it needs, or with notes that it cannot use."""
    name, path = config["model"]["name"], config["data"].get("notes", "")
    needed = set(NOTES) & set(plugins.find("ehrjax.models", name, "Model", key="model.name").FIELDS)
    if needed and not path:
        raise InputError(
            f"The model {name} needs clinical notes; name what ehrjax.encode notes has written as "
            "--config.data.notes=DIR."
        )
    if path and not needed:
        raise InputError(f"The model {name} has no use for notes; leave config.data.notes empty.")


def resolve(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the width of the vectors of notes as `model.note_dim`.

    Raises:
      InputError: the vectors cannot be read, or are of another width than the config says.
    """
    path = config["data"].get("notes", "")
    if not path:
        return config
    width = notes.open_notes(path).width
    if config["model"].get("note_dim", 0) not in (0, width):
        raise InputError(
            f"config.model.note_dim is {config['model']['note_dim']}, but the vectors of {path} have {width} numbers; "
            "leave it 0."
        )
    return {**config, "model": {**config["model"], "note_dim": width}}


def write(workdir: Path, config: dict[str, Any]) -> None:
    """Writes DIR/notes.json, which says what the vectors of a run's notes come from; nothing without notes."""
    if path := config["data"].get("notes", ""):
        files.write_json(workdir / FILE, notes.open_notes(path).info)


def open_for(run: Any, folder: str = "") -> notes.Notes | None:
    """The vectors of notes for an opened run; None where it reads none.

    Args:
      run: from `ehrjax.load`.
      folder: the vectors; by default those that it was trained with.

    Raises:
      InputError: the run reads no notes but some are named, they are missing, or are another encoder's.
    """
    section = run.config["data"]
    if not section.get("notes"):
        if folder:
            raise InputError(f"The run {run.folder} was trained without notes; leave {folder} out.")
        return None
    found = notes.open_notes(folder or section["notes"], newest=section["newest_notes"])
    trained = files.read_json(run.folder / FILE, what="run with notes")
    named = [{key: info.get(key) for key in ("encoder", *_ENCODER)} for info in (trained, found.info)]
    # A text model is what its weights are, wherever it lies.
    same = all(named[0][key] == named[1][key] for key in _ENCODER)
    if not same or (named[0]["encoder_sha256"] is None and named[0]["encoder"] != named[1]["encoder"]):
        raise InputError(
            f"{found.folder} was encoded by {named[1]['encoder']}, the notes of {run.folder} by {named[0]['encoder']} "
            "(or with other max_tokens); encode the notes as those were."
        )
    return found
