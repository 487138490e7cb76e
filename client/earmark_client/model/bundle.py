"""A model on disk: one folder, one manifest, and the sha256 of every file the program will open.

A bundle is the unit that is shipped, released, staged and rolled back. Its version names exactly these bytes, so vectors
that carry the same version may be compared. Files are verified when they are first read, and what is used is the very
bytes that were hashed: a text search never pays for the audio encoder, and a file can't be swapped in between.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from earmark_shared.errors import ModelError

MANIFEST = "manifest.json"
FORMAT = 1
MANIFEST_LIMIT_BYTES = 1_000_000
FILE_LIMIT_BYTES = 500_000_000
REINSTALL = "Reinstall Earmark, or roll back to the model before."


@dataclass(frozen=True)
class Bundle:
    """A model folder whose manifest has been checked; made by `Bundle.load`.

    `version` is the manifest's name, a dash, and the first 12 hex digits of the manifest's sha256.
    """

    folder: Path
    manifest: dict[str, Any]
    version: str
    verify: bool = True
    beside: Path | None = None
    """Where files lie that this folder lacks."""
    _seen: set[str] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True, beside: Path | None = None) -> Bundle:
        """Read and check `folder`/manifest.json and that the folder holds the files it names and no others.

        Documentation (``*.md``) and hidden files may lie beside them: they are never opened. `verify=False` skips the
        hashes, not the other checks. Files that `folder` lacks may lie in the folder `beside`, another model's.

        Raises:
            ModelError: manifest or folder are not what this version of Earmark understands.
        """
        folder = Path(folder)
        raw = _read_plain(folder / MANIFEST, MANIFEST_LIMIT_BYTES)
        manifest = _parse(raw)
        _check_sections(manifest)
        _check_folder(folder, manifest["files"], beside)
        return cls(folder, manifest, f"{manifest['name']}-{hashlib.sha256(raw).hexdigest()[:12]}", verify, beside)

    def section(self, name: str) -> dict[str, Any]:
        """The manifest's part `name`, such as ``"frontend"`` or ``"calibration"``.

        Raises:
            ModelError: this model has no such part.
        """
        part = self.manifest.get(name)
        if not isinstance(part, dict):
            raise ModelError(f"The model {self.version} has no {name!r} part.", hint=REINSTALL)
        return part

    def read(self, name: str) -> bytes:
        """The bytes of the file `name`, after comparing their sha256 with the manifest's.

        Raises:
            ModelError: the manifest names no such file, or its bytes are others.
        """
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise ModelError(f"The model {self.version} has no file {name!r}.", hint=REINSTALL)
        data = _read_plain(self._place(name), FILE_LIMIT_BYTES)
        if self.verify:
            _check_hash(name, data, entry)
        self._seen.add(name)
        return data

    def file(self, name: str) -> Path:
        """The path of the file `name`, verified the first time it is asked for; prefer `read` where bytes will do.

        Raises:
            ModelError: the manifest names no such file, or its bytes are others.
        """
        if name not in self._seen:
            self.read(name)
        return self._place(name)

    def _place(self, name: str) -> Path:
        own = self.folder / name
        return own if self.beside is None or own.exists() else self.beside / name


def _check_hash(name: str, data: bytes, entry: dict[str, Any]) -> None:
    if len(data) != entry["bytes"] or hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ModelError(f"The model file {name} is not the one its manifest names.", hint=REINSTALL)


def _read_plain(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a plain file: a pipe would block for ever, and a device has no end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path} is not a plain file.", hint=REINSTALL)
        if status.st_size > limit_bytes:
            raise ModelError(f"{path} is larger than {limit_bytes} bytes.", hint=REINSTALL)
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} can't be read: {error.strerror}.", hint=REINSTALL) from error


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError("The model's manifest is not JSON.", hint=REINSTALL) from error
    if not isinstance(manifest, dict):
        raise ModelError("The model's manifest is not an object.", hint=REINSTALL)
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        raise ModelError(f"The model's manifest has format {found!r}; this Earmark reads {FORMAT}.", hint="Update Earmark.")
    return manifest


def _check_sections(manifest: dict[str, Any]) -> None:
    """Names, sizes and hashes have the right form, and every part names a file of the list."""
    name, files = manifest.get("name"), manifest.get("files")
    if not isinstance(name, str) or not name or not isinstance(files, dict):
        raise ModelError("The model's manifest lacks its name or its files.", hint=REINSTALL)
    for file, entry in files.items():
        _check_entry(file, entry)
    head, frontend = (part if isinstance(part := manifest.get(key), dict) else {} for key in ("head", "frontend"))
    is_wordless = head.get("kind") == "sound"
    for part, keys in (("encoder", ("file",)), ("sentence", ("file", "tokenizer")), ("head", ("file",)), ("labels", ("file",))):
        section = manifest.get(part)
        if section is None and (part in ("head", "labels") or (part == "sentence" and is_wordless)):
            continue  # a bundle that is being built has no head yet; the labeler asks for it by `section`
        if not isinstance(section, dict) or any(section.get(key) not in files for key in keys):
            raise ModelError(f"The model's manifest names no file for {part!r}.", hint=REINSTALL)
    sizes = [("encoder", "dim")] if is_wordless else [("encoder", "dim"), ("sentence", "dim"), ("sentence", "max_tokens")]
    shape = ("samples",) if frontend.get("kind") == "waveform" else ("frames", "bands")
    sizes += [("frontend", key) for key in shape]
    for part, key in sizes:
        value = manifest[part].get(key) if isinstance(manifest.get(part), dict) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(f"The model's manifest has no {part}.{key}.", hint=REINSTALL)


def _check_entry(file: str, entry: object) -> None:
    good = isinstance(entry, dict) and isinstance(entry.get("bytes"), int) and isinstance(entry.get("sha256"), str)
    if not good or file in ("", ".", "..", MANIFEST) or Path(file).name != file or "\\" in file:
        raise ModelError(f"The model's manifest has no usable entry for {file!r}.", hint=REINSTALL)


def _check_folder(folder: Path, files: dict[str, Any], beside: Path | None) -> None:
    try:
        present = {path.name for path in folder.iterdir() if not path.name.startswith(".") and path.suffix != ".md"}
        elsewhere = {path.name for path in beside.iterdir()} if beside else set()
    except OSError as error:
        raise ModelError(f"{folder} can't be read: {error.strerror}.", hint=REINSTALL) from error
    missing, unknown = sorted(files.keys() - present - elsewhere), sorted(present - files.keys() - {MANIFEST})
    if missing:
        raise ModelError(f"The model lacks {', '.join(missing)}.", hint=REINSTALL)
    if unknown:
        raise ModelError(f"The model folder holds {', '.join(unknown)}, which its manifest does not name.", hint=REINSTALL)
