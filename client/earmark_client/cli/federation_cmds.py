"""Commands about the federation: join, leave, privacy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from earmark_client.cli.library_cmds import json_option
from earmark_client.cli.output import examples
from earmark_client.cli.session import Session
from earmark_shared.errors import EarmarkError, SettingsError

if TYPE_CHECKING:
    from types import ModuleType

    from earmark_client.store.home import Home
    from earmark_client.store.keys import Secret

JOINING = (
    "Join the federation at {place}? From then on, when this device takes part in a round, one masked, noisy update of the model "
    "leaves it; no sound, label, query or vector ever does. `earmark privacy` says what was spent, `earmark leave` ends it."
)
LAB = "As a lab home, for good: rounds of five devices are accepted, and nothing turns that off again."
LEAVING = (
    "Leave the federation at {place}? The server revokes this device for good; what it gave to released models stays in them."
)
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
    enrol = _enrolment()
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
    enrol = _enrolment()
    with _home(session) as (home, _):
        if is_offline:
            session.confirm(OFFLINE, is_agreed=is_agreed)
            enrol.forget(home.database)
        else:
            place = enrol.joined(home.database).address
            session.confirm(LEAVING.format(place=place), is_agreed=is_agreed)
            enrol.leave(home.database)
    session.output.note("left; this device's keys are deleted")


@click.command("privacy", epilog=examples("earmark privacy"))
@json_option
@click.pass_obj
def privacy(session: Session, *, as_json: bool) -> None:
    """Say in plain words what privacy was spent, what left this device, and what is not claimed."""
    from earmark_client.federation.spending import open_ledger
    from earmark_client.learn.report import plain_words, privacy_report

    with _home(session) as (home, unlock):
        report = privacy_report(open_ledger(home, unlock, clock=time.time))
    if as_json:
        session.output.records([asdict(report)])
        return
    for line in plain_words(report).splitlines():
        session.output.line(line)


def leave_before_erase(session: Session, home: Home) -> None:
    """Have the server revoke this device while it still can be asked to; without a server the erasing goes on."""
    if home.database.federation_value("certificate") is None:
        return
    try:
        with home.lock():
            _enrolment().leave(home.database)
    except EarmarkError as error:
        session.output.problem(f"the server was not told: {error}", "its operator can revoke this device: earmark-server revoke")
    else:
        session.output.note("left the federation")


@contextmanager
def _home(session: Session, *, is_quiet: bool = False) -> Iterator[tuple[Home, Secret]]:
    """Open the home for changes, without its model, and say if it is a lab; with it comes what opened it."""
    from earmark_client.store.home import open_home

    unlock = session.unlock()
    with open_home(session.settings.home, unlock, write=True, older=session.older) as home:
        if not is_quiet:
            session.lab_banner(home)
        yield home, unlock


def _enrolment() -> ModuleType:
    """Return the module that enrols; it needs libraries that a library on its own does without."""
    try:
        from earmark_client.federation import enrol
    except ModuleNotFoundError as error:
        raise SettingsError(
            "the federation's part of Earmark is not installed", hint="install it: pip install 'earmark[federation]'"
        ) from error
    return enrol


COMMANDS = (join, leave, privacy)
"""In the order that help lists them."""
