"""How fast does sound become searchable, in how much memory, and how does that compare?

    python benchmarks/ingest.py --data DIR [--hours 10]

Adds a folder of recordings and one ten-hour file, made of the folder's own sound, to a fresh encrypted home. The last line is one
JSON object: `realtime_factor` (seconds of sound per second of wall time, from the files to the first answer of a search, all
processors), `peak_rss_mb` (see `apart.MemoryWatch`), and two ratios on a sample of the folder's files: `vs_librosa_torch` (the same
encoder fed by librosa in torch, one file after another) and `vs_clap` (CLAP's audio tower, random weights); see `peers.py`. Ours is
measured on that very sample too, and like the peers once it has heard a sound: their models are loaded before their clocks start, so
ours are. All else counts: decoders' start, encryption, the first answer. `realtime_factor` leaves nothing out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import soxr
from apart import run_part
from common import Parser, at_least, finish, run, say, sound_folder, working_folder

from earmark_client.audio.features import MelSpec
from earmark_client.audio.find import FoundSound, find_sounds
from earmark_client.library import BASE_MODEL, Library
from earmark_client.model.bundle import Bundle
from earmark_client.model.encoder import AudioEncoder
from earmark_client.records import Query
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE_S = 600.0
CLAP_MOST_S = 60.0
LONG_RATE_HZ = 44_100
POOL_S = 600.0
BLOCK_S = 60.0
WARM_S = 2.0
LEAST_RMS = 1e-3
"""Stretches of the folder's sound below this do not go into the long file: silence would be skipped and flatter the result."""


def sound_files(data: Path) -> list[Path]:
    """The folder's sound files, by name; those that libsndfile can't open are told and left out."""
    files = []
    for found in find_sounds([data]):
        try:
            if isinstance(found, FoundSound):
                soundfile.info(found.path)
                files.append(found.path)
        except soundfile.LibsndfileError as problem:
            say(f"{found.path}: {problem}")
    return files


def sample_files(files: list[Path], most_s: float) -> tuple[list[Path], float]:
    """Files drawn at random until they hold `most_s` seconds, and what they hold."""
    chosen, total_s = [], 0.0
    for index in np.random.default_rng(0).permutation(len(files)):
        chosen.append(files[index])
        total_s += soundfile.info(files[index]).duration
        if total_s >= most_s:
            break
    return chosen, total_s


def sound_pool(files: list[Path]) -> np.ndarray:
    """Some minutes of the folder's sound, one second after another `(seconds, LONG_RATE_HZ)`, without its silence."""
    seconds: list[np.ndarray] = []
    for index in np.random.default_rng(1).permutation(len(files)):
        frames, rate_hz = soundfile.read(files[index], dtype="float32", always_2d=True)
        mono = soxr.resample(frames.mean(axis=1), rate_hz, LONG_RATE_HZ)
        whole = mono[: len(mono) // LONG_RATE_HZ * LONG_RATE_HZ].reshape(-1, LONG_RATE_HZ)
        seconds += [second for second in whole if np.sqrt(np.mean(second**2)) > LEAST_RMS]
        if len(seconds) >= POOL_S:
            break
    if not seconds:
        raise SettingsError("the folder has no second of sound that can be read and isn't silent", hint="name another as --data")
    return np.stack(seconds)


def long_sound(pool: np.ndarray, hours: float) -> Iterator[np.ndarray]:
    """Blocks of a minute: two layers of the pool's seconds in random order at random loudness, so that no two minutes are alike."""
    random = np.random.default_rng(2)
    for _ in range(round(hours * 3600 / BLOCK_S)):
        first, second = pool[random.integers(len(pool), size=(2, round(BLOCK_S)))]
        gains = random.uniform(0.2, 0.6, size=(2, round(BLOCK_S), 1)).astype(np.float32)
        yield np.clip(first * gains[0] + second * gains[1], -1, 1).ravel()


def write_long_file(path: Path, files: list[Path], hours: float) -> None:
    """A mono 16-bit FLAC at 44.1 kHz."""
    started_s = time.monotonic()
    with soundfile.SoundFile(path, "w", LONG_RATE_HZ, 1, "PCM_16", format="FLAC") as target:
        for block in long_sound(sound_pool(files), hours):
            target.write(block)
    say(f"wrote {hours:g} h of sound in {time.monotonic() - started_s:.0f} s, {path.stat().st_size / 1e6:.0f} MB")


def add(folder: Path, paths: list[Path], *, is_warm: bool) -> dict[str, Any]:
    """Add to a fresh home and ask one question; seconds from the first file to the answer, and seconds of sound that are in.

    A warm one has added a noise and answered a question before.
    """
    with Library.create(folder / "home", unlock=KeyFile(folder / "key")) as library:
        if is_warm:
            soundfile.write(folder / "noise.wav", np.random.default_rng(3).normal(0, 0.1, round(WARM_S * 16_000)), 16_000)
            library.add([folder / "noise.wav"])
            library.search(Query(text="noise", min_score=0.0))
        before = library.status()
        started_s = time.perf_counter()
        report = library.add(paths)
        added_s = time.perf_counter() - started_s
        answer = library.search(Query(text="dog barking", min_score=0.0))
        seconds = time.perf_counter() - started_s
        status = library.status()
    for path, problem in report.problems:
        say(f"{path}: {problem}")
    sound_s, segments = status.sound_s - before.sound_s, status.segments - before.segments
    say(f"added {report.added} clips, {sound_s:.0f} s, {segments} segments, in {added_s:.1f} s; answered at {seconds:.1f} s")
    if not (report.added and answer.hits):
        sys.exit("nothing can be found in what was added")
    return {"seconds": seconds, "sound_s": sound_s, "segments": segments}


def add_apart(folder: Path, paths: list[Path], *, is_warm: bool) -> tuple[float, float]:
    """`add` in a process of its own: sound per second of wall time, and the peak memory (MB) of it and its decoders."""
    folder.mkdir()
    listing = folder / "paths.json"
    listing.write_text(json.dumps([str(path) for path in paths]))
    done, peak_mb = run_part(__file__, "--part", listing, *(["--warm"] if is_warm else []))
    return done["sound_s"] / done["seconds"], peak_mb


def librosa_torch_rate(files: list[Path], sound_s: float) -> float:
    """The peer's seconds of sound per second on the same files, once its encoder is seen to be the same."""
    from peers import LibrosaTorch

    bundle = Bundle.load(BASE_MODEL)
    spec = MelSpec(**bundle.manifest["frontend"])
    graph, hop = bundle.file("encoder.onnx"), bundle.manifest["segment"]["hop_samples"]
    check_same(LibrosaTorch(graph, spec, hop, rounds=True), AudioEncoder(bundle), files[0])
    peer = LibrosaTorch(graph, spec, hop)
    peer.describe(files[0])
    started_s = time.perf_counter()
    for path in files:
        peer.describe(path)
    rate = sound_s / (time.perf_counter() - started_s)
    say(f"librosa and torch: {rate:.1f} s/s")
    return rate


def check_same(peer: Any, encoder: AudioEncoder, path: Path) -> None:  # noqa: ANN401
    """The peer's vectors of a file, rounded where ours are, are ours, or the comparison means nothing."""
    theirs, ours = peer.describe(path), encoder.encode(peer.patches(path))
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    cosine = float((np.sum(theirs * ours, axis=1) / np.maximum(lengths, 1e-12)).min())
    say(f"the peer's encoder agrees with ours: least cosine {cosine:.6f}")
    if cosine < 0.999:
        sys.exit("the peer's encoder is not ours")


def compare(folder: Path, files: list[Path]) -> dict[str, float]:
    """Ours and the peers on the same sample of files."""
    from peers import HTSAT_BASE, HTSAT_TINY, Clap

    sample, sample_s = sample_files(files, SAMPLE_S)
    say(f"sample: {len(sample)} files, {sample_s:.0f} s")
    ours, _ = add_apart(folder / "sample", sample, is_warm=True)
    say(f"ours on the sample: {ours:.1f} s/s")
    theirs = librosa_torch_rate(sample, sample_s)
    base, tiny = Clap(HTSAT_BASE), Clap(HTSAT_TINY)
    clap_rate = base.seconds_per_second(sample, CLAP_MOST_S)
    tiny_rate = tiny.seconds_per_second(sample, CLAP_MOST_S)
    full_rate = base.seconds_per_second(sample, CLAP_MOST_S, is_joined=True)
    return {
        "vs_librosa_torch": round(ours / theirs, 2),
        "vs_clap": round(ours / clap_rate, 2),
        "vs_clap_tiny": round(ours / tiny_rate, 2),
        "vs_clap_full": round(ours / full_rate, 2),
        "sample_factor": round(ours, 1),
        "librosa_torch_factor": round(theirs, 1),
        "clap_factor": round(clap_rate, 2),
    }


def measure(data: Path, hours: float, folder: Path) -> dict[str, float]:
    """The folder and the long file; then the comparison."""
    files = sound_files(data)
    long_file = folder / "long.flac"
    write_long_file(long_file, files, hours)
    factor, peak_mb = add_apart(folder / "all", [data.absolute(), long_file], is_warm=False)
    result = {"realtime_factor": round(factor, 1), "peak_rss_mb": round(peak_mb, 1), "hours": hours}
    return result | compare(folder, files)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=sound_folder)
    parser.add_argument("--hours", type=at_least(0.02), default=10.0, help="length of the long file")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if not (options.data or options.part):
        parser.error("which recordings? --data DIR")
    return options


def main() -> None:
    """Run from the command line; `--part` is how it calls itself."""
    options = arguments()
    if options.part:
        paths = [Path(path) for path in json.loads(options.part.read_text())]
        print(json.dumps(add(options.part.parent, paths, is_warm=options.warm)))
        return
    with working_folder() as folder:
        finish(measure(options.data, options.hours, folder))


if __name__ == "__main__":
    run(main)
