"""What both sides hash, sign and derive keys from, so that nobody can be told a different story.

`plan_hash` binds the model and the schema, `roster_hash` (T1) binds the plan and everybody's keys, `survivors_hash` (T3)
binds T1. Every mask and share key is derived from T1: devices that were told different things get masks that don't cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from earmark_shared.crypto.hashing import derive_key, digest, f64, u16, u32, u64
from earmark_shared.round import Advertise, RoundPlan
from earmark_shared.shapes import Whole, shapes

PLAN = "earmark/sa1/plan"
CERT = "earmark/sa1/cert"
ROSTER = "earmark/sa1/roster"
SURVIVORS = "earmark/sa1/survivors"
COMMIT = "earmark/sa1/commit"
ADVERTISE_SIG = "earmark/sa1/adv"
MASKED_SIG = "earmark/sa1/masked"
CONSISTENT_SIG = "earmark/sa1/consistent"
SHARE_KEY = "earmark/sa1/share"
PAIR_KEY = "earmark/sa1/pair"
SELF_KEY = "earmark/sa1/self"


def plan_hash(plan: RoundPlan) -> bytes:
    """Return the hash of every field but the signature, in the message's order; it is also what the signature signs."""
    return digest(PLAN, *(_plan_part(plan, field.name) for field in fields(plan) if field.name != "sig"))


def _plan_part(plan: RoundPlan, name: str) -> bytes:
    value = getattr(plan, name)
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple):
        return b"".join(u32(item) for item in value)
    if isinstance(value, float):
        return f64(value)
    return u64(value) if shapes(RoundPlan)[name] == Whole(2**64 - 1) else u32(value)


def roster_hash(plan_digest: bytes, members: Sequence[Advertise]) -> bytes:
    """Return T1."""
    entries = [part for each in members for part in (each.device_id, digest(CERT, each.cert), each.mask_pk, each.share_pk)]
    return digest(ROSTER, plan_digest, u32(len(members)), *entries)


def survivors_hash(t1: bytes, indices: Sequence[int]) -> bytes:
    """Return T3 for the sorted `indices`."""
    return digest(SURVIVORS, t1, u32(len(indices)), b"".join(u16(index) for index in indices))


def commitment(t1: bytes, index: int, self_seed: bytes | bytearray) -> bytes:
    """Return a device's commitment to its self-mask seed."""
    return digest(COMMIT, t1, u16(index), self_seed)


def share_key(secret: bytes | bytearray, round_id: bytes, t1: bytes, src: int, dst: int) -> bytearray:
    """Return the key of the box from `src` to `dst`; `secret` is the X25519 output of their share keys."""
    return derive_key(secret, round_id, SHARE_KEY, t1, u16(src), u16(dst))


def box_context(t1: bytes, src: int, dst: int) -> bytes:
    """Return what a box is bound to besides its key: `T1 || src || dst`."""
    return t1 + u16(src) + u16(dst)


def pair_key(secret: bytes | bytearray, round_id: bytes, t1: bytes, one: int, other: int) -> bytearray:
    """Return the mask seed of a pair, the same for both; `secret` is the X25519 output of their mask keys."""
    return derive_key(secret, round_id, PAIR_KEY, t1, u16(min(one, other)), u16(max(one, other)))


def self_key(self_seed: bytes | bytearray, round_id: bytes, t1: bytes) -> bytearray:
    """Return the mask seed that only the device itself knows."""
    return derive_key(self_seed, round_id, SELF_KEY, t1)
