"""`earmark model import` on small random checkpoints: the graph does what transformers does, searches work, and there is a way back.

The oracle is transformers itself: the checkpoint's own feature extractor, tokenizer and network, asked sound by sound.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from earmark_client import models
from earmark_client.cli.main import main
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.records import Query
from earmark_shared.errors import ModelError
from tests.soundmaker import chirp, clicks, noise, tone, write_sound
from tests.support.homes import open_library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARITY = 0.9999
NAMES = ("hum", "clock", "storm", "siren")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    from tests.support import checkpoints as make

    folder = tmp_path_factory.mktemp("checkpoints")
    make.make_ast(folder / "ast")
    make.make_ast(folder / "one-of", problem_type="single_label_classification", seed=11)
    make.make_ast(folder / "twice", names=("Dog", "dog", "Cat\n, tom"), seed=16)
    make.make_ast(folder / "unnamed", names=("LABEL_0", "LABEL_1"), seed=12)
    make.make_clap(folder / "clap")
    make.make_clap(folder / "fused", truncation="fusion", seed=13)
    make.make_clap(folder / "repeat", padding="repeat", seed=14)
    make.make_clap(folder / "pad", padding="pad", seed=15)
    make.make_whisper(folder / "whisper")
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Sounds of exactly one or two segments of two seconds, so that an oracle can hear the very same."""
    folder = tmp_path_factory.mktemp("sounds")
    for name, waveform in zip(NAMES, (tone(1.5, 220), clicks(2), noise(2, seed=1), chirp(1)), strict=True):
        write_sound(folder, name, waveform, container="wavfloat")
    return folder


@pytest.fixture(scope="module")
def base():
    return Bundle.load(BASE_MODEL)


@pytest.fixture
def earmark(tmp_path, capsys):
    """Run the program on a home of its own: (exit code, stdout, stderr)."""

    def run(*words):
        code = main(["--home", str(tmp_path / "home"), "--key-file", str(tmp_path / "key"), *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert run("init")[0] == 0
    return run


def imported(checkpoints, kind, tmp_path, base):
    from earmark_client.importing.importer import import_checkpoint

    return import_checkpoint(checkpoints / kind, tmp_path / "imported", kind, base)


KINDS = ("ast", "one-of", "unnamed", "clap", "fused", "repeat", "pad", "whisper")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_exported_to_a_graph_that_does_the_same(checkpoints, tmp_path, base, kind):
    done = imported(checkpoints, kind, tmp_path, base)
    assert min(done.parity.values()) >= PARITY
    assert set(done.parity) == {"sound", "difference"} | ({"words"} if done.kind == "clap" else set())
    bundle = Bundle.load(tmp_path / "imported" / kind)
    assert bundle.manifest["parity"].keys() == done.parity.keys()
    assert {path.suffix for path in bundle.folder.iterdir()} <= {".onnx", ".safetensors", ".json"}
    assert bundle.manifest["sources"]["model.safetensors"]


def test_classes_of_one_name_are_told_apart(checkpoints, tmp_path, base):
    imported(checkpoints, "twice", tmp_path, base)
    rows = json.loads((tmp_path / "imported" / "twice" / "labels.json").read_text())["labels"]
    assert [row["name"] for row in rows] == ["dog", "dog (1)", "cat , tom"]


def test_parity_is_measured_where_all_sounds_are_alike_too(checkpoints, tmp_path, base, monkeypatch):
    """The control: a front end that is slightly wrong gives a large cosine, and is found out by what sets sounds apart."""
    from earmark_client.importing import frontends

    monkeypatch.setattr(frontends.AstFrontend, "forward", _without_end(frontends.AstFrontend.forward))
    with pytest.raises(ModelError, match="differs from the checkpoint"):
        imported(checkpoints, "ast", tmp_path, base)
    assert list((tmp_path / "imported").iterdir()) == []


def _without_end(real):
    """The AST front end without its rule for sounds that end early."""
    from earmark_client.importing import frontends

    def forward(self, waveform):
        frames = frontends.sound_lengths
        frontends.sound_lengths = lambda rows: frames(rows) * 0 + rows.shape[1]
        try:
            return real(self, waveform)
        finally:
            frontends.sound_lengths = frames

    return forward


def test_an_ast_answers_words_by_the_names_of_its_classes_and_back(checkpoints, sounds, tmp_path, earmark):
    import torch
    import transformers

    earmark("add", sounds)
    _, before, _ = earmark("search", "dog", "--min-score", "0", "--json")
    assert "imported my-ast (ast)" in earmark("model", "import", checkpoints / "ast", "--name", "my-ast")[2]
    code, _, told = earmark("model", "use", "my-ast")
    assert code == 0 and "it heard 4 clips" in told
    with open_library(tmp_path) as library:
        answers = library.search(Query(text="siren", limit=None, min_score=0.0)).hits
        assert len({hit.path for hit in answers}) == 4
        query = library._model.labeler.text_query("siren")
        assert query.nearest[0][0] == "siren"
        database, version = library._database, library.status().model
        table = database.segments()
        text, strength = (database.fetch(kind, version, table.ids).float32() for kind in ("text", "strength"))
        stored = text * strength
    extractor = transformers.ASTFeatureExtractor.from_pretrained(checkpoints / "ast")
    model = transformers.ASTForAudioClassification.from_pretrained(checkpoints / "ast").eval()
    with torch.no_grad():
        for name, waveform in (("siren", chirp(1)),):
            clip = next(row for row, path in enumerate(paths(tmp_path, table)) if Path(path).stem == name)
            inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
            assert np.allclose(torch.sigmoid(model(**inputs).logits)[0].numpy(), stored[clip], atol=2e-3)
    assert earmark("model", "use", "base")[0] == 0
    assert earmark("search", "dog", "--min-score", "0", "--json")[1] == before


def paths(tmp_path, table):
    with open_library(tmp_path) as library:
        return [library.clip(int(clip)).paths[0] for clip in table.clip_ids]


def test_a_clap_ranks_sounds_as_its_own_two_encoders_do_and_back(checkpoints, sounds, tmp_path, earmark):
    import torch
    import transformers

    from earmark_client.importing.networks import _resampled

    earmark("add", sounds)
    _, before, _ = earmark("search", "dog", "--min-score", "0", "--json")
    assert "words 1.0" in earmark("model", "import", checkpoints / "clap")[2]
    assert earmark("model", "use", "clap")[0] == 0
    model = transformers.ClapModel.from_pretrained(checkpoints / "clap").eval()
    extractor = transformers.ClapFeatureExtractor.from_pretrained(checkpoints / "clap")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints / "clap")
    words, waveforms = "church bells", {"hum": tone(1.5, 220), "clock": clicks(2), "storm": noise(2, seed=1), "siren": chirp(1)}
    with torch.no_grad():
        text = (
            model.get_text_features(**tokenizer([f"This is a sound of {words}."], return_tensors="pt")).pooler_output[0].numpy()
        )
        own = json.loads((tmp_path / "home/models/imported/clap/labels.json").read_text())["labels"]
        prompts = [f"This is a sound of {row['name']}." for row in own]
        labels = np.stack(
            [model.get_text_features(**tokenizer([prompt], return_tensors="pt")).pooler_output[0].numpy() for prompt in prompts]
        )
        heard = {}
        for name, waveform in waveforms.items():
            inputs = extractor(_resampled(waveform, 3), sampling_rate=48_000, return_tensors="pt")
            inputs["is_longer"] = torch.zeros((1, 1), dtype=torch.bool)
            heard[name] = model.get_audio_features(inputs["input_features"].float(), inputs["is_longer"]).pooler_output[0].numpy()
        scale = float(model.logit_scale_a.exp())
    expected = {name: scale * sound @ text - np.log(np.exp(scale * labels @ sound).sum()) for name, sound in heard.items()}
    with open_library(tmp_path) as library:
        hits = library.search(Query(text=words, limit=None, min_score=0.0)).hits
    got = {Path(hit.path).stem: hit.score for hit in hits}
    assert sorted(got, key=got.get) == sorted(expected, key=expected.get)
    assert all(got[name] == pytest.approx(1 / (1 + np.exp(-expected[name] - 1.0)), rel=0.05) for name in got)
    assert earmark("model", "use", "base")[0] == 0
    assert earmark("search", "dog", "--min-score", "0", "--json")[1] == before


def test_a_whisper_finds_by_example_and_says_that_it_knows_no_words(checkpoints, sounds, earmark):
    earmark("add", sounds)
    told = earmark("model", "import", checkpoints / "whisper")[2]
    assert "none: by example, file names, your labels" in told
    earmark("model", "use", "whisper")
    code, out, told = earmark("search", "storm")
    assert (code, out.count("\n")) == (0, 1) and "storm.wav" in out
    assert "knows no words" in told
    assert "storm.wav" in earmark("search", "--like", sounds / "storm.wav", "--limit", "1")[1]
    listed = [json.loads(line) for line in earmark("model", "list", "--json")[1].splitlines()]
    assert [(row["name"], row["is_in_force"], row["clips"]) for row in listed] == [("base", False, 4), ("whisper", True, 4)]


@pytest.fixture
def broken(checkpoints, tmp_path):
    """A copy of a checkpoint to break."""

    def copy(kind):
        shutil.copytree(checkpoints / kind, tmp_path / "broken")
        return tmp_path / "broken"

    return copy


def refused(earmark, folder, tmp_path):
    code, out, told = earmark("model", "import", folder, "--name", "mine")
    assert code == 41 and out == "" and "hint: " in told
    kept = tmp_path / "home/models/imported"
    assert not kept.exists() or list(kept.iterdir()) == []
    return told


def test_a_checkpoint_that_lacks_weights_is_refused_rather_than_made_up(broken, tmp_path, earmark):
    from safetensors.numpy import load_file, save_file

    folder = broken("ast")
    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "classifier.dense" not in key}, folder / "model.safetensors")
    assert "lacks 2 of the network's weights" in refused(earmark, folder, tmp_path)


def test_damaged_weights_are_refused(broken, tmp_path, earmark):
    folder = broken("clap")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    assert "can't be made into a model" in refused(earmark, folder, tmp_path)


def test_a_front_end_that_does_not_fit_its_network_is_refused(broken, tmp_path, earmark):
    from tests.support.checkpoints import edit_json

    folder = broken("ast")
    edit_json(folder / "preprocessor_config.json", max_length=300)
    assert "can't be made into a model" in refused(earmark, folder, tmp_path)


def test_a_rate_that_is_no_multiple_of_16_khz_is_refused(broken, tmp_path, earmark):
    from tests.support.checkpoints import edit_json

    folder = broken("clap")
    edit_json(folder / "preprocessor_config.json", sampling_rate=44_100)
    assert "44100 samples a second" in refused(earmark, folder, tmp_path)


def test_a_clap_without_its_tokenizer_is_refused(broken, tmp_path, earmark):
    folder = broken("clap")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    refused(earmark, folder, tmp_path)


def test_a_pickle_is_never_opened(broken, tmp_path, earmark):
    folder = broken("whisper")
    marker = tmp_path / "opened"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())
    assert "is a pickle" in refused(earmark, folder, tmp_path)
    assert not marker.exists()


def test_code_beside_the_weights_is_never_run(broken, tmp_path, earmark):
    from tests.support.checkpoints import edit_json

    folder = broken("ast")
    marker = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(marker)!r}, 'w')\n")
    edit_json(folder / "config.json", auto_map={"AutoModelForAudioClassification": "custom.Model", "AutoConfig": "custom.Config"})
    assert earmark("model", "import", folder, "--name", "mine")[0] == 0
    assert not marker.exists()


def test_without_the_extra_the_remedy_is_named(checkpoints, earmark, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("earmark_client.importing")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, _, told = earmark("model", "import", checkpoints / "ast", "--name", "mine")
    assert code == 10
    # A clone is named, since no package index has a package of ours.
    assert "hint: in a clone of Earmark: pip install -c constraints.txt '.[device,train]'\n" in told


def test_a_taken_name_and_a_missing_library_are_told(checkpoints, tmp_path, earmark):
    assert earmark("model", "import", checkpoints / "ast", "--name", "mine")[0] == 0
    assert earmark("model", "import", checkpoints / "ast", "--name", "mine")[0] == 10
    assert earmark("model", "import", checkpoints / "ast", "--name", "base")[0] == 10
    assert earmark("model", "use", "yours")[0] == 10
    assert earmark("model", "remove", "mine", "--yes")[0] == 0
    assert models.NAME.fullmatch("mine")
    shutil.rmtree(tmp_path / "home")
    assert earmark("model", "list")[0] == 31
