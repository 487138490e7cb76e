"""A server's folder ready for rounds: its keys, its registry, its checkpoint, and who judges and publishes.

    with Rounds.open(folder) as rounds:
        rounds.run(transport, until=3)

One process runs rounds at a time. `DIR/rounds.toml` may say what rounds look like (the fields of `coordinator.Profile`); without it
they are the defaults, in a lab with a cohort of five.
"""

from __future__ import annotations

import os
import time
import tomllib
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from earmark_server.authority import check_plan_key, open_authority, open_plan_key
from earmark_server.checkpoint import Checkpoint, Model, State
from earmark_server.coordinator import Coordinator, Judge, Office, Profile, no_gate
from earmark_server.gate import Judging, PublicSet, judge
from earmark_server.publish import Repository
from earmark_server.registry import Registry
from earmark_shared.base_head import FIRST_VERSION, base_arrays, base_schema, base_version
from earmark_shared.crypto.certificates import Enrolment
from earmark_shared.errors import SettingsError
from earmark_shared.files import FileLock
from earmark_shared.round import LAB_COHORT_LEAST, SHARD_LEAST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from earmark_server.authority import Authority
    from earmark_server.round_run import RoundRun
    from earmark_server.settings import Places

PROFILE = "rounds.toml"
PUBLIC_SET = "public.safetensors"
"""Public sound that candidates are judged on (gate.py); a lab may do without."""
FOLDER, LOCK = "rounds", "lock"
UNDECIDED = ("open", "candidate", "lost")


class Transport(Protocol):
    """What carries a round's messages (`flower.GridTransport`)."""

    def gather(self, least: int, enough: int) -> dict[bytes, int]:
        """Wait for `enough` devices, a bounded time, and shorter once `least` are there; device id -> node id."""

    def drive(self, run: RoundRun, nodes: Mapping[bytes, int]) -> None:
        """Carry messages until the round is over."""


class Rounds:
    """An open server."""

    def __init__(self, coordinator: Coordinator, registry: Registry, profile: Profile, resources: ExitStack) -> None:
        """Hold what `open` opened."""
        self.coordinator = coordinator
        self._registry, self._profile, self._resources = registry, profile, resources

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a server's folder.

        Raises:
            SettingsError: there is no server, or its rounds.toml says something that isn't known.
            CertificateError, ReleaseError: no device would follow, since a key's or the releases' time is over.
            StoreError: another process runs its rounds, or the checkpoint can't be read.
        """
        authority, profile = open_authority(folder), read_profile(folder)
        checkpoint = Checkpoint(folder / FOLDER)
        with ExitStack() as resources:
            resources.enter_context(coordinator_lock(folder))
            registry = resources.enter_context(Registry(authority.places.registry))

            def enrolment() -> Enrolment:
                return Enrolment(authority.identity.public, frozenset(registry.revoked()))

            office = Office(open_plan_key(folder), enrolment, os.urandom)
            repository = open_repository(authority.places)
            check_believed(authority, repository)
            first = newest_release(repository) or Model(FIRST_VERSION, base_schema(), base_arrays())
            checkpoint.catch_up(first)
            coordinator = Coordinator(checkpoint, first, profile, office, make_judge(authority.places, repository))
            return cls(coordinator, registry, profile, resources.pop_all())

    def __enter__(self) -> Self:
        """Use as a context manager: closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self._resources.close()

    @property
    def node_owners(self) -> dict[bytes, bytes]:
        """Node key -> device id of everybody who is enrolled."""
        return {device.node_key: device.alias for device in self._registry.devices() if device.revoked_s is None}

    def run(self, transport: Transport, *, until: int) -> None:
        """Run rounds, one after the other, until so many have come to an end; what became of each is in the checkpoint.

        Before each the newest head is judged again, since the public set may know more by now; one that fails is taken back.
        """
        least = LAB_COHORT_LEAST if self._profile.is_lab else max(SHARD_LEAST, self._profile.n_min)
        while finished(self.coordinator.state) < until:
            self.coordinator.review()
            nodes = transport.gather(least, max(least, min(len(self.node_owners), self._profile.n_max)))
            run = self.coordinator.begin(int(time.time()))
            transport.drive(run, nodes)
            self.coordinator.finish(run)


def coordinator_lock(folder: Path) -> FileLock:
    """Return the lock that the one process that runs a server's rounds holds as long as it lives."""
    return FileLock(folder / FOLDER / LOCK)


def read_profile(folder: Path) -> Profile:
    """Return what this server's rounds look like.

    Raises:
        SettingsError: rounds.toml can't be read, or says something that isn't known.
    """
    is_lab, path = open_authority(folder).settings.is_lab, folder / PROFILE
    values: dict[str, Any] = {"is_lab": is_lab} | ({"n_min": LAB_COHORT_LEAST} if is_lab else {})
    if path.exists():
        known = {each.name for each in fields(Profile)} - {"is_lab"}
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
        if unknown := set(table) - known:
            raise SettingsError(f"{path}: `{min(unknown)}` is not a setting", hint="known are: " + ", ".join(sorted(known)))
        values |= {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    return Profile(**values)


def open_repository(places: Places) -> Repository:
    """Return the server's release repository."""
    return Repository(places.tuf_root.parent, places.release_keys, clock=time.time)


def check_believed(authority: Authority, repository: Repository) -> None:
    """Check that devices follow this server's rounds; CertificateError or ReleaseError if a key's or the releases' time is over."""
    check_plan_key(authority, now_s=int(time.time()))
    repository.check_believed()


def newest_release(repository: Repository) -> Model | None:
    """Return the head that devices get now, or None before the first release."""
    release = repository.current()
    return None if release is None else Model(release.number, *repository.head(release))


def make_judge(places: Places, repository: Repository) -> Judge:
    """Return who judges candidates and publishes them: the gate on the public set, if the folder has one, and the repository.

    Raises:
        ModelError: the public set is not one for this head.
    """
    path = places.folder / PUBLIC_SET
    public = PublicSet.load(base_schema(), path.read_bytes()) if path.exists() else None

    def gate(old: Model, candidate: Model) -> Mapping[str, float]:
        if public is None:
            return no_gate(old, candidate)
        report = judge(candidate.arrays, Judging(candidate.schema, old.arrays, public))
        report.check()
        return {name: value for name, value in asdict(report).items() if isinstance(value, float)}

    def publish(candidate: Model, _report: Mapping[str, float]) -> None:
        repository.publish(candidate.arrays, candidate.schema, base=base_version(), number=candidate.version)

    return Judge(gate, publish)


def finished(state: State | None) -> int:
    """Return how many rounds came to an end of their own: not those that are under way, or were lost with a server."""
    return 0 if state is None else sum(record.outcome not in UNDECIDED for record in state.rounds)
