"""What a checkpoint folder holds, read and checked before anything heavy is loaded; nothing in it is ever run.

Weights must be safetensors, which hold numbers and nothing else. PyTorch's own files are pickles: opening one runs what its maker
wrote into it. The network is built by the installed transformers, never by code that lies beside the weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from earmark_shared.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {"clap": "clap", "audio-spectrogram-transformer": "ast", "whisper": "whisper"}
"""`model_type` in config.json, and what we call it."""
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TEXT_LIMIT_BYTES = 20_000_000
TAKEN = "Earmark takes CLAP, AST and Whisper checkpoints as transformers saves them."
CONVERT = (
    "A pickle runs code when it is opened. Take the checkpoint's safetensors, or convert it where that does no harm:"
    " load it with transformers and save it with save_pretrained."
)
PREPROCESSOR = "Copy preprocessor_config.json from where the checkpoint came: it says how sound becomes the network's input."


@dataclass(frozen=True)
class Checkpoint:
    """A folder that has been looked through; `kind` is "clap", "ast" or "whisper"."""

    folder: Path
    kind: str
    config: dict[str, Any]
    preprocessor: dict[str, Any]

    def sources(self) -> dict[str, str]:
        """The sha256 of every file that goes into the model, by name."""
        names = {"config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "vocab.json", "merges.txt"}
        chosen = [path for path in sorted(self.folder.iterdir()) if path.name in names or ".safetensors" in path.name]
        return {path.name: _sha256(path) for path in chosen}


def read_checkpoint(folder: Path) -> Checkpoint:
    """Look through a checkpoint folder.

    Raises:
        ModelError: it is none, is of an architecture we don't take, holds a pickle instead of safetensors, or lacks a file.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no checkpoint: it has no config.json.", hint=TAKEN)
    config = _read_json(folder / "config.json")
    kind = KINDS.get(str(config.get("model_type")))
    if kind is None:
        found = f"{folder / 'config.json'} is of the type {config.get('model_type')!r}"
        raise ModelError(f"{found}, which Earmark can't use.", hint=TAKEN)
    _check_weights(folder)
    return Checkpoint(folder, kind, config, _preprocessor(folder))


def _check_weights(folder: Path) -> None:
    if any((folder / name).is_file() for name in WEIGHTS):
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(f"{folder / pickles[0]} is a pickle; Earmark opens none.", hint=CONVERT)
    raise ModelError(f"{folder} has no {WEIGHTS[0]}.", hint=TAKEN)


def _preprocessor(folder: Path) -> dict[str, Any]:
    """The front end's settings: a file of their own, or a part of the processor's."""
    alone, joint = folder / "preprocessor_config.json", folder / "processor_config.json"
    if alone.is_file():
        return _read_json(alone)
    part = _read_json(joint).get("feature_extractor") if joint.is_file() else None
    if not isinstance(part, dict):
        raise ModelError(f"{folder} has no preprocessor_config.json.", hint=PREPROCESSOR)
    return part


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > TEXT_LIMIT_BYTES:
            raise ModelError(f"{path} is larger than {TEXT_LIMIT_BYTES} bytes.", hint=TAKEN)
        table = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.", hint=TAKEN) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON.", hint=TAKEN) from error
    if not isinstance(table, dict):
        raise ModelError(f"{path} is not a JSON object.", hint=TAKEN)
    return table


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
