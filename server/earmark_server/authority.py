"""The server's authorities: who signs enrolment, who signs rounds, who issues TLS certificates. Made once, by `init`.

The enrolment key is apart from the aggregator's round-plan key: whoever got hold of the latter alone can let nobody in. Both are files
(0600) below the server's folder, and `serve` signs certificates and log heads with the former, so it can't be moved away. The release
repository's keys are made elsewhere; its first root, once it lies at `Places.tuf_root`, becomes part of every new invitation's fingerprint.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from earmark_server.registry import Registry
from earmark_server.settings import RESTORE, Places, ServerSettings, check_new_settings, read_settings, write_settings
from earmark_server.tls import DAY_S, LOCAL_NAMES, TlsAuthority, save_server
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.secrets import Entropy
from earmark_shared.enrolment import PROTO, Root, read_plan_key, sign_plan_key
from earmark_shared.errors import CertificateError, HomeExistsError, StoreError
from earmark_shared.files import disk_errors, make_private_folder, read_private, write_atomic, write_private

PLAN_KEY_LIFE_S = 30 * DAY_S
PRIVATE_SIZE = 32
RENEW = "Devices would follow no plan: earmark-server renew DIR"


@dataclass(frozen=True)
class Authority:
    """Everything that a federation's server signs with."""

    settings: ServerSettings
    places: Places
    identity: Identity
    """Signs enrolment certificates and log heads."""
    tls: TlsAuthority

    def root(self, challenge: bytes, *, member_port: int | None = None) -> Root:
        """Return what a device is to trust, as the files say now."""
        return Root(
            proto=PROTO,
            authority=self.identity.public,
            tls_ca=self.tls.der,
            tuf_root_sha256=tuf_root_hash(self.places),
            is_lab=self.settings.is_lab,
            plan_key=self.signed_plan_key(),
            member_port=self.settings.member_port if member_port is None else member_port,
            challenge=challenge,
        )

    def signed_plan_key(self) -> bytes:
        """Return the round-plan key under the authority's signature, 104 bytes."""
        return read_private(self.places.signed_plan_key)


@contextlib.contextmanager
def whole_or_not_at_all(folder: Path) -> Iterator[None]:
    """Make a server's folder inside; if that fails, nothing of it stays.

    Raises:
        HomeExistsError: there is something in the folder.
    """
    _check_empty(folder)
    was_there = folder.exists()
    try:
        yield
    except BaseException:
        for path in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if folder.exists() and not was_there:
            folder.rmdir()
        raise


def create_authority(folder: Path, settings: ServerSettings, *, now_s: int, entropy: Entropy) -> Authority:
    """Make a server's folder with every key and certificate, and an empty registry.

    Raises:
        HomeExistsError: there is something in the folder. SettingsError: a server can't be reached by the settings.
    """
    places = Places(folder)
    check_new_settings(settings)
    _check_empty(folder)
    for inner in (folder, places.enrolment_key.parent, places.plan_key.parent, places.tls, places.tuf_root.parent):
        make_private_folder(inner)
    write_private(places.enrolment_key, bytes(Identity.create(entropy).private_bytes()))
    TlsAuthority.create(now_s=now_s).save(places.tls)
    Registry.create(places.registry).close()
    write_settings(folder, settings)
    authority = open_authority(folder)
    renew(authority, now_s=now_s, entropy=entropy)
    return authority


def open_authority(folder: Path) -> Authority:
    """Read what `create_authority` made.

    Raises:
        SettingsError: there is no server in the folder. StoreError: a key is missing or damaged, or can be read by others.
    """
    settings, places = read_settings(folder), Places(folder)
    return Authority(settings, places, _identity(places.enrolment_key), TlsAuthority.load(places.tls))


def renew(authority: Authority, *, now_s: int, entropy: Entropy) -> None:
    """Make a new round-plan key, good for 30 days, and a new server certificate; devices that follow learn of both."""
    places, plan = authority.places, Identity.create(entropy)
    write_atomic(places.plan_key, bytes(plan.private_bytes()))
    signed = sign_plan_key(authority.identity, plan.public, not_after_s=now_s + PLAN_KEY_LIFE_S)
    write_atomic(places.signed_plan_key, signed)
    names = tuple(dict.fromkeys((authority.settings.host, *LOCAL_NAMES)))
    save_server(places.tls, authority.tls.issue_server(names, now_s=now_s))


def open_plan_key(folder: Path) -> Identity:
    """Return the aggregator's key, which signs rounds."""
    return _identity(Places(folder).plan_key)


def check_plan_key(authority: Authority, *, now_s: int) -> None:
    """Check that devices follow what the aggregator's key signs.

    Raises:
        CertificateError: the authority's word for it has run out, or is for another key, as after a `renew` that was cut short.
    """
    try:
        signed = read_plan_key(authority.signed_plan_key(), authority.identity.public, now_s=now_s)
    except CertificateError as error:
        raise CertificateError(f"{authority.places.signed_plan_key}: {error}", hint=RENEW) from error
    if signed != open_plan_key(authority.places.folder).public:
        raise CertificateError(
            f"{authority.places.signed_plan_key} is for another key than {authority.places.plan_key}", hint=RENEW
        )


def _check_empty(folder: Path) -> None:
    with disk_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            raise HomeExistsError(f"{folder} is not empty.", hint="Name a new folder, or serve the one that is there.")


def _identity(path: Path) -> Identity:
    key = read_private(path)
    if len(key) != PRIVATE_SIZE:
        raise StoreError(f"{path} is no key of {PRIVATE_SIZE} bytes.", hint=RESTORE)
    return Identity(key)


def tuf_root_hash(places: Places) -> bytes:
    """Return the SHA-256 of the release repository's first root, or nothing while there is none."""
    return hashlib.sha256(places.tuf_root.read_bytes()).digest() if places.tuf_root.exists() else b""
