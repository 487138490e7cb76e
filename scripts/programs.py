"""Our own programs as a demonstration runs them: called to their end, or started, listened to and stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = {"earmark": "earmark_client.cli.main", "earmark-server": "earmark_server.cli"}
"""What the two commands are; called by module, so that a checkout needs no installed scripts."""
CALL_S = 1500.0
"""Longest wait for a program that ends by itself."""


@dataclass
class Program:
    """A program of ours that runs until the demo ends."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    def wait_for(self, word: str, seconds: float) -> str:
        """Return the first line of its output with `word` in it; end the demo if it does not come."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            for line in self.log.read_text().splitlines():
                if word in line:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        sys.exit(f"{self.name} did not say {word!r}:\n{self.log.read_text()}")

    def ask_to_stop(self) -> None:
        """Ask it to end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask it to end, and wait."""
        self.ask_to_stop()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Demo:
    """One run: where its files are, and what it started."""

    folder: Path
    sounds: Path
    clips: int
    """Recordings of each device."""
    started_s: float = field(default_factory=time.monotonic)
    running: list[Program] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Tell the person who waits, with the time it took so far."""
        print(f"[{time.monotonic() - self.started_s:5.1f} s] {text}", flush=True)

    def call(self, name: str, *arguments: str, home: Path | None = None) -> str:
        """Run one of our programs to its end and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", PROGRAMS[name], *arguments],
            env=self.environment(home),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=CALL_S,
            check=False,
        )
        if done.returncode not in {0, 20}:
            sys.exit(f"{name} {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, name: str, *arguments: str, log: str, home: Path | None = None) -> Program:
        """Start one of our programs; it is stopped at the end of the demo."""
        path = self.folder / log
        with path.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", PROGRAMS[name], *arguments],
                env=self.environment(home),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        program = Program(f"{name} {arguments[0]}", process, path)
        self.running.append(program)
        return program

    def stop_all(self) -> None:
        """Stop whatever is still running, devices before the server."""
        for program in reversed(self.running):
            program.ask_to_stop()
        while self.running:
            self.running.pop().stop()

    def environment(self, home: Path | None) -> dict[str, str]:
        """Say which library a command is about; temporary files are ours too, and go with the folder."""
        ours = {} if home is None else {"EARMARK_HOME": str(home), "EARMARK_KEY_FILE": str(home.with_suffix(".key"))}
        return dict(os.environ) | ours | {"TMPDIR": str(self.folder / "tmp")}
