import os
from pathlib import Path

import pytest

from earmark_client.audio import find
from earmark_client.audio.find import FindProblem, FoundSound, PassedOver, find_sounds
from earmark_shared.errors import UnreadableAudioError, UnsafePathError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "sounds"
    (root / "b" / "deep").mkdir(parents=True)
    (root / "a").mkdir()
    for name in ("z.wav", "a/2.FLAC", "a/1.mp3", "b/deep/x.opus", "b/notes.txt", "b/y.aif", "B.ogg"):
        (root / name).write_bytes(b"x")
    return root


def names(found, root):
    return [str(one.path.relative_to(root)) for one in found if isinstance(one, FoundSound)]


def problems(found):
    return {one.path.name: one.error for one in found if isinstance(one, FindProblem)}


def test_a_folder_gives_its_sounds_sorted_and_deep(folder):
    found = list(find_sounds([folder]))
    assert names(found, folder) == ["B.ogg", "a/1.mp3", "a/2.FLAC", "b/deep/x.opus", "b/y.aif", "z.wav"]
    assert not problems(found)
    assert {one.root for one in found} == {folder}


@pytest.fixture
def deep(tmp_path):
    """A sound 700 folders down; taken away again from below, since a recursive removal would not come so far either."""
    folders = [tmp_path / "/".join("d" * depth) for depth in range(1, 701)]
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "x.wav").touch()
    yield folders[-1]
    (folders[-1] / "x.wav").unlink()
    for folder in reversed(folders):
        folder.rmdir()


def test_folders_may_lie_deep_in_each_other(deep, tmp_path):
    assert list(find_sounds([tmp_path])) == [FoundSound(deep / "x.wav", tmp_path)]


def test_named_files_are_given_whatever_their_suffix(folder):
    found = list(find_sounds([folder / "b" / "notes.txt", str(folder / "z.wav")]))
    assert names(found, folder) == ["b/notes.txt", "z.wav"]
    assert [one.root for one in found] == [folder / "b", folder]


def test_patterns(folder):
    assert names(find_sounds([folder / "*.wav"]), folder) == ["z.wav"]
    assert names(find_sounds([folder / "a" / "[12].*"]), folder) == ["a/1.mp3", "a/2.FLAC"]
    assert names(find_sounds([folder / "**" / "*"]), folder) == [
        "B.ogg",
        "a/1.mp3",
        "a/2.FLAC",
        "b/deep/x.opus",
        "b/y.aif",
        "z.wav",
    ]
    assert names(find_sounds([folder / "?"]), folder) == ["a/1.mp3", "a/2.FLAC", "b/deep/x.opus", "b/y.aif"]
    assert {one.root for one in find_sounds([folder / "?" / "*.mp3"])} == {folder}


def test_relative_patterns_and_files(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert [one.path for one in find_sounds(["*.wav", "z.wav", "a/*"])] == [
        Path("z.wav"),
        Path("z.wav"),
        Path("a/1.mp3"),
        Path("a/2.FLAC"),
    ]
    assert [one.root for one in find_sounds(["z.wav"])] == [Path()]


def test_a_file_whose_name_looks_like_a_pattern_is_found(folder):
    (folder / "[1].wav").write_bytes(b"x")
    assert names(find_sounds([folder / "[1].wav"]), folder) == ["[1].wav"]


def test_what_is_not_there_is_named_and_the_rest_goes_on(folder):
    found = list(find_sounds([folder / "gone.wav", folder / "*.nothing", folder / "z.wav"]))
    assert isinstance(problems(found)["gone.wav"], UnreadableAudioError)
    assert "matches no sound" in str(problems(found)["*.nothing"])
    assert names(found, folder) == ["z.wav"]
    assert all(error.hint for error in problems(found).values())


def test_links_out_are_reported_links_within_passed_over(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.wav").write_bytes(b"x")
    (folder / "out.wav").symlink_to(outside / "secret.wav")
    (folder / "outdir").symlink_to(outside)
    (folder / "within.wav").symlink_to(folder / "z.wav")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.wav").symlink_to(outside / "gone.wav")
    found = list(find_sounds([folder]))
    assert set(problems(found)) == {"out.wav", "outdir", "dangling.wav"}
    assert all(isinstance(error, UnsafePathError) and error.hint for error in problems(found).values())
    assert len(names(found, folder)) == 6
    assert isinstance(problems(find_sounds([folder / "out.wav"]))["out.wav"], UnsafePathError)
    deep = list(find_sounds([folder / "**"]))
    assert len(names(deep, folder)) == 6
    assert set(problems(deep)) == {"out.wav", "outdir", "dangling.wav"}
    through = list(find_sounds([folder / "*" / "secret.wav"]))
    assert isinstance(problems(through)["secret.wav"], UnsafePathError)


def test_links_in_a_circle_do_not_keep_a_deep_pattern_busy(folder):
    for k in range(5):
        (folder / f"loop{k}").symlink_to(folder)
    assert len(names(find_sounds([folder / "**" / "*.*"]), folder)) == 6


def test_a_folder_named_through_a_link_is_its_target(folder, tmp_path):
    (tmp_path / "shortcut").symlink_to(folder)
    assert len([one for one in find_sounds([tmp_path / "shortcut"]) if isinstance(one, FoundSound)]) == 6


def test_pipes_devices_and_undecodable_names(folder):
    os.mkfifo(folder / "pipe.wav")
    (folder / "dir.wav").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")).write_bytes(b"x")
    found = list(find_sounds([folder, "/dev/zero", "nul\0.wav"]))
    trouble = problems(found)
    assert "not a plain file" in str(trouble["pipe.wav"])
    assert "not a plain file" in str(trouble["zero"])
    assert "UTF-8" in str(trouble[os.fsdecode(b"caf\xe9.wav")])
    assert "UTF-8" in str(trouble["nul\0.wav"])
    assert len(trouble) == 4
    assert len(names(found, folder)) == 6
    assert all(str(error).isprintable() for error in trouble.values())


@pytest.fixture
def close(monkeypatch):
    """Take rights on folders of a name away, also from root: "r" to list them, "x" to look at what is in them."""
    listdir, lstat = os.listdir, os.lstat

    def closing(name, rights):
        def refused_listdir(path):
            if "r" in rights and Path(path).name == name:
                raise PermissionError(13, "no")
            return listdir(path)

        def refused_lstat(path):
            if "x" in rights and (name in Path(path).parts[:-1] or str(path).endswith(f"{name}/.")):
                raise PermissionError(13, "no")
            return lstat(path)

        monkeypatch.setattr(find.os, "listdir", refused_listdir)
        monkeypatch.setattr(find.os, "lstat", refused_lstat)

    return closing


@pytest.mark.parametrize("rights", ["r", "x", "rx"])
def test_a_folder_that_cannot_be_listed_or_entered_is_named(folder, close, rights):
    close("a", rights)
    found = list(find_sounds([folder]))
    assert "can't be listed or entered" in str(problems(found)["a"])
    assert names(found, folder) == ["B.ogg", "b/deep/x.opus", "b/y.aif", "z.wav"]


@pytest.mark.parametrize("rights", ["r", "x", "rx"])
def test_a_closed_folder_that_a_pattern_leads_into_is_named_and_the_others_are_not_left_out(folder, close, rights):
    close("a", rights)
    found = list(find_sounds([folder / "?" / "*.*"]))
    assert set(problems(found)) == {"a"}
    assert problems(found)["a"].hint
    assert names(found, folder) == ["b/y.aif"]


@pytest.mark.parametrize("named", ["a/1.mp3", "a/*.mp3", "a/deeper/*.mp3", "a/**/1.mp3"])
def test_a_path_below_a_folder_that_cannot_be_entered_names_the_folder(folder, close, named):
    close("a", "x")
    (found,) = find_sounds([folder / named])
    assert f"{folder / 'a'}: this folder can't be listed or entered" in str(found.error)
    assert "permissions" in found.error.hint


def test_a_name_below_a_pattern_needs_no_listing(folder, close):
    close("a", "r")
    found = list(find_sounds([folder / "?" / "1.mp3"]))
    assert (names(found, folder), problems(found)) == (["a/1.mp3"], {})


def test_hidden_names_fit_only_patterns_that_begin_with_a_dot(folder):
    (folder / ".h.wav").touch()
    assert names(find_sounds([folder / "*.wav"]), folder) == ["z.wav"]
    assert names(find_sounds([folder / ".*.wav"]), folder) == [".h.wav"]


def test_a_path_that_cannot_be_looked_at_is_named(folder):
    (found,) = find_sounds([folder / ("x" * 300)])
    assert isinstance(found.error, UnreadableAudioError)


def test_an_unlistable_folder_that_a_deep_pattern_leads_into_is_named(folder, close):
    close("deep", "r")
    for pattern in ("**/*.wav", "b/**/*.opus", "?/d*/**/x.opus", "**/deep/x.opus"):
        assert set(problems(find_sounds([folder / pattern]))) == {"deep"}, pattern
    assert not problems(find_sounds([folder / "a" / "**" / "*.mp3"]))


def test_sound_of_other_formats_is_passed_over_and_told(folder):
    (folder / "song.M4A").write_bytes(b"x")
    (folder / "b" / "old.wma").write_bytes(b"x")
    (folder / "link.m4a").symlink_to(folder / "song.M4A")
    (folder / "dir.caf").mkdir()
    found = list(find_sounds([folder]))
    assert [one.path.name for one in found if isinstance(one, PassedOver)] == ["old.wma", "song.M4A"]
    assert not problems(found)
    assert [one for one in find_sounds([folder / "**" / "*.wma"]) if isinstance(one, PassedOver)]
    assert names(find_sounds([folder / "song.M4A"]), folder) == ["song.M4A"]  # named outright: its content decides


def test_a_pattern_that_matches_other_formats_alone_matches_no_sound(folder):
    (folder / "song.m4a").write_bytes(b"x")
    assert "matches no sound file" in str(problems(find_sounds([folder / "*.m4a"]))["*.m4a"])


def test_a_name_too_long_for_any_file_is_a_pattern_that_matches_nothing(folder):
    (problem,) = find_sounds([folder / "*" / ("x" * 300)])
    assert "matches no sound file" in str(problem.error)
