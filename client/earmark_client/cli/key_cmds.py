"""Commands about the key and what leaves the library: export, passwd, erase."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict, Unpack

import click

from earmark_client.cli.federation_cmds import leave_before_erase
from earmark_client.cli.output import examples
from earmark_client.cli.session import Session, ask_passphrase, new_key_file, only_one, read_passphrase
from earmark_shared.errors import NewerSchemaError, RollbackError, SettingsError, TamperedError, WrongKeyError


class ExportOptions(TypedDict):
    """What `earmark export` can be told besides the file and its format."""

    recipient: str | None
    seal_passphrase_file: Path | None
    is_replacing: bool
    is_agreed: bool


class PassphraseSource(TypedDict):
    """Where `earmark passwd` finds what shall open the library."""

    new_passphrase_file: Path | None
    new_passphrase_fd: int | None
    is_keyring: bool


@click.command(
    "export", epilog=examples("earmark export backup.age --recipient age1...", "earmark export library.json --format json")
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, readable=False))
@click.option(
    "--format", "kind", type=click.Choice(["age", "json"]), default="age", show_default=True, help="Sealed, or readable."
)
@click.option("--recipient", help="age public key (age1...) that can open the file.")
@click.option("--seal-passphrase-file", type=click.Path(path_type=Path), help="File with the passphrase that seals the export.")
@click.option("--replace", "is_replacing", is_flag=True, help="Replace FILE if there is one already.")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@click.pass_obj
def export(session: Session, /, file: Path, kind: str, **options: Unpack[ExportOptions]) -> None:
    """Write what the library knows to a file.

    The file is sealed by age for a recipient or a passphrase, or it is readable JSON. JSON reveals file names,
    labels and moments to whoever reads the file, so it asks first. Sound is never exported. A file that is there
    already stays as it is, unless you say --replace.
    """
    _check_export(session, file, kind, options)
    passphrase = None
    if kind == "json":
        question = f"{file} will hold file names and labels that anybody can read. Go on?"
        session.confirm(question, is_agreed=options["is_agreed"])
    elif options["recipient"] is None:
        given = read_passphrase(options["seal_passphrase_file"], None)
        passphrase = (given or ask_passphrase("Passphrase of the export", is_new=True)).encode()
    with session.library() as library:
        library.export(file, format=kind, recipient=options["recipient"], passphrase=passphrase, replace=options["is_replacing"])
    session.output.note(f"wrote {file}")


@click.command("passwd", epilog=examples("earmark passwd", "earmark passwd --new-key-file ~/new.key"))
@click.option(
    "--new-key-file", "new_key", type=click.Path(path_type=Path), help="Open the library by a new random key in this file."
)
@click.option("--new-passphrase-file", type=click.Path(path_type=Path), help="File whose first line is the new passphrase.")
@click.option("--new-passphrase-fd", type=int, help="Open descriptor whose first line is the new passphrase.")
@click.option("--keyring", "is_keyring", is_flag=True, help="Let the desktop's keyring keep the key.")
@click.pass_obj
def passwd(session: Session, /, new_key: Path | None, **given: Unpack[PassphraseSource]) -> None:
    """Change what opens the library.

    Without an option, ask for a new passphrase. Nothing is encrypted anew: a copy of the library made earlier
    is still opened by what opened it then.
    """
    from earmark_client.store import keyrings, keys

    only_one(
        new_key_file=new_key,
        new_passphrase_file=given["new_passphrase_file"],
        new_passphrase_fd=given["new_passphrase_fd"],
        keyring=given["is_keyring"],
    )
    new: keys.Secret
    if new_key is not None:
        new = new_key_file(new_key)
    elif given["is_keyring"]:
        new = keyrings.Keyring()
    else:
        said = read_passphrase(given["new_passphrase_file"], given["new_passphrase_fd"])
        new = keys.Passphrase(said or ask_passphrase("New passphrase", is_new=True))
    with session.library() as library:
        library.change_unlock(new)
    session.output.note("changed what opens the library")


@click.command("erase", epilog=examples("earmark erase"))
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@click.pass_obj
def erase(session: Session, *, is_agreed: bool) -> None:
    """Destroy the library's key and its files, and leave its federation. Nothing brings it back; sound files are not touched.

    A library that can't be opened any more, because its passphrase or key file is lost or its files are damaged, is destroyed all
    the same. A key file goes only with a library that it opens.
    """
    named, own = session.settings.key_file, session.own_key_file()
    also = f" and its key file {own}" if own else ""
    session.confirm(f"Destroy the library in {session.settings.home}{also} for good?", is_agreed=is_agreed)
    try:
        with session.library() as library:
            leave_before_erase(session, library.home)
            library.erase()
    except (SettingsError, WrongKeyError, TamperedError, RollbackError, NewerSchemaError) as error:
        if isinstance(error, SettingsError) and not session.lacks_key_file():
            raise
        session.output.note(f"{error} It is destroyed unopened.")
        session.destroy()
    if named and os.path.lexists(named):
        session.output.note(f"{named} stays: nothing shows that it is this library's key")
    session.output.note("erased; the key is gone")


def _check_export(session: Session, file: Path, kind: str, options: ExportOptions) -> None:
    """What can be known to be refused before anybody is asked anything."""
    from earmark_client import exporting
    from earmark_client.store import keys

    context = click.get_current_context()
    if str(file) == "-":
        raise click.UsageError("an export is written to a file, not to stdout: name one", context)
    seals = [name for name in ("recipient", "seal_passphrase_file") if options[name] is not None]
    if seals and kind == "json":
        raise click.UsageError(f"--{seals[0].replace('_', '-')} seals, and --format json can be read by anybody", context)
    if len(seals) > 1:
        raise click.UsageError("an export is sealed by --recipient or by --seal-passphrase-file, not by both", context)
    own = session.settings.key_file
    exporting.check_place(file, session.settings.home, keys.KeyFile(own) if own else None, replace=options["is_replacing"])


COMMANDS = (export, passwd, erase)
