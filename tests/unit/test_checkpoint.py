"""A checkpoint folder is looked through before anything of it is opened: each fault is named with its file and its remedy."""

import json

import pytest

from earmark_client.importing.checkpoint import read_checkpoint
from earmark_client.importing.folder import new_folder
from earmark_shared.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clap"}))
    (tmp_path / "model.safetensors").write_bytes(b"numbers")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 48000}))
    return tmp_path


def refused(folder):
    with pytest.raises(ModelError) as caught:
        read_checkpoint(folder)
    assert caught.value.exit_code == 41
    assert caught.value.hint
    return str(caught.value)


def test_a_good_folder_is_known_by_its_type_and_its_files(folder):
    checkpoint = read_checkpoint(folder)
    assert checkpoint.kind == "clap"
    assert checkpoint.preprocessor == {"sampling_rate": 48000}
    assert set(checkpoint.sources()) == {"config.json", "model.safetensors", "preprocessor_config.json"}


def test_a_front_end_may_be_described_with_its_processor(folder):
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"hop_length": 480}}))
    assert read_checkpoint(folder).preprocessor == {"hop_length": 480}


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    assert "has no config.json" in refused(tmp_path)
    assert "has no config.json" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["bert", "", None])
def test_an_architecture_that_is_not_taken_is_refused(folder, kind):
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    assert "config.json" in refused(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "clap.ckpt"])
def test_a_pickle_instead_of_safetensors_is_refused_unopened(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    message = refused(folder)
    assert name in message and "pickle" in message


def test_a_pickle_beside_safetensors_is_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "pytorch_model.bin" not in read_checkpoint(folder).sources()


def test_missing_weights_and_a_missing_front_end_are_named(folder):
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refused(folder)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused(folder)


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '"clap"'])
def test_a_config_that_is_no_object_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in refused(folder)


def test_a_model_folder_is_there_whole_or_not_at_all(tmp_path):
    with pytest.raises(ModelError), new_folder(tmp_path / "imported", "half") as scratch:
        (scratch / "encoder.onnx").write_bytes(b"half")
        raise ModelError
    assert list((tmp_path / "imported").iterdir()) == []
    left = tmp_path / "imported" / ".import-killed"
    left.mkdir()
    with new_folder(tmp_path / "imported", "whole") as scratch:
        (scratch / "encoder.onnx").write_bytes(b"whole")
    assert [path.name for path in (tmp_path / "imported").iterdir()] == ["whole"]
