"""What every command starts from: settings, output, and the library opened with the key its owner chose."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from earmark_client.cli.output import Output
from earmark_shared.errors import RollbackError, SettingsError, TamperedError
from earmark_shared.settings import ClientSettings

if TYPE_CHECKING:
    from earmark_client.library import Library
    from earmark_client.store.home import Home, Older
    from earmark_client.store.keys import KeyFile, Secret

PASSPHRASE_HINT = "use --passphrase-file FILE or --passphrase-fd N, or run it on a terminal"  # noqa: S105  a sentence, no secret
OLDER_HINT = "if you put a backup back on purpose: --older read looks at it, --older accept goes on from it"
LONGEST_PASSPHRASE_BYTES = 4096


@dataclass(frozen=True)
class Session:
    """One run of the command line."""

    settings: ClientSettings
    output: Output
    older: Older = "refuse"
    """What to do with a library that is older than the one this device last saw."""

    @contextmanager
    def library(self, text: str = "") -> Iterator[Library]:
        """Open the library of this run, whose first question will be `text`, and close it at the end."""
        from earmark_client.library import Library

        where, device = self.settings.home, self.settings.device
        with _older_explained():
            library = Library.open(where, unlock=self.unlock(), device=device, older=self.older, text=text)
        with library:
            yield library

    @contextmanager
    def home(self, unlock: Secret | None = None, *, write: bool = False) -> Iterator[Home]:
        """Open the home of this run without a model, by `unlock` if that is known already, and close it at the end."""
        from earmark_client.store.home import open_home

        with _older_explained():
            home = open_home(self.settings.home, unlock or self.unlock(), write=write, older=self.older)
        with home:
            yield home

    def unlock(self) -> Secret:
        """Return what opens the existing library: the kind of secret its header names, from the place the settings name.

        Raises:
            HomeMissingError: there is no library.
            SettingsError: the library needs a key file or a passphrase and nobody said where it is.
        """
        from earmark_client.store import keyrings, keys

        mode = keys.read_mode(self.settings.home)
        if mode == keys.KeyFile.mode:
            if self.settings.key_file is None:
                raise SettingsError("this library is opened by a key file", hint="say which: --key-file FILE or EARMARK_KEY_FILE")
            return keys.KeyFile(self.settings.key_file)
        if mode == keys.Passphrase.mode:
            return keys.Passphrase(self.given_passphrase() or ask_passphrase("Passphrase"))
        return keyrings.Keyring()

    def destroy(self) -> None:
        """Erase a library that can't be opened; nothing is asked for, since without `key.json` no secret opens it any more."""
        from earmark_client.store import home, keyrings, keys

        unlock: Secret | None = None if self.settings.key_file is None else keys.KeyFile(self.settings.key_file)
        with suppress(
            TamperedError
        ):  # a damaged header says neither what opens it nor which of the keyring's entries are its own
            if keys.read_mode(self.settings.home) == keyrings.Keyring.mode:
                unlock = keyrings.Keyring()
        home.erase_home(self.settings.home, unlock)

    def own_key_file(self) -> Path | None:
        """Return the key file that goes when the library is destroyed: the one named, if it does open the library."""
        if self.settings.key_file is None:
            return None
        from earmark_client.store import keys

        return keys.own_key_file(self.settings.home, keys.KeyFile(self.settings.key_file))

    def lacks_key_file(self) -> bool:
        """Say whether a key file opens the library and nobody said which, as somebody can't who has lost it."""
        from earmark_client.store import keys

        return self.settings.key_file is None and keys.read_mode(self.settings.home) == keys.KeyFile.mode

    def given_passphrase(self) -> str | None:
        """Return the passphrase from the file or descriptor in the settings, or None when neither is named."""
        return read_passphrase(self.settings.passphrase_file, self.settings.passphrase_fd)

    def lab_banner(self, home: Home) -> None:
        """Say that this is a lab home, if it is one."""
        if home.database.federation_value("lab") is not None:
            from earmark_client.federation import LAB_BANNER

            self.output.note(LAB_BANNER)

    def log(self, event: str, **numbers: float) -> None:
        """Log an event of `earmark_shared.log` when the log is on (it costs an import)."""
        if self.settings.verbose:
            from earmark_shared.log import Event, log_event

            log_event(Event(event), **numbers)

    def confirm(self, question: str, *, is_agreed: bool) -> None:
        """Ask before something is destroyed or revealed; `is_agreed` is what ``--yes`` says.

        Raises:
            click.UsageError: nobody is there to answer.
            click.Abort: the answer is no.
        """
        if is_agreed:
            return
        if not sys.stdin.isatty():
            raise click.UsageError(f"{question} Say so with --yes.")
        click.confirm(question, abort=True, err=True)


@contextmanager
def _older_explained() -> Iterator[None]:
    """Say by which options a library is opened that is older than the one this device last saw."""
    try:
        yield
    except RollbackError as error:
        raise RollbackError(str(error), hint=OLDER_HINT) from error


def only_one(**sources: object) -> None:
    """Refuse more than one place for what shall open a library: whichever won, somebody might lose the library with the other.

    Raises:
        click.UsageError: several are named; an option is named by its name with `_` for `-`.
    """
    named = ["--" + name.replace("_", "-") for name, value in sources.items() if value is not None and value is not False]
    if len(named) > 1:
        reason = f"only one of them can open the library: {', '.join(named)}"
        raise click.UsageError(f"{reason} (the environment and the settings file count)", click.get_current_context())


def new_key_file(path: Path) -> KeyFile:
    """Return `path` as the place of a new key.

    Raises:
        SettingsError: a file is there. It may be another library's key, and erasing either library would then destroy both.
    """
    from earmark_client.store import keys

    if os.path.lexists(path):
        hint = "name a file that does not exist yet; or remove this one, if it opens no library"
        raise SettingsError(f"{path}: there is a file already, which may be another library's key", hint=hint)
    return keys.KeyFile(path)


def read_passphrase(path: Path | None, descriptor: int | None) -> str | None:
    """Return the first line of a file or an open descriptor, without its line end; None when neither is given.

    Raises:
        SettingsError: it can't be read, is empty, or is longer than `LONGEST_PASSPHRASE_BYTES`.
    """
    if path is None and descriptor is None:
        return None
    place = str(path) if path is not None else f"descriptor {descriptor}"
    try:
        with open(path if path is not None else os.dup(descriptor or 0), "rb") as source:  # noqa: PTH123  a path or a descriptor
            line = source.readline(LONGEST_PASSPHRASE_BYTES + 1).rstrip(b"\r\n").decode("utf-8")
    except OSError as error:
        raise SettingsError(f"{place}: the passphrase can't be read: {error.strerror}", hint=PASSPHRASE_HINT) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{place}: the first line is not text", hint="write the passphrase in UTF-8") from error
    if not line or len(line) > LONGEST_PASSPHRASE_BYTES:
        raise SettingsError(f"{place}: the first line is not a passphrase", hint="write the passphrase on the first line")
    return line


def ask_passphrase(prompt: str, *, is_new: bool = False) -> str:
    """Ask for a passphrase on the terminal, twice when it is new, without showing it.

    Raises:
        SettingsError: there is no terminal.
    """
    if not sys.stdin.isatty():
        raise SettingsError("a passphrase is needed and there is no terminal to ask on", hint=PASSPHRASE_HINT)
    answer: str = click.prompt(prompt, hide_input=True, confirmation_prompt=is_new, err=True)
    return answer
