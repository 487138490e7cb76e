"""A model folder is written beside the others, looked at, and only then gets its name: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safetensors.numpy import save

from earmark_client.model.bundle import FORMAT, MANIFEST
from earmark_shared.files import disk_errors, make_private_folder, sync_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

UNFINISHED = ".import-"


@contextmanager
def new_folder(parent: Path, name: str) -> Iterator[Path]:
    """A folder that becomes `parent`/`name` when the block ends well, and is gone otherwise.

    What an import that was killed left behind goes first; the caller holds the home's lock.
    """
    make_private_folder(parent)
    for left in parent.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = parent / f"{UNFINISHED}{name}"
    make_private_folder(scratch)
    try:
        yield scratch
        with disk_errors(parent):
            scratch.rename(parent / name)
        sync_folder(parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_arrays(folder: Path, name: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
    """Write arrays as safetensors."""
    write_private(folder / name, save({key: array.copy() for key, array in arrays.items()}))


def write_labels(folder: Path, names: list[str]) -> None:
    """Write labels.json: every name may be listed, none is broader than another."""
    rows = [{"name": name, "broad": False, "listed": True} for name in names]
    write_private(folder / "labels.json", json.dumps({"labels": rows}, ensure_ascii=False, indent=0).encode())


def write_manifest(folder: Path, sections: Mapping[str, Any]) -> None:
    """Write the manifest over all files in the folder; written again, it replaces the one before."""
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {"format": FORMAT, **sections, "files": files}
    write_private(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def waveform_sections(samples: int, dim: int) -> dict[str, Any]:
    """The manifest's parts for an encoder that hears 16 kHz waveforms of so many samples; segments overlap by half."""
    return {
        "frontend": {"kind": "waveform", "samples": samples},
        "segment": {"samples": samples, "hop_samples": samples // 2},
        "encoder": {"file": "encoder.onnx", "input": "waveform", "output": "embedding", "dim": dim},
    }
