"""Commands that fill, search and read the library: init, add, search, show, list, rm, status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from earmark_client.cli import views
from earmark_client.cli.output import count, examples
from earmark_client.cli.params import MOST_HITS, MOST_JOBS, Moment, Number
from earmark_client.cli.session import Session, ask_passphrase, new_key_file, only_one
from earmark_client.naming import absolute
from earmark_shared.errors import AudioError, DiskFullError, HomeInUseError

if TYPE_CHECKING:
    from earmark_client.library import Library
    from earmark_client.records import Answer, Query
    from earmark_client.store.keys import Secret
    from earmark_client.tally import AddReport

TAKEN_OVER = "this Earmark brings a newer model: from now on it answers"
OUTDATED = "an older model answered; the newer one takes over when sounds are added, or now: earmark model use base"
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
SOUND_PATH = click.Path(path_type=Path, readable=False)
"""What may not be read is named by whoever reads it, and the others go on; click would refuse the whole command."""
folder_option = click.option("--folder", type=click.Path(readable=False), help="Only clips below this folder.")


class SearchOptions(TypedDict):
    """What `earmark search` can be told besides words."""

    like: Path | None
    at_s: float | None
    exclude: tuple[str, ...]
    label: str | None
    folder: str | None
    after: float | None
    before: float | None
    limit: int | None
    min_score: float | None
    is_why: bool
    is_nearest: bool
    as_json: bool


@click.command("init", epilog=examples("earmark init", "earmark --key-file ~/earmark.key init"))
@click.option("--passphrase", "is_passphrase", is_flag=True, help="Ask for a passphrase instead of using the keyring.")
@click.pass_obj
def init(session: Session, *, is_passphrase: bool) -> None:
    """Create an encrypted library.

    With --key-file a new random key is written there (keep it: without it the library is lost). With --passphrase,
    --passphrase-file or --passphrase-fd the library is opened by a passphrase. Otherwise the desktop's keyring keeps the key.
    """
    from earmark_client.library import Library

    with Library.create(session.settings.home, unlock=_new_unlock(session, is_passphrase), device=session.settings.device):
        session.output.note(f"created {session.settings.home}")


@click.command("add", epilog=examples("earmark add ~/Recordings ~/Desktop/meeting.ogg"))
@click.argument("paths", nargs=-1, required=True, type=SOUND_PATH, metavar="PATH...")
@click.option("--jobs", type=click.IntRange(1, MOST_JOBS), help="Files worked on at the same time. [EARMARK_JOBS; one a core]")
@json_option
@click.pass_obj
def add(session: Session, paths: tuple[Path, ...], *, jobs: int | None, as_json: bool) -> int:
    """Make sound files searchable.

    A PATH is a file, a whole folder, or a quoted pattern such as 'birds/*.wav'.

    Files that are known already cost nothing, so an interrupted add goes on when it is run again. A file that can't be
    used is named with the reason, the others go on, and the exit code is 20.
    """
    with session.library() as library, session.output.progress() as draw:
        report = library.add(
            [absolute(path) for path in paths],
            on_progress=draw,
            jobs=jobs or (session.settings.jobs and min(session.settings.jobs, MOST_JOBS)),
        )
    return _report_add(session, report, as_json=as_json)


@click.command(
    "search",
    epilog=examples(
        'earmark search "dog barking"',
        'earmark search "rain" --not speech --after 2026-03-01 --why',
        "earmark search --like doorbell.wav --at 2.5",
    ),
)
@click.argument("text", required=False)
@click.option("--like", type=SOUND_PATH, help="Sounds like this file.")
@click.option("--at", "at_s", type=Number(min=0), help="Only this second of the --like file.")
@click.option("--not", "exclude", multiple=True, metavar="TEXT", help="What you don't want; may be repeated.")
@click.option("--label", help="Only clips with this label.")
@folder_option
@click.option(
    "--after",
    type=Moment(),
    metavar="DATE",
    help="Only files last changed on this day (local time), or at this moment, or later.",
)
@click.option("--before", type=Moment(), metavar="DATE", help="Only files last changed before this day or moment.")
@click.option("--limit", type=click.IntRange(1, MOST_HITS), help="Most hits shown. [EARMARK_LIMIT; 10]")
@click.option("--min-score", type=Number(0, 1), help="Score a hit needs; 0 shows everything. [EARMARK_MIN_SCORE]")
@click.option("--why", "is_why", is_flag=True, help="Show where each hit's evidence came from.")
@click.option("--nearest", "is_nearest", is_flag=True, help="When nothing is found, name the nearest miss.")
@json_option
@click.pass_obj
def search(session: Session, /, text: str | None, **options: Unpack[SearchOptions]) -> None:
    """Find moments by words, by example, or by both.

    The score is the chance, from 0 to 1, that a hit is what you asked for. Below the model's threshold the answer is
    "nothing found": exit code 0, nothing on stdout.
    """
    query = _query(session, text, options)
    with session.library(query.text or "") as library:
        answer = library.search(query)
        session.log("search.done", hits=len(answer.hits))
        _tell_answer(session, answer, options)
        if library.is_outdated:
            _catch_up(session, library)


def _tell_answer(session: Session, answer: Answer, options: SearchOptions) -> None:
    if answer.is_names_only:
        session.output.note(f"{answer.model_version} knows no words: only names and your labels were searched; --like FILE hears")
    if not answer.hits:
        session.output.note(_nothing_found(answer, is_nearest=options["is_nearest"]))
    elif options["as_json"]:
        session.output.records(views.hit_record(hit) for hit in answer.hits)
    else:
        _write_hits(session, answer, is_why=options["is_why"])


def _catch_up(session: Session, library: Library) -> None:
    """After the answer: let the newer model take over if it can do so in moments, and say what there is to do if it can't."""
    try:
        has_changed = library.catch_up()
    except (HomeInUseError, DiskFullError):  # the question is answered; this can wait
        has_changed = False
    session.output.note(TAKEN_OVER if has_changed else OUTDATED)


@click.command("show", epilog=examples("earmark show 7"))
@click.argument("clip")
@json_option
@click.pass_obj
def show(session: Session, clip: str, *, as_json: bool) -> None:
    """Say what happens when in a clip.

    CLIP is a number from `list` or `search`, a path, or the start of a content hash.
    """
    with session.library() as library:
        found = library.clip(clip)
        events = list(library.describe(found))
    if as_json:
        session.output.records([views.clip_record(found), *(views.event_record(event, labels) for event, labels in events)])
        return
    session.output.rows(views.CLIP_COLUMNS, [views.clip_row(found)])
    session.output.rows(views.EVENT_COLUMNS, [views.event_row(event, labels) for event, labels in events])


@click.command("list", epilog=examples("earmark list --label dog --json"))
@folder_option
@click.option("--label", help="Only clips with this label.")
@json_option
@click.pass_obj
def list_clips(session: Session, folder: str | None, label: str | None, *, as_json: bool) -> None:
    """List the clips of the library."""
    with session.library() as library:
        clips = library.clips(folder=_absolute(folder), label=label)
    if as_json:
        session.output.records(views.clip_record(clip) for clip in clips)
    else:
        session.output.rows(views.CLIP_COLUMNS, [views.clip_row(clip) for clip in clips])


@click.command("rm", epilog=examples("earmark rm 7 ~/Recordings/old"))
@click.argument("targets", nargs=-1, required=True, metavar="CLIP...")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@click.pass_obj
def remove(session: Session, targets: tuple[str, ...], *, is_agreed: bool) -> None:
    """Forget clips: their vectors, labels, words and names. The sound files themselves are not touched.

    CLIP is a number, a path, a folder or the start of a content hash. Of a clip whose file lies elsewhere, too, a path or a folder
    forgets only that path.
    """
    session.confirm(f"Forget {', '.join(targets)}, and every correction made there?", is_agreed=is_agreed)
    with session.library() as library:
        removed = library.remove(targets)
    session.log("remove.done", removed=removed.clips)
    kept = f"; {count(removed.kept, 'clip')} kept, still found elsewhere" if removed.kept else ""
    session.output.note(f"forgot {count(removed.clips, 'clip')}{kept}")


@click.command("status", epilog=examples("earmark status"))
@json_option
@click.pass_obj
def status(session: Session, *, as_json: bool) -> None:
    """Say what the library holds and which model made it searchable."""
    with session.library() as library:
        found = library.status()
        session.lab_banner(library.home)
    if as_json:
        session.output.records([views.plain_record(found)])
    else:
        session.output.rows(("what", "value"), views.plain_lines(found))


def _new_unlock(session: Session, is_passphrase: bool) -> Secret:  # noqa: FBT001  private, one caller
    from earmark_client.store import home, keyrings, keys

    said = session.settings
    home.check_free(said.home)  # before anybody is asked for a passphrase
    only_one(
        key_file=said.key_file,
        passphrase_file=said.passphrase_file,
        passphrase_fd=said.passphrase_fd,
        passphrase=is_passphrase,
    )
    if said.key_file is not None:
        return new_key_file(said.key_file)
    given = session.given_passphrase()
    if given is None and not is_passphrase:
        return keyrings.Keyring()
    return keys.Passphrase(given or ask_passphrase("New passphrase", is_new=True))


def _report_add(session: Session, report: AddReport, *, as_json: bool) -> int:
    from earmark_client.audio.opening import CONTAINERS, display_name

    for path, problem in report.problems:
        message, name = str(problem), display_name(path)
        session.output.problem(message if name in message else f"{name}: {message}", problem.hint)
    numbers = {"added": report.added, "known": report.known, "moved": report.moved, "problems": len(report.problems)}
    apart = {"silent": report.silent, "passed_over": report.passed_over}
    if as_json:
        session.output.records([numbers | apart | {"sound_s": round(report.sound_s, 3), "seconds": round(report.seconds, 3)}])
    if report.passed_over:
        session.output.note(f"{count(report.passed_over, 'sound file')} of other formats passed over; Earmark reads {CONTAINERS}")
    if report.silent:
        session.output.note(f"{count(report.silent, 'clip')} with nothing loud enough to hear: no search finds what is so quiet")
    moved = f", {report.moved} moved" if report.moved else ""
    session.output.note(f"added {count(report.added, 'clip')}, {report.known} known already{moved}")
    session.log("add.done", **numbers, sound_s=report.sound_s, seconds=report.seconds)
    return AudioError.exit_code if report.problems else 0


def _query(session: Session, text: str | None, options: SearchOptions) -> Query:
    from earmark_client.records import Query

    text = text or (options["label"] if options["like"] is None else None)
    if not text and options["like"] is None:
        raise click.UsageError("say what to look for: words, or --like FILE", click.get_current_context())
    if options["at_s"] is not None and options["like"] is None:
        raise click.UsageError("--at says which second of the --like file, and there is none", click.get_current_context())
    least = options["min_score"]
    return Query(
        text=text,
        like=options["like"],
        at_s=options["at_s"],
        exclude=options["exclude"],
        label=options["label"],
        folder=_absolute(options["folder"]),
        after_s=options["after"],
        before_s=options["before"],
        limit=min(options["limit"] or session.settings.limit, MOST_HITS),
        min_score=session.settings.min_score if least is None else least,
    )


def _write_hits(session: Session, answer: Answer, *, is_why: bool) -> None:
    if not is_why:
        session.output.rows(views.HIT_COLUMNS, [views.hit_row(hit) for hit in answer.hits])
        return
    for hit in answer.hits:
        session.output.rows(views.HIT_COLUMNS, [views.hit_row(hit)])
        for part in hit.why:
            session.output.line(views.evidence_line(part))


def _nothing_found(answer: Answer, *, is_nearest: bool) -> str:
    miss = answer.nearest_miss
    if not is_nearest:
        return "nothing found" + (" (--nearest names the nearest miss)" if miss else "")
    if miss is None:
        return "nothing found, not even nearly"
    score, _, start, end, _, path = views.hit_row(miss)
    return f"nothing found; nearest miss: score {score} at {start}-{end} in {path}"


def _absolute(folder: str | None) -> str | None:
    return str(absolute(folder)) if folder else None


COMMANDS = (init, add, search, show, list_clips, remove, status)
