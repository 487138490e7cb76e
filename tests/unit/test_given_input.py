"""What benchmarks and scripts are given: wrong input is refused in one line that says what is missing, and no figure is made of it."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tests.house.sources import ROOT
from tests.soundmaker import tone, write_sound

from earmark_shared.errors import CountError, SettingsError

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "scripts")]
import common
import retrieval

MODULES = {"simulate": "simulation.run"}
TABLES = {
    "nope.csv": "not there",
    "folder": "not there, or no file",
    "binary.csv": "can't be read",
    "empty.csv": "no column `file` and no column `label`",
    "file_alone.csv": "no column `label`",
    "header.csv": "has no rows",
}
QUERIES = {
    "nope.json": "not there",
    "bad.json": "is no JSON",
    "binary.csv": "is no JSON",
    "list.json": "holds no object",
    "no_seen.json": '"dog" has no list of texts "seen"',
    "word.json": '"dog" has no list of texts "seen"',
    "numbers.json": '"dog" has no list of texts "reworded"',
}
FOLDERS = {"nope": "not there", "one.csv": "not there, or no folder"}
TABLE, ASKED = "--data folder --csv one.csv", "--data folder --csv one.csv --queries queries.json"
LABELLED = ("retrieval", "absent", "fewshot", "labeler", "build_public_set")
NEEDS = {"build_public_set": " --out out", "prune_encoder": " --work work --out out"}
FITTED = {
    "vectors": "esc10/esc10.csv",
    "prune_encoder": "esc10/esc10.csv",
    "build_base_model": "esc10/esc10.csv",
    "simulate": "esc10/esc10.csv",
}
NUMBERS = {
    "fewshot": [TABLE + " --shots 0", TABLE + " --shots 1 x", TABLE + " --episodes 0"],
    "query": ["--segments 0", "--segments 1.5", "--segments -3"],
    "secagg": ["--devices 1", "--devices many", "--dim 0", "--dropout 1.5", "--dropout -.1", "--dropout nan"],
    "dp_step": ["--steps 0", "--clips 0", "--expected 0", "--segments 0"],
    "ingest": ["--data sounds --hours 0", "--data sounds --hours nan", "--data sounds --hours inf"],
    "simulate": [
        f"--data fit --{given}"
        for given in (
            *("devices 0", "rounds 0", "dropout 1", "epsilon much", "seed -1", "seed .5"),
            *("lies 1.1", "lies -.1", "lies nan", "lies some", "step 0", "step inf", "sharpness -1", "sharpness nan"),
        )
    ],
}


def wrong():
    """Yield program, command line, and what the line on stderr has to hold."""
    for name in LABELLED:
        tail = (" --queries queries.json" if name in {"retrieval", "absent"} else "") + NEEDS.get(name, "")
        yield from ((name, f"--data folder --csv {table}{tail}", told) for table, told in TABLES.items())
        yield from ((name, f"--data {folder} --csv one.csv{tail}", told) for folder, told in FOLDERS.items())
        yield name, "", "required: --data, --csv"
    for name in ("retrieval", "absent"):
        yield from ((name, f"{TABLE} --queries {queries}", told) for queries, told in QUERIES.items())
    yield from (("retrieval", f"{ASKED} --known-queries {queries}", told) for queries, told in QUERIES.items())
    for name, holds in FITTED.items():
        yield from ((name, f"--data {folder}{NEEDS.get(name, '')}", told) for folder, told in FOLDERS.items())
        yield name, f"--data folder{NEEDS.get(name, '')}", f"folder has no {holds}"
    yield from (("vectors", f"--data fit --csv {table}", told) for table, told in TABLES.items())
    for name, option in (("ingest", "--data"), ("build_base_head", "--sounds"), ("demo", "--sounds sounds_of_demo --audio")):
        yield from ((name, f"{option} {folder}", told) for folder, told in FOLDERS.items())
        yield name, f"{option} folder", "folder has no sound files in it"
    yield "demo", "--sounds nope", "not there"
    yield "demo", "--sounds folder", "folder has no dog.mp3"
    yield "ingest", "", "which recordings? --data DIR"
    yield "labeler", f"{TABLE} --encoder nope.onnx", "nope.onnx is not there"
    yield "labeler", f"{TABLE} --digits nope", "nope is not there"
    yield "plot_front", "nope.jsonl out.png", "nope.jsonl is not there"
    yield from (
        ("secagg", f"--devices {count} --dropout {share}", "are needed") for count, share in ((8, 0.3), (20, 0.1), (64, 0.9))
    )
    yield from ((name, line, ": give a") for name, lines in NUMBERS.items() for line in lines)
    yield "secagg", "--devices 257", "give 256 or fewer"
    yield "simulate", "--data fit --epsilon much", "give a number above 0, or none"
    yield "simulate", "--data fit --lies 2", "give a number, at least 0 and at most 1"


def fill(folder):
    """Write right and wrong files of every kind."""
    for name in ("folder", "sounds", "sounds_of_demo", "fit/esc10", "fit/corpus", "fit/fsdd/recordings"):
        (folder / name).mkdir(parents=True)
    write_sound(folder / "sounds", "dog", tone(1.0))
    (folder / "fit/esc10/esc10.csv").touch()
    (folder / "fit/corpus/corpus.csv").touch()
    for name in ("dog", "rooster", "cow", "owl"):
        (folder / f"sounds_of_demo/{name}.mp3").touch()
    texts = {
        "empty.csv": "",
        "file_alone.csv": "file,name\na.wav,dog\n",
        "header.csv": "file,label\n",
        "one.csv": "\ufefffile,label\ndog.wav,dog\n",
        "queries.json": '{"dog": {"seen": ["dog"]}}',
        "bad.json": "{nope",
        "list.json": '["dog"]',
        "no_seen.json": '{"dog": {"reworded": []}}',
        "word.json": '{"dog": {"seen": "dog"}}',
        "numbers.json": '{"dog": {"seen": [], "reworded": [1]}}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 20)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    fill(folder)
    return folder


@pytest.fixture
def given(filled, monkeypatch):
    monkeypatch.chdir(filled)
    return filled


def arguments(program, line):
    return importlib.import_module(MODULES.get(program, program)).arguments(line.split())


@pytest.mark.parametrize(("program", "line", "told"), sorted(set(wrong())))
def test_wrong_input_ends_in_one_line_that_says_what_is_missing(program, line, told, given, capsys):
    with pytest.raises(SystemExit) as ended:
        arguments(program, line)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert told in err


RIGHT = {
    **dict.fromkeys(("retrieval", "absent"), ASKED),
    **dict.fromkeys(("fewshot", "labeler"), TABLE),
    "build_public_set": TABLE + " --out out",
    "vectors": "--data fit --csv one.csv",
    "simulate": "--data fit --epsilon none --lies 1 --dropout 0",
    "prune_encoder": "--data fit --work work --out out --widths " + ",".join(["8"] * 14),
    "build_base_model": "--data fit --out out",
    "build_base_head": "--sounds sounds",
    "ingest": "--data sounds --hours .5",
    "demo": "--sounds sounds_of_demo --audio sounds",
    "plot_front": "one.csv out.png",
    "secagg": "--devices 8 --dim 1 --dropout 0",
    "query": "--segments 1",
    "dp_step": "--steps 1",
    "cold": "",
}


@pytest.mark.parametrize("program", RIGHT)
def test_control_right_input_is_taken(program, given):
    assert arguments(program, RIGHT[program])


def test_control_every_program_that_reads_a_folder_a_table_or_a_number_is_among_them():
    assert {program for program, _, _ in wrong()} | {"cold"} == RIGHT.keys()


def test_a_whole_process_ends_so_and_without_a_traceback(given):
    for name, rest, code, told in (
        (
            "benchmarks/retrieval.py",
            ["--data", "folder", "--csv", "one.csv", "--queries", "nope.json"],
            2,
            "nope.json is not there",
        ),
        ("scripts/plot_front.py", ["one.csv", "out.png"], 10, "one.csv is not JSON"),
    ):
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, ROOT / name, *rest], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
        assert told in done.stderr


@pytest.mark.parametrize(
    ("table", "data", "asked", "told"),
    [
        ("one.csv", "folder", None, "1 of the 1 files of .*one.csv are not in .*folder: .*dog.wav"),
        ("one.csv", "sounds", {"cat": {"seen": ["cat"]}}, "no query is about a label of .*one.csv"),
        ("one.csv", "sounds", {}, "no query is about a label"),
        ("header.csv", "sounds", None, "has no rows"),
        ("file_alone.csv", "sounds", None, "no column `label`"),
        ("binary.csv", "sounds", None, "can't be read"),
    ],
)
def test_no_figure_is_made_of_a_table_that_does_not_fit_its_folder_or_its_queries(table, data, asked, told, given):
    with pytest.raises(SettingsError, match=told):
        common.read_rows(given / data, given / table, asked)


ESC10, CORPUS = "file,label,fold,freesound_id,uploader", "file,label,package,label_quality,category"
NEEDED = {
    "vectors": (("esc10", ESC10, "freesound_id"), ("corpus", CORPUS, "label_quality")),
    "student.sounds": (("esc10", ESC10, "fold"), ("corpus", CORPUS, "category")),
    "simulation.sound": (("esc10", ESC10, "uploader"), ("corpus", CORPUS, "package")),
}


def public(folder, **headers):
    """A folder of public recordings, each table with this header and a row of digits."""
    for name, header in ({"esc10": ESC10, "corpus": CORPUS} | headers).items():
        (folder / name).mkdir(exist_ok=True)
        row = ",".join(str(place) for place, _ in enumerate(header.split(",")))
        (folder / name / f"{name}.csv").write_text(f"{header}\n{row}\n")
    return folder


def clips_of(module, folder):
    found = importlib.import_module(module)
    return list((found.recordings if module == "student.sounds" else found.listed)(folder))


@pytest.mark.parametrize(("module", "name", "header", "column"), [(each, *lack) for each in NEEDED for lack in NEEDED[each]])
def test_a_foreign_table_of_public_recordings_is_named_with_the_column_it_lacks(module, name, header, column, tmp_path):
    folder = public(tmp_path, **{name: header.replace(column, "other")})
    with pytest.raises(SettingsError, match=rf"{name}/{name}\.csv has no column `{column}`") as refused:
        clips_of(module, folder)
    assert column in refused.value.hint


@pytest.mark.parametrize("module", NEEDED)
def test_control_with_its_columns_it_is_read(module, tmp_path):
    clips_of(module, public(tmp_path))


@pytest.mark.parametrize("module", ["student.sounds", "simulation.sound"])
@pytest.mark.parametrize("name", ["notes.wav", "ten_theo_1.wav", "1_theo.wav"])
def test_what_is_no_spoken_digit_is_named(module, name, tmp_path):
    place = public(tmp_path) / "fsdd" / "recordings"
    place.mkdir(parents=True)
    (place / name).touch()
    with pytest.raises(SettingsError, match=rf"{name} is not named DIGIT_SPEAKER_TAKE\.wav"):
        clips_of(module, tmp_path)


def test_a_benchmark_ends_in_one_line_about_a_foreign_table(tmp_path, monkeypatch, capsys):
    import vectors

    monkeypatch.setattr(sys, "argv", ["vectors.py", "--data", str(public(tmp_path, esc10="filename,fold,target,category"))])
    code, said = ends(vectors.main, capsys)
    assert (code, said.out, said.err.count("\n")) == (SettingsError.exit_code, "", 1)
    assert "esc10.csv has no column `file` and no column `label` and no column `freesound_id`; its first line names" in said.err


def test_rows_have_the_paths_that_a_library_stores(given):
    (row,) = common.read_rows(given / "folder" / ".." / "sounds", given / "one.csv", {"dog": {"seen": ["dog"]}})
    assert (row.path, row.label, row.group) == (given / "sounds" / "dog.wav", "dog", "dog.wav")


def ends(main, capsys):
    with pytest.raises(SystemExit) as ended:
        common.run(main)
    return ended.value.code, capsys.readouterr()


def test_an_error_is_one_line_and_its_own_exit_code(capsys):
    def refuse():
        raise CountError("6 of 8 devices are left", hint="ask\nmore")

    def fail():
        raise FileNotFoundError(2, "No such file", "a.json")

    code, said = ends(refuse, capsys)
    assert (code, said.out) == (CountError.exit_code, "")
    assert said.err.endswith(": 6 of 8 devices are left; ask more\n")
    code, said = ends(fail, capsys)
    assert code == 1
    assert said.err.count("\n") == 1
    assert "a.json" in said.err


def test_control_what_ends_well_ends_with_its_own_code_and_a_defect_keeps_its_traceback(capsys):
    assert ends(lambda: 3, capsys)[0] == 3
    assert ends(lambda: None, capsys)[0] is None
    with pytest.raises(ZeroDivisionError):
        common.run(lambda: 1 // 0)


def test_the_last_line_is_json_and_a_figure_that_is_no_number_is_refused(capsys):
    common.finish({"a": 0.5, "b": None})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"a": 0.5, "b": None}
    assert said.err.startswith("load of the last minute: ")
    with pytest.raises(SettingsError, match="not a number"):
        common.finish({"a": float("nan")})
    assert capsys.readouterr().out == ""


def test_new_labels_are_those_whose_name_and_queries_calibrated_nothing():
    asked = {"dog": {"seen": ["a dog"]}, "cat": {"seen": ["cat"], "reworded": ["A Kitten"]}, "cow": {"seen": ["cow"]}}
    known = {"Dog": {"seen": ["hound"]}, "young cat": {"seen": [], "reworded": ["a kitten"]}}
    assert retrieval.new_labels(asked, known) == {"cow"}
    assert retrieval.new_labels(asked, {}) == {"dog", "cat", "cow"}
    found = {"dog": [1.0, 0.0], "cow": [0.25]}
    assert retrieval.over(found, {"dog", "cow", "cat"}) == pytest.approx(0.4167)
    assert retrieval.over(found, {"cow"}) == 0.25
    assert retrieval.over(found, {"cat"}) is None


def test_too_few_labels_for_an_episode_are_refused():
    from fewshot import by_recording

    def rows(labels, recordings):
        return [common.Row(ROOT, str(label), f"{label} {each}") for label in range(labels) for each in range(recordings)]

    assert len(by_recording(rows(6, 3), 2)) == 6
    for labels, recordings in ((4, 3), (5, 3), (6, 2)):
        with pytest.raises(SettingsError, match="an episode takes 5"):
            by_recording(rows(labels, recordings), 2)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"", b"PK\x03\x04 no archive", "npy", "npz"])
def test_a_cache_that_another_program_wrote_is_refused_and_left_as_it_is(content, tmp_path):
    from simulation.sound import _read

    cache = tmp_path / "cache.npz"
    if isinstance(content, bytes):
        cache.write_bytes(content)
    else:
        with cache.open("wb") as file:
            (np.save if content == "npy" else np.savez)(file, np.arange(3))
    before = cache.read_bytes()
    with pytest.raises(SettingsError, match="cache"):
        _read(cache)
    assert cache.read_bytes() == before
