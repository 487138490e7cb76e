"""Which model a library is searched by: the shipped one, or one that its owner imported. One at a time, and never two mixed.

    use(home, find(home, "my-clap", BASE_MODEL))   # hears every clip again, then takes over; searches go on meanwhile
    use(home, find(home, "base", BASE_MODEL))      # and back

Every model cuts sound into segments of its own, and keeps them when another takes over: going back costs only what was added since.
The database's view `segments` shows those of the model in force, so the one value that names it swaps vectors, times and index, in
the transaction that swaps the labels. Imported models are folders in the home; they hold nothing of anybody's sound.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_client import succession, updating
from earmark_client.describe import Model
from earmark_client.model.bundle import MANIFEST, Bundle
from earmark_shared.errors import ModelError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark_client.records import Clip
    from earmark_client.store.database import Database
    from earmark_client.store.home import Home
    from earmark_client.tally import AddProgress
    from earmark_shared.errors import EarmarkError

IMPORTED = "imported"
LISTED = "`earmark model list` shows what there is."
BASE = "base"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
WORDS = {
    None: "its own, and names of sounds",
    "joint": "its own text encoder",
    "classes": "the names of its classes",
    "sound": "none: by example, file names, your labels",
}
"""What a query's words are compared with, by the kind of a model's head."""


@dataclass(frozen=True)
class KnownModel:
    """A model that a library can be searched by."""

    name: str
    kind: str
    """ "shipped", or what was imported: "clap", "ast", "whisper"."""
    words: str
    segment_s: float
    clips: int
    """Clips that it has heard."""
    is_in_force: bool
    version: str


@dataclass(frozen=True)
class UseReport:
    """What putting a model in force did."""

    version: str
    heard: int
    """Clips that were read for it now."""
    left: tuple[Clip, ...]
    """Clips that it could not hear: their files are gone or changed. They stay under the models that did."""
    problems: tuple[tuple[str, EarmarkError], ...]


def imported_folder(home: Home) -> Path:
    """Where a home's imported models lie."""
    return updating.models_folder(home) / IMPORTED


def check_name(home: Home, name: str) -> str:
    """A name that an imported model can have: not the shipped one's, and not taken.

    Raises:
        SettingsError: it can't.
    """
    if not NAME.fullmatch(name) or name == BASE:
        raise SettingsError(
            f"A model can't be called {name}.", hint="--name: up to 40 of a-z, 0-9, dot, dash and underscore; not base"
        )
    if (imported_folder(home) / name).exists():
        raise SettingsError(f"There is a model {name} already.", hint=f"Choose another --name, or: earmark model remove {name}")
    return name


def follow(home: Home, model: Model, shipped: Path) -> Model:
    """The model in force now: `model` itself, unless somebody changed it since.

    Raises:
        ModelError: its folder is gone.
    """
    version = home.database.model_in_force()
    if version not in (None, model.base_version):
        model = Model(_by_version(home, str(version), shipped), device=model.device)
    return updating.follow(home, model)


def find(home: Home, name: str, shipped: Path, *, device: str = "cpu") -> Model:
    """A model by its name.

    Raises:
        SettingsError: there is none of that name. ModelError: its folder is not what it was.
    """
    folder = shipped if name == BASE else imported_folder(home) / name
    if name != BASE and not (NAME.fullmatch(name) and (folder / MANIFEST).is_file()):
        raise SettingsError(f"There is no model {name}.", hint=LISTED)
    return updating.follow(home, Model(Bundle.load(folder), device=device))


def known(home: Home, shipped: Path) -> list[KnownModel]:
    """The shipped model, then the imported ones by name; one that is damaged is listed as that, so that it can be removed."""
    return [_look_at(home, BASE, shipped), *(_look_at(home, folder.name, folder) for folder in _folders(home))]


def _look_at(home: Home, name: str, folder: Path) -> KnownModel:
    database = home.database
    try:
        bundle = Bundle.load(folder)
        samples, words = int(bundle.section("segment")["samples"]), WORDS[bundle.section("head").get("kind")]
    except (ModelError, KeyError, TypeError, ValueError) as error:
        return KnownModel(name, "damaged", str(error), 0.0, 0, is_in_force=False, version="")
    return KnownModel(
        name=name,
        kind=str(bundle.manifest.get("kind", "shipped")),
        words=words,
        segment_s=samples / 16_000,
        clips=len(database.described_clips(bundle.version)),
        is_in_force=database.model_in_force() == bundle.version or (name == BASE and database.model_in_force() is None),
        version=bundle.version,
    )


def undescribed(database: Database, model: Model) -> list[Clip]:
    """The searchable clips that this model has not heard, by id."""
    if not database.unheard(model.base_version):
        return []
    known = database.described_clips(model.base_version)
    return [clip for clip in database.clips() if clip.id not in known]


def is_there(clip: Clip) -> bool:
    """Whether a clip has a file at one of its paths; what is in it is seen when it is read."""
    return any(map(os.path.isfile, clip.paths))  # and not Path.is_file, which raises for a folder that can't be entered


def gone(home: Home, model: Model) -> list[Clip]:
    """The clips that a model has not heard and can't hear: no file is where it was."""
    return [clip for clip in undescribed(home.database, model) if not is_there(clip)]


def use(home: Home, model: Model, on_progress: Callable[[AddProgress], None] | None = None) -> UseReport:
    """Let a model hear what it has not heard, and put it in force. The caller holds the home's lock.

    Interrupted, it goes on where it was when it is called again; until its end, everybody searches by the model before.

    Raises:
        DiskFullError: there is no room; the model before stays in force.
    """
    from earmark_client.rereading import read_again  # and with it all that decodes, which no search needs

    database = home.database
    succession.inherit(home, model)
    heard = read_again(database, model, undescribed(database, model), on_progress)
    if heard.added or database.model_in_force() != model.base_version:
        labels = dict(updating.relabel(database, model))
        with database.transaction():
            database.set_model_in_force(model.base_version)
            for clip in database.clips():
                database.set_labels(clip.id, labels.get(clip.id, []), model_version=model.version)
    return UseReport(model.version, heard.added, tuple(undescribed(database, model)), heard.problems)


def remove(home: Home, name: str) -> None:
    """Forget an imported model: its folder, its segments and vectors, and what was said of moments in them; also a damaged one.

    Raises:
        SettingsError: there is none of that name, it is the shipped one, or it is in force.
    """
    if name == BASE:
        raise SettingsError("The shipped model stays.", hint="`earmark model list` shows the imported ones.")
    folder, database = imported_folder(home) / name, home.database
    if not NAME.fullmatch(name) or not folder.is_dir():
        raise SettingsError(f"There is no model {name}.", hint=LISTED)
    versions = [version for version in database.all_models() if version.rpartition("-")[0] == name]
    if database.model_in_force() in versions:
        raise SettingsError(f"The model {name} is in force.", hint="Go back first: earmark model use base")
    with database.transaction():
        for version in versions:
            database.forget_model(version)
    shutil.rmtree(folder)


def catch_up(home: Home, model: Model, shipped: Path, on_progress: Callable[[AddProgress], None] | None = None) -> None:
    """Before sounds are added: a newer shipped model takes over from an older one, and files that came back are heard."""
    current = model if model.bundle.folder.parent == imported_folder(home) else find(home, BASE, shipped, device=model.device)
    if current.base_version != model.base_version or any(map(is_there, undescribed(home.database, current))):
        use(home, current, on_progress)
    if current.bundle.folder == shipped:
        succession.keep(home, current.bundle)
    succession.clean_up(home.database)


def _folders(home: Home) -> list[Path]:
    return sorted(path for path in imported_folder(home).glob("*") if NAME.fullmatch(path.name))


def _by_version(home: Home, version: str, shipped: Path) -> Bundle:
    """The model of that version: the one that is shipped now, one that was and is kept in the home, or an imported one."""
    for folder in (shipped, *_folders(home)):
        with suppress(ModelError):  # another one's damage is not in the way
            if (bundle := Bundle.load(folder)).version == version:
                return bundle
    with suppress(ModelError):
        return succession.open_kept(home, version, shipped)
    raise ModelError(
        f"The model {version}, which this library is searched by, is not there.",
        hint="Put its folder back, or have the shipped one hear every clip again: earmark model use base",
    )
