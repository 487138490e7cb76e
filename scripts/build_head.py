"""The first head, in closed form: class layer, label bridge, sound projection, calibration; the same input gives the same bytes.

Called by build_base_model.py once encoder and sentence model are in place. With a data folder (ESC-10 and the corpus of free
recordings; never ESC-10's fold 1, which is for testing) the projections and constants are fitted anew and kept in
head_data/fitted.*; without, they are read from there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = dict[str, npt.NDArray[np.generic]]

sys.path[:0] = [str(Path(__file__).parents[1] / "client"), str(Path(__file__).parents[1] / "shared"), str(Path(__file__).parent)]

HERE = Path(__file__).parent / "head_data"
CLASS_TEMPLATES = ("{}", "the sound of {}")
QUERY_TEMPLATES = ("the sound of {}",)
"""A query is put in one phrasing, since encoding it is most of a search: the second gave .002 of text mAP and took three milliseconds."""
SHARPNESS = 1 / 0.03
"""One over the bridge's temperature: chosen on ESC-10's folds 2, 3 and 5."""


def read_classes(path: Path) -> list[str]:
    """The class names, in the order of the encoder's classes."""
    import csv

    with path.open(encoding="utf-8", newline="") as file:
        return [row["display_name"] for row in csv.DictReader(file)]


def read_phrases(classes: list[str]) -> list[list[str]]:
    """Each class's texts: its name and its phrasings."""
    lines = (HERE / "phrases.txt").read_text(encoding="utf-8").splitlines()
    table = dict(line.split(" | ") for line in lines if line and not line.startswith("#"))
    if set(table) != set(classes):
        raise ValueError(f"phrases.txt and the classes differ: {sorted(set(table) ^ set(classes))}")
    return [[name.lower(), *table[name].split("; ")] for name in classes]


def readable(name: str) -> str:
    """A class name as a label: its first synonym, in small letters; a comma inside brackets doesn't end it."""
    first = name.split(",", maxsplit=1)[0]
    return (first if first.count("(") == first.count(")") else name).lower()


def label_rows(classes: list[str]) -> list[dict[str, object]]:
    """labels.json: each class under the name people read, and whether it is broad or not listed."""
    kinds: dict[str, set[str]] = {"broad": set(), "unlisted": set()}
    for line in (HERE / "broad.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, names = line.split(" | ")
            kinds[kind] |= set(names.split("; "))
    unknown = (kinds["broad"] | kinds["unlisted"]) - set(classes)
    if unknown:
        raise ValueError(f"broad.txt names no class: {sorted(unknown)}")
    return [
        {"name": readable(name), "broad": name in kinds["broad"], "listed": name not in kinds["unlisted"]} for name in classes
    ]


def quantize_rows(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Rows `(n, dim)` -> int8 codes and one scale a row."""
    scale = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
    return np.rint(rows / scale[:, None]).astype(np.int8), scale


def class_arrays(classifier: Path) -> Arrays:
    """The encoder's class layer, int8 with one scale a class."""
    with np.load(classifier) as stored:
        codes, scale = quantize_rows(np.ascontiguousarray(stored["kernel"].T))
        return {
            "class_codes": np.ascontiguousarray(codes.T),
            "class_scale": scale,
            "class_bias": stored["bias"].astype(np.float32),
        }


def phrase_arrays(base_dir: Path, phrases: list[list[str]]) -> tuple[Arrays, npt.NDArray[np.float32]]:
    """The phrases' directions as int8, grouped by class; and the class names' directions `(classes, dim)`."""
    from earmark_client.model.bundle import Bundle
    from earmark_client.model.labeler import mean_direction, query_phrases
    from earmark_client.model.text import TextEncoder

    sentences = TextEncoder(Bundle.load(base_dir))
    rows = [
        np.stack([mean_direction(sentences.encode(query_phrases(text, CLASS_TEMPLATES))) for text in texts]) for texts in phrases
    ]
    codes, scale = quantize_rows(np.concatenate(rows))
    starts = np.concatenate(([0], np.cumsum([len(texts) for texts in phrases])[:-1])).astype(np.int32)
    names = np.stack([texts[0] for texts in rows])
    return {"phrase_codes": codes, "phrase_scale": scale.astype(np.float16), "phrase_starts": starts}, names


def build_head(base_dir: Path, data_dir: Path | None) -> dict[str, object]:
    """Write head.safetensors and labels.json into `base_dir`; return the manifest's calibration.

    Args:
        base_dir: Holds the encoder, the sentence model and a manifest, and for this build classifier.npz and classes.csv.
        data_dir: Public recordings to fit on; None takes what was fitted last.
    """
    classes = read_classes(base_dir / "classes.csv")
    phrases, names = phrase_arrays(base_dir, read_phrases(classes))
    arrays = {**class_arrays(base_dir / "classifier.npz"), **phrases, "sharpness": np.array([SHARPNESS], np.float32)}
    if data_dir is not None:
        from head_fit import fit

        fit(base_dir, data_dir, arrays, names, HERE)
    arrays |= load_file(HERE / "fitted.safetensors")
    save_file(dict(sorted(arrays.items())), base_dir / "head.safetensors")
    text = json.dumps({"labels": label_rows(classes)}, indent=0, ensure_ascii=False)
    (base_dir / "labels.json").write_text(text + "\n", encoding="utf-8")
    calibration: dict[str, object] = json.loads((HERE / "fitted.json").read_text(encoding="utf-8"))
    return {**calibration, "templates": list(QUERY_TEMPLATES)}
