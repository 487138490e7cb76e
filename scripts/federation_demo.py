"""A whole federation on this machine, nothing simulated: a server, its SuperLink, and devices that only meet over TLS.

    python scripts/federation_demo.py --sounds .cache/sounds [--devices 6] [--rounds 3] [--keep DIR]

Each device is a lab home of its own with its own recordings (cut and altered from ten animals), joined by invitation, with a SuperNode of
its own. Each person corrects what the model got wrong. Rounds run with secure aggregation and differential privacy on; the result is
released, and every device installs it. A search that was wrong before is right after. Everything that was started is stopped again, and
the folder is removed.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from programs import CALL_S, Demo, Program

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEARNED = QUESTION = "owl"
"""What the shipped model gets wrong: asked for an owl it finds nothing, though one is there."""
SHARED_NAMES = {"cow": "moo", "rooster": "chicken"}
"""What people call what they hear, where it is not the file's name; all are labels that the devices share."""
READY_S = 90.0
"""Longest wait for a server; on two idle cores everything together takes less than six minutes."""


@cache
def read_sounds(sounds: Path) -> dict[str, tuple[NDArray[np.float32], int]]:
    """Return animal -> mono waveform and its rate; the decoder's own remarks about old tags are of no interest."""
    import soundfile

    found, stderr = {}, os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            for path in sorted(sounds.glob("*.mp3")):
                waveform, rate = soundfile.read(path, dtype="float32", always_2d=True)
                found[path.stem] = (waveform.mean(axis=1), rate)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    return found


def make_recordings(sounds: Path, folder: Path, device: int, clips: int) -> dict[str, str]:
    """Write one device's own recordings; return file name -> what is heard in it."""
    import soundfile

    rng = np.random.default_rng(1000 + device)
    folder.mkdir()
    others = sorted(animal for animal in read_sounds(sounds) if animal != LEARNED)
    heard = {}
    for number in range(clips):
        animal = LEARNED if number % 2 else others[(number // 2 + device) % len(others)]
        mono, rate = read_sounds(sounds)[animal]
        starts = rng.integers(0, max(1, len(mono) - rate), size=4)
        start = max(starts.tolist(), key=lambda at: float(np.square(mono[at : at + rate]).sum()))
        places = np.arange(start, min(start + int(1.1 * rate), len(mono) - 1), rng.uniform(0.93, 1.07))
        cut = np.interp(places, np.arange(len(mono)), mono) * rng.uniform(0.5, 1.0)
        name = f"recording-{number:02d}.wav"
        soundfile.write(folder / name, (cut + rng.normal(0, 0.002, len(cut))).clip(-1, 1), rate, subtype="PCM_16")
        heard[name] = animal
    return heard


def correct_all(home: Path, recordings: Path, heard: dict[str, str]) -> None:
    """Correct every recording, as a person would with `earmark label`, in one go."""
    from earmark_client.library import Library
    from earmark_client.store.keys import KeyFile

    with Library.open(home, unlock=KeyFile(home.with_suffix(".key"))) as library:
        there = {path for clip in library.clips() for path in clip.paths}
        for name, animal in heard.items():
            target = str(recordings / name)
            if target not in there:  # too quiet for a segment
                continue
            library.label(target, SHARED_NAMES.get(animal, animal))
            if animal != LEARNED:
                library.label(target, QUESTION, is_present=False)


def free_ports() -> int:
    """Return a port that is free, with the next two."""
    for _ in range(100):
        base = 20_000 + secrets.randbelow(20_000)
        try:
            with ExitStack() as probes:
                for port in range(base, base + 3):
                    probe = probes.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    sys.exit("there are no three free ports in a row")


def set_up_server(demo: Demo) -> tuple[Path, Program]:
    """Make a lab server with its release repository, and start it."""
    server, port = demo.folder / "server", free_ports()
    demo.call("earmark-server", "init", str(server), "--lab", "--port", str(port))
    (server / "rounds.toml").write_text(
        "z = 0.0\nclip_c = 10.0\nlog2_scale_c = 14\ndeadline_s = [300, 120, 120, 120, 120]\n", encoding="utf-8"
    )
    running = demo.start("earmark-server", "serve", str(server), log="server.log")
    demo.say(running.wait_for("LAB", READY_S))
    demo.say(running.wait_for("serving", READY_S))
    return server, running


def set_up_device(demo: Demo, server: Path, number: int) -> Path:
    """Make a library, fill and correct it, and join."""
    home = demo.folder / f"device{number}"
    demo.call("earmark", "init", home=home)
    recordings = demo.folder / f"recordings{number}"
    heard = make_recordings(demo.sounds, recordings, number, demo.clips)
    demo.call("earmark", "add", str(recordings), home=home)
    correct_all(home, recordings, heard)
    join(demo, server, home)
    return home


def join(demo: Demo, server: Path, home: Path) -> None:
    """Join with an invitation."""
    invitation = demo.call("earmark-server", "invite", str(server)).splitlines()[0].split()
    demo.call(*invitation, "--yes", home=home)


def first_hit(demo: Demo, listener: Path) -> str:
    """Search a library that nobody corrected for what the model gets wrong; return the file that comes first."""
    hits = demo.call("earmark", "search", QUESTION, "--limit", "1", home=listener).splitlines()
    if not hits:
        return "nothing"
    number = int(Path(hits[0].split("\t")[-1]).stem.removeprefix("sound-"))
    return sorted(demo.sounds.glob("*.mp3"))[number].stem


def set_up_listener(demo: Demo, server: Path) -> Path:
    """Join with a library of the ten recordings as they are, with no corrections: the search is asked there."""
    home = demo.folder / "listener"
    demo.call("earmark", "init", home=home)
    recordings = demo.folder / "listener-recordings"
    recordings.mkdir()
    for number, path in enumerate(sorted(demo.sounds.glob("*.mp3"))):  # under names that give no answer away
        shutil.copyfile(path, recordings / f"sound-{number}.mp3")
    demo.call("earmark", "add", str(recordings), home=home)
    join(demo, server, home)
    return home


@contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """Return a fresh folder that is removed at the end, or `keep`."""
    if keep is not None:
        keep.mkdir(parents=True, mode=0o700)
        (keep / "tmp").mkdir()
        yield keep.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="earmark-federation-"))
    try:
        (folder / "tmp").mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(demo: Demo, devices: int, rounds: int) -> int:
    """Run the demo; return its exit code."""
    server, _ = set_up_server(demo)
    homes = [set_up_device(demo, server, number) for number in range(devices)]
    demo.say(f"{devices} devices have joined, each with {demo.clips} clips of its own that its person corrected")
    listener = set_up_listener(demo, server)
    before = first_hit(demo, listener)
    demo.say(f"BEFORE: a device that corrected nothing is asked for '{QUESTION}' and answers: {before}")
    nodes = [demo.start("earmark", "participate", log=f"device{n}.log", home=home) for n, home in enumerate(homes)]
    demo.say(f"{len(nodes)} SuperNodes are starting, with TLS and node authentication; then {rounds} rounds")
    run_rounds(demo, server, rounds)
    for node in nodes:
        node.stop()
    versions = update_all(demo, {f"device {n}": home for n, home in enumerate(homes)} | {"the one that is asked": listener})
    tell_spent(demo, homes)
    after = first_hit(demo, listener)
    demo.say(f"AFTER: asked for '{QUESTION}' again, it answers: {after}")
    is_right = before != LEARNED and after == LEARNED and versions == {f"release {rounds}"}
    demo.say("right: nobody sent a sound, and the search finds the owl" if is_right else "WRONG")
    return 0 if is_right else 1


def run_rounds(demo: Demo, server: Path, rounds: int) -> None:
    """Run rounds, and tell what became of each when it has."""
    running = demo.start("earmark-server", "round", str(server), "--rounds", str(rounds), log="rounds.log")
    for number in range(1, rounds + 1):
        demo.say(running.wait_for(f"round {number}:", CALL_S))
    running.process.wait(READY_S)


def update_all(demo: Demo, homes: dict[str, Path]) -> set[str]:
    """Install the newest release everywhere, and tell which one each device has; return all that are in force."""
    versions = {}
    for name, home in homes.items():
        demo.call("earmark", "update", "--yes", home=home)
        versions[name] = in_force(home)
        demo.say(f"{name} searches with {versions[name]}")
    return set(versions.values())


def tell_spent(demo: Demo, homes: list[Path]) -> None:
    """Tell what the rounds cost each device, as `earmark privacy` does."""
    for number, home in enumerate(homes):
        demo.say(f"device {number}: {demo.call('earmark', 'privacy', home=home).splitlines()[0]}")


def in_force(home: Path) -> str:
    """Return which release a library searches with."""
    from earmark_client.store.home import open_home
    from earmark_client.store.keys import KeyFile
    from earmark_client.updating import read_state

    opened = open_home(home, KeyFile(home.with_suffix(".key")))
    try:
        active = read_state(opened.database).active
    finally:
        opened.close()
    return "the shipped model" if active is None else f"release {active.number}"


def main() -> int:
    """Run the demo, and stop what it started."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sounds", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=260)
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    for signum in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda number, _: sys.exit(128 + number))
    with workplace(chosen.keep) as folder:
        demo = Demo(folder, chosen.sounds.absolute(), chosen.clips)
        try:
            return run(demo, chosen.devices, chosen.rounds)
        except KeyboardInterrupt:
            return 130
        finally:
            for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(signum, signal.SIG_IGN)  # nothing stops the tidying up
            demo.say("stopping what was started")
            demo.stop_all()


if __name__ == "__main__":
    sys.exit(main())
