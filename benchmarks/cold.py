"""How long does the installed command take from nothing to its answer?

    python benchmarks/cold.py

Whole processes of `earmark`: its help, a search by words in a library of 10,000 segments that a key file opens, and the same
search in one that a passphrase opens (Argon2id). The last line is one JSON object: `help_s`, `search_s`, `search_passphrase_s`,
each the median of 5 after one run that warms the disk's cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import Parser, finish, run, say, working_folder
from synthetic import build_home

from earmark_client.store.home import change_secret
from earmark_client.store.keys import KeyFile, Passphrase

SEGMENTS = 10_000
RUNS = 5
PASSPHRASE = "correct horse battery staple"  # noqa: S105
QUESTION = "dog barking"


def seconds(arguments: list[str | Path], environment: dict[str, str]) -> float:
    """Median of some runs of `earmark`, each from start to end."""
    command = [str(Path(sys.executable).parent / "earmark"), *map(str, arguments)]
    taken = []
    for _ in range(1 + RUNS):
        started_s = time.perf_counter()
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        taken.append(time.perf_counter() - started_s)
        if not done.stdout.strip():
            sys.exit(f"{' '.join(command)} said nothing")
    say(" ".join(arguments[-2:] if len(arguments) > 1 else map(str, arguments)), " ".join(f"{each:.2f}" for each in taken))
    return statistics.median(taken[1:])


def measure(keep: Path | None) -> dict[str, float]:
    """Build the two homes and time the three commands."""
    with working_folder(keep) as folder:
        home, key, locked, phrase = (folder / name for name in ("home", "key", "locked", "phrase"))
        build_home(home, key, SEGMENTS)
        shutil.rmtree(locked, ignore_errors=True)
        shutil.copytree(home, locked)
        change_secret(locked, KeyFile(key), Passphrase(PASSPHRASE))
        phrase.write_text(PASSPHRASE + "\n")
        phrase.chmod(0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EARMARK_")} | {
            "HOME": str(folder)
        }
        question = ["search", QUESTION]
        return {
            "help_s": round(seconds(["--help"], environment), 3),
            "search_s": round(seconds(["--home", home, "--key-file", key, *question], environment), 3),
            "search_passphrase_s": round(seconds(["--home", locked, "--passphrase-file", phrase, *question], environment), 3),
        }


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--keep", type=Path, help="folder for the homes, used again next time")
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    finish(measure(arguments().keep))


if __name__ == "__main__":
    run(main)
