"""`earmark model import`: a checkpoint is exported, compared with itself, and becomes a model folder.

What a model needs beyond its encoder comes from what is here: AST's class names go through the shipped sentence model, as the shipped
labels do; CLAP reads words itself, and knows the shipped labels by name; Whisper's encoder reads nothing.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from earmark_client.importing import exporting, sounds
from earmark_client.importing.checkpoint import read_checkpoint
from earmark_client.importing.folder import new_folder, waveform_sections, write_arrays, write_labels, write_manifest
from earmark_client.importing.networks import open_network, open_tokenizer
from earmark_client.model.bundle import FILE_LIMIT_BYTES, Bundle
from earmark_client.model.encoder import AudioEncoder
from earmark_client.model.head import mean_direction
from earmark_client.model.labeler import Labeler, query_phrases
from earmark_client.model.labels import read_labels
from earmark_client.model.text import TextEncoder
from earmark_shared.errors import EarmarkError, ModelError
from earmark_shared.files import write_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from earmark_client.importing.checkpoint import Checkpoint
    from earmark_client.importing.networks import Network
    from earmark_client.importing.sounds import Floats

LEAST_PARITY = 0.9999
"""Cosine that every sound's vector, and what sets it apart from the mean, must have with transformers' own."""
COMPARED, HEARD = 12, 24
"""Sounds that are compared with transformers, and those that a model's usual output is taken from."""
SEVERAL_HEARD = 3
CLAP_TEMPLATE = "This is a sound of {}."
CLAP_CALIBRATION = {
    "text_slope": 1.0,
    "text_offset": 1.0,
    "text_similarity": 0.0,
    "is_log_odds": 1.0,
    "templates": [CLAP_TEMPLATE],
}
"""A query counts as heard where it fits as well as a third of all labels together: a rule of thumb, not a calibration."""
UNNAMED = re.compile(r"label_\d+", re.IGNORECASE)
DAMAGED = "Copy the checkpoint again; it must be as transformers 5 saves it."


@dataclass(frozen=True)
class Imported:
    """What was made: the model's name and version, and the least cosines that were seen."""

    name: str
    version: str
    kind: str
    head: str
    """The kind of its head: "joint", "classes" or "sound"."""
    parity: dict[str, float]


def import_checkpoint(source: Path, parent: Path, name: str, base: Bundle) -> Imported:
    """Make the model folder `parent`/`name` of the checkpoint in `source`; `base` is the shipped model.

    Raises:
        ModelError: the checkpoint can't be used, or its graph does not do what it does; nothing is left behind.
    """
    checkpoint = read_checkpoint(source)
    with new_folder(parent, name) as folder:
        with _translated(source):
            network = open_network(checkpoint)
        sections = {
            "name": name,
            "kind": checkpoint.kind,
            "sources": checkpoint.sources(),
            "calibration": base.section("calibration"),
        }
        with _translated(source):
            sections |= _write_encoder(folder, network)
            sections |= _write_words(folder, checkpoint, network, sections, base)
            parity = _finish(folder, sections, network)
        bundle = Bundle.load(folder)
    return Imported(name, bundle.version, checkpoint.kind, str(bundle.section("head")["kind"]), parity)


def _write_encoder(folder: Path, network: Network) -> dict[str, Any]:
    path = folder / "encoder.onnx"
    columns = exporting.export_sound(network.module, network.samples, path)
    _check_graph(path)
    return waveform_sections(network.samples, columns)


def _check_graph(path: Path) -> None:
    """A new graph is small enough, and becomes its owner's alone."""
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise ModelError(f"The network is larger than {FILE_LIMIT_BYTES} bytes.", hint="Take a smaller one of its family.")
    path.chmod(0o600)


def _write_words(
    folder: Path, checkpoint: Checkpoint, network: Network, sections: dict[str, Any], base: Bundle
) -> dict[str, Any]:
    """What lets words be compared with sound, where anything does."""
    if checkpoint.kind == "clap":
        return _write_text(folder, checkpoint, network, sections, base)
    if checkpoint.kind == "ast" and (names := _class_names(checkpoint)):
        arrays = _class_arrays(network, checkpoint, names, base)
        return _copy_sentences(folder, base) | _write_head(folder, "classes", arrays, names)
    return _write_head(folder, "sound", {}, [])


def _copy_sentences(folder: Path, base: Bundle) -> dict[str, Any]:
    part = base.section("sentence")
    for name in (str(part["file"]), str(part["tokenizer"])):
        write_private(folder / name, base.read(name))
    return {"sentence": part}


def _write_text(folder: Path, checkpoint: Checkpoint, network: Network, sections: dict[str, Any], base: Bundle) -> dict[str, Any]:
    """CLAP's text encoder and tokenizer, and a head that knows the shipped labels as it reads them."""
    if network.text is None:
        raise ModelError("There is no text encoder.", hint=DAMAGED)
    path = folder / "sentence.onnx"
    columns = exporting.export_text(network.text, path)
    _check_graph(path)
    write_private(folder / "tokenizer.json", open_tokenizer(checkpoint))
    text = network.model.config.text_config
    words = {
        "file": "sentence.onnx",
        "tokenizer": "tokenizer.json",
        "dim": columns,
        "max_tokens": int(text.max_position_embeddings) - int(text.pad_token_id) - 1,
        "input": "input_ids",
        "mask": "attention_mask",
        "output": "sentence",
    }
    names = [label.name for label in read_labels(base.read(str(base.section("labels")["file"])))]
    write_manifest(folder, sections | {"sentence": words})
    encoder = TextEncoder(Bundle.load(folder))
    vectors = np.stack([mean_direction(encoder.encode(query_phrases(name, (CLAP_TEMPLATE,)))) for name in names])
    scale = np.array([float(network.model.logit_scale_a.detach().exp())], np.float32)
    head = _write_head(folder, "joint", {"names": vectors, "scale": scale}, names)
    return head | {"sentence": words, "calibration": base.section("calibration") | CLAP_CALIBRATION}


def _class_names(checkpoint: Checkpoint) -> list[str]:
    """The classes' names in lower case, in order; none if nobody named them."""
    named = checkpoint.config.get("id2label") or {}
    names = [" ".join(str(named[key]).lower().split()) for key in sorted(named, key=int)]
    if all(UNNAMED.fullmatch(name) for name in names):
        return []
    for place, name in enumerate(names):
        if name in names[:place]:  # a label's name is its key
            names[place] = f"{name} ({place})"
    return names


def _class_arrays(network: Network, checkpoint: Checkpoint, names: list[str], base: Bundle) -> dict[str, npt.NDArray[Any]]:
    """The class layer, and each class's phrases in the shipped sentence model: its name, and the parts of one with commas."""
    from safetensors.numpy import load

    dense = network.model.classifier.dense
    templates = base.section("calibration").get("templates", ["{}"])
    encoder = TextEncoder(base)
    phrases = [list(dict.fromkeys([name, *(part.strip() for part in name.split(",") if part.strip())])) for name in names]
    vectors = [mean_direction(encoder.encode(query_phrases(phrase, templates))) for every in phrases for phrase in every]
    return {
        "class_kernel": dense.weight.detach().numpy().T,
        "class_bias": dense.bias.detach().numpy(),
        "phrases": np.stack(vectors),
        "phrase_starts": np.cumsum([0, *(len(every) for every in phrases[:-1])]).astype(np.int32),
        "sharpness": load(base.read(str(base.section("head")["file"])))["sharpness"],
        "is_one_of": np.array([checkpoint.config.get("problem_type") == "single_label_classification"], np.uint8),
    }


def _write_head(folder: Path, kind: str, arrays: dict[str, npt.NDArray[Any]], names: list[str]) -> dict[str, Any]:
    """The head but for what only the finished encoder can say; `_finish` writes it again with that."""
    write_arrays(folder, "head.safetensors", arrays)
    write_labels(folder, names)
    return {"head": {"file": "head.safetensors", "kind": kind}, "labels": {"file": "labels.json"}}


def _finish(folder: Path, sections: dict[str, Any], network: Network) -> dict[str, float]:
    """Compare, take the usual output, and write head and manifest for good; the least cosines."""
    from safetensors.numpy import load

    write_manifest(folder, sections)
    bundle = Bundle.load(folder)
    heard = sounds.make_sounds(network.samples, HEARD)
    output = AudioEncoder(bundle).encode(sounds.fill(heard, network.samples))
    parity = check_parity(output[:COMPARED], np.stack([network.reference(sound) for sound in heard[:COMPARED]]))
    _check_several(bundle, heard)
    if network.text is not None:
        parity["words"] = _check_words(bundle, network)
    spread = output.std(axis=0)
    usual = {"sound_mean": output.mean(axis=0), "sound_spread": np.maximum(spread, max(1e-3 * float(spread.max()), 1e-9))}
    arrays = load((folder / "head.safetensors").read_bytes())
    (folder / "head.safetensors").unlink()
    write_arrays(folder, "head.safetensors", arrays | usual)
    write_manifest(folder, sections | {"parity": {key: round(value, 7) for key, value in parity.items()}})
    Labeler(Bundle.load(folder))
    return parity


def check_parity(graph: Floats, network: Floats) -> dict[str, float]:
    """The least cosine between rows `(n, dim)`, of the vectors and of what sets them apart from the network's mean.

    Raises:
        ModelError: one is below `LEAST_PARITY`: the graph does not do what the network does.
    """
    usual = network.mean(axis=0)
    found = {"sound": _least_cosine(graph, network), "difference": _least_cosine(graph - usual, network - usual)}
    if not min(found.values()) >= LEAST_PARITY:  # also where one is no number
        raise ModelError(
            f"The exported graph differs from the checkpoint: cosine {min(found.values()):.6f}, {LEAST_PARITY} is the least.",
            hint="Nothing was registered. Tell us the checkpoint's config.json and preprocessor_config.json.",
        )
    return found


def _check_several(bundle: Bundle, heard: list[Floats]) -> None:
    """The graph's first axis is free: several sounds at once give what each gives alone."""
    from earmark_client.model.session import open_session

    part = bundle.section("encoder")
    samples = int(bundle.section("frontend")["samples"])
    session = open_session(bundle, str(part["file"]))
    rows = sounds.fill(heard[:SEVERAL_HEARD], samples)
    alone = np.concatenate([session.run(None, {part["input"]: row[None]})[0] for row in rows])
    check_parity(session.run(None, {part["input"]: rows})[0], alone)


def _check_words(bundle: Bundle, network: Network) -> float:
    texts = [label.name for label in read_labels(bundle.read("labels.json"))][:COMPARED]
    rows = np.stack([network.read(text) for text in texts]) if network.read else np.zeros((0, 1), np.float32)
    return check_parity(TextEncoder(bundle).encode(texts), rows)["sound"]


def _least_cosine(left: Floats, right: Floats) -> float:
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float(((left * right).sum(axis=1) / np.maximum(lengths, 1e-12)).min())


@contextmanager
def _translated(source: Path) -> Iterator[None]:
    """Whatever foreign code raises is a fault of the checkpoint."""
    try:
        yield
    except EarmarkError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{source} can't be made into a model: {first}", hint=DAMAGED) from error
