"""A newer shipped model takes over from an older one by what is stored: no recording is read, and searches go on meanwhile.

    keep(home, bundle)                  # at each `add`: what a search needs of the model stays with the library, 2 MB
    open_kept(home, version, shipped)   # Earmark was updated: the older model goes on answering
    inherit(home, model)                # the newer one takes over, if it hears alike

Two models hear alike when encoder, front end, segments and sound vectors are the same. Then segments stay as they are, with all that
people said of them; texts and strengths are made anew from the stored encoder outputs, beside the old ones. One transaction swaps
the names, and the labels with them. Killed at any moment: what was committed is not made again, and until the swap every search sees
the older model. A model that hears otherwise has to hear the clips again (`rereading.py`).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from earmark_client import updating
from earmark_client.describe import Model
from earmark_client.model.bundle import MANIFEST, Bundle
from earmark_client.model.head import dequantize_output
from earmark_shared.errors import ModelError
from earmark_shared.files import make_private_folder, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from earmark_client.store.blocks import Block, Rows
    from earmark_client.store.database import Database
    from earmark_client.store.home import Home

KEPT = "shipped"
NEEDED = ("head", "labels")
"""The parts that are kept. The sentence model is ten times as large and seldom changes: it is the newer model's, if that is the same."""


def kept_folder(home: Home) -> Path:
    """Where a home keeps the shipped model that it is searched by."""
    return updating.models_folder(home) / KEPT


def keep(home: Home, bundle: Bundle) -> None:
    """Keep what a search needs of a shipped model, and forget those that were kept before; the caller holds the home's lock."""
    folder = kept_folder(home) / bundle.version
    if (folder / MANIFEST).exists():
        return
    for path in (updating.models_folder(home), kept_folder(home), folder):
        make_private_folder(path)
    for part in NEEDED:
        name = str(bundle.section(part)["file"])
        write_atomic(folder / name, bundle.read(name))
    write_atomic(folder / MANIFEST, (bundle.folder / MANIFEST).read_bytes())  # last: with a manifest it is whole
    for other in kept_folder(home).iterdir():
        if other != folder:
            shutil.rmtree(other)


def open_kept(home: Home, version: str, shipped: Path) -> Bundle:
    """The model of that version: what was kept of it, and the rest from the one that is shipped now.

    Raises:
        ModelError: it was not kept, or a part that is needed is another one now (when it is read).
    """
    bundle = Bundle.load(kept_folder(home) / version, beside=shipped)
    if bundle.version != version:
        raise ModelError(f"The model {version} is not what was kept.")
    return bundle


def is_kept(home: Home, model: Model) -> bool:
    """Whether a model is an older shipped one, of which a home kept its own."""
    return model.bundle.folder.parent == kept_folder(home)


def inherit(home: Home, model: Model) -> bool:
    """Let a model take over from an older shipped one in force, if both hear alike; whether it did. The caller holds the home's lock.

    Raises:
        DiskFullError: there is no room; the older model stays in force.
    """
    database = home.database
    version = database.model_in_force()
    if version in (None, model.base_version) or database.read_only or not model.keeps_output:
        return False
    if model.base_version in database.all_models():
        return False  # it has heard some of the clips itself: let it hear the others
    try:
        older = Model(open_kept(home, str(version), model.bundle.folder))
        if not hear_alike(older, model):
            return False
    except ModelError:
        return False
    _describe(database, older, model)
    labels = dict(updating.relabel(database, model, segments_of=older.base_version))
    with database.transaction():
        database.rename_model(older.base_version, model.base_version)
        for clip in database.clips():
            database.set_labels(clip.id, labels.get(clip.id, []), model_version=model.version)
    clean_up(database)
    return True


def hear_alike(older: Model, newer: Model) -> bool:
    """Whether a stored encoder output and sound vector of the one is what the other would have stored."""
    bundles = (older.bundle, newer.bundle)
    encoders = [bundle.manifest["files"][bundle.section("encoder")["file"]]["sha256"] for bundle in bundles]
    parts = [[bundle.section(part) for part in ("encoder", "frontend", "segment")] for bundle in bundles]
    if not (older.keeps_output and newer.keeps_output) or encoders[0] != encoders[1] or parts[0] != parts[1]:
        return False
    return older.labeler.hears_like(newer.labeler)


def clean_up(database: Database) -> None:
    """Forget vectors of models that no segment belongs to: a take-over that was killed at its end, or never ended, leaves some."""
    known = database.all_models()
    for version in database.model_versions():
        if version.partition("+")[0] not in known:
            with database.transaction():
                database.delete_vectors(version)


def _describe(database: Database, older: Model, newer: Model) -> None:
    """Make the newer model's vectors for every segment that has none."""

    def describe(block: Block) -> dict[str, Rows]:
        codes, scales = block.int8()
        text, strength = newer.labeler.describe_text(dequantize_output(codes, scales))
        sound = database.fetch("sound", older.base_version, block.ids)
        return {
            "text": text.astype(np.float16),
            "strength": strength[:, None],
            "sound": sound.rows if sound.scales is None else (sound.rows, sound.scales),
            "encoder": (codes, scales),
        }

    updating.fill(database, ("encoder", older.base_version), newer.base_version, describe)
