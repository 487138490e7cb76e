"""Small models that are made in a blink, without torch: an encoder that listens to half a second through a random matrix."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from earmark_client.importing.folder import new_folder, waveform_sections, write_arrays, write_labels, write_manifest
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle

SAMPLES, DIM, STEP = 8000, 24, 80
CONSTANTS = {
    "text_slope": 1.0, "text_offset": 0.0, "text_similarity": 0.0, "example_slope": 12.0, "example_offset": -6.0,
    "word_weight": 0.9, "threshold": 0.5, "templates": ["{}"],
}  # fmt: skip


def encoder_graph(seed):
    """`waveform (n, 8000)` -> `embedding (n, 24)`: how strongly each of 24 random filters answers."""
    draw = np.random.default_rng(seed)
    filters = (draw.standard_normal((DIM, 1, STEP)) / STEP**0.5).astype(np.float32)
    constants = [numpy_helper.from_array(filters, "filters"), numpy_helper.from_array(np.array([1], np.int64), "axis")]
    nodes = [
        helper.make_node("Unsqueeze", ["waveform", "axis"], ["x"]),
        helper.make_node("Conv", ["x", "filters"], ["y"], strides=[STEP]),
        helper.make_node("Abs", ["y"], ["z"]),
        helper.make_node("ReduceMean", ["z"], ["embedding"], axes=[2], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("waveform", TensorProto.FLOAT, ["n", SAMPLES])]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM])]
    graph = helper.make_graph(nodes, "ears", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def make_model(parent, name, *, seed=5, kind="sound"):
    """A registered model: of the kind "sound", or "classes" with the shipped sentence model and five classes."""
    with new_folder(parent, name) as folder:
        onnx.save(encoder_graph(seed), folder / "encoder.onnx")
        arrays, labels, extra = usual_sound(), [], {}
        if kind == "classes":
            labels = ["hum", "clock", "storm", "siren", "speech"]
            arrays |= class_arrays(len(labels), seed)
            base = Bundle.load(BASE_MODEL)
            for file in ("sentence.onnx", "tokenizer.json"):
                (folder / file).write_bytes(base.read(file))
            extra = {"sentence": base.section("sentence")}
        write_arrays(folder, "head.safetensors", arrays)
        write_labels(folder, labels)
        parts = {"head": {"file": "head.safetensors", "kind": kind}, "labels": {"file": "labels.json"}, "calibration": CONSTANTS}
        write_manifest(folder, {"name": name, "kind": "made up", **waveform_sections(SAMPLES, DIM), **parts, **extra})
    return parent / name


def usual_sound():
    """What a head of any imported kind holds."""
    return {"sound_mean": np.full(DIM, 0.05, np.float32), "sound_spread": np.full(DIM, 0.1, np.float32)}


def class_arrays(classes, seed):
    """A class layer, and one phrase a class in the sentence model's dimension."""
    draw = np.random.default_rng(seed + 1)
    phrases = draw.standard_normal((classes, 384)).astype(np.float32)
    return {
        "class_kernel": draw.standard_normal((DIM, classes)).astype(np.float32) * 20,
        "class_bias": np.full(classes, -1.0, np.float32),
        "phrases": phrases / np.linalg.norm(phrases, axis=1, keepdims=True),
        "phrase_starts": np.arange(classes, dtype=np.int32),
        "sharpness": np.array([33.0], np.float32),
        "is_one_of": np.array([0], np.uint8),
    }


def change_head(folder, place, *, array="class_spread", by=0.3):
    """A copy of the shipped model, in `place`, with one of its head's arrays changed: "class_spread" hears alike, "multi_mean" doesn't."""
    import hashlib
    import shutil

    from safetensors.numpy import load_file, save

    shutil.copytree(folder, place)
    manifest = json.loads((place / "manifest.json").read_text())
    name = manifest["head"]["file"]
    arrays = load_file(place / name)
    head = save(arrays | {array: (arrays[array] + by).astype(arrays[array].dtype)})
    (place / name).write_bytes(head)
    manifest["files"][name] = {"bytes": len(head), "sha256": hashlib.sha256(head).hexdigest()}
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place
