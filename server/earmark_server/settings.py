"""What a server was told when it was made: `DIR/server.toml`, and where its files lie.

authority/enrolment.key     signs enrolment certificates and log heads, as devices ask for them: it stays here
authority/plan_key.signed   the aggregator's round-plan key under the authority's signature
aggregator/plan.key         signs rounds
tls/ca.key ca.pem           issues the server's and the devices' TLS certificates
tls/server.key server.pem
keys                        the release repository's private keys; root and targets belong on other machines
releases/root.json          the release repository's first root, once there is one (its hash goes into invitations)
registry.db                 invitations, devices, the enrolment log
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

from earmark_shared.errors import SettingsError
from earmark_shared.files import read_private, write_private

SETTINGS_NAME = "server.toml"
PORT = 7443
RESTORE = "Restore it from a backup: docs/guides/deploy.md says how."
"""What to do about a file that is missing or damaged."""
PORT_MOST, HOST_MOST = 65_535, 253
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}")
"""A last part of digits alone would be an address that isn't one."""
_KINDS: dict[str, type] = {"host": str, "port": int, "member_port": int, "is_lab": bool}


@dataclass(frozen=True)
class ServerSettings:
    """One federation's server."""

    host: str = "localhost"
    """The name that devices reach it by."""
    port: int = PORT
    """Where devices join."""
    member_port: int = PORT + 1
    """Where enrolled devices go; asks for their certificate. Behind nginx the same as `port`."""
    is_lab: bool = False
    """Takes in homes joined with `--lab` only, and five of them make a cohort."""

    @property
    def flower_port(self) -> int | None:
        """Where nodes connect, on loopback: two above where devices join; None when that is chosen at the start."""
        return self.port + 2 if self.port else None


@dataclass(frozen=True)
class Places:
    """Where the files of the server in `folder` lie."""

    folder: Path

    @property
    def enrolment_key(self) -> Path:
        """The enrolment authority's private key, 32 raw bytes."""
        return self.folder / "authority" / "enrolment.key"

    @property
    def signed_plan_key(self) -> Path:
        """The round-plan key as the authority signed it."""
        return self.folder / "authority" / "plan_key.signed"

    @property
    def plan_key(self) -> Path:
        """The aggregator's private key, 32 raw bytes."""
        return self.folder / "aggregator" / "plan.key"

    @property
    def tls(self) -> Path:
        """The folder of TLS keys and certificates."""
        return self.folder / "tls"

    @property
    def tuf_root(self) -> Path:
        """The release repository's first root; whoever makes the repository puts it here."""
        return self.folder / "releases" / "root.json"

    @property
    def release_keys(self) -> Path:
        """The folder of the release repository's private keys; those of root and targets belong elsewhere."""
        return self.folder / "keys"

    @property
    def registry(self) -> Path:
        """The database of invitations, devices and the log."""
        return self.folder / "registry.db"


def check_settings(settings: ServerSettings) -> None:
    """Check that a server can be reached by what is set.

    Raises:
        SettingsError: the host is no name or address, or a port can't be.
    """
    _check_host(settings.host)
    for name, port in (("port", settings.port), ("member_port", settings.member_port)):
        if not 0 <= port <= PORT_MOST:
            raise SettingsError(f"{name} can't be {port}", hint=f"ports are numbers of at most {PORT_MOST}")


def check_new_settings(settings: ServerSettings) -> None:
    """Check the same for a server that is made now, with its ports as they follow from each other (`serve --flower-port` may differ later).

    Raises:
        SettingsError: as `check_settings`, or two of its three ports are the same, or one is too high.
    """
    flower_port = settings.flower_port or 0
    if max(settings.port, settings.member_port, flower_port) > PORT_MOST:
        hint = f"take one of at most {PORT_MOST - 2}: the next two are used as well"
        raise SettingsError(f"port {settings.port} is too high", hint=hint)
    check_settings(settings)
    if settings.member_port and settings.member_port == flower_port:
        raise SettingsError(f"port {flower_port} is Flower's, two above {settings.port}", hint="take another member port")


def _check_host(host: str) -> None:
    with contextlib.suppress(ValueError):
        written = str(ipaddress.ip_address(host))
        if written != host or "%" in host:
            raise SettingsError(f"{host!r} is not how this address is written", hint=f"write {written.partition('%')[0]}")
        return
    if len(host) > HOST_MOST or _HOST.fullmatch(host) is None:
        raise SettingsError(
            f"{host!r} is no host name or address",
            hint="the name alone, without a port, and in ASCII: xn--... for an international one",
        )


def write_settings(folder: Path, settings: ServerSettings) -> None:
    """Write `server.toml`; StoreError if there is one."""
    lines = [f"{name} = {_toml(value)}" for name, value in asdict(settings).items()]
    write_private(folder / SETTINGS_NAME, ("\n".join(lines) + "\n").encode())


def read_settings(folder: Path) -> ServerSettings:
    """Read `server.toml`.

    Raises:
        SettingsError: there is none, or it says something that isn't known.
    """
    path = folder / SETTINGS_NAME
    if not path.exists():
        raise SettingsError(f"{folder} is no server's folder", hint="make one: earmark-server init DIR")
    try:
        table = tomllib.loads(read_private(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    for name, value in table.items():
        if type(value) is not _KINDS.get(name):
            raise SettingsError(f"{path}: `{name}` can't be {value!r}", hint="known are: " + ", ".join(_KINDS))
    settings = ServerSettings(**table)
    try:
        check_settings(settings)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}", hint=error.hint) from error
    return settings


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
