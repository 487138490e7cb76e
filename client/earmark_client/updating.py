"""A new head takes over: its vectors are made beside the old ones, then model, labels and index change places at once.

    install(home, model, release)         # staged before; searches go on with the old model until the last moment
    take_back(home, model)                # to the one before, whose vectors are still there, unless that was taken back

What a head changes is only the text vector, so that is all that a released head has of its own. Encoder output, strength and sound
vectors stay under the base model's version, and so do the base model's text vectors: going back to it costs no computation.

Killed at any moment: batches of vectors that were committed are not made again, and until the one transaction that swaps, every
search sees the old model. The state is read again by whoever searches next, in this process or another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.labelling import LabelSet, best_rows
from earmark_client.model.active import LINE, ActiveState, forget_others, load_correction
from earmark_client.store.home import MODELS_NAME
from earmark_shared.errors import ModelError, NotInLibraryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from earmark_client.describe import Floats, Model
    from earmark_client.store.blocks import Block, Rows
    from earmark_client.store.database import Database
    from earmark_client.store.home import Home
    from earmark_shared.release import Release

STATE = "model"
TRIAL_S = 86_400
"""How long the others wait: time for an operator to take back what does harm (`earmark-server take-back`)."""


@dataclass(frozen=True)
class UpdateProgress:
    """How far an update has come, in segments."""

    done: int
    total: int


def models_folder(home: Home) -> Path:
    """The folder of a home's released heads."""
    return home.folder / MODELS_NAME


def read_state(database: Database) -> ActiveState:
    """What is in force in this library."""
    text = database.get_meta(STATE)
    return ActiveState() if text is None else ActiveState.from_json(str(text))


def follow(home: Home, model: Model) -> Model:
    """The model that is in force now: `model` itself, unless somebody changed it since."""
    release = _fitting(read_state(home.database).active, model)
    return _with(home, model, release)


def install(home: Home, model: Model, release: Release, on_progress: Callable[[UpdateProgress], None] | None = None) -> None:
    """Put a staged release in force; run again after an interruption, it goes on. The caller holds the home's lock.

    Raises:
        ModelError: it is for another base model, or its files are not what they were. DiskFullError: the old model stays.
    """
    target = _check_fits(home, model, release)
    enter(home, model, release)
    state = read_state(home.database)
    if state.active == release:
        return
    _write_state(home.database, replace(state, next=release))
    latest = state.latest if state.latest is not None and state.latest.number > release.number else None
    after = ActiveState(release, True, state.active, taken_back=state.taken_back, latest=latest, line=state.line)
    _switch(home, target, after, on_progress)


def enter(home: Home, model: Model, newest: Release | None) -> bool:
    """Put the base model in force where what is here came from another line of releases than `newest`; return whether it did.

    Another federation's numbers say nothing in this one, nor do a thief's once its keys were replaced. A library from before lines
    had names is in this one unless it knows of a higher number. The caller holds the home's lock.

    Raises:
        ModelError: an imported model is in force.
    """
    state, stored = read_state(home.database), home.database.federation_value(LINE)
    line = state.line if stored is None else stored.decode()
    if line == state.line:
        return False
    knows_nothing = state == ActiveState(line=state.line)
    if knows_nothing or (not state.line and state.highest <= (newest.number if newest else 0)):
        _write_state(home.database, replace(state, line=line))
        return False
    check_in_force(home.database, model)
    _switch(home, _with(home, model, None), ActiveState(line=line), None, staged=newest)
    return True


def receive(home: Home, model: Model, release: Release, *, tries_first: bool, now_s: int) -> None:
    """Take a staged release that came unasked: at once where it is tried first, elsewhere a day after it was seen or its turn came.

    One that comes while another waits takes its turn, or a federation that releases daily would never get anything in force. What was
    taken back is not waited for; where it is in force already, the newest follows at once, even one that the person went back from.
    The caller holds the home's lock.

    Raises:
        ModelError: as `install`.
    """
    enter(home, model, release)
    state = read_state(home.database)
    number, version = (state.active.number, state.active.version) if state.active else (0, None)
    is_undone = release.undoes(number)
    if release.number <= max(number, state.taken_back) and not is_undone:
        return
    if tries_first or is_undone or release.version == version:
        install(home, model, release)
        return
    if release != state.latest:
        _check_fits(home, model, release)
        drops = state.waiting is not None and release.undoes(state.waiting.number)
        state = replace(state, latest=release, waiting=None if drops else state.waiting)
        _write_state(home.database, state)
    if state.waiting is not None and now_s >= state.waiting_since_s + TRIAL_S:
        install(home, model, state.waiting)
        state = read_state(home.database)
    if state.waiting is None and state.latest is not None:
        _write_state(home.database, replace(state, waiting=state.latest, waiting_since_s=now_s))


def take_back(home: Home, model: Model, on_progress: Callable[[UpdateProgress], None] | None = None) -> None:
    """Put the model before in force again, or the base model if that one was taken back. The caller holds the home's lock.

    Raises:
        NotInLibraryError: there is none. ModelError: another base model is in force.
    """
    check_in_force(home.database, model)
    state = read_state(home.database)
    if not state.has_previous:
        raise NotInLibraryError("There is no model to go back to.", hint="`earmark status` names the one in force.")
    number = state.active.number if state.active else 0
    after = replace(
        state, active=state.before, has_previous=False, previous=None, next=None, taken_back=max(number, state.taken_back)
    )
    _switch(home, _with(home, model, _fitting(state.before, model)), after, on_progress)


def check_in_force(database: Database, model: Model) -> None:
    """Releases, and rounds, are about the shipped model; ModelError while a library is searched by another."""
    version = database.model_in_force()
    if version not in (None, model.base_version) or not model.keeps_output:
        raise ModelError(
            f"Another model is in force: {version}.", hint="Go back to the shipped one first: earmark model use base"
        )


def _switch(
    home: Home,
    target: Model,
    after: ActiveState,
    on_progress: Callable[[UpdateProgress], None] | None,
    *,
    staged: Release | None = None,
) -> None:
    database = home.database
    _embed(database, target, on_progress)
    labels = dict(relabel(database, target))
    with database.transaction():
        for clip_id, found in labels.items():
            database.set_labels(clip_id, found, model_version=target.version)
        database.set_meta(STATE, after.to_json())
    versions = {release.version for release in (after.active, after.previous) if release is not None}
    with database.transaction():
        for version in database.model_versions():
            if "+" in version and version not in versions:
                database.delete_vectors(version)
    forget_others(models_folder(home), after.kept if staged is None else after.kept | {staged})


def _embed(database: Database, target: Model, on_progress: Callable[[UpdateProgress], None] | None) -> None:
    """Make the target's text vectors for every segment that has none."""
    correction = target.correction
    if correction is None:
        return

    def describe(base: Block) -> dict[str, Rows]:
        codes, scales = database.fetch("encoder", target.base_version, base.ids).int8()
        return {"text": correction.apply(codes, scales, base.rows.astype(np.float16)).astype(np.float16)}

    fill(database, ("text", target.base_version), target.version, describe, on_progress)


def fill(
    database: Database,
    source: tuple[str, str],
    version: str,
    describe: Callable[[Block], Mapping[str, Rows]],
    on_progress: Callable[[UpdateProgress], None] | None = None,
) -> None:
    """Store what `describe` makes of each vector of `source`, a kind and a version, that has none by `version`: a block a transaction."""
    ready = database.vector_ids("text", version)
    done, total = len(ready), len(database.vector_ids(*source))
    for block in database.blocks(*source, pending=True):
        missing = block.take(~np.isin(block.ids, ready))
        if len(missing.ids):
            vectors = describe(missing)
            with database.transaction():
                database.add_vectors(missing.ids, model_version=version, vectors=vectors)
        done += len(missing.ids)
        if on_progress:
            on_progress(UpdateProgress(done, total))


def relabel(
    database: Database, target: Model, *, segments_of: str | None = None
) -> Iterator[tuple[int, list[tuple[str, float]]]]:
    """Every searchable clip that has segments with its labels by the target's vectors; few clips are open at a time.

    `segments_of` names the base model that the segments belong to, if it is not the target's own.
    """
    labels = LabelSet(target, database.label_list())
    table = database.segments(segments_of or target.base_version)
    order = np.lexsort((table.ids, table.clip_ids))
    ends = np.append(np.flatnonzero(np.diff(table.clip_ids[order])), len(order) - 1) if len(order) else order
    last = dict(zip(table.clip_ids[order][ends].tolist(), table.ids[order][ends].tolist(), strict=True))
    best: dict[int, Floats] = {}
    for block in database.blocks("text", target.version):
        strength = database.fetch("strength", target.base_version, block.ids).float32()[:, 0]
        sound = database.fetch("sound", target.base_version, block.ids).float32() if labels.needs_sound else None
        scores = labels.scores(block.float32(), strength, sound)
        owners = table.clip_ids[np.searchsorted(table.ids, block.ids)]
        for clip_id in np.unique(owners).tolist():
            best[clip_id] = best_rows(best.get(clip_id), scores[owners == clip_id])
            if last[clip_id] <= block.ids[-1]:
                yield clip_id, [(label.name, label.score) for label in labels.top(best.pop(clip_id).mean(axis=0))]


def _with(home: Home, model: Model, release: Release | None) -> Model:
    now = model.correction.release if model.correction else None
    if now == release:
        return model
    return model.corrected_by(None if release is None else load_correction(models_folder(home), release))


def _fitting(release: Release | None, model: Model) -> Release | None:
    """The release, unless it corrects another base model than the one that is installed."""
    return release if release is not None and release.base == model.base_version else None


def _check_fits(home: Home, model: Model, release: Release) -> Model:
    """The model with the release's head; ModelError if they don't belong together."""
    if release.base != model.base_version:
        raise ModelError(f"Release {release.number} is for another base model than {model.base_version}.", hint="Update Earmark.")
    check_in_force(home.database, model)
    target = _with(home, model, release)
    _check_sides(target)
    return target


def _check_sides(target: Model) -> None:
    correction = target.correction
    sides = (target.bundle.section("encoder")["dim"], target.labeler.text_dim)
    if correction is not None and (correction.schema.inputs, correction.schema.outputs) != sides:
        raise ModelError(f"Release {correction.release.number} does not fit the base model.", hint="Update Earmark.")


def _write_state(database: Database, state: ActiveState) -> None:
    with database.transaction():
        database.set_meta(STATE, state.to_json())
