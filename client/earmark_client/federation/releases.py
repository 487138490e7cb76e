"""Fetching a released head: what the server hands out is believed as far as its signatures go, and not an inch further.

    release = fetch_newest(home, clock=time.time)     # None while nothing was released; the caller holds the home's lock
    library.update(release)

The Update Framework's client checks signatures, thresholds, versions and expiry, from the root whose hash came with the invitation.
Three things are ours: the transport (pieces over the members' channel), the *floor* (the newest versions and the latest time that
this device has seen lie in the encrypted database, so that a cache that was deleted or put back, a clock that was set back, or
leaving and joining again does not make old metadata new), and the checks of `earmark_shared.release` on what is inside.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from earmark_client.federation.enrol import joined, member_channel
from earmark_client.model.active import LINE, stage
from earmark_client.store.home import MODELS_NAME
from earmark_shared.errors import NetworkError, ReleaseError, StoreError
from earmark_shared.files import disk_errors, make_private_folder, read_private, write_atomic
from earmark_shared.release import HEAD_BYTES_MOST, RELEASE_BYTES_MOST, RELEASE_NAME, SCHEMA_BYTES_MOST, SCHEMA_NAME, Release
from earmark_shared.releasing import PIECE_S, PIECE_SIZE, Piece, Wanted
from earmark_shared.wire.channel import call

if TYPE_CHECKING:
    from earmark_client.store.database import Database
    from earmark_client.store.home import Home

Ask = Callable[[Wanted], Piece]
PLACE = "earmark:///"
FLOOR = "releases"
ROLES = (Root.type, Timestamp.type, Snapshot.type, Targets.type)
LIMITS = UpdaterConfig(
    max_root_rotations=256,  # counted from the first: a server makes two a year, and one after a theft
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=64_000,
    targets_max_length=256_000,
)
NEWS_S = 60.0
"""How long a server may take over all the pieces of a release, and one piece more: the library's lock is held meanwhile."""
KEPT = "The model that is in force stays; tell whoever runs the federation."


class PieceFetcher(FetcherInterface):
    """Brings files to the Update Framework's client, piece by piece."""

    def __init__(self, ask: Ask) -> None:
        """Take what asks the server for one piece."""
        self._ask = ask

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self._pieces(url.removeprefix(PLACE).encode())

    def _pieces(self, path: bytes) -> Iterator[bytes]:
        at, size = 0, None
        while size is None or at < size:
            piece = self._ask(Wanted(path, at))
            if not piece.is_there:
                raise DownloadHTTPError(f"{path.decode()} is not there", 404)
            size = piece.size if size is None else size
            if piece.size != size or len(piece.data) != min(PIECE_SIZE, size - at):
                raise DownloadError(f"{path.decode()} comes in pieces that don't fit")
            at += len(piece.data)
            yield piece.data


@dataclass(frozen=True)
class Floor:
    """The newest that this device has seen of one repository; nothing older is believed again."""

    pin: str
    """The first root's hash: another repository has another floor."""
    clock_s: int = 0
    number: int = 0
    root: int = 1
    timestamp: int = 0
    snapshot: int = 0
    targets: int = 0
    keys: tuple[str, ...] = ()
    """The public keys that could sign releases when `number` was seen; none in what was stored before they were kept."""
    begun: int = 0
    """How often numbers began again."""

    @classmethod
    def read(cls, database: Database, pin: bytes) -> Floor:
        """Return the floor of the repository with this first root."""
        # Before a device could come back to one, it kept the floor of the last repository alone, without a pin in the name.
        stored = database.federation_value(f"{FLOOR}.{pin.hex()}") or database.federation_value(FLOOR)
        table: dict[str, Any] = json.loads(stored) if stored else {}
        return cls(**table | {"keys": tuple(table.get("keys", ()))}) if table.get("pin") == pin.hex() else cls(pin.hex())

    def write(self, database: Database) -> None:
        """Keep it, and which line of releases is followed; inside a transaction."""
        database.set_federation_value(f"{FLOOR}.{self.pin}", json.dumps(asdict(self), sort_keys=True).encode())
        database.set_federation_value(LINE, f"{self.pin}.{self.begun}".encode())

    def counted(self, number: int, root: Root) -> Floor:
        """Return the floor once release `number` was seen under `root`; where it is lower, numbers begin again if they may."""
        role = root.get_delegated_role(Targets.type)
        keys = tuple(sorted({str(root.keys[keyid].keyval["public"]) for keyid in role.keyids}))
        begins = number < self.number and self.are_replaced(keys, role.threshold)
        return replace(self, number=number, keys=keys, begun=self.begun + begins)

    def are_replaced(self, keys: tuple[str, ...], threshold: int) -> bool:
        """Whether the keys of before can't sign a release any more: what they signed, however new, is none now."""
        return bool(self.keys) and len(set(self.keys) & set(keys)) < threshold

    def check(self, newer: Floor) -> None:
        """Raise ReleaseError if something is older than it was.

        A new root may start the other roles' versions again, and the number too if it replaced the keys that sign releases.
        """
        older = [role for role in ROLES if getattr(newer, role) < getattr(self, role)]
        is_lower = newer.number < self.number and newer.begun == self.begun
        if newer.root < self.root or (older and newer.root == self.root) or is_lower:
            raise ReleaseError("The server shows an older release than this device has seen.", hint=KEPT)


def fetch_newest(home: Home, *, clock: Callable[[], float]) -> Release | None:
    """Ask this library's federation for its newest release, check it and keep its files, ready to be installed.

    Raises:
        AdmissionError: the library is in no federation. NetworkError: the server can't be reached, or dawdles.
        ReleaseError, ModelError: what it handed out is not right; nothing here has changed.
    """
    membership = joined(home.database)
    with member_channel(membership) as channel:

        def ask(wanted: Wanted) -> Piece:
            return call(channel, "Releases", "Fetch", wanted, Piece, timeout_s=PIECE_S)

        return fetch_release(home, membership.root.tuf_root_sha256, ask=ask, clock=clock)


def fetch_release(home: Home, pin: bytes, *, ask: Ask, clock: Callable[[], float]) -> Release | None:
    """The same from wherever `ask` brings pieces; `pin` is the SHA-256 of the repository's first root."""
    if not pin:
        raise ReleaseError("The federation had no releases when this device joined.", hint="Leave, and join again.")
    floor, now_s = Floor.read(home.database, pin), int(clock())
    if now_s < floor.clock_s:
        raise ReleaseError("The clock is behind the time of the last update.", hint="Set this device's clock, then try again.")
    models = home.folder / MODELS_NAME
    incoming = models / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    for folder in (models, incoming):
        make_private_folder(folder)
    try:
        with disk_errors(models):
            return _update(home, _Cache(models / f"tuf-{pin.hex()[:16]}", incoming, _hurried(ask, clock)), floor, now_s)
    except (RepositoryError, DownloadError) as error:
        raise ReleaseError(f"The server's release can't be trusted: {_printable(error)}", hint=KEPT) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _hurried(ask: Ask, clock: Callable[[], float]) -> Ask:
    """Return `ask` that gives up NEWS_S from now."""
    ends_s = clock() + NEWS_S

    def ask_in_time(wanted: Wanted) -> Piece:
        if clock() > ends_s:
            raise NetworkError("The server takes too long over its release.", hint=KEPT)
        return ask(wanted)

    return ask_in_time


@dataclass(frozen=True)
class _Cache:
    """Where metadata is kept and files arrive, and how to ask for them."""

    folder: Path
    incoming: Path
    ask: Ask

    def root(self, pin: str) -> bytes:
        """Return the first root, from here or from the server: its hash decides."""
        make_private_folder(self.folder)
        kept = self.folder / "pinned.json"
        try:
            data = read_private(kept, LIMITS.root_max_length)
        except StoreError:
            data = b""
        if hashlib.sha256(data).hexdigest() != pin:
            data = PieceFetcher(self.ask).download_bytes(f"{PLACE}metadata/1.root.json", LIMITS.root_max_length)
            if hashlib.sha256(data).hexdigest() != pin:
                raise ReleaseError("The server's first root is not the one that the invitation named.", hint=KEPT)
            write_atomic(kept, data)
        return data

    def updater(self, root: bytes) -> Updater:
        """Return a client that starts from `root`."""
        places = (str(self.folder), f"{PLACE}metadata/", str(self.incoming), f"{PLACE}targets/")
        return Updater(*places, fetcher=PieceFetcher(self.ask), config=LIMITS, bootstrap=root)

    def seen(self, floor: Floor, now_s: int) -> Floor:
        """Return what the client has just believed, checked against our own clock."""
        now, versions = dt.datetime.fromtimestamp(now_s, dt.UTC), {}
        for role in ROLES:
            metadata: Metadata[Any] = Metadata.from_bytes((self.folder / f"{role}.json").read_bytes())
            if metadata.signed.is_expired(now):
                raise ReleaseError(f"The server's {role} metadata has expired.", hint=KEPT)
            versions[role] = metadata.signed.version
        return replace(floor, clock_s=now_s, **versions)

    def newest_root(self) -> Root:
        """Return the newest root that the client has believed."""
        return Metadata[Root].from_bytes((self.folder / "root.json").read_bytes()).signed


def _update(home: Home, cache: _Cache, floor: Floor, now_s: int) -> Release | None:
    updater = cache.updater(cache.root(floor.pin))
    updater.refresh()
    seen = cache.seen(floor, now_s)
    floor.check(seen)
    release = _stage(updater, home.folder / MODELS_NAME)
    if release is not None:
        seen = seen.counted(release.number, cache.newest_root())
        floor.check(seen)
    with home.database.transaction():
        seen.write(home.database)
    return release


def _stage(updater: Updater, models: Path) -> Release | None:
    if updater.get_targetinfo(RELEASE_NAME) is None:
        return None
    release = Release.from_json(_download(updater, RELEASE_NAME, RELEASE_BYTES_MOST))
    schema_json = _download(updater, SCHEMA_NAME, SCHEMA_BYTES_MOST)
    stage(models, release, schema_json, _download(updater, release.head_name, HEAD_BYTES_MOST))
    return release


def _download(updater: Updater, name: str, most: int) -> bytes:
    info = updater.get_targetinfo(name)
    if info is None:
        raise ReleaseError(f"The release names {name}, which is not among the signed files.", hint=KEPT)
    if info.length > most:
        raise ReleaseError(f"The release's {name} is {info.length} bytes long, more than {most}.", hint=KEPT)
    return Path(updater.download_target(info)).read_bytes()


def _printable(error: Exception) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(error))[:200]
