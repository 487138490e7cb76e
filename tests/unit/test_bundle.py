"""The model folder: what `Bundle` accepts, what it refuses, and that nothing unverified is handed out."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from earmark_client.model import bundle as bundle_module
from earmark_client.model.bundle import Bundle
from earmark_shared.errors import ModelError, TrustError

BASE = Path(bundle_module.__file__).with_name("base")
CONTENT = {
    "encoder.onnx": b"ears",
    "sentence.onnx": b"words" * 100,
    "tokenizer.json": b"{}",
    "head.safetensors": b"head",
    "labels.json": b"[]",
}


def sample_manifest():
    return {
        "format": 1,
        "name": "sample",
        "frontend": {"frames": 96, "bands": 64},
        "encoder": {"file": "encoder.onnx", "input": "log_mel", "output": "embedding", "dim": 1024},
        "sentence": {"file": "sentence.onnx", "tokenizer": "tokenizer.json", "dim": 384, "max_tokens": 128},
        "head": {"file": "head.safetensors"},
        "labels": {"file": "labels.json"},
        "calibration": {"threshold": 0.5},
        "files": {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in CONTENT.items()},
    }


@pytest.fixture
def folder(tmp_path):
    for name, data in CONTENT.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "manifest.json").write_text(json.dumps(sample_manifest()))
    return tmp_path


def rewrite(folder, change):
    manifest = sample_manifest()
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_good_folder_loads_and_every_file_reads_back(folder):
    bundle = Bundle.load(folder)
    for name, data in CONTENT.items():
        assert bundle.read(name) == data
        assert bundle.file(name).read_bytes() == data
    assert bundle.section("calibration") == {"threshold": 0.5}


def test_the_version_is_the_name_and_the_manifest_s_hash(folder):
    expected = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()[:12]
    assert Bundle.load(folder).version == f"sample-{expected}"


def test_another_threshold_is_another_version(folder):
    before = Bundle.load(folder).version
    rewrite(folder, lambda manifest: manifest["calibration"].update(threshold=0.6))
    assert Bundle.load(folder).version != before


def test_a_bundle_can_not_be_changed(folder):
    with pytest.raises(AttributeError):
        Bundle.load(folder).version = "other"


@pytest.mark.parametrize("name", sorted(CONTENT))
def test_one_changed_byte_is_refused_when_the_file_is_first_used(folder, name):
    data = bytearray(CONTENT[name])
    data[-1] ^= 1
    (folder / name).write_bytes(bytes(data))
    for use in (Bundle.load(folder).read, Bundle.load(folder).file):
        with pytest.raises(ModelError, match=name) as caught:
            use(name)
        assert caught.value.exit_code == 41
        assert caught.value.hint


def test_control_without_the_hash_check_the_changed_byte_gets_through(folder, monkeypatch):
    (folder / "encoder.onnx").write_bytes(b"ear5")
    monkeypatch.setattr(bundle_module, "_check_hash", lambda *_: None)
    assert Bundle.load(folder).read("encoder.onnx") == b"ear5"


def test_verify_false_skips_hashes_only(folder):
    (folder / "encoder.onnx").write_bytes(b"ear5")
    assert Bundle.load(folder, verify=False).read("encoder.onnx") == b"ear5"
    (folder / "labels.json").unlink()
    with pytest.raises(ModelError, match=r"labels\.json"):
        Bundle.load(folder, verify=False)


@pytest.mark.parametrize("data", [b"", b"ear", b"ears and more"])
def test_another_length_is_refused(folder, data):
    (folder / "encoder.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        Bundle.load(folder).read("encoder.onnx")


def test_a_length_alone_that_lies_is_refused(folder):
    rewrite(folder, lambda manifest: manifest["files"]["encoder.onnx"].update(bytes=5))
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        Bundle.load(folder).read("encoder.onnx")


def test_what_is_returned_is_what_was_hashed_even_if_the_file_changes_later(folder):
    bundle = Bundle.load(folder)
    data = bundle.read("encoder.onnx")
    (folder / "encoder.onnx").write_bytes(b"ear5")
    assert data == b"ears"
    with pytest.raises(ModelError):
        bundle.read("encoder.onnx")


def test_a_file_is_hashed_only_when_it_is_used(folder, monkeypatch):
    hashed = []
    check = bundle_module._check_hash
    monkeypatch.setattr(bundle_module, "_check_hash", lambda name, data, entry: (hashed.append(name), check(name, data, entry)))
    bundle = Bundle.load(folder)
    assert hashed == []
    bundle.read("sentence.onnx")
    bundle.file("sentence.onnx")
    assert hashed == ["sentence.onnx"]


def test_a_missing_file_is_named(folder):
    (folder / "sentence.onnx").unlink()
    with pytest.raises(ModelError, match=r"lacks sentence\.onnx"):
        Bundle.load(folder)


def test_an_unknown_file_is_named(folder):
    (folder / "extra.onnx").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"extra\.onnx"):
        Bundle.load(folder)


def test_documentation_and_hidden_files_may_lie_beside(folder):
    (folder / "MODEL_CARD.md").write_text("what it is")
    (folder / ".DS_Store").write_bytes(b"")
    Bundle.load(folder)


def test_a_name_that_the_manifest_lacks_is_refused(folder):
    (folder / "MODEL_CARD.md").write_text("what it is")
    bundle = Bundle.load(folder)
    for name in ("MODEL_CARD.md", "other.onnx", "../secret", "manifest.json"):
        with pytest.raises(ModelError, match="has no file"):
            bundle.read(name)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file", "..", ".", "", "a\\b", "manifest.json"])
def test_a_manifest_can_not_name_a_file_elsewhere(folder, name):
    rewrite(folder, lambda manifest: manifest["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    with pytest.raises(ModelError, match="usable entry"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "entry", [None, [], "x", {}, {"sha256": "00"}, {"bytes": 4}, {"sha256": 5, "bytes": 4}, {"sha256": "00", "bytes": "4"}]
)
def test_an_entry_without_hash_and_size_is_refused(folder, entry):
    rewrite(folder, lambda manifest: manifest["files"].update({"encoder.onnx": entry}))
    with pytest.raises(ModelError, match=r"encoder\.onnx"):
        Bundle.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "[" * 100_000, "\x00"])
def test_a_manifest_that_is_no_object_is_refused(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match="manifest"):
        Bundle.load(folder)


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_another_format_is_refused_with_what_to_do(folder, number):
    rewrite(folder, lambda manifest: manifest.update(format=number))
    with pytest.raises(ModelError, match="format") as caught:
        Bundle.load(folder)
    assert "Update" in caught.value.hint


@pytest.mark.parametrize("part", ["name", "files", "encoder", "sentence", "frontend", "format"])
@pytest.mark.parametrize("value", [None, 7, []])
def test_a_part_of_the_wrong_kind_is_refused(folder, part, value):
    rewrite(folder, lambda manifest: manifest.update({part: value}))
    with pytest.raises(ModelError):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("part", "key"), [("encoder", "file"), ("sentence", "file"), ("sentence", "tokenizer"), ("head", "file"), ("labels", "file")]
)
def test_a_part_must_name_a_listed_file(folder, part, key):
    rewrite(folder, lambda manifest: manifest[part].update({key: "elsewhere.bin"}))
    with pytest.raises(ModelError, match=part):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("part", "key"),
    [("encoder", "dim"), ("sentence", "dim"), ("sentence", "max_tokens"), ("frontend", "bands"), ("frontend", "frames")],
)
@pytest.mark.parametrize("value", [None, 0, -1, 1.5, "384", True])
def test_a_size_must_be_a_positive_whole_number(folder, part, key, value):
    rewrite(folder, lambda manifest: manifest[part].update({key: value}))
    with pytest.raises(ModelError, match=f"{part}.{key}"):
        Bundle.load(folder)


def test_a_bundle_without_a_head_loads_but_has_no_such_part(folder):
    rewrite(folder, lambda manifest: manifest.pop("head"))
    with pytest.raises(ModelError, match="head"):
        Bundle.load(folder).section("head")


def test_no_folder_no_manifest(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"manifest\.json"):
            Bundle.load(folder)


def test_a_pipe_in_place_of_a_file_does_not_hang(folder):
    (folder / "encoder.onnx").unlink()
    os.mkfifo(folder / "encoder.onnx")
    with pytest.raises(ModelError, match="not a plain file"):
        Bundle.load(folder).read("encoder.onnx")


def test_a_giant_manifest_is_not_read(folder):
    (folder / "manifest.json").write_bytes(b" " * (bundle_module.MANIFEST_LIMIT_BYTES + 1))
    with pytest.raises(ModelError, match="larger"):
        Bundle.load(folder)


def test_a_model_error_is_a_matter_of_trust():
    assert issubclass(ModelError, TrustError)


def test_the_shipped_model_is_whole():
    bundle = Bundle.load(BASE)
    for name in bundle.manifest["files"]:
        assert len(bundle.read(name)) == bundle.manifest["files"][name]["bytes"]
    assert bundle.version.startswith("base-")


def test_the_shipped_model_is_at_most_30_mb():
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 30_000_000


def test_the_shipped_graphs_hold_no_trace_of_the_machine_they_were_built_on():
    for name in ("encoder.onnx", "sentence.onnx"):
        data = (BASE / name).read_bytes()
        for trace in (b"/tmp", b"/home", b"/work", b"/usr", b"pytorch", b"tf2onnx", b"torch"):
            assert trace not in data


def test_only_the_manifest_and_the_card_know_the_upstream_names():
    client = Path(bundle_module.__file__).parents[1]
    for path in sorted(client.rglob("*.py")):
        text = path.read_text(encoding="utf-8").lower()
        assert "yamnet" not in text, path
        assert "minilm" not in text, path
