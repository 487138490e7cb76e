"""Commands by which a person corrects and teaches: label, labels, teach."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from earmark_client.cli import views
from earmark_client.cli.library_cmds import json_option
from earmark_client.cli.output import count, examples
from earmark_client.cli.params import MOST_HITS, Number
from earmark_client.cli.session import Session
from earmark_client.naming import absolute

if TYPE_CHECKING:
    from earmark_client.library import Library
    from earmark_client.records import Hit

ANSWERS = click.Choice(["y", "n", "s", "q"])


class LabelOptions(TypedDict):
    """What `earmark label` can be told besides the clip and the name."""

    absent: str | None
    withdrawn: str | None
    at_s: float | None
    is_review: bool
    limit: int


@click.command(
    "label",
    epilog=examples(
        'earmark label 7 "dog"',
        'earmark label 7 --not "cat" --at 12.5',
        'earmark label 7 --forget "dog"',
        "earmark label --review",
    ),
)
@click.argument("clip", required=False)
@click.argument("name", required=False)
@click.option("--not", "absent", metavar="NAME", help="Say that this is not to be heard there.")
@click.option("--forget", "withdrawn", metavar="NAME", help="Take back what you said by this name, yes or no.")
@click.option("--at", "at_s", type=Number(min=0), help="Only the moment at this second, not the whole clip.")
@click.option("--review", "is_review", is_flag=True, help="Go through the least certain labels: yes, no, skip or quit.")
@click.option("--limit", type=click.IntRange(1, MOST_HITS), default=20, show_default=True, help="How many --review goes through.")
@click.pass_obj
def label(session: Session, /, clip: str | None, name: str | None, **options: Unpack[LabelOptions]) -> None:
    """Say what is, or is not, to be heard in a clip.

    What you say beats what the model says, at once.
    """
    absent, withdrawn = options["absent"], options["withdrawn"]
    if options["is_review"]:
        _review(session, options["limit"])
        return
    given = [each for each in (name, absent, withdrawn) if each is not None]
    if clip is None or len(given) != 1:
        raise click.UsageError("say which clip, and either NAME, --not NAME or --forget NAME", click.get_current_context())
    (spoken,) = given
    with session.library() as library:
        if withdrawn is not None:
            times = library.unlabel(clip, withdrawn, at_s=options["at_s"])
            session.output.note(f"{clip}: forgot {count(times, 'word')} about {withdrawn}")
            return
        library.label(clip, spoken, is_present=absent is None, at_s=options["at_s"])
    session.output.note(f"{clip}: {'' if absent is None else 'not '}{spoken}")


@click.group(
    "labels",
    invoke_without_command=True,
    epilog=examples("earmark labels", 'earmark labels add "kettle" --phrase "a kettle whistling on a stove"'),
)
@json_option
@click.pass_context
def labels(context: click.Context, *, as_json: bool) -> None:
    """List the labels that clips can get, or change the list."""
    if context.invoked_subcommand is not None:
        return
    session: Session = context.obj
    with session.library() as library:
        found = [views.plain_record(known) for known in library.labels()]
    if as_json:
        session.output.records(found)
    elif found:
        session.output.rows(tuple(found[0]), [[str(value) for value in known.values()] for known in found])


@labels.command("add", epilog=examples('earmark labels add "kettle" --phrase "a kettle whistling on a stove"'))
@click.argument("name")
@click.option("--phrase", help="The sound in more words than its name.")
@click.pass_obj
def add_label(session: Session, name: str, phrase: str | None) -> None:
    """Add a label; every clip, old and new, can have it at once."""
    with session.library() as library:
        clips = library.add_label(name, phrase=phrase)
    session.output.note(f"added the label {name}; {count(clips, 'clip')} got it")


@labels.command("remove", epilog=examples('earmark labels remove "kettle"'))
@click.argument("name")
@click.pass_obj
def remove_label(session: Session, name: str) -> None:
    """Take a label off the list."""
    with session.library() as library:
        library.remove_label(name)
    session.output.note(f"removed the label {name}")


@click.command("teach", epilog=examples('earmark teach "my doorbell" ring1.wav ring2.wav ring3.wav'))
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False), metavar="FILE...")
@click.pass_obj
def teach(session: Session, name: str, files: tuple[Path, ...]) -> None:
    """Teach a sound that is yours from three to five examples. It labels and searches at once."""
    with session.library() as library:
        clips = library.teach(name, [absolute(file) for file in files])
    session.log("teach.done", files=len(files), clips=clips)
    session.output.note(f"learned {name} from {count(len(files), 'file')}; {count(clips, 'clip')} got it")


def _review(session: Session, limit: int) -> None:
    with session.library() as library:
        hits = library.review(limit)
        if not hits:
            session.output.note("nothing to review")
        elif sys.stdin.isatty():
            said = _ask_each(session, library, hits)
            session.output.note(f"{said} of {len(hits)} answered")
        else:
            session.output.rows(views.HIT_COLUMNS, [views.hit_row(hit) for hit in hits])


def _ask_each(session: Session, library: Library, hits: list[Hit]) -> int:
    """Ask about each hit's first label; return how many were answered yes or no."""
    said = 0
    for hit in hits:
        if not hit.labels:
            continue
        name = hit.labels[0].name
        session.output.rows(views.HIT_COLUMNS, [views.hit_row(hit)])
        answer = _ask(session, f'Is "{name}" there? (yes, no, skip, quit)')
        if answer == "q":
            break
        if answer != "s":
            library.label_hit(hit, name, is_present=answer == "y")
            said += 1
    return said


def _ask(session: Session, question: str) -> str:
    """Return one of `ANSWERS`: the end of the input is a quit, and an interrupt undoes nothing of what was answered before."""
    try:
        answer: str = click.prompt(question, type=ANSWERS, show_choices=True, err=True)
    except click.Abort as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from stop
        session.output.note("")  # ends the question's line
        return "q"
    return answer


COMMANDS = (label, labels, teach)
