"""What leaves the library by its owner's hand: readable, or sealed for one reader."""

import json
import os
import stat
from pathlib import Path

import pyrage
import pytest
from tests.support.homes import new_database

from earmark_client.exporting import check_place, export_library
from earmark_client.records import Correction
from earmark_client.store.database import ClipRow, LabelRow
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import SettingsError


@pytest.fixture
def database(tmp_path):
    with new_database(tmp_path) as database:
        with database.transaction():
            clip_id = database.insert_clip(ClipRow("ab" * 32, 0.0, 44_100, 2, 10, 1.0, 2.0, "m-1"), "/sounds/dog.wav")
            database.finish_clip(clip_id, duration_s=3.5, names="dog")
            database.set_labels(clip_id, [("bark", 0.9)], model_version="m-1")
            database.add_correction(Correction(clip_id, None, "rex", True), now_s=3.0)
            database.put_label(LabelRow("rex", "my dog rex", "user", "m-1"))
        yield database


def test_json_holds_what_a_person_put_in_or_could_read(database, tmp_path):
    export_library(database, tmp_path / "out.json", kind="json", recipient=None, passphrase=None)
    document = json.loads((tmp_path / "out.json").read_text())
    clip = document["clips"][0]
    assert (clip["paths"], clip["duration_s"], clip["labels"]) == (["/sounds/dog.wav"], 3.5, [{"name": "bark", "score": 0.9}])
    assert clip["corrections"][0]["name"] == "rex"
    assert document["own_labels"] == [{"name": "rex", "phrase": "my dog rex", "kind": "user"}]
    assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == 0o600


def test_an_age_file_opens_for_its_recipient_alone(database, tmp_path):
    mine, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    export_library(database, tmp_path / "out.age", kind="age", recipient=str(mine.to_public()), passphrase=None)
    sealed = (tmp_path / "out.age").read_bytes()
    assert b"dog" not in sealed
    assert json.loads(pyrage.decrypt(sealed, [mine]))["clips"][0]["paths"] == ["/sounds/dog.wav"]
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(sealed, [other])


@pytest.mark.slow  # age's own scrypt takes seconds
def test_an_age_file_opens_with_its_passphrase(database, tmp_path):
    export_library(database, tmp_path / "out.age", kind="age", recipient=None, passphrase=b"open sesame")
    assert json.loads(pyrage.passphrase.decrypt((tmp_path / "out.age").read_bytes(), "open sesame"))["format"] == 1


@pytest.mark.parametrize(
    ("kind", "recipient", "passphrase"),
    [("age", None, None), ("age", "age1x", b"both"), ("age", "nobody", None), ("zip", None, None)],
)
def test_what_is_not_clear_is_refused_and_nothing_is_written(database, tmp_path, kind, recipient, passphrase):
    with pytest.raises(SettingsError):
        export_library(database, tmp_path / "out", kind=kind, recipient=recipient, passphrase=passphrase)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("is_replacing", [True, False])
def test_an_export_never_takes_the_place_of_the_library_or_its_key(tmp_path, monkeypatch, is_replacing):
    home, key = tmp_path / "home", tmp_path / "key"
    home.mkdir()
    key.write_text("key")
    (tmp_path / "link").symlink_to(home)
    monkeypatch.chdir(home)
    places = [
        home / "key.json",
        home / "new.age",
        home,
        tmp_path / "link" / "x",
        Path("x"),
        key,
        tmp_path / "link" / ".." / "key",
    ]
    for place in places:
        with pytest.raises(SettingsError, match="library's"):
            check_place(place, home, KeyFile(key), replace=is_replacing)
    check_place(tmp_path / "out.age", home, KeyFile(key), replace=is_replacing)


def test_a_file_that_is_there_is_replaced_only_on_demand(tmp_path):
    there = tmp_path / "out.age"
    there.write_text("mine")
    with pytest.raises(SettingsError, match="there is a file already") as caught:
        check_place(there, tmp_path / "home", None, replace=False)
    assert "--replace" in caught.value.hint
    check_place(there, tmp_path / "home", None, replace=True)


def test_what_is_no_plain_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(SettingsError, match="not a plain file"):
            check_place(tmp_path / name, tmp_path / "home", None, replace=True)
