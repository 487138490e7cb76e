"""A device in a round, without I/O: the plan's checks, the ledger, training, and SA1's device half, in the order that protects.

    participant = Participant(world)
    send(participant.answer(message, now_s))      # a plan, a roster, ...; what comes back is all that leaves the device

Rules: nothing is trained for a plan that is refused, and no gradient exists before the ledger has reserved what it costs. Whatever
goes wrong is answered by a coded `Abort` and nothing else. A round that ends before the masked update left gives its
reservation back; from then on it stays spent. A training that failed is spent as well, since that it failed may tell of a clip.
A reservation waits for the server's one retry until the plan has run out. Before each answer this device's person may have paused it,
or left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from earmark_client.learn.ledger import DAY_S
from earmark_client.learn.ledger_rows import Charge, Row, State
from earmark_shared.errors import BudgetError, EarmarkError, PhaseError, PrivacyError, ProtocolError, RoundBudgetError
from earmark_shared.privacy.accountant import DeviceGaussian, SampledGaussian, device_noise_multiplier
from earmark_shared.privacy.sampler import discrete_gaussian
from earmark_shared.round import NOBODY, Abort, Phase, RoundPlan, threshold
from earmark_shared.secagg import checks
from earmark_shared.secagg.attempt import NoisyUpdate
from earmark_shared.secagg.device import Device
from earmark_shared.secagg.quantize import norm_bound, quantize
from earmark_shared.secagg.transcript import plan_hash

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from earmark_shared.crypto.secrets import Entropy
    from earmark_shared.shapes import Message

COLLUDERS = 5
"""One device in so many is counted as taking its own noise out again."""
NO_ROUND = bytes(16)
EARLY_S = 7200
"""A day may be this much shorter from plan to plan: a server that asks at the same hour each day comes a little earlier at times."""
TRAININGS_A_DAY_MOST = 3
"""How often a server may have a device train within a day, also when nothing came of it: how long that took is something it sees."""


class Trainer(Protocol):
    """This device's corrections, ready to be learned from."""

    def event(self) -> SampledGaussian:
        """What training will spend; NoiseError when there are too few clips."""

    def update(self, paid: SampledGaussian) -> NDArray[np.float32]:
        """Train, and return new head minus old, `(d,)`."""


class Spending(Protocol):
    """What a participant asks of the ledger (`earmark_client.learn.ledger.Ledger` has it)."""

    def rows(self) -> list[Row]:
        """Every row, checked."""

    def reserve(self, charge: Charge) -> object:
        """Write down that it is about to be spent; BudgetError if it would be too much."""

    def commit(self, charge: Charge) -> None:
        """Write down that something left the device."""

    def release(self, charge: Charge) -> None:
        """Take a reservation back."""


@dataclass(frozen=True)
class World:
    """What a participant needs from outside."""

    member: Callable[[int], checks.Membership]
    """Who this device is and what it believes at a time (Unix seconds)."""
    trainer: Callable[[RoundPlan], Trainer]
    ledger: Spending
    entropy: Entropy
    check_willing: Callable[[checks.Membership], None] = lambda _: None
    """Raise EarmarkError when this device's person has paused it, or left the federation, since a round began."""


@dataclass
class _Live:
    """The round this device is in."""

    plan: RoundPlan
    member: checks.Membership
    charges: list[Charge] = field(default_factory=list)
    """Reserved, and neither committed nor released."""
    update: NoisyUpdate | None = None
    """What training gave; None while it goes on, and when it failed."""
    is_training: bool = False
    device: Device | None = None
    is_refused: bool = False
    """Whether this device left the round: it makes no second attempt."""


class Participant:
    """One device, round after round."""

    def __init__(self, world: World) -> None:
        """Wait for a plan."""
        self._world = world
        self._live: _Live | None = None
        self.error: EarmarkError | None = None
        """Why the last answer was an abort; for this device's own person, never sent."""

    def answer(self, message: Message, now_s: int) -> tuple[Message, ...]:
        """Take the server's next message and return what to send: the protocol's answer, or one `Abort`."""
        self.error = None
        try:
            if isinstance(message, RoundPlan):
                return (self._begin(message, now_s),)
            return self._go_on(message, now_s)
        except EarmarkError as error:
            self.error = error
            return (self._leave(message, error),)
        except BaseException:
            self.close()
            raise

    def refuse(self, error: EarmarkError) -> Abort:
        """Leave the round because what came was no message, and return what to send."""
        self.error = error
        live = self._live
        return self._leave(live.plan, error) if live is not None else _abort(NO_ROUND, Phase.PLAN, error)

    def tick(self, now_s: int) -> None:
        """Notice that time has passed: secrets of an overdue round are erased, and its reservation is given back once it can't go on."""
        live = self._live
        if live is None:
            return
        if live.device is not None and live.device.phase < Phase.DONE:
            try:
                live.device.expire(now_s)
            except ProtocolError as error:
                self.error = error
        if now_s > live.plan.not_after:
            self.close()

    def close(self) -> None:
        """Leave the round that is under way, if one is."""
        live, self._live = self._live, None
        if live is not None:
            self._end(live)

    def _begin(self, plan: RoundPlan, now_s: int) -> Message:
        if self._live is not None and self._live.plan == plan:
            return self._try_again(self._live, now_s)
        self.close()
        rows = self._world.ledger.rows()
        member = replace(self._world.member(now_s), rounds_seen=frozenset(row.round_id for row in rows))
        checks.check_plan(plan, member, now_s=now_s)
        if not member.floors.lab:
            check_daily(rows, now_s=now_s)
        trainer = self._world.trainer(plan)
        paid = trainer.event()
        charge = Charge(plan.round_id, plan_hash(plan), paid, device_event(plan))
        self._world.ledger.reserve(charge)
        self._live = live = _Live(plan, member, [charge])
        if _epochs(self._world.ledger.rows()) != _epochs(rows):
            raise BudgetError("a new data epoch began while the clips of the one before were read")
        live.is_training = True
        steps = quantize(trainer.update(paid), plan, self._world.entropy)
        live.update, live.is_training = NoisyUpdate(plan, steps, self._draw_noise), False
        return self._start(live, live.update, now_s)

    def _try_again(self, live: _Live, now_s: int) -> Message:
        """Make the one retry, with the same update; the device level is paid for again."""
        if live.is_refused or live.update is None:
            raise PhaseError("this device has left the round")
        self._world.check_willing(live.member)
        event = device_event(live.plan)
        if event is not None:
            charge = Charge(live.plan.round_id, plan_hash(live.plan), None, event, attempt=1)
            self._world.ledger.reserve(charge)
            live.charges.append(charge)
        return self._start(live, live.update, now_s)

    def _start(self, live: _Live, update: NoisyUpdate, now_s: int) -> Message:
        if live.device is not None:
            live.device.cancel()
        live.device = Device(live.plan, live.member, update=update, entropy=self._world.entropy)
        return live.device.start(now_s)

    def _go_on(self, message: Message, now_s: int) -> tuple[Message, ...]:
        live = self._live
        if live is None or live.device is None:
            raise PhaseError("this device is in no round")
        if live.is_refused:
            raise PhaseError("this device has left the round")
        try:
            self._world.check_willing(live.member)
            return live.device.step(message, now_s)
        finally:
            if live.device.is_uploaded:
                self._commit(live)

    def _leave(self, message: Message, error: EarmarkError) -> Abort:
        """Say coarsely why this device goes, and give back what was reserved if nothing has left."""
        live = self._live
        begun = isinstance(message, RoundPlan) and (live is None or live.plan != message)
        if live is None or begun:
            round_id = message.round_id if isinstance(message, RoundPlan) else NO_ROUND
            return _abort(round_id, Phase.PLAN, error)
        live.is_refused = True
        phase, told = (live.device.phase, live.device.abort) if live.device is not None else (Phase.PLAN, None)
        try:
            self._end(live)
        except EarmarkError as unsettled:  # the ledger can't be written now: what was reserved stays so until the round is closed
            self.error = unsettled
        return told or _abort(live.plan.round_id, phase, error)

    def _commit(self, live: _Live) -> None:
        while live.charges:
            self._world.ledger.commit(live.charges[0])
            del live.charges[0]

    def _end(self, live: _Live) -> None:
        """Take no further part: first nothing can leave any more, then what was reserved for nothing is given back."""
        if live.device is not None:
            live.device.cancel()
        if live.is_training or (live.device is not None and live.device.is_uploaded):
            self._commit(live)
        while live.charges:
            self._world.ledger.release(live.charges[-1])
            del live.charges[-1]

    def _draw_noise(self, stddev: float, size: int) -> NDArray[np.int64]:
        return discrete_gaussian(stddev, size, self._world.entropy)


def device_event(plan: RoundPlan) -> DeviceGaussian | None:
    """Return what a round spends at device level, at the worst size its shard may have; None when it adds no device noise."""
    if plan.z == 0:
        return None
    sensitivity = norm_bound(plan)
    multipliers = (
        device_noise_multiplier(
            plan.noise_stddev(count),
            sensitivity,
            contributors=threshold(count),
            colluders=count // COLLUDERS,
            dimensions=plan.d,
        )
        for count in range(plan.n_min, plan.n_max + 1)
    )
    return DeviceGaussian(min(multipliers))


def check_daily(rows: Iterable[Row], *, now_s: int) -> None:
    """Refuse a second round within a day, and another training after `TRAININGS_A_DAY_MOST` of them.

    Raises:
        BudgetError: there was one that was not taken back, or too many that were.
    """
    own = [row for row in rows if row.state != State.OPENED and row.attempt == 0]
    begun_s = {row.round_id: row.at_s for row in reversed(own)}
    states = {row.round_id: row.state for row in own}
    today = [states[round_id] for round_id, at_s in begun_s.items() if at_s > now_s - DAY_S + EARLY_S]
    if any(state != State.RELEASED for state in today):
        raise BudgetError("this device takes part in one round a day")
    if len(today) >= TRAININGS_A_DAY_MOST:
        raise BudgetError(f"this device trains {TRAININGS_A_DAY_MOST} times a day at most, whatever comes of it")


def _epochs(rows: Iterable[Row]) -> int:
    return sum(row.state == State.OPENED for row in rows)


def _abort(round_id: bytes, phase: Phase, error: EarmarkError) -> Abort:
    if isinstance(error, PrivacyError):
        return Abort(round_id, phase, RoundBudgetError.abort_code, NOBODY)
    return Abort(round_id, phase, error.abort_code if isinstance(error, ProtocolError) else 0, NOBODY)
