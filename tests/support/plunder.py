"""What a cheating server does with what it is given: the attacker's half of the SA1 attack tests.

An attack counts only if it works: each test runs its script on a build with one check taken away, where it must recover the
victim's update, and on the real build, where the victim must have left before anything secret came out.
"""

import numpy as np
import pytest

from earmark_shared.crypto.exchange import ExchangeKey
from earmark_shared.crypto.keystream import subtract_keystreams
from earmark_shared.crypto.sealing import open_sealed, seal_once
from earmark_shared.errors import ProtocolError
from earmark_shared.round import SHARE_SIZE, Advertise, Box, Inbox, Phase, Roster, Survivors, SurvivorSig, UnmaskReq, threshold
from earmark_shared.secagg import transcript
from earmark_shared.secagg.masking import MaskSeeds, unmask
from earmark_shared.secagg.opening import Opened, open_sum
from earmark_shared.secagg.shamir import combine
from tests.support.fleet import NOW_S, Stream, run_to


class Puppet:
    """A roster entry whose round keys the server knows; `member` may be genuinely enrolled (a colluder) or made up."""

    def __init__(self, name, member):
        self.member = member
        self.mask_key, self.share_key = (ExchangeKey.create(Stream(f"{kind}{name}")) for kind in ("m", "e"))

    def advertise(self, plan):
        digest = transcript.plan_hash(plan)
        sig = self.member.identity.sign(transcript.ADVERTISE_SIG, digest, self.mask_key.public, self.share_key.public)
        cert = self.member.certificate
        return Advertise(digest, cert[1:17], cert, self.mask_key.public, self.share_key.public, sig)


def roster_of(plan, entries):
    return Roster(transcript.plan_hash(plan), 0, tuple(sorted(entries, key=lambda each: each.device_id)))


def plunder(victim, plan, roster, puppets):
    """Play a whole shard of puppets, index -> Puppet, against one device; return its update if that works."""
    (shared,) = victim.step(roster, NOW_S)
    t1, index, others = shared.t1, shared.src, sorted(puppets)
    own = roster.members[index]
    shares, boxes = {}, []
    for box in shared.boxes:
        secret = puppets[box.dst].share_key.shared_secrets([own.share_pk])[0]
        key = transcript.share_key(secret, plan.round_id, t1, index, box.dst)
        shares[box.dst] = open_sealed(key, box.ct, transcript.box_context(t1, index, box.dst))[:SHARE_SIZE]
        key = transcript.share_key(secret, plan.round_id, t1, box.dst, index)
        boxes.append(Box(index, seal_once(key, bytes(2 * SHARE_SIZE), transcript.box_context(t1, box.dst, index))))
    chunks = victim.step(Inbox(t1, tuple(boxes), tuple(others)), NOW_S)
    words = words_of(chunks)
    seed = combine(dict(list(shares.items())[: threshold(len(roster.members))]))
    subtract_keystreams(words, [transcript.self_key(seed, plan.round_id, t1)])
    for other in others:
        secret = puppets[other].mask_key.shared_secrets([own.mask_pk])[0]
        pair = transcript.pair_key(secret, plan.round_id, t1, index, other)
        unmask(words, MaskSeeds(added=[pair]) if other > index else MaskSeeds(subtracted=[pair]))
    return words[1:].view("<i4")


def words_of(chunks):
    return np.frombuffer(bytearray(b"".join(part.data for part in chunks)), dtype="<u4")


def assert_gone(device, error, *, code=None):
    """The device is out: it says only why, its secrets are zero, and no message brings another word out of it."""
    assert device.phase is Phase.ABORTED
    assert device.abort.code == (error.abort_code if code is None else code)
    held = device._secrets
    if held is not None:
        assert not any(held.mask_key.private + held.share_key.private + held.self_seed)
        assert not held.seed_shares
        assert not held.key_shares
    t1 = getattr(device, "_t1", bytes(32))
    own = getattr(device, "_own", None)
    later = [Survivors(t1, (0, 1)), UnmaskReq(t1, (0, 1), ()), Inbox(t1, (Box(0, bytes(82)),), (1,))]
    later += [roster_of(device._plan, [own])] if own else []
    for message in later:
        with pytest.raises(ProtocolError):
            device.step(message, NOW_S)
    with pytest.raises(ProtocolError):
        device.start(NOW_S)


def masked_round(fleet):
    """Run an honest round until every masked vector is in; return the shard, devices by index, and the vectors."""
    shard, by_id = fleet.shard(fleet.devices())
    outgoing = run_to(shard, by_id, Phase.MASKED)
    devices, vectors = {}, {}
    for index, entry in enumerate(shard.roster.members):
        devices[index] = by_id[entry.device_id]
        chunks = devices[index].step(outgoing[entry.device_id], NOW_S)
        vectors[index] = words_of(chunks)
        for part in chunks:
            shard.receive(entry.device_id, part, NOW_S)
    return shard, devices, vectors


def opened(shard, vectors, survivors, shares):
    """Return the sum of some masked vectors, opened with shares: responder -> owner -> share."""
    commitments = {index: shared.b_commit for index, shared in shard._shared.items()}
    total = sum(vectors[index] for index in survivors).astype("<u4")
    open_sum(total, Opened(shard._plan.round_id, shard._t1, shard.roster.members, commitments, survivors), shares)
    return total[1:].view("<i4")


def confirm(devices, shard, survivors_of):
    """Tell each device its own survivors; return each one's signature."""
    return {index: device.step(Survivors(shard._t1, survivors_of[index]), NOW_S)[0] for index, device in devices.items()}


def shares_in(reply):
    return {share.of: share.y for share in reply.shares}


def steps_of(fleet, shard, index):
    device_id = shard.roster.members[index].device_id
    (place,) = [place for place in range(fleet.count) if fleet.members[place].certificate[1:17] == device_id]
    return fleet.steps(place)


def forged(src, t3):
    return SurvivorSig(t3, src, bytes(64))
