"""Write docs/reference/cli.md from the commands' own help; `--check` fails when the page is behind.

python scripts/gen_cli_reference.py [--check]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from earmark_client.cli.main import cli
from earmark_server.cli import cli as server_cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# Commands

Written from `--help` by `make docs`; don't edit. Data goes to stdout, everything else to stderr.

| exit code | means |
| --- | --- |
| 0 | done; for `search`, also when nothing is found |
| 1 | something unforeseen, or you answered no |
| 2 | the command line can't be understood |
| 10 | a setting can't be followed |
| 20 | a sound file can't be used; with `add`, the others are in |
| 30-39 | the library: 31 missing, 32 there already, 33 in use, 34 wrong key, 35 tampered with, 36 rolled back, 37 disk full, 38 newer, 39 no such clip or label |
| 40-49 | something signed or hashed is not what it claims: 41 the model's files, 42 a signature, 43 a certificate, 44 not let in (or the wrong server), 45 the enrolment log, 46 a release, 47 a candidate |
| 50-59 | the privacy budget does not allow it |
| 60-69 | a message breaks the protocol; 62 less protection than this device accepts |
| 70-79 | the server can't be reached; 71 it takes no more requests for now |
| 130, 143, 129 | stopped by Ctrl-C, by the system's end (SIGTERM), by a closed window (SIGHUP); what was finished is kept |
"""


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below and including this one, with its full name."""
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            yield from commands(inner, f"{path} {name}")


def help_text(path: str, command: click.Command) -> str:
    """Return what `--help` prints on a wide terminal."""
    context = click.Context(
        command, info_name=path, terminal_width=100, max_content_width=100, help_option_names=["-h", "--help"]
    )
    return command.get_help(context)


def page() -> str:
    """Return the whole page."""
    every = [*commands(cli, "earmark"), *commands(server_cli, "earmark-server")]
    return HEAD + "".join(f"\n## {path}\n\n```text\n{help_text(path, command)}\n```\n" for path, command in every)


def main() -> int:
    """Write the page, or compare it with what is there."""
    if "--check" not in sys.argv:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE} is behind the commands' help: run `make docs`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
