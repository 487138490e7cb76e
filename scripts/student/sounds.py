"""What the student hears: every training recording as linear mel magnitudes, a frame each 10 ms, made once and kept.

ESC-10's fold 1 and `esc20` (together `sounds30`) are never listed here: no recipe hears them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from recordings import corpus, digits, esc10, read_mono

from earmark_client.audio import spectral
from earmark_client.audio.features import MelSpec, ShortTimeSpectrum
from student.tones import COUNT, tones

if TYPE_CHECKING:
    from collections.abc import Iterator

Floats = npt.NDArray[np.float32]

HELD_FOLD = "5"
HELD_PACKAGES = ("freedoom", "lincity-ng-data", "minetest-data", "searchandrescue-data", "tuxmath-data", "oxygen-sounds")
"""The fold and the packages that choose among students."""
HELD_SPEAKER = "theo"
TONES_SEED = 11
KINDS = ("esc10", "corpus", "speech", "digits", "tones")
STORED_SCALE = 64.0
"""Magnitudes are kept as float16; scaled, so that neither the loudest frames overflow nor quiet ones lose digits."""


@dataclass(frozen=True)
class Recording:
    """One file: where it is, what kind (an index of `KINDS`), its label, its group, and whether it is held out."""

    path: Path
    kind: int
    label: str
    group: str
    is_held: bool


def recordings(data_dir: Path) -> Iterator[Recording]:
    """All files that may train, in a fixed order."""
    for row in esc10(data_dir, "freesound_id"):
        yield Recording(data_dir / "esc10" / row["file"], 0, row["label"], row["freesound_id"], row["fold"] == HELD_FOLD)
    for row in corpus(data_dir, "category"):
        kind = 2 if row["category"].startswith("speech") else 1
        held = row["package"] in HELD_PACKAGES
        yield Recording(data_dir / "corpus" / row["file"], kind, row["category"], row["package"], held)
    for spoken in digits(data_dir):
        yield Recording(spoken.path, 3, spoken.digit, spoken.speaker, spoken.speaker == HELD_SPEAKER)


class MelFrames:
    """A whole waveform to linear mel magnitudes `(frames, bands)`: the product's front end up to its logarithm."""

    def __init__(self, spec: MelSpec | None = None) -> None:
        """Build the matrices for `spec`."""
        self.spec = spec = spec or MelSpec()
        self._spectrum = ShortTimeSpectrum(spec.win, spec.hop, spec.n_fft)
        self._mel = spectral.mel_weights_tf(
            spec.sample_rate_hz, spec.n_fft, bands=spec.bands, fmin_hz=spec.fmin, fmax_hz=spec.fmax
        ).astype(np.float32)

    def __call__(self, waveform: Floats) -> Floats:
        """Zero padded behind, as the segmenter does, to a whole number of half segments and at least one segment."""
        spec = self.spec
        step = spec.half_frames * spec.hop
        steps = max(0, -(-(len(waveform) - spec.segment_samples) // step))
        padded = np.zeros(spec.segment_samples + steps * step, np.float32)
        padded[: len(waveform)] = waveform
        blocks = range(0, len(padded) - spec.win + 1, 500 * spec.hop)
        cut = [padded[start : start + 499 * spec.hop + spec.win] for start in blocks]
        return np.concatenate([np.sqrt(self._spectrum.power(block[None]))[0] @ self._mel for block in cut])


@dataclass(frozen=True)
class Sounds:
    """All recordings' frames `(frames, bands) float16`, scaled, one after another; and per recording where and what it is."""

    frames: npt.NDArray[np.float16]
    offsets: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    is_held: npt.NDArray[np.bool_]
    label: npt.NDArray[np.str_]
    group: npt.NDArray[np.str_]

    def magnitudes(self, start: int, count: int) -> Floats:
        """`(count, bands)` linear magnitudes from frame `start`."""
        return self.frames[start : start + count].astype(np.float32) / np.float32(STORED_SCALE)


def load_sounds(data_dir: Path, cache_dir: Path) -> Sounds:
    """The frames of all recordings in `data_dir`, from `cache_dir` if what is there was made of the same files."""
    path = cache_dir / "sounds_and_tones.npz"
    listed = list(recordings(data_dir))
    made_of = _fingerprint(listed)
    if _made_of(path) != made_of:
        _write(path, listed, made_of)
    with np.load(path) as stored:
        return Sounds(**{field.name: stored[field.name] for field in fields(Sounds)})


def _fingerprint(listed: list[Recording]) -> str:
    """What the tables say of each file, and its size and time."""
    digest = hashlib.sha256()
    for item in listed:
        status = item.path.stat()
        digest.update(f"{item!r} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _made_of(path: Path) -> str:
    """The fingerprint of the files that a cache was made of; "" if there is no cache, or none that says."""
    if not path.exists():
        return ""
    with np.load(path) as stored:
        return str(stored["made_of"]) if "made_of" in stored.files else ""


def _write(path: Path, listed: list[Recording], made_of: str) -> None:
    frames_of = MelFrames()
    frames = [(frames_of(read_mono(item.path)) * STORED_SCALE).astype(np.float16) for item in listed]
    frames += [(frames_of(waveform) * STORED_SCALE).astype(np.float16) for waveform in tones(TONES_SEED)]
    listed = [*listed, *[Recording(Path("tones"), KINDS.index("tones"), "", "", is_held=False)] * COUNT]
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in frames])))
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        made_of=made_of,
        frames=np.concatenate(frames),
        offsets=offsets,
        kind=np.array([item.kind for item in listed]),
        is_held=np.array([item.is_held for item in listed]),
        label=np.array([item.label for item in listed]),
        group=np.array([item.group for item in listed]),
    )
    partial.rename(path)
