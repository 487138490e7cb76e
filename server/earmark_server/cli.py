"""The `earmark-server` program: make a federation's server, invite devices, serve enrolment, list and shut out devices."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click

from earmark_server.authority import create_authority, open_authority, renew, tuf_root_hash, whole_or_not_at_all
from earmark_server.enrolment import Enroller
from earmark_server.limits import CALLS_A_MINUTE, LAB_CALLS_A_MINUTE, Limits
from earmark_server.publish import Repository, create_repository
from earmark_server.registry import Device, Registry
from earmark_server.service import (
    EnrolmentService,
    Ports,
    direct_caller,
    only_server,
    proxied_caller,
    start_behind_nginx,
    start_direct,
)
from earmark_server.settings import PORT, Places, ServerSettings, read_settings
from earmark_server.signing import MINUTE
from earmark_shared.answering import written_by
from earmark_shared.crypto.certificates import peek
from earmark_shared.crypto.nodes import public_openssh
from earmark_shared.errors import EarmarkError, SettingsError
from earmark_shared.files import disk_errors, harden_process
from earmark_shared.release import is_canary, load_head, read_schema

GRACE_S = 5.0
LAB_BANNER = "LAB: five devices make a cohort here; for demonstrations only, and it can't be undone"
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
folder_argument = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@click.group(context_settings=CONTEXT, epilog="\b\nExample:\n  earmark-server init /srv/earmark --host earmark.example.org")
@click.version_option(package_name="earmark", prog_name="earmark-server")
def cli() -> None:
    """Coordinate a federation of devices. No sound, label or vector ever reaches this program."""
    harden_process()


@cli.command("init", epilog="\b\nExample:\n  earmark-server init /srv/earmark --host earmark.example.org")
@folder_argument
@click.option("--host", default="localhost", show_default=True, help="Name or address that devices reach the server by.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="Where devices join.")
@click.option("--member-port", type=click.IntRange(0, 65535), help="Where enrolled devices go. [--port + 1]")
@click.option("--lab", "is_lab", is_flag=True, help="For demonstrations: takes homes joined with --lab, five make a cohort.")
def init(folder: Path, *, host: str, port: int, member_port: int | None, is_lab: bool) -> None:
    """Make a server's keys and certificates in DIR.

    DIR/keys holds the release keys. Two of the three root keys and two of the three targets keys sign every release: before the
    server is used in earnest, move them to other people's machines.
    """
    member = (port + 1 if port else 0) if member_port is None else member_port
    settings = ServerSettings(host=host, port=port, member_port=member, is_lab=is_lab)
    with whole_or_not_at_all(folder.absolute()):
        authority = create_authority(folder.absolute(), settings, now_s=int(time.time()), entropy=os.urandom)
        create_repository(authority.places.tuf_root.parent, authority.places.release_keys, clock=time.time)
    click.echo(f"made {folder}; fingerprint {authority.root(bytes(32)).fingerprint().hex()}", err=True)
    _banner(is_lab=is_lab)


@cli.command("invite", epilog="\b\nExample:\n  earmark-server invite /srv/earmark")
@folder_argument
@click.option("--port", type=click.IntRange(1, 65535), help="Where devices join, if not where the settings say.")
@json_option
def invite(folder: Path, *, port: int | None, as_json: bool) -> None:
    """Make an invitation for one device, good for a day. Hand it over by a way that you trust."""
    enroller = _enroller(folder)
    settings, root = enroller.authority.settings, enroller.authority.root(bytes(32))
    if not (port or settings.port):
        raise SettingsError("the server's port is chosen when it starts", hint="say which it got: --port")
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    invitation = {
        "address": f"earmark://{host}:{port or settings.port}/{root.fingerprint().hex()}",
        "token": enroller.invite().hex(),
        "fingerprint": root.fingerprint().hex(),
        "tuf_root_sha256": tuf_root_hash(enroller.authority.places).hex(),
        "lab": settings.is_lab,
    }
    if as_json:
        click.echo(json.dumps(invitation))
        return
    click.echo(f"earmark join {invitation['address']} --token {invitation['token']}{' --lab' if settings.is_lab else ''}")
    click.echo(f"release root  {invitation['tuf_root_sha256'] or 'none yet'}", err=True)
    click.echo("for one device, within 24 hours", err=True)
    _banner(is_lab=settings.is_lab)


@cli.command("serve", epilog="\b\nExample:\n  earmark-server serve /srv/earmark --bind 0.0.0.0")
@folder_argument
@click.option("--bind", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Where devices join; 0 takes a free one. [the settings]")
@click.option("--member-port", type=click.IntRange(0, 65535), help="Where enrolled devices go. [the settings]")
@click.option("--flower-port", type=click.IntRange(1, 65535), help="Where nodes connect, on loopback. [--port + 2]")
@click.option("--behind-nginx", "socket", type=click.Path(path_type=Path), help="Listen on this Unix socket, for nginx only.")
def serve(
    folder: Path, *, bind: str, port: int | None, member_port: int | None, flower_port: int | None, socket: Path | None
) -> None:
    """Let invited devices in and carry their rounds, until it is stopped (Ctrl-C or SIGTERM)."""
    enroller = _enroller(folder)
    click.get_current_context().with_resource(only_server(folder.absolute()))
    settings = enroller.authority.settings
    limits = Limits(time.monotonic, calls_a_minute=LAB_CALLS_A_MINUTE if settings.is_lab else CALLS_A_MINUTE)
    service = EnrolmentService(enroller, limits, proxied_caller if socket else direct_caller, clock=time.time)
    if socket is not None:
        server, where = start_behind_nginx(service, socket.absolute()), {"socket": str(socket)}
    else:
        wanted = Ports(
            bind, settings.port if port is None else port, settings.member_port if member_port is None else member_port
        )
        server, got = start_direct(service, enroller, wanted)
        where = {"host": got.host, "port": str(got.join), "member_port": str(got.member)}
    _banner(is_lab=settings.is_lab)
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stop.set())
    with _superlink(enroller, flower_port) as flower:
        click.echo("serving " + " ".join(f"{name}={value}" for name, value in (where | flower).items()))
        stop.wait()
    server.stop(GRACE_S).wait()


@cli.command("round", epilog="\b\nExample:\n  earmark-server round /srv/earmark --rounds 3")
@folder_argument
@click.option("--rounds", type=click.IntRange(1, 1000), default=1, show_default=True, help="How many, one after the other.")
@click.option("--flower-port", type=click.IntRange(1, 65535), help="Where `serve` has its nodes connect. [--port + 2]")
def run_rounds(folder: Path, *, rounds: int, flower_port: int | None) -> None:
    """Run rounds with the devices that are connected, while `serve` runs; what became of each is printed."""
    from earmark_server import node  # noqa: PLC0415  flwr takes a second to import
    from earmark_server.rounds import check_believed, check_rounds  # noqa: PLC0415  so does this

    authority = open_authority(folder.absolute())
    port = flower_port or authority.settings.flower_port
    if port is None:
        raise SettingsError("the server's port is chosen when it starts", hint="say where nodes connect: --flower-port")
    _banner(is_lab=authority.settings.is_lab)
    check_rounds(authority.places.folder)
    check_believed(authority, _repository(folder))
    node.run_rounds(authority, port, rounds=rounds, tell=click.echo, warn=lambda line: click.echo(line, err=True))


@cli.command("devices", epilog="\b\nExample:\n  earmark-server devices /srv/earmark --json")
@folder_argument
@json_option
def devices(folder: Path, *, as_json: bool) -> None:
    """List the devices that are, or were, enrolled."""
    with Registry(_places(folder).registry, read_only=True) as registry:
        for device in registry.devices():
            record = _record(device, now_s=time.time())
            click.echo(json.dumps(record) if as_json else "\t".join(str(record[name]) for name in ("alias", "state", "joined")))


@cli.command("revoke", epilog="\b\nExample:\n  earmark-server revoke /srv/earmark 3f9a6c0d51e24b7788c0a1b2c3d4e5f6")
@folder_argument
@click.argument("alias")
def revoke(folder: Path, alias: str) -> None:
    """Shut a device out for good. It can come back only with a new invitation."""
    try:
        name = bytes.fromhex(alias)
    except ValueError as error:
        raise click.UsageError("ALIAS is 32 hexadecimal digits, as `devices` lists them") from error
    _enroller(folder).revoke(name)
    click.echo(f"revoked {alias}", err=True)


@cli.command("renew", epilog="\b\nExample:\n  earmark-server renew /srv/earmark")
@folder_argument
@click.option("--restored", "is_restored", is_flag=True, help="DIR is a backup that was put back: lift all release numbers.")
def renew_keys(folder: Path, *, is_restored: bool) -> None:
    """Make a new round-plan key (good for 30 days) and server certificate; restart `serve` afterwards.

    With two targets keys in DIR/keys, releases are signed for another term as well; root, once half of its year is over.
    """
    renew(open_authority(folder.absolute()), now_s=int(time.time()), entropy=os.urandom)
    repository = _repository(folder)
    if is_restored and (release := repository.lift()):
        click.echo(f"released {release.number}: {release.version}, which was the newest here", err=True)
    if lacking := repository.renew():
        click.echo(
            f"releases are believed until {repository.ends:{MINUTE}}: {_places(folder).release_keys} lacks keys of "
            f"{' and '.join(lacking)}; bring two of each, and renew again",
            err=True,
        )
    click.echo("renewed", err=True)


@cli.command(
    "publish", epilog="\b\nExample:\n  earmark-server publish /srv/earmark head.safetensors schema.json --base base-0a1b2c3d4e5f"
)
@folder_argument
@click.argument("head", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.argument("schema", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--base", required=True, help="Version of the base model that the head corrects, as `earmark status` names it.")
def publish(folder: Path, head: Path, schema: Path, *, base: str) -> None:
    """Sign and release a head by hand. Rounds release what they learned by themselves."""
    with disk_errors(head):
        texts, weights = schema.read_bytes(), head.read_bytes()
    read = read_schema(texts)
    release = _repository(folder).publish(load_head(read, weights), read, base=base)
    click.echo(f"released {release.number}: {release.version}", err=True)


@cli.command("take-back", epilog="\b\nExample:\n  earmark-server take-back /srv/earmark 3")
@folder_argument
@click.argument("number", type=click.IntRange(0))
def take_back(folder: Path, number: int) -> None:
    """Release the head of release NUMBER again, as the newest: devices go back to it with their next update.

    NUMBER 0 is the head that rounds began with, before any release.
    """
    release = _repository(folder).take_back(number)
    old = f"was release {number}" if number else "rounds began with"
    click.echo(f"released {release.number}: {release.version}, which {old}", err=True)


def main(arguments: list[str] | None = None) -> int:
    """Run `earmark-server` and return its exit code; errors are told on stderr."""
    try:
        with written_by(click.echo):
            cli.main(arguments, prog_name="earmark-server", standalone_mode=False)
    except EarmarkError as error:
        click.echo(f"earmark-server: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        click.echo(f"earmark-server: {error.format_message()}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return 0


def _enroller(folder: Path) -> Enroller:
    authority = open_authority(folder.absolute())
    return Enroller(authority, Registry(authority.places.registry), clock=time.time, entropy=os.urandom)


def _repository(folder: Path) -> Repository:
    places = _places(folder)
    return Repository(places.tuf_root.parent, places.release_keys, clock=time.time)


def _places(folder: Path) -> Places:
    read_settings(folder.absolute())
    return Places(folder.absolute())


def _record(device: Device, *, now_s: float) -> dict[str, object]:
    ends_s = peek(device.certificate).not_after_s
    return {
        "alias": device.alias.hex(),
        "state": "revoked" if device.revoked_s is not None else "expired" if now_s > ends_s else "enrolled",
        "joined": dt.datetime.fromtimestamp(device.joined_s, dt.UTC).isoformat(),
        "ends": dt.datetime.fromtimestamp(ends_s, dt.UTC).isoformat(),
        "lab": device.is_lab,
        "node_key": public_openssh(device.node_key).decode(),
        "is_node": device.is_node,
        "is_canary": is_canary(device.alias),
    }


@contextlib.contextmanager
def _superlink(enroller: Enroller, flower_port: int | None) -> Iterator[dict[str, str]]:
    """Keep a SuperLink running, if its port is known."""
    port = flower_port or enroller.authority.settings.flower_port
    if port is None:
        yield {}
        return
    from earmark_server.node import SuperLink  # noqa: PLC0415  flwr takes a second to import

    with SuperLink(enroller.authority, enroller.registry, port=port, tell=lambda line: click.echo(line, err=True)):
        yield {"flower_port": str(port)}


def _banner(*, is_lab: bool) -> None:
    if is_lab:
        click.echo(LAB_BANNER, err=True)


if __name__ == "__main__":
    sys.exit(main())
