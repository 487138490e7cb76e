"""A new head takes over: searches go on, nothing is mixed, a killed update goes on, and there is a way back."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from earmark_client import updating
from earmark_client.library import Library
from earmark_client.model.active import load_correction, stage
from earmark_client.records import Query
from earmark_client.store import blobs
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import ModelError, NotInLibraryError
from earmark_shared.head import HeadSchema, first_head
from earmark_shared.release import dump_head, make_release
from tests.soundmaker import chirp, clicks, noise, tone, write_sound
from tests.support.homes import open_library

SCHEMA = HeadSchema(inputs=1024, outputs=384, rank=8, trained=("up", "bias"), labels=("hum", "clock"))
ASKED = Query(text="wind", limit=None, min_score=0.0)
UPDATE = """
import json, os, signal, sys
from pathlib import Path
from earmark_client import updating
from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.store.database import Database
from earmark_client.store.home import open_home
from earmark_client.store.keys import KeyFile

left = [0]

def counted(name):
    real = getattr(Database, name)
    def wrapper(*args, **how):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return real(*args, **how)
    setattr(Database, name, wrapper)

def update(folder, steps):
    with open_home(folder / "home", KeyFile(folder / "key"), write=True) as home:
        for name in ("add_vectors", "set_labels", "set_meta", "delete_vectors", "vector_ids", "model_versions", "transaction"):
            counted(name)
        left[0] = steps
        state = updating.read_state(home.database)
        updating.install(home, Model(Bundle.load(BASE_MODEL)), state.next)
    print("steps", steps - left[0], flush=True)

ended = []
for folder, steps in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        update(Path(folder), steps)
        os._exit(0)
    ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print("ended", *ended)
"""


def make_head(seed):
    draw = np.random.default_rng(seed)
    heads = first_head(SCHEMA, b"update")
    return heads | {name: draw.normal(0, 0.02, SCHEMA.shapes[name]).astype(np.float32) for name in SCHEMA.trained}


def staged(library, number, *, base=None):
    """Release `number`, checked and lying in the home."""
    head = dump_head(SCHEMA, make_head(number))
    release = make_release(number, base or library._model.base_version, SCHEMA, head)
    stage(library.home.folder / "models", release, SCHEMA.to_json().encode(), head)
    return release


def text_of(library, version):
    """Every text vector of a version: `{segment id: bytes}`."""
    return {
        int(segment): row.tobytes()
        for block in library._database.blocks("text", version, pending=True)
        for segment, row in zip(block.ids, block.rows, strict=True)
    }


def expected(library, release):
    """What a release makes of what is stored, in one go."""
    database, base = library._database, release.base
    correction = load_correction(library.home.folder / "models", release)
    ids = database.vector_ids("text", base)
    stored, text = database.fetch("encoder", base, ids), database.fetch("text", base, ids)
    rows = correction.apply(stored.rows, stored.scales, text.rows).astype(np.float16)
    return {int(segment): row.tobytes() for segment, row in zip(ids, rows, strict=True)}


def labels_of(library):
    return {clip.id: tuple(library._database.labels_of(clip.id)) for clip in library.clips()}


def found(library, query=ASKED):
    return [(hit.path, hit.segment_id, hit.score) for hit in library.search(query).hits]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    write_sound(folder, "hum", tone(4, 220))
    write_sound(folder, "clock", clicks(5))
    write_sound(folder, "storm", noise(5, seed=1))
    write_sound(folder, "siren", chirp(6))
    return folder


@pytest.fixture(scope="module")
def filled(sounds, tmp_path_factory):
    """A home of those sounds in many small blobs, with a label of the person's own and a taught one; closed."""
    folder = tmp_path_factory.mktemp("filled")
    usual, blobs.BLOB_BYTES = blobs.BLOB_BYTES, 4096
    try:
        with Library.create(folder / "home", unlock=KeyFile(folder / "key")) as library:
            library.add([sounds])
            library.add_label("gusts", phrase="wind")
            library.teach("my clock", [sounds / "clock.wav"])
    finally:
        blobs.BLOB_BYTES = usual
    return folder


def test_an_update_changes_model_vectors_labels_and_answers_at_once(library):
    base, before = library.status().model, found(library)
    release = staged(library, 1)
    library.update(release)
    assert library.status().model == release.version == library.search(ASKED).model_version
    assert text_of(library, release.version) == expected(library, release)
    after = found(library)
    assert after
    assert [hit[2] for hit in after] != [hit[2] for hit in before]
    versions = {version for (version,) in library._database.execute("SELECT DISTINCT model_version FROM clip_labels")}
    assert versions == {release.version}
    assert set(library._database.model_versions()) == {base, release.version}


def test_a_rollback_brings_back_the_very_same(library):
    before = found(library), text_of(library, library.status().model)
    library.update(staged(library, 1))
    library.roll_back()
    assert (found(library), text_of(library, library.status().model)) == before
    assert library._database.model_versions() == [library._model.base_version]
    assert updating.read_state(library._database).taken_back == 1
    with pytest.raises(NotInLibraryError):
        library.roll_back()


def test_labels_after_a_rollback_are_those_of_a_fresh_update_to_the_same_model(library):
    first = staged(library, 1)
    library.update(first)
    labels = labels_of(library)
    second = staged(library, 2)
    library.update(second)
    assert set(library._database.model_versions()) == {first.base, first.version, second.version}
    library.roll_back()
    assert labels_of(library) == labels
    assert library.status().model == first.version


def test_three_releases_keep_one_way_back(library):
    releases = []
    for number in (1, 2, 3):
        releases.append(staged(library, number))
        library.update(releases[-1])
    assert set(library._database.model_versions()) == {releases[0].base, releases[1].version, releases[2].version}
    assert len(list((library.home.folder / "models").glob("head-*"))) == 2


def test_a_new_clip_and_a_re_embedded_one_agree_to_the_bit(folder, sounds, tmp_path):
    write_sound(tmp_path, "new", np.concatenate([tone(3, 700), noise(3, seed=9)]))
    with open_library(folder) as library:
        library.update(staged(library, 1))
        library.add([tmp_path / "new.wav"])
        after = text_of(library, library.status().model)
        assert after == expected(library, updating.read_state(library._database).active)
        base = text_of(library, library._model.base_version)
        answer = found(library, Query(like=tmp_path / "new.wav", limit=1, min_score=0.0))
        assert answer[0][0].endswith("new.wav")
        library.roll_back()
        assert text_of(library, library.status().model) == base
        assert {path for path, *_ in found(library)} >= {str(tmp_path / "new.wav")}


def test_searches_go_on_with_the_old_model_until_the_swap_and_follow_it_then(folder):
    with open_library(folder) as library, open_library(folder) as other:
        before, old = found(other), other.status().model
        seen = []

        def look(_progress):
            answer = other.search(ASKED)
            seen.append((answer.model_version, [(hit.path, hit.segment_id, hit.score) for hit in answer.hits]))

        release = staged(library, 1)
        library.update(release, on_progress=look)
        assert len(seen) > 5
        assert all(one == (old, before) for one in seen)
        assert other.search(ASKED).model_version == release.version
        assert found(other) == found(library)
        library.roll_back()
        assert found(other) == before


def test_the_same_release_under_a_new_number_costs_nothing(library):
    library.update(staged(library, 1))
    ids = list(library._database.execute("SELECT id FROM vector_blobs ORDER BY id"))
    head = dump_head(SCHEMA, make_head(1))
    again = make_release(7, library._model.base_version, SCHEMA, head)
    library.update(again)
    assert list(library._database.execute("SELECT id FROM vector_blobs ORDER BY id")) == ids
    assert updating.read_state(library._database).active.number == 7


def test_a_release_that_does_not_fit_changes_nothing(library):
    before = found(library)
    with pytest.raises(ModelError, match="another base"):
        library.update(staged(library, 1, base="other-0123456789ab"))
    small = HeadSchema(inputs=8, outputs=384, rank=2, trained=("up", "bias"), labels=("hum",))
    head = dump_head(small, first_head(small, b""))
    release = make_release(1, library._model.base_version, small, head)
    stage(library.home.folder / "models", release, small.to_json().encode(), head)
    with pytest.raises(ModelError, match="fit"):
        library.update(release)
    assert found(library) == before
    assert updating.read_state(library._database).active is None


def test_a_head_that_was_changed_on_the_disk_is_refused_and_there_is_a_way_back(folder):
    with open_library(folder) as library:
        release = staged(library, 1)
        library.update(release)
    path = folder / "home" / "models" / release.head_name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ModelError, match="not the one"):
        open_library(folder)
    from earmark_client.describe import Model
    from earmark_client.library import BASE_MODEL
    from earmark_client.model.bundle import Bundle
    from earmark_client.store.home import open_home

    with open_home(folder / "home", KeyFile(folder / "key"), write=True) as home:
        updating.take_back(home, Model(Bundle.load(BASE_MODEL)))
    with open_library(folder) as library:
        assert found(library)


def test_erasing_takes_the_models_along(folder):
    with open_library(folder) as library:
        library.update(staged(library, 1))
        library.erase()
    assert not (folder / "home").exists()


def run_updates(*begun):
    """Go on with updates `(folder, n)`, each in a process of its own that kills itself at its n-th step; how they ended, and what was said."""
    arguments = json.dumps([(str(folder), steps) for folder, steps in begun])
    done = subprocess.run([sys.executable, "-c", UPDATE, arguments], capture_output=True, text=True, check=True)
    return [int(code) for code in done.stdout.splitlines()[-1].split()[1:]], done.stdout


def begin(folder, number=1):
    with open_library(folder) as library:
        release = staged(library, number)
        with library.home.lock(), library._database.transaction():
            library._database.set_meta(updating.STATE, updating.ActiveState(next=release).to_json())
    return release


def check_after_kill(folder, release, reference):
    """The library is whole, searches by one model, and the update can be finished."""
    with open_library(folder) as library:
        version = library.status().model
        assert version in {release.base, release.version}
        assert found(library) == reference[version][0]
        assert labels_of(library) == reference[version][1]
        made, whole = text_of(library, release.version), expected(library, release)
        assert made.items() <= whole.items()
        assert version == release.base or made == whole
        library.update(release)
        assert (found(library), labels_of(library)) == reference[release.version]
        assert text_of(library, release.version) == whole


def kill_at(filled, tmp_path, points):
    """Kill an update at each of the points; how many of them were before the swap."""
    shutil.copytree(filled, tmp_path / "begun")
    release = begin(tmp_path / "begun")
    shutil.copytree(tmp_path / "begun", tmp_path / "reference")
    with open_library(tmp_path / "reference") as library:
        reference = {release.base: (found(library), labels_of(library))}
    codes, said = run_updates((tmp_path / "reference", 10**9))
    assert codes == [0]
    steps = int(said.split()[1])
    with open_library(tmp_path / "reference") as library:
        reference[release.version] = found(library), labels_of(library)
    copies = [(tmp_path / f"copy{number}", min(int(share * steps), steps - 1)) for number, share in enumerate(points)]
    for copy, _ in copies:
        shutil.copytree(tmp_path / "begun", copy)
    assert run_updates(*copies)[0] == [-signal.SIGKILL] * len(points)
    for copy, _ in copies:
        check_after_kill(copy, release, reference)


def test_killed_in_the_middle_it_goes_on(filled, tmp_path):
    kill_at(filled, tmp_path, (0.5, 0.9, 0.97, 1.0))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_step_it_goes_on(filled, tmp_path):
    kill_at(filled, tmp_path, np.linspace(0, 1, 20))


def test_labels_of_two_models_would_meet_if_the_swap_were_not_one_transaction(filled, tmp_path):
    """The control of the kills: the same work, committed clip by clip, and cut short."""
    shutil.copytree(filled, tmp_path / "copy")
    release = begin(tmp_path / "copy")
    with open_library(tmp_path / "copy") as library:
        model = library._model.corrected_by(load_correction(Path(library.home.folder) / "models", release))
        updating._embed(library._database, model, None)
        fresh = dict(updating.relabel(library._database, model))
        first = next(iter(fresh))
        with library.home.lock(), library._database.transaction():
            library._database.set_labels(first, fresh[first], model_version=model.version)
        versions = {version for (version,) in library._database.execute("SELECT DISTINCT model_version FROM clip_labels")}
        assert len(versions) == 2
    assert (tmp_path / "copy" / "home").is_dir()
