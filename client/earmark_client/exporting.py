"""What a library knows, written for its owner: readable JSON, or the same inside an age file.

The document holds clips with their paths, predicted labels, corrections and the person's own labels: everything a person put in
or could read. Vectors are left out (they are made again from the sound files), and so is the sound itself, which never left its files.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_client.store.keys import KeyFile
from earmark_shared.errors import SettingsError
from earmark_shared.files import disk_errors, write_atomic

if TYPE_CHECKING:
    from earmark_client.store.database import Database
    from earmark_client.store.keys import Secret

FORMAT = 1


def export_library(database: Database, path: Path, *, kind: str, recipient: str | None, passphrase: bytes | None) -> None:
    """Write the library's document to `path` (0600), whatever `check_place` said of that; `kind` is "json" or "age".

    Raises:
        SettingsError: `kind` is unknown, or an age file has not exactly one of recipient and passphrase.
    """
    document = json.dumps(_document(database), ensure_ascii=False, indent=1).encode()
    if kind == "age":
        document = _encrypt(document, recipient, passphrase)
    elif kind != "json":
        raise SettingsError(f"There is no export format {kind}.", hint="Choose age or json.")
    write_atomic(path, document)


def check_place(path: Path, home: Path, secret: Secret | None, *, replace: bool) -> None:
    """Refuse a place where an export would cost something: the home, its key file, and what is there unless `replace` is said.

    Raises:
        SettingsError: it may not be written there.
        StoreError: the place can't be looked at.
    """
    with disk_errors(path):
        real, real_home = Path(os.path.realpath(path.parent)) / path.name, Path(os.path.realpath(home))
        status = os.lstat(path) if os.path.lexists(path) else None
        is_key = isinstance(secret, KeyFile) and real == Path(os.path.realpath(secret.path))
    if real_home in (real, *real.parents):
        raise SettingsError(f"{path}: lies in the library's own folder", hint="write the export somewhere else")
    if is_key:
        raise SettingsError(f"{path}: is the library's key", hint="write the export to another file")
    if status is None:
        return
    if not stat.S_ISREG(status.st_mode):
        raise SettingsError(f"{path}: is not a plain file", hint="name a file that does not exist yet")
    if not replace:
        raise SettingsError(f"{path}: there is a file already", hint="name another file, or replace this one: --replace")


def _document(database: Database) -> dict[str, object]:
    labels = database.all_labels()
    corrections: dict[int, list[dict[str, object]]] = {}
    for correction in database.corrections():
        corrections.setdefault(correction.clip_id, []).append(asdict(correction))
    clips = [
        asdict(clip)
        | {
            "labels": [{"name": name, "score": round(score, 4)} for name, score in labels.get(clip.id, [])],
            "corrections": corrections.get(clip.id, []),
        }
        for clip in database.clips()
    ]
    own = [{"name": row.name, "phrase": row.phrase, "kind": row.kind} for row in database.label_list()]
    return {"format": FORMAT, "clips": clips, "own_labels": own}


def _encrypt(document: bytes, recipient: str | None, passphrase: bytes | None) -> bytes:
    import pyrage

    if (recipient is None) == (passphrase is None):
        raise SettingsError("An age file is for one recipient or one passphrase.", hint="Give --recipient or a passphrase.")
    if passphrase is not None:
        return bytes(pyrage.passphrase.encrypt(document, passphrase.decode()))
    try:
        key = pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError as error:
        raise SettingsError(f"{recipient} is no age recipient.", hint="A recipient begins with age1.") from error
    return bytes(pyrage.encrypt(document, [key]))
