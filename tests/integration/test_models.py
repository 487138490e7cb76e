"""A library is searched by another model and back: searches go on, nothing is mixed, a kill in the middle resumes, nothing is lost."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from earmark_client import models, updating
from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL, Library
from earmark_client.model.bundle import Bundle
from earmark_client.records import Query
from earmark_client.store.home import open_home
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import ModelError, NotInLibraryError, SettingsError
from tests.soundmaker import chirp, clicks, noise, tone, write_sound
from tests.support.homes import open_library
from tests.support.models import DIM, SAMPLES, change_head, make_model

ASKED = Query(text="wind", limit=None, min_score=0.0)
NAMES = ("hum", "clock", "storm", "siren")
KILLS = 12
USE = """
import sys
from pathlib import Path
from earmark_client import intake
from tests.support.homes import open_library
from tests.support.killing import Fuse

intake.COMMIT_S, intake.COMMIT_SEGMENTS = 0.0, 1  # a transaction a batch: many moments to be killed in
with open_library(Path(sys.argv[1])) as library:
    fuse = Fuse(int(sys.argv[3]))
    library.use_model(sys.argv[2])
print("steps", int(sys.argv[3]) - fuse.left)
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for name, waveform in zip(NAMES, (tone(3, 220), clicks(4), noise(3, seed=1), chirp(12)), strict=True):
        write_sound(folder, name, waveform)
    return folder


@pytest.fixture(scope="module")
def filled(sounds, tmp_path_factory):
    """A home of those sounds with corrections, a taught label, and a model "ears" beside the shipped one; closed."""
    folder = tmp_path_factory.mktemp("filled")
    with Library.create(folder / "home", unlock=KeyFile(folder / "key")) as library:
        library.add([sounds])
        library.label("1", "draught")
        library.label("2", "gale", at_s=1.0)
        library.teach("my clock", [sounds / "clock.wav"])
        make_model(models.imported_folder(library.home), "ears")
    return folder


def found(library, query=ASKED):
    return [(hit.path, hit.segment_id, hit.start_s, hit.score, hit.labels) for hit in library.search(query).hits]


def holdings(library, version):
    """Every clip's times and vectors of a model."""
    database, table = library._database, library._database.segments(version)
    kept = {}
    for clip in library.clips():
        here = np.flatnonzero(table.clip_ids == clip.id)
        ids = table.ids[here][np.argsort(table.start_s[here])]
        rows = [database.fetch(kind, version, ids).rows.tobytes() for kind in ("text", "sound", "strength")]
        kept[clip.paths] = (np.sort(table.start_s[here]).tobytes(), *rows, tuple(database.labels_of(clip.id)))
    return kept


@pytest.mark.slow
def test_another_model_takes_over_and_the_way_back_leads_to_the_very_same(library, sounds):
    before, base = found(library), library.status()
    like = Query(like=sounds / "storm.wav", limit=1)
    report = library.use_model("ears")
    assert (report.heard, report.left, report.problems) == (4, (), ())
    after = library.status()
    assert after.model == report.version != base.model
    assert after.segments == sum(len(np.arange(0, seconds, SAMPLES / 32_000)) - 1 for seconds in (3, 4, 3, 12))
    assert library.search(like).hits[0].path.endswith("storm.wav")
    assert library.use_model("base").heard == 0
    assert found(library) == before
    assert library.status() == base


@pytest.mark.slow
def test_segments_are_the_model_s_own_length(library):
    library.use_model("ears")
    table = library._database.segments()
    assert np.allclose(table.end_s - table.start_s, SAMPLES / 16_000)
    assert len(library._shelf().sound.ids) == len(table.ids)
    assert library._shelf().sound.dim == DIM


def test_searches_go_on_by_the_old_model_until_the_new_one_has_heard_all(folder, monkeypatch):
    from earmark_client import intake

    monkeypatch.setattr(intake, "COMMIT_S", 0.0)
    monkeypatch.setattr(intake, "COMMIT_SEGMENTS", 1)
    seen = []
    with open_library(folder) as reader, open_library(folder) as writer:
        before = found(reader)
        writer.use_model("ears", on_progress=lambda _: seen.append(found(reader) == before))
        assert len(seen) > 5 and all(seen)
        assert reader.status().model.startswith("ears-")
        assert reader.search(ASKED).is_names_only


@pytest.mark.slow
def test_control_without_the_view_the_models_would_mix(folder, monkeypatch):
    """What keeps them apart is that readers see the segments of one model; seeing all, a search fails or answers with both."""
    with open_library(folder) as writer, open_library(folder) as reader:
        before = found(reader)
        with writer._database.transaction():
            writer._database._write("DROP VIEW segments", ())
            writer._database._write("CREATE VIEW segments AS SELECT id, clip_id, start_s, end_s FROM all_segments", ())
        assert found(reader) == before
        mixed = []

        def look(_):
            try:
                mixed.append(found(reader) != before)
            except NotInLibraryError:
                mixed.append(True)

        writer.use_model("ears", on_progress=look)
        assert any(mixed)


@pytest.mark.slow
def test_an_interrupted_take_over_goes_on(library, monkeypatch):
    from earmark_client import intake

    monkeypatch.setattr(intake, "COMMIT_S", 0.0)
    monkeypatch.setattr(intake, "COMMIT_SEGMENTS", 1)
    before, calls = found(library), []

    def stop(progress):
        calls.append(progress)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.use_model("ears", on_progress=stop)
    assert found(library) == before
    done = len(library._database.described_clips(library.use_model("ears").version))
    assert done == 4
    fresh = holdings(library, library.status().model)
    with library._database.transaction():
        library._database.set_model_in_force(models.find(library.home, "base", BASE_MODEL).base_version)
        library._database.forget_model(models.find(library.home, "ears", BASE_MODEL).base_version)
    library.use_model("ears")
    assert holdings(library, library.status().model) == fresh


@pytest.mark.slow
def test_what_is_added_by_one_model_is_heard_by_the_other_on_the_way_back(library, tmp_path):
    library.use_model("ears")
    new = write_sound(tmp_path, "late", noise(2, seed=9))
    assert library.add([new]).added == 1
    assert library.search(Query(like=new, limit=1)).hits[0].path == str(new)
    assert library.use_model("base").heard == 1
    with Library.create(tmp_path / "other", unlock=KeyFile(tmp_path / "key")) as other:
        other.add([new])
        version = other.status().model
        assert holdings(other, version).items() <= holdings(library, version).items()


@pytest.mark.slow
def test_a_clip_whose_file_is_gone_stays_with_the_model_that_heard_it(library, folder, tmp_path):
    stray = write_sound(tmp_path, "stray", chirp(3))
    library.add([stray])
    kept = tmp_path / "elsewhere.wav"
    stray.rename(kept)
    report = library.use_model("ears")
    assert [clip.paths for clip in report.left] == [(str(stray),)]
    assert library.status().unheard == 1
    assert str(stray) not in {path for path, *_ in found(library)}
    kept.rename(stray)
    assert library.add([stray]).known == 1  # it came back
    assert library.status().unheard == 0
    assert str(stray) in {path for path, *_ in found(library)}
    stray.write_bytes(write_sound(tmp_path, "changed", tone(1)).read_bytes())
    library.use_model("base")
    assert str(stray) in {path for path, *_ in found(library)}


@pytest.mark.slow
def test_a_file_that_moved_is_heard_once_add_has_found_it(library, tmp_path):
    file = write_sound(tmp_path, "stray", chirp(3))
    library.add([file])
    moved = file.rename(tmp_path / "elsewhere.wav")
    assert len(library.use_model("ears").left) == 1
    assert library.add([moved]).moved == 1
    assert library.status().unheard == 0
    assert str(moved) in {path for path, *_ in found(library)}


@pytest.mark.slow
def test_a_file_that_changed_is_not_taken_for_what_it_was(library, tmp_path):
    file = write_sound(tmp_path, "first", chirp(3))
    library.add([file])
    write_sound(tmp_path, "first", tone(2, 300))
    assert [clip.paths for clip in library.use_model("ears").left] == [(str(file),)]


@pytest.mark.slow
def test_what_people_said_stays_and_what_was_taught_belongs_to_the_ears_that_learned_it(library, sounds):
    said, names = library._database.corrections(), {label.name for label in library.labels()}
    assert "my clock" in library._shelf().labels.names
    library.use_model("ears")
    assert "my clock" not in library._shelf().labels.names
    assert library._database.corrections() == said
    assert library.search(Query(text="draught")).hits[0].score == 1.0
    library.teach("my siren", [sounds / "siren.wav"])
    assert "my siren" in library._shelf().labels.names
    library.use_model("base")
    assert {label.name for label in library.labels()} == names | {"my siren"}
    assert "my siren" not in library._shelf().labels.names
    assert library._database.corrections() == said


@pytest.mark.slow
def test_a_model_without_words_says_so_and_finds_names_and_labels(library):
    library.use_model("ears")
    answer = library.search(Query(text="storm"))
    assert answer.is_names_only
    assert [Path(hit.path).stem for hit in answer.hits] == ["storm"]
    assert library.search(Query(text="nothing of the kind")).hits == ()
    with pytest.raises(SettingsError, match="knows no words"):
        library.search(Query(text="storm", exclude=("rain",)))
    with pytest.raises(SettingsError, match="knows no words"):
        library.add_label("gusts", phrase="wind")


@pytest.mark.slow
def test_a_model_with_classes_labels_and_answers_by_their_names(library):
    make_model(models.imported_folder(library.home), "namer", kind="classes")
    library.use_model("namer")
    assert {label.name for label in library.labels() if label.kind == "base"} == {"hum", "clock", "storm", "siren", "speech"}
    answer = library.search(Query(text="speech", min_score=0.0, limit=None))
    assert len({hit.path for hit in answer.hits}) == 4 and not answer.is_names_only
    assert library.describe(library.clips()[0])


@pytest.mark.slow
def test_rounds_and_releases_are_for_the_shipped_model_alone(library):
    base = models.find(library.home, "base", BASE_MODEL)
    updating.check_in_force(library._database, base)
    library.use_model("ears")
    with pytest.raises(ModelError, match="Another model is in force") as caught:
        updating.check_in_force(library._database, base)
    assert "earmark model use base" in caught.value.hint
    with pytest.raises(ModelError):
        library.roll_back()


@pytest.mark.slow
def test_a_model_whose_folder_is_gone_or_changed_is_an_error_with_a_way_back(folder):
    with open_library(folder) as library:
        library.use_model("ears")
        ears = models.imported_folder(library.home) / "ears"
    encoder = (ears / "encoder.onnx").read_bytes()
    (ears / "encoder.onnx").write_bytes(encoder[:-1] + b"\0")
    with open_library(folder) as library, pytest.raises(ModelError, match=r"encoder\.onnx"):
        library._model.open_audio()
    (ears.parent / "other").mkdir()
    with open_library(folder) as library:  # another model's damage is in nobody's way
        assert library.status().model.startswith("ears-")
        assert [(one.name, one.kind) for one in models.known(library.home, BASE_MODEL)][1:] == [
            ("ears", "made up"),
            ("other", "damaged"),
        ]
        models.remove(library.home, "other")
    shutil.rmtree(ears)
    with pytest.raises(ModelError, match="is not there") as caught:
        open_library(folder)
    assert "earmark model use base" in caught.value.hint
    with open_home(folder / "home", KeyFile(folder / "key"), write=True) as home:
        models.use(home, models.find(home, "base", BASE_MODEL))
    with open_library(folder) as library:
        assert library.status().model.startswith("base-")
        assert found(library)


@pytest.mark.slow
def test_a_removed_model_leaves_no_vector_and_one_in_force_stays(library):
    version = library.use_model("ears").version
    with pytest.raises(SettingsError, match="in force"):
        models.remove(library.home, "ears")
    library.use_model("base")
    with library.home.lock():
        models.remove(library.home, "ears")
    assert version not in library._database.model_versions()
    assert len(library._database.segments(version).ids) == 0
    assert not (models.imported_folder(library.home) / "ears").exists()
    with pytest.raises(SettingsError, match="no model"):
        library.use_model("ears")
    library._database.verify()


@pytest.mark.parametrize("name", ["base", "Ears", "../ears", "", ".hidden", "x" * 41, "ears"])
def test_a_name_that_would_confuse_is_refused(library, name):
    with pytest.raises(SettingsError):
        models.check_name(library.home, name)


@pytest.mark.slow
def test_the_erased_home_takes_its_models_along(folder):
    with open_library(folder) as library:
        library.erase()
    assert not (folder / "home" / "models").exists()


@pytest.mark.slow
def test_a_newer_shipped_model_takes_over_when_sounds_are_added(filled, sounds, tmp_path):
    """As after an installation of a newer Earmark whose sound vectors are others; texts are the same, and so are the scores."""
    newer = change_head(BASE_MODEL, tmp_path / "base", array="multi_mean")
    shutil.copytree(filled, tmp_path / "copy")
    key = KeyFile(tmp_path / "copy" / "key")
    with open_library(tmp_path / "copy") as library:
        before = found(library)
    with Library(open_home(tmp_path / "copy" / "home", key), key, Model(Bundle.load(newer))) as library:
        old = library.status().model
        assert found(library) == before
        library.add([sounds])
        assert library.status().model != old
        assert library.status().unheard == 0
        assert [(path, score) for path, _, _, score, _ in found(library)] == [(path, score) for path, _, _, score, _ in before]


def take_over(folder, name, steps):
    return subprocess.run([sys.executable, "-c", USE, str(folder), name, str(steps)], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_take_over_killed_at_any_write_goes_on_and_ends_the_same(filled, tmp_path):
    """kill -9 before some write, early, late and last; searches see the old model until the end, and the end is the uninterrupted one."""
    shutil.copytree(filled, tmp_path / "whole")
    steps = int(take_over(tmp_path / "whole", "ears", 10**6).stdout.split()[1])
    with open_library(tmp_path / "whole") as library:
        version, whole = library.status().model, holdings(library, library.status().model)
    with open_library(filled) as library:
        before = found(library)
    for step in sorted({*range(0, steps, steps // KILLS), *range(steps - 3, steps)}):
        place = tmp_path / "try"
        shutil.copytree(filled, place)
        assert take_over(place, "ears", step).returncode == -signal.SIGKILL
        with open_library(place) as library:
            assert found(library) == before, step
            assert library.status().model.startswith("base-")
            library._database.verify()
            library.use_model("ears")
            assert holdings(library, version) == whole, step
        shutil.rmtree(place)
    assert steps > 20
