"""The directions that a simulated head hears in: what tells synthesized words apart, whoever says them.

The noise of private training costs the same in every direction, so that those have to be few and to matter. `word_axes.safetensors`
holds what scripts/build_word_axes.py learned from simulation/words.py: no device's sound, and no digit.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from earmark_client.model.bundle import Bundle
from earmark_shared.errors import ModelError

Floats = npt.NDArray[np.float32]
PATH = Path(__file__).with_name("word_axes.safetensors")
RANK = 64
"""Directions kept: a federated correction has room for 65 (25,000 numbers, 384 a direction)."""
EVENNESS = 0.1
"""Added to the spread within words, in units of its mean over all inputs: directions that hardly vary must not count most."""


def discriminants(outputs: Floats, words: npt.NDArray[np.int64], rank: int) -> dict[str, Floats]:
    """Return `down` `(rank, inputs)` and `shift` `(rank,)`: the directions that tell words apart best, centred on the words' mean.

    Linear discriminants (C. R. Rao, 1948; the solution is e.g. K. Fukunaga, Introduction to Statistical Pattern Recognition, 10.2):
    renderings of a word vary by about one in each.

    Args:
        outputs: `(renderings, inputs)` encoder outputs.
        words: `(renderings,)` which word each is a rendering of.
        rank: how many directions; fewer than words.
    """
    _, places, counts = np.unique(words, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), outputs.shape[1]))
    np.add.at(means, places, outputs.astype(np.float64))
    means /= counts[:, None]
    within, centre = outputs - means[places], means.mean(axis=0)
    spread = within.T @ within / len(within)
    spread += EVENNESS * np.trace(spread) / len(spread) * np.eye(len(spread))
    lengths, turned = np.linalg.eigh(spread)
    whiten = turned / np.sqrt(lengths)
    _, _, found = np.linalg.svd((means - centre) @ whiten, full_matrices=False)
    down = found[:rank] @ whiten.T
    return {"down": down.astype(np.float32), "shift": (-down @ centre).astype(np.float32)}


def save_axes(axes: dict[str, Floats], bundle: Bundle, path: Path = PATH) -> None:
    """Keep directions, and of which encoder's outputs they are."""
    save_file(axes, path, metadata={"encoder": _encoder(bundle)})


def load_axes(bundle: Bundle, rank: int, path: Path = PATH) -> dict[str, Floats]:
    """Return the first `rank` directions as `down` `(rank, inputs)` and `shift` `(rank,)`.

    Raises:
        ModelError: they are of another encoder's outputs, or too few.
    """
    with safe_open(path, framework="numpy") as file:
        axes = {name: file.get_tensor(name)[:rank] for name in ("down", "shift")}
        if file.metadata()["encoder"] != _encoder(bundle):
            raise ModelError(f"{path} was made for another encoder than {bundle.version}'s", hint="run `make axes`")
    if len(axes["down"]) < rank:
        raise ModelError(f"{path} holds {len(axes['down'])} directions", hint="ask for no more (--rank)")
    return axes


def _encoder(bundle: Bundle) -> str:
    return hashlib.sha256(bundle.read(bundle.section("encoder")["file"])).hexdigest()
