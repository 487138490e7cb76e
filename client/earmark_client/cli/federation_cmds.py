"""Commands about the federation: join, leave, privacy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from earmark_client.cli.library_cmds import json_option
from earmark_client.cli.output import examples
from earmark_client.cli.session import Session
from earmark_shared.errors import EarmarkError, NetworkError, SettingsError

if TYPE_CHECKING:
    from types import ModuleType

    from earmark_client.describe import Model
    from earmark_client.store.home import Home
    from earmark_client.store.keys import Secret
    from earmark_client.updating import UpdateProgress
    from earmark_shared.release import Release

EXTRA = "in a clone of Earmark: pip install -c constraints.txt '.[device,federation,train]'"
JOINING = (
    "Join the federation at {place}? From then on, when this device takes part in a round, one masked, noisy update of the model "
    "leaves it; no sound, label, query or vector ever does. `earmark privacy` says what was spent, `earmark leave` ends it."
)
LAB = "As a lab home, for good: rounds of five devices are accepted, and nothing turns that off again."
LEAVING = (
    "Leave the federation at {place}? The server revokes this device for good; what it gave to released models stays in them."
)
RENEWING = (
    "Begin a new data epoch, with a budget of epsilon {budget:g}? Clips that are here now never train again, and what was spent on "
    "them stays spent; clips that come from now on are counted anew."
)
FORWARD = "Put release {number} in force? Clips get their labels anew; `earmark update --rollback` undoes it."
BACK = "Go back to the model before? Clips get their labels anew."
UNDONE = "release {number}, the one before, was taken back by the federation: going back leads to the base model"
ENTERED = "the model in force came from another federation, or under keys that were replaced: the base model took its place"
OFFLINE = "Delete this device's keys without telling the server? It goes on listing the device until the certificate ends."


@click.command("join", epilog=examples("earmark join earmark://HOST:7443/FINGERPRINT --token TOKEN"))
@click.argument("address")
@click.option("--token", required=True, help="The invitation's token; it is good once.")
@click.option("--lab", "as_lab", is_flag=True, help="For demonstrations: accept rounds of five devices. It can't be undone.")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@click.pass_obj
def join(session: Session, address: str, *, token: str, as_lab: bool, is_agreed: bool) -> None:
    """Join a federation with an invitation.

    ADDRESS is what the invitation says, with the fingerprint: only the server that the fingerprint names is trusted. The device
    makes its own keys, proves that it has them, and keeps them in the encrypted library. An interrupted join goes on when it is
    run again.
    """
    enrol = enrolment()
    invitation, secret = enrol.read_invitation(address), enrol.read_token(token)
    question = JOINING.format(place=invitation.address)
    session.confirm(f"{question} {LAB}" if as_lab else question, is_agreed=is_agreed)
    with _home(session, is_quiet=True) as (home, _):
        world = enrol.World(time.time, os.urandom)
        membership = enrol.join(home.database, invitation, secret, world, as_lab=as_lab)
        session.lab_banner(home)
    session.output.note(f"joined {invitation.address} as {membership.alias.hex()}")


@click.command("leave", epilog=examples("earmark leave", "earmark leave --offline"))
@click.option("--offline", "is_offline", is_flag=True, help="Only delete this device's keys; for a server that is gone.")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@click.pass_obj
def leave(session: Session, *, is_offline: bool, is_agreed: bool) -> None:
    """Leave the federation: the server revokes this device, and its keys are deleted here."""
    enrol = enrolment()
    with _home(session) as (home, _):
        if is_offline:
            session.confirm(OFFLINE, is_agreed=is_agreed)
            enrol.forget(home.database)
        else:
            place = enrol.joined(home.database).address
            session.confirm(LEAVING.format(place=place), is_agreed=is_agreed)
            enrol.leave(home.database, enrol.World(time.time, os.urandom))
    session.output.note("left; this device's keys are deleted")


@click.command("privacy", epilog=examples("earmark privacy", "earmark privacy --renew"))
@click.option("--renew", "is_renewed", is_flag=True, help="Begin a new data epoch with a full budget, a year after the last.")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@json_option
@click.pass_obj
def privacy(session: Session, *, is_renewed: bool, is_agreed: bool, as_json: bool) -> None:
    """Say in plain words what privacy was spent, what left this device, and what is not claimed."""
    from earmark_client.federation.spending import open_ledger
    from earmark_client.learn.report import plain_words, privacy_report

    with _home(session) as (home, unlock):
        ledger = open_ledger(home, unlock, clock=time.time)
        if is_renewed:
            ledger.check_renewable()
            session.confirm(RENEWING.format(budget=ledger.budget.record_epsilon), is_agreed=is_agreed)
            ledger.renew()
        report = privacy_report(ledger)
    if as_json:
        session.output.records([asdict(report)])
        return
    for line in plain_words(report).splitlines():
        session.output.line(line)


@click.command("update", epilog=examples("earmark update", "earmark update --rollback"))
@click.option("--rollback", "is_rollback", is_flag=True, help="Go back to the model before; needs no server.")
@click.option("--yes", "is_agreed", is_flag=True, help="Don't ask.")
@click.pass_obj
def update(session: Session, *, is_rollback: bool, is_agreed: bool) -> None:
    """Put the federation's newest model in force.

    The release is checked down to its last byte, its vectors are made beside the old ones, and then both change places at once;
    searches go on meanwhile. An interrupted update goes on when it is run again.
    """
    from earmark_client import updating

    with _home(session) as (home, _):
        model, release = _base_model(session), None if is_rollback else _newest(session, home)
        if not is_rollback and updating.enter(home, model, release):
            session.output.note(ENTERED)
        state = updating.read_state(home.database)
        if not is_rollback and (release is None or release == state.active):
            session.output.note("the model is up to date")
            return
        if is_rollback and state.previous is not None and state.before is None:
            session.output.note(UNDONE.format(number=state.previous.number))
        session.confirm(BACK if release is None else FORWARD.format(number=release.number), is_agreed=is_agreed)
        show = _embedding(session)
        if release is None:
            updating.take_back(home, model, show)
        else:
            updating.install(home, model, release, show)
        session.output.end_progress()
        session.output.note(f"in force: {updating.follow(home, model).version}")


def leave_before_erase(session: Session, home: Home) -> None:
    """Have the server revoke this device while it still can be asked to; without a server the erasing goes on."""
    if home.database.federation_value("certificate") is None:
        return
    enrol = enrolment()
    try:
        with home.lock():
            enrol.leave(home.database, enrol.World(time.time, os.urandom))
    except EarmarkError as error:
        session.output.problem(f"the server was not told: {error}", "its operator can revoke this device: earmark-server revoke")
    else:
        session.output.note("left the federation")


@contextmanager
def _home(session: Session, *, is_quiet: bool = False) -> Iterator[tuple[Home, Secret]]:
    """Open the home for changes, without its model, and say if it is a lab; with it comes what opened it."""
    unlock = session.unlock()
    with session.home(unlock, write=True) as home:
        if not is_quiet:
            session.lab_banner(home)
        yield home, unlock


def enrolment() -> ModuleType:
    """Return the module that enrols; it needs libraries that a library on its own does without."""
    try:
        from earmark_client.federation import enrol
    except ModuleNotFoundError as error:
        raise SettingsError("the federation's part of Earmark is not installed", hint=EXTRA) from error
    return enrol


def _base_model(session: Session) -> Model:
    """Return the model that was installed, without any release: a release whose files are damaged must not be in the way."""
    from earmark_client.describe import Model
    from earmark_client.library import BASE_MODEL
    from earmark_client.model.bundle import Bundle

    return Model(Bundle.load(BASE_MODEL), device=session.settings.device)


def _newest(session: Session, home: Home) -> Release | None:
    """Fetch the newest release; without a server, go on with one that was begun."""
    from earmark_client.updating import read_state

    enrolment()
    from earmark_client.federation.releases import fetch_newest

    begun = read_state(home.database).next
    try:
        return fetch_newest(home, clock=time.time)
    except NetworkError as error:
        if begun is None:
            raise
        session.output.note(f"{error} Going on with release {begun.number}, which is here.")
        return begun


def _embedding(session: Session) -> Callable[[UpdateProgress], None]:
    def show(progress: UpdateProgress) -> None:
        session.output.status(f"{progress.done} of {progress.total} segments")

    return show


COMMANDS = (join, leave, privacy, update)
"""In the order that help lists them."""
