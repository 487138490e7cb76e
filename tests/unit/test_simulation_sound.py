"""What a simulation reads of a folder: who holds a clip, what is held out, and that what was computed once is kept whole."""

import csv
import sys
from zlib import crc32

import numpy as np
import pytest
import soundfile
from tests.house.sources import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from simulation import sound
from simulation.sound import STRANGER, TEST, TRAINING, UNUSED, listed, load_sounds

RATE = 16_000
COLUMNS = ("file", "label", "category", "label_quality", "package")
PACKAGES = [f"package-{place}" for place in range(6)]


def beep(path, hertz=440.0, seconds=1.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE), RATE)


@pytest.fixture
def folder(tmp_path):
    """ESC-10's three folds, two speakers with two takes, and a corpus: a label of six packages, one of a single package, speech."""
    data = tmp_path / "data"
    (data / "esc10").mkdir(parents=True)
    with (data / "esc10" / "esc10.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "fold", "label", "uploader"))
        for fold in "1235":
            rows.writerow((f"{fold}.wav", fold, "rain", f"uploader {fold}"))
            beep(data / "esc10" / f"{fold}.wav", 100.0 * int(fold))
    for name in ("3_george_0", "3_george_5", "3_george_20", "3_theo_0", "3_theo_20"):
        beep(data / "fsdd" / "recordings" / f"{name}.wav")
    clips = [(f"horn-{name}.wav", "horn", "machine", "good", name) for name in PACKAGES]
    clips += [(f"toot-{place}.wav", "toot", "machine", "good", PACKAGES[0]) for place in range(6)]
    clips += [
        ("ja.wav", "yes", "speech:de", "transcript", PACKAGES[1]),
        ("yes.wav", "yes", "speech:en", "transcript", PACKAGES[1]),
        ("horn-said.wav", "toot", "speech:en", "meaning", PACKAGES[2]),
    ]
    clips += [("weak.wav", "horn", "machine", "weak", PACKAGES[3])]
    (data / "corpus").mkdir()
    with (data / "corpus" / "corpus.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(clips)
    for name, *_ in clips:
        beep(data / "corpus" / name, 300.0 + 40.0 * len(name))
    return data


def by_name(folder):
    return {clip.path.name: clip for clip in listed(folder)}


def test_speech_is_not_read(folder):
    assert by_name(folder).keys().isdisjoint({"ja.wav", "yes.wav", "horn-said.wav"})


def test_a_label_of_one_package_is_not_used_even_if_somebody_says_it(folder):
    clips = by_name(folder)
    assert {clips[f"toot-{place}.wav"].label for place in range(6)} == {""}
    assert {clips[f"horn-{name}.wav"].label for name in PACKAGES} == {"horn"}
    assert "weak.wav" not in clips


def test_packages_stand_on_one_side(folder):
    clips = by_name(folder)
    for name in PACKAGES:
        held_out = crc32(name.encode()) % 3 == sound.TEST_THIRD
        assert clips[f"horn-{name}.wav"].part == (TEST if held_out else TRAINING)
    assert {clips[f"horn-{name}.wav"].part for name in PACKAGES} == {TEST, TRAINING}  # or the six names would show nothing


def test_folds_and_takes_are_held_out_and_the_benchmarks_fold_is_not_read(folder):
    clips = by_name(folder)
    assert "1.wav" not in clips
    assert [clips[f"{fold}.wav"].part for fold in "235"] == [TRAINING, TRAINING, TEST]
    parts = [clips[f"3_{name}.wav"].part for name in ("george_0", "george_5", "george_20", "theo_0", "theo_20")]
    assert parts == [TEST, TRAINING, TRAINING, STRANGER, STRANGER]


def test_while_choosing_other_clips_are_held_out_and_the_reported_ones_are_not_looked_at(folder, tmp_path):
    sounds = load_sounds(folder, tmp_path / "cache.npz", is_development=True)
    parts = {(label, owner): part for label, owner, part in zip(sounds.label, sounds.owner, sounds.part, strict=True)}
    assert parts["rain", "uploader 5"] == UNUSED
    assert parts["rain", "uploader 3"] == TEST
    assert parts["rain", "uploader 2"] == TRAINING
    assert STRANGER not in sounds.part


def test_what_was_computed_is_kept_and_made_anew_for_another_folder(folder, tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "cache.npz"
    first = load_sounds(folder, cache)
    assert [path.name for path in cache.parent.iterdir()] == ["cache.npz"]
    monkeypatch.setattr(sound, "_describe", lambda clips: pytest.fail("described again"))
    np.testing.assert_array_equal(load_sounds(folder, cache).encoder, first.encoder)
    beep(folder / "fsdd" / "recordings" / "4_george_20.wav")
    with pytest.raises(pytest.fail.Exception, match="described again"):
        load_sounds(folder, cache)


def test_whoever_interrupts_the_writing_of_the_cache_leaves_none(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache.npz"

    def interrupted(path, **arrays):
        path.write_bytes(b"PK half an archive")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_sounds(folder, cache)
    assert not cache.exists()
    assert len(load_sounds(folder, cache).encoder)
