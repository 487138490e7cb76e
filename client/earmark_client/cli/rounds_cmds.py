"""The command that keeps this device in its federation's rounds."""

from __future__ import annotations

import signal
import threading

import click

from earmark_client.cli.federation_cmds import enrolment
from earmark_client.cli.output import examples
from earmark_client.cli.session import Session
from earmark_shared.errors import SettingsError

PORT_ABOVE = 1
"""A SuperLink listens one port above the members' service, unless somebody says otherwise."""


@click.command(
    "participate",
    epilog=examples(
        "earmark participate", "earmark participate --superlink earmark.example.org:443", "earmark participate --pause"
    ),
)
@click.option("--superlink", metavar="HOST:PORT", help="Where the server's SuperLink is reached. [the server, next port]")
@click.option(
    "--pause", "pause", flag_value=True, default=None, help="Take part in no further round, whatever runs, until --resume."
)
@click.option("--resume", "pause", flag_value=False, help="Allow taking part again; then start it as usual.")
@click.pass_obj
def participate(session: Session, *, superlink: str | None, pause: bool | None) -> None:
    """Take part in rounds, until it is stopped (Ctrl-C or SIGTERM).

    A round trains on what you corrected, within the budget that `earmark privacy` shows. One masked, noisy update leaves this device
    a round. It runs only code that is installed here, whatever the server sends. A pause is kept in the library and needs no server.
    """
    if pause is not None:
        _pause(session, is_paused=pause)
        return
    enrol = enrolment()
    from earmark_client.describe import Model
    from earmark_client.federation import identity
    from earmark_client.federation.supervisor import take_part
    from earmark_client.library import BASE_MODEL
    from earmark_client.model.bundle import Bundle
    from earmark_shared.wire.channel import Address

    stop = _stop_when_told()
    unlock = session.unlock()
    with session.home(unlock) as home:
        session.lab_banner(home)
        membership = enrol.joined(home.database)
        identity.check_not_paused(home.database)
        where = Address(membership.address.host, membership.root.member_port + PORT_ABOVE)
        where = where if superlink is None else Address(*_host_port(superlink))
        model = Model(Bundle.load(BASE_MODEL), device=session.settings.device)
        session.output.note(f"taking part in rounds of {where}")
        take_part(home, unlock, model, superlink=where, is_stopped=stop.is_set, tell=session.output.note)


def _stop_when_told() -> threading.Event:
    """Return what is set once a signal asks this process to end."""
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signum != signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:  # nohup has us ignore it
            signal.signal(signum, lambda *_: stop.set())
    return stop


def _pause(session: Session, *, is_paused: bool) -> None:
    from earmark_client.federation import identity

    with session.home() as home:
        identity.set_paused(home.database, is_paused=is_paused)
    session.output.note("paused: this device takes part in no round" if is_paused else "this device may take part again")


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise SettingsError(f"{text} is no HOST:PORT", hint="such as earmark.example.org:443")
    return host.strip("[]"), int(port)


COMMANDS = (participate,)
