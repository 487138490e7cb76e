"""Which clip a name means, and which it must not."""

from pathlib import Path

import pytest
from tests.attack.storekit import MODEL, add_clip
from tests.support.homes import new_database

from earmark_client.naming import absolute, find_clip, find_places
from earmark_client.store.database import ClipRow
from earmark_shared.errors import NotInLibraryError


@pytest.fixture
def database(tmp_path, monkeypatch):
    """Clips 1 and 2 elsewhere, clip 3 in the folder `2` of the working directory."""
    monkeypatch.chdir(tmp_path)
    with new_database(tmp_path) as opened, opened.transaction():
        for number in range(2):
            add_clip(opened, number, segments=1)
        insert(opened, "200000ff", tmp_path / "2" / "in.wav")
        yield opened


def insert(database, sha256, path):
    clip_id = database.insert_clip(ClipRow(sha256, 9.0, 16000, 1, 99, 1.0, 2.0, MODEL), str(path))
    database.finish_clip(clip_id, duration_s=9.0, names="")
    return clip_id


def test_digits_are_a_clip_s_number_before_a_folder_s_name(database, tmp_path):
    assert list(find_places(database, "2")) == [2]
    assert list(find_places(database, "./2")) == list(find_places(database, str(tmp_path / "2"))) == [3]


def test_digits_that_are_no_clip_s_number_may_name_a_folder(database, tmp_path):
    fourth = insert(database, "ab" * 32, tmp_path / "2026" / "in.wav")
    assert list(find_places(database, "2026")) == [fourth]


def test_digits_are_a_clip_s_number_before_the_start_of_a_hash(database, tmp_path):
    assert find_clip(database, "200000").id == 3
    database._sql("UPDATE sqlite_sequence SET seq = 199999 WHERE name = 'clips'")
    insert(database, "ab" * 32, tmp_path / "far.wav")
    assert find_clip(database, "200000").id == 200_000
    assert find_clip(database, "200000f").id == 3


@pytest.mark.parametrize("name", ["", "9" * 18, "9" * 20, "\u0662", "0"])
def test_what_names_no_clip_is_refused(database, name):
    for find in (find_clip, find_places):
        with pytest.raises(NotInLibraryError):
            find(database, name)


def test_a_folder_or_a_path_means_no_copy_elsewhere(database, tmp_path):
    here, there = str(tmp_path / "2" / "in.wav"), str(tmp_path / "best" / "in.wav")
    database.add_path(3, there)
    assert find_places(database, "./2") == find_places(database, here) == {3: {here}}
    assert find_places(database, "best") == {3: {there}}
    assert find_places(database, "3") == find_places(database, "200000f") == {3: {here, there}}


def test_a_path_is_resolved_as_it_is_written(database, tmp_path):
    for name in ("x/../2", "2/in.wav", "./2/../2/in.wav"):
        assert list(find_places(database, name)) == [3]
    assert absolute("../b") == tmp_path.parent / "b"


def test_a_tilde_is_a_home_only_where_a_shell_would_have_seen_one(database, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/people/me")
    assert (absolute("~"), absolute("~/x")) == (Path("/people/me"), Path("/people/me/x"))
    assert (absolute("~root"), absolute(Path("~old.wav"))) == (tmp_path / "~root", tmp_path / "~old.wav")
    with pytest.raises(NotInLibraryError):
        find_clip(database, "~old.wav")
