"""The Flower app bundle of a round: a description without any code, the same bytes wherever it is made.

A SuperLink hands every device the bundle of a run, and a stock SuperNode would execute what is in it. Ours holds one text file that
names the functions of the installed packages; a device runs what it has installed, and only for a bundle with this very hash.
"""

from __future__ import annotations

import hashlib
import io
import zipfile

VERSION = "1.0.0"
CONFIG = b"""[project]
name = "earmark"
version = "1.0.0"
description = "Rounds of Earmark; the code is what devices and server have installed"
license = "Apache-2.0"
dependencies = ["flwr==1.41.0"]

[tool.flwr.app]
publisher = "earmark"

[tool.flwr.app.components]
serverapp = "earmark_server.flower:app"
clientapp = "earmark_client.federation.flower:app"

[tool.flwr.app.config]
rounds = 1
"""
_DATE = (2026, 1, 1, 0, 0, 0)


def bundle() -> bytes:
    """Return the bundle: a ZIP without compression, so that no library's version shows in it."""
    listing = f"pyproject.toml,{hashlib.sha256(CONFIG).hexdigest()},{8 * len(CONFIG)}".encode()
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
        for name, content in (("pyproject.toml", CONFIG), (".info/CONTENT", listing)):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o600 << 16
            entry.create_system = 3
            archive.writestr(entry, content)
    return whole.getvalue()


def bundle_sha256() -> str:
    """Return the hash by which a device knows the bundle, hexadecimal."""
    return hashlib.sha256(bundle()).hexdigest()
