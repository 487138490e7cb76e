"""A fleet for tests: an authority, a plan, devices, and a round driven over encoded messages, with anybody dropping anywhere."""

import hashlib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import pytest

from earmark_shared import round as round_module
from earmark_shared.crypto import identities
from earmark_shared.crypto.certificates import Certificate, Enrolment, issue
from earmark_shared.crypto.identities import Identity
from earmark_shared.crypto.keystream import keystream
from earmark_shared.round import Floors, Phase, RoundPlan
from earmark_shared.secagg import checks
from earmark_shared.secagg.attempt import NoisyUpdate
from earmark_shared.secagg.checks import HeldModel, Membership
from earmark_shared.secagg.device import Device
from earmark_shared.secagg.forming import Lobby
from earmark_shared.secagg.transcript import plan_hash
from earmark_shared.wire.codec import decode, encode

NOW_S = 1_800_000_000
LAB = Floors(n_min=5, lab=True)


class Stream:
    """Entropy that is the same every time: SHA-256 of a seed and a counter."""

    def __init__(self, seed):
        self._seed, self._counter = str(seed).encode(), 0

    def __call__(self, size):
        out = b""
        while len(out) < size:
            out += hashlib.sha256(self._seed + b"/" + str(self._counter).encode()).digest()
            self._counter += 1
        return out[:size]


def sign_plan(plan, key):
    return replace(plan, sig=key.sign_digest(plan_hash(plan)))


def no_noise(stddev, size):
    raise AssertionError("no noise was asked for")


@dataclass
class Fleet:
    """`count` enrolled devices and the keys they trust; `seed` makes everything."""

    count: int
    d: int = 8
    seed: object = 0
    floors: Floors = LAB
    changes: dict = field(default_factory=dict)

    def __post_init__(self):
        self.authority = Identity.create(Stream(f"authority{self.seed}"))
        self.plan_key = Identity.create(Stream(f"plan{self.seed}"))
        self.plan = self.make_plan(**self.changes)
        self.members = [self.member(place) for place in range(self.count)]

    def make_plan(self, **changes):
        values = {
            "round_id": hashlib.sha256(f"round{self.seed}".encode()).digest()[:16],
            "proto": 1, "model_version": 7, "model_sha256": b"M" * 32, "schema_sha256": b"S" * 32,
            "d": self.d, "clip_c": 1.0, "log2_scale_c": 14, "z": 0.0, "n_min": self.floors.n_min, "n_max": 128,
            "deadline_s": (60, 60, 300, 30, 60), "not_before": NOW_S - 10, "not_after": NOW_S + 3600, "shards": 1,
            "key_id": b"plan-key", "sig": bytes(64),
        }  # fmt: skip
        return sign_plan(RoundPlan(**(values | changes)), self.plan_key)

    def enrolment(self, **changes):
        return Enrolment(self.authority.public, **changes)

    def member(self, place, *, authority=None, alias=None, **changes):
        identity = Identity.create(Stream(f"device{self.seed}/{place}"))
        alias = alias or hashlib.sha256(f"alias{self.seed}/{place}".encode()).digest()[:16]
        certificate = issue(authority or self.authority, Certificate(alias, identity.public, NOW_S + 86_400, 1))
        model = HeldModel(self.plan.model_version, self.plan.model_sha256, self.plan.schema_sha256, self.plan.d)
        values = {"enrolment": self.enrolment(), "plan_keys": {b"plan-key": self.plan_key.public}, "model": model}
        return Membership(identity, certificate, floors=self.floors, **(values | changes))

    def steps(self, place):
        words = keystream(Stream(f"steps{self.seed}/{place}")(32), self.plan.d)
        most = max(1, int(2**13 / self.plan.d**0.5))
        return (words % np.uint32(2 * most + 1)).astype(np.int32) - most

    def device(self, place, *, plan=None, member=None, update=None, draw_noise=no_noise, attempt=0):
        plan = plan or self.plan
        update = update or NoisyUpdate(plan, self.steps(place), draw_noise)
        return Device(plan, member or self.members[place], update=update, entropy=Stream(f"e{self.seed}/{place}/{attempt}"))

    def devices(self, **options):
        return [self.device(place, **options) for place in range(self.count)]

    def lobby(self, devices, *, now_s=NOW_S):
        lobby = Lobby(self.plan, self.enrolment(), floors=self.floors, now_s=now_s)
        for device in devices:
            advertise = over_the_wire(device.start(now_s))
            lobby.receive(advertise.device_id, advertise, now_s)
        return lobby

    def shard(self, devices):
        """Return the one shard of all devices and the devices by id."""
        shard = self.lobby(devices).form_shards(Stream("deal"), NOW_S)[0]
        by_id = {device._own.device_id: device for device in devices}
        return shard, by_id


def over_the_wire(message):
    return decode(type(message), encode(message))


def drive(shard, by_id, *, drops=(), now_s=NOW_S):
    """Run a shard to its end; `drops` is (phase, device id) pairs: silent from that phase on."""
    outgoing = dict.fromkeys([each.device_id for each in shard.roster.members], shard.roster)
    while not shard.is_over:
        gone = {device_id for phase, device_id in drops if phase <= shard.phase}
        for device_id, message in outgoing.items():
            if device_id not in gone:
                for reply in by_id[device_id].step(over_the_wire(message), now_s):
                    shard.receive(device_id, over_the_wire(reply), now_s)
        outgoing = shard.close_phase(now_s)
    return shard.total


def expected_sum(shard, by_id, fleet):
    """Return what the survivors' updates add up to, from the updates themselves."""
    places = {fleet.members[place].certificate[1:17]: place for place in range(fleet.count)}
    return sum(fleet.steps(places[device_id]).astype(np.int64) for device_id in shard.total.survivors)


def run_to(shard, by_id, phase):
    """Drive everybody honestly until the server is about to send what opens `phase`; return those messages by device id."""
    outgoing = dict.fromkeys([each.device_id for each in shard.roster.members], shard.roster)
    while shard.phase < phase:
        for device_id, message in outgoing.items():
            for reply in by_id[device_id].step(message, NOW_S):
                shard.receive(device_id, reply, NOW_S)
        outgoing = shard.close_phase(NOW_S)
    return outgoing


DROPPABLE = (Phase.SHARE_KEYS, Phase.MASKED, Phase.CONSISTENCY, Phase.UNMASK)


_remembered = lru_cache(maxsize=200_000)(identities.verify_digest)


@contextmanager
def swift_verification():
    """Remember signatures that were right: in one process every device checks the same ones, each would on its own machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identities, "verify_digest", _remembered)
        patch.setattr(checks, "verify_digest", _remembered)
        yield


@contextmanager
def least_cohort(count):
    """Lower the lab's floor, for arithmetic on shards that no home would accept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(round_module, "LAB_COHORT_LEAST", count)
        yield Floors(n_min=count, lab=True)
