"""The folder of public recordings that models are fitted and federations simulated on: `esc10/`, `corpus/` and `fsdd/`.

    for line in esc10(data, "uploader"):      # what else than `file`, `label` and `fold` is needed of the table
        print(data / "esc10" / line["file"], line["label"], line["uploader"])

A table that lacks a column, or a digit that is named otherwise, is refused in one line (`run` of benchmarks/common.py).
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import lines_of

from earmark_shared.errors import SettingsError, UnreadableAudioError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

BENCHMARK_FOLD = "1"
"""ESC-10's fold that benchmarks test on: left out here and nowhere else."""
DIGIT_NAME = re.compile(r"(\d)_([^_]+)_(\d+)\.wav")


@dataclass(frozen=True)
class Digit:
    """A recording of a spoken digit."""

    path: Path
    digit: str
    speaker: str
    take: int


def esc10(data: Path, *columns: str) -> Iterator[dict[str, str]]:
    """Yield ESC-10's lines; SettingsError if its table lacks one of these columns, `file`, `label` or `fold`."""
    lines = lines_of(data / "esc10" / "esc10.csv", ("file", "label", "fold", *columns))
    return (line for line in lines if line["fold"] != BENCHMARK_FOLD)


def corpus(data: Path, *columns: str) -> list[dict[str, str]]:
    """Return the corpus's lines; SettingsError if its table lacks one of these columns, `file` or `package`."""
    return lines_of(data / "corpus" / "corpus.csv", ("file", "package", *columns))


def digits(data: Path) -> Iterator[Digit]:
    """Yield the spoken digits, in order of their names; SettingsError if a file is named otherwise."""
    for path in sorted((data / "fsdd" / "recordings").glob("*.wav")):
        named = DIGIT_NAME.fullmatch(path.name)
        if named is None:
            raise SettingsError(f"{path} is not named DIGIT_SPEAKER_TAKE.wav", hint="give it such a name, or move it elsewhere")
        yield Digit(path, named[1], named[2], int(named[3]))


def read_mono(path: Path) -> Floats:
    """One file as 16 kHz mono; trusted files, so no sandbox. UnreadableAudioError if it can't be read."""
    import soundfile
    import soxr

    try:
        waveform, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as problem:
        raise UnreadableAudioError(f"{path}: {problem}") from problem
    mono: Floats = soxr.resample(waveform.mean(axis=1), rate_hz, 16_000)
    return mono
