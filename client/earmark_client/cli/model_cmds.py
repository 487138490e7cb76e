"""Commands about the model that a library is searched by: model list, import, use, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from earmark_client.cli import views
from earmark_client.cli.library_cmds import json_option
from earmark_client.cli.output import count, examples
from earmark_client.cli.session import Session
from earmark_client.naming import absolute
from earmark_shared.errors import SettingsError

if TYPE_CHECKING:
    from types import ModuleType

    from earmark_client.models import UseReport

COLUMNS = ("in force", "name", "kind", "segments", "clips", "words are compared with")
GONE = (
    "The files of {gone} of {all} are not where they were: {name} can't hear them, and no search will find them while it is in force."
    " They come back with the model that knows them. Go on?"
)
REMOVING = "Forget the model {name}, its vectors, and what you said of moments while it was in force?"
EXTRA = "in a clone of Earmark: pip install -c constraints.txt '.[device,train]'"


@click.group("model", epilog=examples("earmark model list", "earmark model import ~/clap --name clap", "earmark model use clap"))
def model() -> None:
    """Search by a model of your own: import it, put it in force, go back."""


@model.command("list", epilog=examples("earmark model list"))
@json_option
@click.pass_obj
def list_models(session: Session, *, as_json: bool) -> None:
    """List the shipped model and the imported ones; a star marks the one in force."""
    from earmark_client import models
    from earmark_client.library import BASE_MODEL

    with session.home() as home:
        found = models.known(home, BASE_MODEL)
    if as_json:
        session.output.records(views.plain_record(known) for known in found)
        return
    rows = [
        ("*" if known.is_in_force else "", known.name, known.kind, f"{known.segment_s:.4g} s", str(known.clips), known.words)
        for known in found
    ]
    session.output.rows(COLUMNS, rows)


@model.command("import", epilog=examples("earmark model import ~/Downloads/clap-htsat-unfused --name clap"))
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--name", help="What to call it here; without this, as DIR is called.")
@click.pass_obj
def import_model(session: Session, checkpoint: Path, *, name: str | None) -> None:
    """Make a model of a local transformers checkpoint: CLAP, AST or Whisper.

    DIR holds config.json, preprocessor_config.json and safetensors, as transformers saves them. Nothing is downloaded and nothing in
    DIR is run. What is exported is compared with the checkpoint on made-up sounds, and registered only if it does the same. Then:
    earmark model use NAME.
    """
    from earmark_client import models
    from earmark_client.library import BASE_MODEL
    from earmark_client.model.bundle import Bundle

    checkpoint = absolute(checkpoint)
    with session.home(write=True) as home:
        chosen = models.check_name(home, name or checkpoint.name.lower())
        importer = _importer()
        done = importer.import_checkpoint(checkpoint, models.imported_folder(home), chosen, Bundle.load(BASE_MODEL))
    seen = ", ".join(f"{part} {least:.6f}" for part, least in done.parity.items())
    session.output.note(f"imported {done.name} ({done.kind}); least cosine to the checkpoint: {seen}")
    session.output.note(f"words are compared with {models.WORDS[done.head]}; put it in force: earmark model use {done.name}")


@model.command("use", epilog=examples("earmark model use clap", "earmark model use base"))
@click.argument("name")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask, also where files are gone.")
@click.pass_obj
def use(session: Session, name: str, *, is_agreed: bool) -> None:
    """Put a model in force; `base` is the shipped one.

    A model hears in its own way, so it reads every sound file once: that takes as long as adding them did, and more for a large
    model. Searches go on by the model before; at the end vectors, index and labels change places at once. Interrupted, it goes on
    when it is run again. What a model has heard is kept, so going back is quick.
    """
    from earmark_client import models
    from earmark_client.library import BASE_MODEL

    with session.home(write=True) as home:
        chosen = models.find(home, name, BASE_MODEL, device=session.settings.device)
        if gone := models.gone(home, chosen):
            total = count(len(home.database.clips()), "clip")
            session.confirm(GONE.format(gone=len(gone), all=total, name=name), is_agreed=is_agreed)
        with session.output.progress() as draw:
            report = models.use(home, chosen, draw)
    _tell(session, name, report)


@model.command("remove", epilog=examples("earmark model remove clap"))
@click.argument("name")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@click.pass_obj
def remove(session: Session, name: str, *, is_agreed: bool) -> None:
    """Forget an imported model that is not in force: its folder and its vectors."""
    from earmark_client import models

    session.confirm(REMOVING.format(name=name), is_agreed=is_agreed)
    with session.home(write=True) as home:
        models.remove(home, name)
    session.output.note(f"removed the model {name}")


def _tell(session: Session, name: str, report: UseReport) -> None:
    for path, problem in report.problems:
        message = str(problem)
        session.output.problem(message if path in message else f"{path}: {message}", problem.hint)
    session.output.note(f"in force: {report.version}; it heard {count(report.heard, 'clip')}")
    if report.left:
        left = f"{count(len(report.left), 'clip')} could not be heard, and can't be found while {name} is in force:"
        session.output.note(f"{left} the files are gone or changed. `earmark add` hears those that come back.")


def _importer() -> ModuleType:
    """Return the module that imports; it needs libraries that a library on its own does without."""
    try:
        from earmark_client.importing import importer
    except ModuleNotFoundError as error:
        raise SettingsError(f"importing a model needs {error.name}, which is not installed", hint=EXTRA) from error
    return importer


COMMANDS = (model,)
