"""SA1's server half: one shard from its roster to its opened sum. It learns the sum, who took part, and nothing else.

    for shard in lobby.form_shards(entropy, now_s):  # forming.py; shard.roster -> everybody in it
        while not shard.is_over:
            shard.receive(sender, message, now_s)    # as they come; a refused message changes nothing
            outgoing = shard.close_phase(now_s)      # when is_complete, or at deadline_s: device id -> next message
        shard.total                                  # ShardSum

The transport says who the sender is (an enrolled device id), this module holds it to its word. A shard that falls below its
quorum ends with CountError, and nothing of it is ever opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from earmark_shared.errors import ConsistencyError, CountError, DeadlineError, MalformedError, NormError, PhaseError, RosterError
from earmark_shared.round import (
    Abort,
    Box,
    Floors,
    Inbox,
    MaskedChunk,
    Phase,
    Roster,
    RoundPlan,
    ShareKeys,
    Survivors,
    SurvivorSig,
    Unmask,
    UnmaskReq,
    check_floors,
    threshold,
)
from earmark_shared.secagg import checks, transcript
from earmark_shared.secagg.chunks import Upload
from earmark_shared.secagg.opening import Opened, open_sum
from earmark_shared.secagg.quantize import norm_bound

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark_shared.shapes import Message

UPLOADS_SIZE_MOST = 32 << 20
"""Bytes of unfinished masked vectors a shard holds at a time."""
STEP_SUM_MOST = 2**30


@dataclass(frozen=True)
class ShardSum:
    """What a shard's survivors add up to."""

    steps: NDArray[np.int32]
    """Sum of the integer updates with their noise, `(d,)`."""
    survivors: tuple[bytes, ...]
    """Device ids in the sum."""
    t1: bytes
    t3: bytes


class Shard:
    """One shard in one attempt of one round."""

    def __init__(self, plan: RoundPlan, roster: Roster, *, floors: Floors, now_s: int) -> None:
        """Wait for ShareKeys from everybody in `roster`, which is to be sent to them.

        Raises:
            PolicyError: the plan or the shard is below the floors.
            RosterError: the roster is not the plan's, or names somebody twice.
        """
        check_floors(plan, floors)
        plan_digest = transcript.plan_hash(plan)
        checks.check_roster(roster, plan, plan_digest, floors)
        self.phase = Phase.SHARE_KEYS
        """What the devices are answering now."""
        self.total: ShardSum | None = None
        self._plan, self._roster, self._members = plan, roster, roster.members
        self._t1 = transcript.roster_hash(plan_digest, self._members)
        self._indices = {each.device_id: index for index, each in enumerate(self._members)}
        self._opened_s = now_s
        self._alive = set(range(len(self._members)))
        self._shared: dict[int, ShareKeys] = {}
        self._uploads: dict[int, Upload] = {}
        self._sum = np.zeros(plan.d + 1, dtype="<u4")
        self._arrived: set[int] = set()
        self._survivors: tuple[int, ...] = ()
        self._signatures: dict[int, SurvivorSig] = {}
        self._shares: dict[int, dict[int, bytes]] = {}

    @property
    def roster(self) -> Roster:
        """What to send to every member first."""
        return self._roster

    @property
    def is_over(self) -> bool:
        """Whether the sum is there, or never will be."""
        return self.phase >= Phase.DONE

    @property
    def is_complete(self) -> bool:
        """Whether everybody who can still answer has."""
        return self._answered() >= self._expected() & self._alive

    @property
    def deadline_s(self) -> int:
        """When to close the phase, whoever is missing; when a shard that is over is over."""
        return self._opened_s + (0 if self.is_over else self._plan.deadline_s[self.phase - 1])

    @property
    def helped_open(self) -> frozenset[bytes]:
        """Devices that sent Unmask: never part of a retry."""
        return frozenset(self._members[index].device_id for index in self._shares)

    def receive(self, sender: bytes, message: Message, now_s: int) -> None:
        """Take a message from the device whose id is `sender`. A refused message changes nothing.

        Raises:
            ProtocolError: the message is refused; its subclass says why.
        """
        if sender not in self._indices:
            raise RosterError("the sender is not in this shard")
        index = self._indices[sender]
        if self.is_over:
            raise PhaseError("the shard is over", culprit=index)
        if isinstance(message, Abort):
            self._leave(index, message)
            return
        if now_s > self.deadline_s:
            raise DeadlineError("the message came after its phase", culprit=index)
        if index not in self._expected() & self._alive or index in self._answered():
            raise PhaseError("the device has nothing to say in this phase", culprit=index)
        self._take(index, message)

    def close_phase(self, now_s: int) -> dict[bytes, Message]:
        """End the phase and return what to send to whom; after the last, `total` is there.

        Raises:
            CountError: too few devices answered, the attempt is over and nothing was opened.
            NormError: the sum is not one of honest updates, and is dropped.
        """
        closers = {
            Phase.SHARE_KEYS: self._close_share_keys,
            Phase.MASKED: self._close_masked,
            Phase.CONSISTENCY: self._close_consistency,
            Phase.UNMASK: self._close_unmask,
        }
        if self.phase not in closers:
            raise PhaseError("the shard is over")
        phase, self.phase = self.phase, Phase.ABORTED
        outgoing = closers[phase]()
        self.phase, self._opened_s = Phase(phase + 1), now_s
        return {self._members[index].device_id: message for index, message in outgoing.items()}

    def _leave(self, index: int, message: Abort) -> None:
        if message.round_id != self._plan.round_id:
            raise ConsistencyError("the abort is about another round", culprit=index)
        self._alive.discard(index)
        if index not in self._answered():
            self._uploads.pop(index, None)

    def _expected(self) -> set[int]:
        """Return who is asked in this phase."""
        match self.phase:
            case Phase.SHARE_KEYS:
                return set(range(len(self._members)))
            case Phase.MASKED:
                return set(self._shared)
            case Phase.CONSISTENCY:
                return set(self._survivors)
            case Phase.UNMASK:
                return set(self._signatures)
        return set()

    def _answered(self) -> set[int]:
        match self.phase:
            case Phase.SHARE_KEYS:
                return set(self._shared)
            case Phase.MASKED:
                return self._arrived
            case Phase.CONSISTENCY:
                return set(self._signatures)
            case Phase.UNMASK:
                return set(self._shares)
        return set()

    def _take(self, index: int, message: Message) -> None:
        match self.phase, message:
            case Phase.SHARE_KEYS, ShareKeys():
                self._take_shares(index, message)
            case Phase.MASKED, MaskedChunk():
                self._take_chunk(index, message)
            case Phase.CONSISTENCY, SurvivorSig():
                self._take_signature(index, message)
            case Phase.UNMASK, Unmask():
                self._take_unmask(index, message)
            case _:
                raise PhaseError(f"a {type(message).__name__} has no place in phase {self.phase.name}", culprit=index)

    def _take_shares(self, index: int, message: ShareKeys) -> None:
        checks.check_same_transcript(message.t1, self._t1)
        others = [other for other in range(len(self._members)) if other != index]
        if message.src != index or [box.dst for box in message.boxes] != others:
            raise MalformedError("the boxes are not one each for all others", culprit=index)
        self._shared[index] = message

    def _take_chunk(self, index: int, message: MaskedChunk) -> None:
        if index not in self._uploads:
            if (len(self._uploads) + 1) * self._sum.nbytes > max(UPLOADS_SIZE_MOST, self._sum.nbytes):
                raise CountError("too many masked vectors are under way", hint="send it again later", culprit=index)
            self._uploads[index] = Upload(self._members[index], t1=self._t1, src=index, dimension=self._plan.d)
        words = self._uploads[index].add(message)
        if words is not None:
            self._sum += words
            self._arrived.add(index)
            del self._uploads[index]

    def _take_signature(self, index: int, message: SurvivorSig) -> None:
        if message.src != index:
            raise ConsistencyError("a device signs as another", culprit=index)
        checks.check_survivor_signature(message, self._members, self._t3)
        self._signatures[index] = message

    def _take_unmask(self, index: int, message: Unmask) -> None:
        checks.check_same_transcript(message.t3, self._t3)
        asked = [(owner, owner not in self._survivors) for owner in sorted(self._shared)]
        if message.src != index or [(share.of, share.is_mask_key) for share in message.shares] != asked:
            raise MalformedError("the shares are not the ones asked for", culprit=index)
        self._shares[index] = {share.of: share.y for share in message.shares}

    def _close_share_keys(self) -> dict[int, Message]:
        self._check_quorum(len(self._shared))
        return {dst: self._inbox(dst) for dst in sorted(self._shared)}

    def _inbox(self, dst: int) -> Inbox:
        senders = [src for src in sorted(self._shared) if src != dst]
        boxes: list[Box] = [self._shared[src].boxes[dst - (dst > src)] for src in senders]
        return Inbox(self._t1, tuple(boxes), tuple(senders))

    def _close_masked(self) -> dict[int, Message]:
        self._uploads.clear()
        self._check_quorum(len(self._arrived))
        self._survivors = tuple(sorted(self._arrived))
        self._t3 = transcript.survivors_hash(self._t1, self._survivors)
        return dict.fromkeys(self._survivors, Survivors(self._t1, self._survivors))

    def _close_consistency(self) -> dict[int, Message]:
        signers = sorted(self._signatures)[: threshold(len(self._members))]
        signatures = tuple(self._signatures[index] for index in signers)
        checks.check_survivor_signatures(signatures, self._members, self._survivors, self._t3)
        return dict.fromkeys(sorted(self._signatures), UnmaskReq(self._t1, self._survivors, signatures))

    def _close_unmask(self) -> dict[int, Message]:
        commitments = {index: shared.b_commit for index, shared in self._shared.items()}
        shard = Opened(self._plan.round_id, self._t1, self._members, commitments, self._survivors)
        open_sum(self._sum, shard, self._shares)
        steps = self._sum[1:].view("<i4")
        check_sum(self._plan, int(self._sum[0]), steps, survivors=len(self._survivors), count=len(self._members))
        ids = tuple(self._members[index].device_id for index in self._survivors)
        self.total = ShardSum(steps, ids, self._t1, self._t3)
        return {}

    def _check_quorum(self, left: int) -> None:
        checks.check_quorum(self._plan, left=left, count=len(self._members))


def check_sum(plan: RoundPlan, counted: int, steps: NDArray[np.int32], *, survivors: int, count: int) -> None:
    """Refuse an opened sum that honest updates can't add up to.

    Raises:
        CountError: slot 0 does not count exactly the survivors.
        NormError: the sum, or a coordinate, is larger than all updates and six standard deviations of their noise.
    """
    if counted != survivors:
        raise CountError(f"the sum counts {counted} devices, there are {survivors}")
    noise_stddev = plan.noise_stddev(count) * math.sqrt(survivors)
    bound = survivors * norm_bound(plan) + noise_stddev * (math.sqrt(plan.d) + 6)
    exact = steps.astype(np.float64)
    if float(np.abs(exact).max()) >= STEP_SUM_MOST or float(np.linalg.norm(exact)) > bound:
        raise NormError("the sum is larger than honest updates add up to")
