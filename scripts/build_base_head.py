"""Write the head that rounds begin with: shared/earmark_shared/base_head.json (its schema) and .safetensors (its arrays).

    python scripts/build_base_head.py --sounds FOLDER        # public recordings; the shipped arrays: 900 of the free Debian packages'

The directions that the head listens in are the 64 in which public sound varies most, each scaled to the same spread, about their mean.
They stay as they are: rounds train what is said about them. The label set is the shipped model's own list. No label is looked at.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from earmark_client.describe import Model
from earmark_client.model.bundle import Bundle
from earmark_shared.errors import SettingsError
from earmark_shared.head import HeadSchema
from earmark_shared.release import dump_head

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from common import Parser, run, say, sound_folder

TARGET = ROOT / "shared/earmark_shared/base_head.json"
RANK = 64
FILES, SECONDS, LEAST_RMS = 900, 3.0, 1e-3
SUFFIXES = {".wav", ".ogg", ".opus", ".flac", ".mp3"}


def encode_sounds(folder: Path, model: Model) -> np.ndarray:
    """Return the encoder's outputs `(segments, inputs)` for the first seconds of some of the folder's sounds.

    Raises:
        SettingsError: they are too few to find `RANK` directions in.
    """
    import soundfile
    import soxr

    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    chosen = [files[place] for place in sorted(np.random.default_rng(0).permutation(len(files))[:FILES])]
    samples, outputs = int(model.bundle.section("segment")["samples"]), []
    for path in chosen:
        try:
            waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as problem:
            say(f"left out: {path}: {problem}")
            continue
        mono = soxr.resample(waveform.mean(axis=1), rate, 16_000).astype("f4")[: int(SECONDS * 16_000)]
        starts = range(0, max(1, len(mono) - samples + 1), samples)
        cut = np.stack([np.pad(mono[at : at + samples], (0, max(0, samples - len(mono[at : at + samples])))) for at in starts])
        cut = cut[np.sqrt(np.square(cut).mean(axis=1)) > LEAST_RMS]
        if len(cut):
            outputs.append(model.describe(cut)[1])
    segments = sum(map(len, outputs))
    if segments <= RANK:
        raise SettingsError(f"{folder} has {segments} segments with sound", hint=f"{RANK} directions take more of them")
    return np.concatenate(outputs).astype(np.float64)


def directions(outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return `down` and `shift`: the principal directions, whitened, about the mean."""
    mean = outputs.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov((outputs - mean).T))
    down = (axes[:, ::-1][:, :RANK] / np.sqrt(spread[::-1][:RANK])).T
    return {"down": down.astype(np.float32), "shift": (-down @ mean).astype(np.float32)}


def base_schema(model: Model) -> HeadSchema:
    """Return the schema; its label set is the model's own list."""
    labels = model.labeler.label_list().names
    return HeadSchema(int(model.bundle.section("encoder")["dim"]), model.labeler.text_dim, RANK, ("up",), labels)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--sounds", type=sound_folder, required=True)
    return parser.parse_args(given)


def main() -> None:
    """Write both files."""
    sounds = arguments().sounds
    model = Model(Bundle.load(ROOT / "client/earmark_client/model/base"))
    schema = base_schema(model)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in schema.shapes.items()} | directions(
        encode_sounds(sounds, model)
    )
    TARGET.write_text(json.dumps({"base": model.version, "schema": schema.to_json()}, indent=1) + "\n", encoding="utf-8")
    TARGET.with_suffix(".safetensors").write_bytes(dump_head(schema, arrays))


if __name__ == "__main__":
    run(main)
