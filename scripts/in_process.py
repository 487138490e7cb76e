"""A federation in one process: the product's own participants and coordinator, and bytes carried between them by a loop.

Nothing here takes part in the protocol: it makes keys, carries messages in the order a network might, and moves a clock. The
simulator and the tests of rounds both stand on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING
from unittest import mock

from earmark_client.federation.participant import Participant, Trainer, World
from earmark_client.learn.ledger_rows import Charge, Row
from earmark_server.coordinator import Coordinator, Office
from earmark_server.round_run import RoundRun
from earmark_shared.crypto import identities
from earmark_shared.crypto.certificates import Certificate, Enrolment, issue
from earmark_shared.crypto.identities import Identity
from earmark_shared.errors import ProtocolError
from earmark_shared.round import Abort, Floors, Phase, RoundPlan
from earmark_shared.secagg import checks
from earmark_shared.secagg.checks import HeldModel, Membership
from earmark_shared.wire import envelope

if TYPE_CHECKING:
    from earmark_server.checkpoint import Model
    from earmark_shared.shapes import Message

Letter = tuple[bytes, "type[Message]", bytes]
"""A device, the kind of message it was or is asked with, and bytes: the message, or what came back."""
NOW_S = 1_800_000_000
YEAR_S = 365 * 86_400


class Memory:
    """A ledger that only remembers: for simulations, where thousands of devices spend the same."""

    def __init__(self) -> None:
        """Begin with nothing spent."""
        self.reserved: list[Charge] = []
        self.committed: list[Charge] = []
        self.released: list[Charge] = []

    def rows(self) -> list[Row]:
        """Return nothing: no plan is seen twice here."""
        return []

    def reserve(self, charge: Charge) -> None:
        """See `participant.Spending`."""
        self.reserved.append(charge)

    def commit(self, charge: Charge) -> None:
        """See `participant.Spending`."""
        self.committed.append(charge)

    def release(self, charge: Charge) -> None:
        """See `participant.Spending`."""
        self.released.append(charge)


@dataclass
class Authorities:
    """Who signs what."""

    enrolment_key: Identity = field(default_factory=lambda: Identity.create(os.urandom))
    plan_key: Identity = field(default_factory=lambda: Identity.create(os.urandom))
    revoked: set[bytes] = field(default_factory=set)

    def enrolment(self) -> Enrolment:
        """Return what a verifier knows."""
        return Enrolment(self.enrolment_key.public, frozenset(self.revoked))

    def office(self) -> Office:
        """Return what a coordinator works with."""
        return Office(self.plan_key, self.enrolment, os.urandom)

    def device(
        self, floors: Floors, model: Callable[[], Model], trainer: Callable[[RoundPlan], Trainer], ledger: object = None
    ) -> tuple[bytes, Participant]:
        """Enrol a device; return its pseudonym and its participant."""
        identity, alias = Identity.create(os.urandom), os.urandom(16)
        certificate = issue(self.enrolment_key, Certificate(alias, identity.public, NOW_S + YEAR_S, 1))

        def member(_now_s: int) -> Membership:
            held = model()
            about = HeldModel(held.version, held.sha256, held.schema.sha256(), held.schema.size)
            keys = {self.plan_key.public: self.plan_key.public}
            return Membership(identity, certificate, self.enrolment(), keys, about, floors)

        spending = ledger if ledger is not None else Memory()
        return alias, Participant(World(member, trainer, spending, os.urandom))  # type: ignore[arg-type]  # duck


@dataclass
class Network:
    """Carries bytes between a run and its devices; what is silent or changed is the caller's to say."""

    devices: dict[bytes, Participant]
    now_s: int = NOW_S
    is_silent: Callable[[bytes, Phase], bool] = lambda _device, _phase: False
    tap: Callable[[bytes, Phase, bytes], bytes] = lambda _device, _phase, sent: sent
    """Sees, and may change, every byte that leaves a device."""
    refused: list[ProtocolError] = field(default_factory=list)
    """What the server refused."""

    def run(self, coordinator: Coordinator) -> RoundRun:
        """Run one round to its end, candidate and all."""
        run = coordinator.begin(self.now_s)
        self.drive(run)
        coordinator.finish(run)
        return run

    def drive(self, run: RoundRun) -> None:
        """Carry messages until the round is over."""
        outgoing: dict[bytes, Message] = dict.fromkeys(self.devices, run.plan)
        run.expect(len(outgoing))
        while not run.is_over:
            self.carry(run, outgoing)
            outgoing = run.poll(self.now_s)
            if not outgoing and not run.is_over:
                self.now_s = run.deadline_s
                outgoing = run.poll(self.now_s)

    def carry(self, run: RoundRun, outgoing: dict[bytes, Message]) -> None:
        """Deliver messages and bring the answers back."""
        packed: dict[int, bytes] = {}
        letters: list[Letter] = []
        for device_id, message in outgoing.items():
            kind = type(message)
            if not self.is_silent(device_id, Phase(envelope.ASKED.index(kind) + 1)):
                if id(message) not in packed:
                    packed[id(message)] = envelope.pack((message,))
                letters.append((device_id, kind, packed[id(message)]))
        for device_id, kind, sent in self.ask(letters):
            for answer in self._read(device_id, kind, sent):
                self._hand_in(run, device_id, answer)

    def ask(self, letters: Iterable[Letter]) -> Iterator[Letter]:
        """Give each device its message; yield what each sent back."""
        for device_id, kind, packed in letters:
            yield device_id, kind, answer(self.devices[device_id], kind, packed, self.now_s)

    def _read(self, device_id: bytes, kind: type[Message], sent: bytes) -> tuple[Message, ...]:
        """Return the messages that a device sent, or none if the server refuses the bytes."""
        sent = self.tap(device_id, Phase(envelope.ASKED.index(kind) + 1), sent)
        try:
            return envelope.unpack(sent, (envelope.ANSWERS[kind], Abort)) if sent else ()
        except ProtocolError as error:
            self.refused.append(error)
            return ()

    def _hand_in(self, run: RoundRun, device_id: bytes, answer: Message) -> None:
        if isinstance(answer, Abort) and answer.phase <= Phase.ADVERTISE and run.is_gathering:
            run.decline()
            return
        try:
            run.receive(device_id, answer, self.now_s)
        except ProtocolError as error:
            self.refused.append(error)


def answer(device: Participant, kind: type[Message], packed: bytes, now_s: int) -> bytes:
    """Return the bytes that a device answers a message with."""
    (message,) = _unpack(packed, kind)
    return envelope.pack(device.answer(message, now_s))


@lru_cache(maxsize=64)
def _unpack(packed: bytes, kind: type[Message]) -> tuple[Message, ...]:
    """Read a message once for all devices that get the same bytes: records can't be changed."""
    return envelope.unpack(packed, (kind,))


@contextmanager
def one_verification() -> Iterator[None]:
    """Remember signatures that were right: in one process all devices check the same ones, each would on its own machine."""
    remembered = lru_cache(maxsize=1 << 18)(identities.verify_digest)
    with mock.patch.object(identities, "verify_digest", remembered), mock.patch.object(checks, "verify_digest", remembered):
        yield
