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
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from earmark_server.authority import check_plan_key, open_authority, open_plan_key
from earmark_server.checkpoint import Checkpoint, Model, State
from earmark_server.coordinator import Coordinator, Judge, Office, Profile, no_gate
from earmark_server.gate import Judging, PublicSet, judge
from earmark_server.publish import Repository
from earmark_server.registry import Registry
from earmark_shared.base_head import FIRST_VERSION, base_arrays, base_schema, base_version
from earmark_shared.crypto.certificates import Enrolment
from earmark_shared.errors import ModelError, ProtocolError, SettingsError
from earmark_shared.files import FileLock
from earmark_shared.round import LAB_COHORT_LEAST, PHASE_S_MOST, SHARD_LEAST, check_floors

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
PHASES, RATE_MOST = 5, 10.0
_WHOLE, _NUMBER = (int, "a whole number"), (float, "a number")
KINDS: dict[str, tuple[type, str]] = {
    "clip_c": _NUMBER,
    "log2_scale_c": _WHOLE,
    "z": _NUMBER,
    "n_min": _WHOLE,
    "n_max": _WHOLE,
    "shards": _WHOLE,
    "rate": _NUMBER,
    "deadline_s": (tuple, f"a list of {PHASES} whole numbers"),
}
"""What rounds.toml may say, and how."""
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


def check_rounds(folder: Path) -> None:
    """Refuse what would end every run as soon as it begins, before one is started.

    Raises:
        SettingsError: there is no server, or its rounds.toml or public set can't be followed. StoreError: a key can't be read.
    """
    places = open_authority(folder).places
    read_profile(folder)
    open_plan_key(folder)
    make_judge(places, open_repository(places))


def read_profile(folder: Path) -> Profile:
    """Return what this server's rounds look like.

    Raises:
        SettingsError: rounds.toml can't be read, or says something that isn't known or that no device would follow.
    """
    is_lab, path = open_authority(folder).settings.is_lab, folder / PROFILE
    values: dict[str, Any] = {"is_lab": is_lab} | ({"n_min": LAB_COHORT_LEAST} if is_lab else {})
    if path.exists():
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"{path}: {error}") from error
        values |= {name: _setting(path, name, value) for name, value in table.items()}
    profile = Profile(**values)
    _check_profile(path, profile)
    return profile


def _setting(path: Path, name: str, value: object) -> object:
    """Return what rounds.toml says of `name` as `Profile` has it."""
    if name not in KINDS:
        raise SettingsError(f"{path}: `{name}` is not a setting", hint="known are: " + ", ".join(sorted(KINDS)))
    kind, what = KINDS[name]
    if kind is float and type(value) in {int, float}:
        return float(cast("float", value))
    if kind is tuple and isinstance(value, list) and len(value) == PHASES and {type(each) for each in value} == {int}:
        return tuple(value)
    if type(value) is not kind:
        raise SettingsError(
            f"{path}: `{name}` is {value!r}, but has to be {what}", hint=f"for instance: {name} = {_example(name)}"
        )
    return value


def _example(name: str) -> object:
    default = getattr(Profile(), name)
    return list(default) if isinstance(default, tuple) else default


def _check_profile(path: Path, profile: Profile) -> None:
    try:
        floors = replace(profile.floors, z=0.0)
        check_floors(profile.draft(Model(FIRST_VERSION, base_schema(), base_arrays()), PHASE_S_MOST), floors)
    except ProtocolError as error:
        raise SettingsError(f"{path}: no device would follow this: {error}", hint=error.hint) from error
    if profile.n_max < profile.floors.shard_least:
        raise SettingsError(
            f"{path}: `n_max` is {profile.n_max}, and no shard begins with less than {profile.floors.shard_least}"
        )
    if not 0 < profile.rate <= RATE_MOST:
        raise SettingsError(f"{path}: `rate` is {profile.rate:g}, but has to be above 0 and at most {RATE_MOST:g}")


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
        SettingsError: the public set can't be read, or is not one for this head.
    """
    public = _read_public_set(places.folder / PUBLIC_SET)

    def gate(old: Model, candidate: Model) -> Mapping[str, float]:
        if public is None:
            return no_gate(old, candidate)
        report = judge(candidate.arrays, Judging(candidate.schema, old.arrays, public))
        report.check()
        return {name: value for name, value in asdict(report).items() if isinstance(value, float)}

    def publish(candidate: Model, _report: Mapping[str, float]) -> None:
        repository.publish(candidate.arrays, candidate.schema, base=base_version(), number=candidate.version)

    return Judge(gate, publish, lambda: newest_release(repository))


def _read_public_set(path: Path) -> PublicSet | None:
    try:
        return PublicSet.load(base_schema(), path.read_bytes()) if path.exists() else None
    except (OSError, ModelError) as error:
        raise SettingsError(f"{path}: {error}", hint="make it anew: scripts/build_public_set.py") from error


def finished(state: State | None) -> int:
    """Return how many rounds came to an end of their own: not those that are under way, or were lost with a server."""
    return 0 if state is None else sum(record.outcome not in UNDECIDED for record in state.rounds)
