"""One round of the protocol SA1 as records: its plan, its phases, its messages, and the floors a device enforces.

Every field of a message has a shape (shapes.py) that is checked when the record is made. The floors are constants; a device may only tighten them (`Floors`), and
a plan below one is refused. Message fields are those of `protos/earmark_shared/wire/v1/round.proto`, in that order.

    Survivors(t1=t1, u3=(0, 2, 5))          # MalformedError when t1 is not 32 bytes or an index not a u16
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

from earmark_shared.errors import PlanError, PolicyError
from earmark_shared.shapes import Flag, Many, Message, Octets, Real, Whole, sized

PROTO = 1
COHORT_LEAST = 20
"""Fewest devices in an opened sum."""
LAB_COHORT_LEAST = 5
"""The same in a home that joined with `--lab`: recorded, irreversible, said everywhere."""
SHARD_LEAST = 32
"""Fewest devices a server starts a shard with, so that drop-outs are survivable."""
DEVICES_MOST = 256
DIMENSION_MOST = 4_000_000
CLIP_MOST = 10.0
LOG2_SCALE_LEAST, LOG2_SCALE_MOST = 12, 18
NOISE_MULTIPLIER_MOST = 64.0
NOISE_STDDEV_LEAST = 4.0
"""In integer steps, per device: below it a sum of discrete Gaussians is not one."""
PHASE_S_MOST = 600
PLAN_LIFE_S_MOST = 86_400
DEADLINE_GRACE_S = 30
"""What a device allows for delivery on top of a phase's deadline."""
CHUNK_SIZE = 1 << 20
SHARE_SIZE = 33
BOX_SIZE = 2 * SHARE_SIZE + 16
NOBODY = 0xFFFF
"""`Abort.culprit` when no device caused it."""


class AbortCode(IntEnum):
    """Why a device left a round; the only reasons the server learns."""

    UNSPECIFIED = 0
    PLAN = 1
    POLICY = 2
    ROSTER = 3
    BOX = 4
    CONSISTENCY = 5
    COUNT = 6
    NORM = 7
    TIMEOUT = 8
    BUDGET = 9


class Phase(IntEnum):
    """The steps of a round; the five from ADVERTISE have a deadline each."""

    PLAN = 0
    ADVERTISE = 1
    SHARE_KEYS = 2
    MASKED = 3
    CONSISTENCY = 4
    UNMASK = 5
    DONE = 6
    ABORTED = 7


_INDEX = Whole(0xFFFF)
Hash = Annotated[bytes, sized(32)]
Key = Annotated[bytes, sized(32)]
Id = Annotated[bytes, sized(16)]
Signature = Annotated[bytes, sized(64)]
Index = Annotated[int, _INDEX]
U32 = Annotated[int, Whole(2**32 - 1)]
U64 = Annotated[int, Whole(2**64 - 1)]
Number = Annotated[float, Real()]
Indices = Annotated[tuple[int, ...], Many(0, DEVICES_MOST, _INDEX)]


@dataclass(frozen=True)
class RoundPlan(Message):
    """What a round does, signed by the aggregator's round-plan key."""

    round_id: Id
    proto: U32
    model_version: U64
    model_sha256: Hash
    schema_sha256: Hash
    d: U32
    clip_c: Number
    log2_scale_c: U32
    z: Number
    n_min: U32
    n_max: U32
    deadline_s: Annotated[tuple[int, ...], Many(5, 5, Whole(2**32 - 1))]
    not_before: U64
    not_after: U64
    shards: U32
    key_id: Annotated[bytes, Octets(range(1, 65))]
    sig: Signature

    @property
    def scale(self) -> float:
        """Integer steps per unit of the update (s)."""
        return 2.0**self.log2_scale_c / self.clip_c

    def noise_stddev(self, count: int) -> float:
        """Standard deviation of one device's noise in integer steps, in a shard of `count` devices."""
        return self.z * 2.0**self.log2_scale_c / math.sqrt(threshold(count))

    def quorum(self, count: int) -> int:
        """Fewest devices that must be left of a shard of `count`."""
        return max(threshold(count), self.n_min)


@dataclass(frozen=True)
class Advertise(Message):
    """A device's round keys, signed by its identity."""

    plan_hash: Hash
    device_id: Id
    cert: Annotated[bytes, sized(129)]
    mask_pk: Key
    share_pk: Key
    sig: Signature


@dataclass(frozen=True)
class Roster(Message):
    """Everybody in a shard, sorted by device_id; a device's place is its index."""

    plan_hash: Hash
    shard: U32
    members: Annotated[tuple[Advertise, ...], Many(1, DEVICES_MOST)]


@dataclass(frozen=True)
class Box(Message):
    """Two shares sealed for device `dst`."""

    dst: Index
    ct: Annotated[bytes, sized(BOX_SIZE)]


@dataclass(frozen=True)
class ShareKeys(Message):
    """A device's boxes for all others, and its commitment to its self-mask seed."""

    t1: Hash
    src: Index
    b_commit: Hash
    boxes: Annotated[tuple[Box, ...], Many(1, DEVICES_MOST)]


@dataclass(frozen=True)
class Inbox(Message):
    """The boxes meant for one device and whom they are from."""

    t1: Hash
    boxes: Annotated[tuple[Box, ...], Many(1, DEVICES_MOST)]
    src: Indices


@dataclass(frozen=True)
class MaskedChunk(Message):
    """Part `seq` of `of` of a masked vector; `sha256` covers all parts up to this one, the last part is signed."""

    t1: Hash
    src: Index
    seq: U32
    of: U32
    data: Annotated[bytes, Octets(range(1, CHUNK_SIZE + 1))]
    sha256: Hash
    sig: Annotated[bytes, Octets(range(0, 65, 64))]


@dataclass(frozen=True)
class Survivors(Message):
    """The devices whose masked vectors arrived."""

    t1: Hash
    u3: Indices


@dataclass(frozen=True)
class SurvivorSig(Message):
    """A device's word that it was told these survivors."""

    t3: Hash
    src: Index
    sig: Signature


@dataclass(frozen=True)
class UnmaskReq(Message):
    """The survivors again, with the others' words."""

    t1: Hash
    u3: Indices
    sigs: Annotated[tuple[SurvivorSig, ...], Many(0, DEVICES_MOST)]


@dataclass(frozen=True)
class UnmaskShare(Message):
    """A share of device `of`: of its mask key if it dropped out, else of its self-mask seed."""

    of: Index
    is_mask_key: Annotated[bool, Flag()]
    y: Annotated[bytes, sized(SHARE_SIZE)]


@dataclass(frozen=True)
class Unmask(Message):
    """One share of every device that shared keys."""

    t3: Hash
    src: Index
    shares: Annotated[tuple[UnmaskShare, ...], Many(1, DEVICES_MOST)]


@dataclass(frozen=True)
class Abort(Message):
    """A device leaves the round and says why, coarsely."""

    round_id: Id
    phase: Annotated[int, Whole(Phase.ABORTED)]
    code: Annotated[int, Whole(AbortCode.BUDGET)]
    culprit: Index


@dataclass(frozen=True)
class Floors:
    """The least protection a device accepts."""

    n_min: int = COHORT_LEAST
    z: float = 0.0
    lab: bool = False

    def __post_init__(self) -> None:
        """Refuse floors below the constants.

        Raises:
            PolicyError: `n_min` is below what this kind of home allows.
        """
        least = LAB_COHORT_LEAST if self.lab else COHORT_LEAST
        if self.n_min < least:
            raise PolicyError(
                f"a round needs at least {least} devices here", hint="smaller rounds are for homes joined with --lab"
            )

    @property
    def shard_least(self) -> int:
        """Devices that a shard begins with at least; outside a lab more than may be left at its end."""
        return self.n_min if self.lab else max(SHARD_LEAST, self.n_min)


def threshold(count: int) -> int:
    """Return t = floor(0.6 n) + 1: shares needed to open a secret in a shard of `count`. Never read from a message."""
    return 3 * count // 5 + 1


def check_floors(plan: RoundPlan, floors: Floors) -> None:
    """Refuse a plan that protects less than `floors` and the constants of this module.

    Raises:
        PolicyError: a parameter is outside its bounds.
        PlanError: another version of the protocol.
    """
    if plan.proto != PROTO:
        raise PlanError(f"the round uses protocol version {plan.proto}, this device {PROTO}", hint="update Earmark")
    log2_least = max(LOG2_SCALE_LEAST, math.log2(4 * math.sqrt(max(plan.d, 1))))
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("n_min", plan.n_min, floors.n_min, DEVICES_MOST),
        ("n_max", plan.n_max, plan.n_min, DEVICES_MOST),
        ("d", plan.d, 1, DIMENSION_MOST),
        ("clip_c", plan.clip_c, 1e-6, CLIP_MOST),
        ("log2_scale_c", plan.log2_scale_c, log2_least, LOG2_SCALE_MOST),
        ("z", plan.z, floors.z, NOISE_MULTIPLIER_MOST),
        ("shards", plan.shards, 1, 2**16),
        ("plan life", plan.not_after - plan.not_before, 1, PLAN_LIFE_S_MOST),
        *(("deadline_s", seconds, 1, PHASE_S_MOST) for seconds in plan.deadline_s),
    )
    for name, value, least, most in bounds:
        if not least <= value <= most:
            raise PolicyError(f"the round's {name} is {value:g}, this device accepts {least:g} to {most:g}")
    check_noise(plan, plan.n_max)


def check_noise(plan: RoundPlan, count: int) -> None:
    """Refuse noise too fine for integers in a shard of `count`.

    Raises:
        PolicyError: there is noise, and its standard deviation is below `NOISE_STDDEV_LEAST`.
    """
    if plan.z > 0 and plan.noise_stddev(count) < NOISE_STDDEV_LEAST:
        raise PolicyError("the round's noise is too fine for its scale")
