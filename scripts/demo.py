"""Show the main job on real sound: commands as a person types them, their true answers, and a check of each.

    python scripts/demo.py --sounds .cache/sounds                    ten animal recordings; exit 1 if an answer is wrong
    python scripts/demo.py --sounds .cache/sounds --audio ~/Sounds   your own folder; there is no right answer to check

The library lies in .demo/ of this checkout, opened by a random key file beside it. Your own folder's library is kept, so that the
next run answers at once; `rm -r .demo` forgets it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import Parser, folder_with, run, sound_folder

DEMO = Path(__file__).resolve().parents[1] / ".demo"
EARMARK = Path(sys.executable).with_name("earmark")
QUESTIONS = {"a dog barking": "dog.mp3", "rooster crowing": "rooster.mp3", "a cow mooing": "cow.mp3"}
EXAMPLE_FROM, EXAMPLE_S = "owl.mp3", 4.0
ABSENT = "a chainsaw cutting wood"
OWN_QUESTIONS = {"a dog barking": "dog.mp3", "rooster crowing": "rooster.mp3", "a cow mooing": "cow.mp3"}


@dataclass
class Demo:
    """One run: a home, its key file, and what went wrong so far."""

    home: Path
    wrong: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """Where `earmark` finds the library and its key."""
        return {"EARMARK_HOME": str(self.home), "EARMARK_KEY_FILE": str(self.home.with_suffix(".key"))}

    def start(self) -> None:
        """Show the settings that the commands below rely on, and create the library unless it is there."""
        print("$ export", *(f"{name}={shlex.quote(value)}" for name, value in self.environment.items()))
        if not self.home.exists():
            self.run("init")

    def run(self, *arguments: str) -> str:
        """Run `earmark`, show the command and its answer as a transcript, and return its stdout."""
        done = subprocess.run(
            [EARMARK, *arguments], env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        print(f"$ earmark {shlex.join(arguments)}")
        print(done.stdout + done.stderr, flush=True)
        if done.returncode not in {0, 20}:
            sys.exit(f"earmark ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def ask(self, *arguments: str, right: str | None) -> None:
        """Ask, show the answer, and check that the first hit is the file `right` (None: that nothing is found)."""
        hits = self.run("search", *arguments, "--limit", "3").splitlines()
        first = Path(hits[0].split("\t")[-1]).name if hits else None
        if first != right:
            self.wrong += 1
            print(f"WRONG: expected {right or 'nothing found'}, got {first or 'nothing found'}\n")


def cut_example(source: Path, target: Path) -> None:
    """Write the first seconds of a recording as a WAV file of its own: an example that is no file of the library."""
    import soundfile

    rate = soundfile.info(source).samplerate
    waveform, rate = soundfile.read(source, frames=int(EXAMPLE_S * rate), dtype="int16")
    soundfile.write(target, waveform, rate)


def on_animals(sounds: Path) -> int:
    """Ask for what is there, for more of the same, and for what isn't there; return the exit code."""
    shutil.rmtree(DEMO / "animals", ignore_errors=True)
    for key in DEMO.glob("animals.key"):
        key.unlink()
    demo = Demo(DEMO / "animals")
    demo.start()
    demo.run("add", str(sounds))
    for text, right in QUESTIONS.items():
        demo.ask(text, right=right)
    cut_example(sounds / EXAMPLE_FROM, DEMO / "example.wav")
    demo.ask("--like", str(DEMO / "example.wav"), right=EXAMPLE_FROM)
    demo.ask(ABSENT, "--nearest", right=None)
    demo.run("status")
    print("5 of 5 answers are right." if not demo.wrong else f"{demo.wrong} of 5 answers are WRONG.")
    return 1 if demo.wrong else 0


def on_your_own(audio: Path) -> int:
    """Add a folder (again: only what is new costs time) and ask a few things; return the exit code."""
    demo = Demo(DEMO / "yours")
    demo.start()
    print(f"$ earmark add {shlex.quote(str(audio))}", flush=True)
    code = subprocess.run([EARMARK, "add", str(audio)], env=os.environ | demo.environment, check=False).returncode
    if code not in {0, 20}:
        return code
    demo.run("status")
    for text in OWN_QUESTIONS:
        demo.run("search", text, "--limit", "5")
    print(f"Now you: after the `export` above, {EARMARK} search 'what you look for'")
    return 0


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--sounds", type=folder_with(*QUESTIONS.values(), EXAMPLE_FROM), required=True)
    parser.add_argument("--audio", type=sound_folder)
    return parser.parse_args(given)


def main() -> int:
    """Run the demo."""
    chosen = arguments()
    DEMO.mkdir(mode=0o700, exist_ok=True)
    started_s = time.perf_counter()
    code = on_your_own(chosen.audio.absolute()) if chosen.audio else on_animals(chosen.sounds.absolute())
    print(f"({time.perf_counter() - started_s:.1f} s)")
    return code


if __name__ == "__main__":
    run(main)
