"""The public set: made on a device's side from real recordings, read by the server's gate, which lets through and refuses by it."""

import sys

import numpy as np
import pytest

from earmark_server.authority import create_authority
from earmark_server.checkpoint import Model
from earmark_server.gate import Judging, PublicSet, judge
from earmark_server.publish import Repository, create_repository
from earmark_server.rounds import PUBLIC_SET, make_judge
from earmark_server.settings import ServerSettings
from earmark_shared.base_head import base_arrays, base_schema
from earmark_shared.errors import CandidateError, SettingsError
from earmark_shared.head import unit_rows
from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import build_public_set

SOUNDS = ROOT / ".cache" / "sounds"
ANIMALS = ("cat", "cow", "dog", "duck", "frog", "horse", "pig", "rooster", "sheep")
SCHEMA, FIRST = base_schema(), base_arrays()


def write_table(folder, rows):
    path = folder / "table.csv"
    path.write_text("file,label,licence\n" + "".join(f"{file},{label},CC0\n" for file, label in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What the command writes of the ten recordings: nine animals, and the owl as a probe."""
    folder = tmp_path_factory.mktemp("public")
    table = write_table(folder, [*((f"{animal}.mp3", animal) for animal in ANIMALS), ("owl.mp3", ""), ("gone.mp3", "dog")])
    words = ["--data", SOUNDS, "--csv", table, "--out", folder / PUBLIC_SET, "--call", "cow=moo", "--call", "rooster=crowing"]
    assert build_public_set.main([str(word) for word in words]) == 0
    return folder / PUBLIC_SET


@pytest.fixture(scope="module")
def public(made):
    return PublicSet.load(SCHEMA, made.read_bytes())


def moved(up):
    return FIRST | {"up": np.asarray(up, np.float32)}


def fitted(public, wanted):
    """A head that moves every public segment towards a label."""
    heard = unit_rows(public.encoder @ FIRST["down"].T + FIRST["shift"])
    towards = unit_rows(public.label_vectors)[wanted]
    return moved(0.7 * np.linalg.solve(heard.T @ heard + 0.5 * np.eye(SCHEMA.rank), heard.T @ towards).T)


def test_every_recording_that_can_be_read_is_in_it_under_its_shared_name(public):
    names = {SCHEMA.labels[label] for label in public.labels}
    assert names == {"cat", "moo", "dog", "duck", "frog", "horse", "pig", "crowing", "sheep"}
    assert 0 < len(public.probe_encoder) <= build_public_set.SEGMENTS_MOST
    assert np.bincount(public.labels).max() <= build_public_set.SEGMENTS_MOST
    np.testing.assert_allclose(np.linalg.norm(public.text, axis=1), 1, atol=1e-5)
    assert public.encoder.min() >= 0


def test_the_first_head_is_right_far_more_often_than_by_chance(public):
    report = judge(FIRST, Judging(SCHEMA, FIRST, public))
    assert report.findings == ()
    assert report.accuracy > 50 / len(SCHEMA.labels)


def test_by_it_the_gate_lets_through_what_learned_and_refuses_what_was_poisoned(public):
    better = judge(fitted(public, public.labels), Judging(SCHEMA, FIRST, public))
    assert better.findings == ()
    assert better.accuracy > better.accuracy_before + 0.2
    everything_is_speech = fitted(public, np.zeros_like(public.labels))
    worse = judge(everything_is_speech, Judging(SCHEMA, FIRST, public))
    assert worse.accuracy < worse.accuracy_before
    assert any("right" in finding for finding in worse.findings)


def test_a_server_with_the_file_in_its_folder_judges_by_it_and_without_it_lets_the_poisoned_through(made, public, tmp_path):
    authority = create_authority(tmp_path / "server", ServerSettings(is_lab=True), now_s=1_800_000_000, entropy=np.random.bytes)
    places = authority.places
    create_repository(places.tuf_root.parent, places.release_keys, clock=lambda: 1_800_000_000.0)
    repository = Repository(places.tuf_root.parent, places.release_keys, clock=lambda: 1_800_000_000.0)
    first, poisoned = Model(0, SCHEMA, FIRST), Model(1, SCHEMA, fitted(public, np.zeros_like(public.labels)))
    assert make_judge(places, repository).gate(first, poisoned) == {}
    (places.folder / PUBLIC_SET).write_bytes(made.read_bytes())
    with pytest.raises(CandidateError):
        make_judge(places, repository).gate(first, poisoned)
    assert make_judge(places, repository).gate(first, Model(1, SCHEMA, fitted(public, public.labels)))["accuracy"] > 0.4


def test_names_that_are_not_shared_are_told_and_left_out(tmp_path, capsys):
    table = write_table(tmp_path, [("a.wav", "dog"), ("b.wav", "doorbel"), ("c.wav", ""), ("d.wav", "moggy")])
    found = build_public_set.read_table(table, tmp_path, SCHEMA.labels, {"moggy": "cat"})
    assert [(each.path.name, each.label) for each in found] == [
        ("a.wav", SCHEMA.labels.index("dog")),
        ("c.wav", build_public_set.PROBE),
        ("d.wav", SCHEMA.labels.index("cat")),
    ]
    assert "'doorbel' is not a shared name (there is: doorbell" in capsys.readouterr().err


def test_a_table_without_its_columns_is_refused(tmp_path):
    (tmp_path / "table.csv").write_text("path,name\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="no column `file` and no column `label`"):
        build_public_set.read_table(tmp_path / "table.csv", tmp_path, SCHEMA.labels, {})
