"""Cost of one SA1 shard, beside Flower's own SecAgg+ functions at the same size, in the same run, on one thread.

    python benchmarks/secagg.py --devices 128 --dim 1000000 --dropout 0.3

Every device of ours is really run (checks, signatures, encoding, masks), and the opened sum is compared with the sum of the
updates. Devices drop out after they shared keys, the costly place. CPU time, not wall time. The last line is one JSON object:
`client_cpu_s` (mean of a surviving device's whole round, quantization included), `upload_mb` (10^6 bytes one device sends,
encoded), `server_s`, `exact`, `vs_flower_secaggplus` = (our client + server) / (their client + server). Of theirs the
repeated steps (a mask, a sealed share, a recovered secret) are measured a few times and multiplied: `peer_measured` says how
often. Most of their time is Shamir's sharing in Python over many 16-byte pieces: `vs_flower_masks_only` compares all of our work
with nothing but their masks. Their functions are those of flwr's common/secure_aggregation, driven as its client mod and server workflow do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from common import Parser, at_least, finish, run, share

from earmark_shared.crypto.certificates import Certificate, Enrolment, issue
from earmark_shared.crypto.identities import Identity
from earmark_shared.round import (
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
    threshold,
)
from earmark_shared.secagg.attempt import NoisyUpdate
from earmark_shared.secagg.checks import HeldModel, Membership
from earmark_shared.secagg.device import Device
from earmark_shared.secagg.forming import Lobby
from earmark_shared.secagg.quantize import quantize
from earmark_shared.secagg.transcript import plan_hash
from earmark_shared.wire.codec import decode, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark_shared.secagg.server import Shard

NOW_S = 1_800_000_000
REPLIES = {Roster: ShareKeys, Inbox: MaskedChunk, Survivors: SurvivorSig, UnmaskReq: Unmask}
VECTORS = 4
MOST_DEVICES = 256
"""The most in one shard, and one shard is what is measured."""
REPEATS = 5


class Meter:
    """Adds up the CPU time of what runs inside `with`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.process_time() - self._start


def fewest(devices: int) -> int:
    """The least number of survivors that our plan lets open a sum."""
    return min(20, devices)


def make_plan(args: argparse.Namespace, key: Identity) -> RoundPlan:
    plan = RoundPlan(
        round_id=os.urandom(16), proto=1, model_version=1, model_sha256=bytes(32), schema_sha256=bytes(32), d=args.dim, clip_c=1.0,
        log2_scale_c=14, z=0.0, n_min=fewest(args.devices), n_max=MOST_DEVICES, deadline_s=(600,) * 5, not_before=NOW_S,
        not_after=NOW_S + 3600, shards=1, key_id=b"bench", sig=bytes(64),
    )  # fmt: skip
    return replace(plan, sig=key.sign_digest(plan_hash(plan)))


def make_members(args: argparse.Namespace, plan: RoundPlan, plan_key: Identity, authority: Identity) -> Iterator[Membership]:
    floors = Floors(n_min=plan.n_min, lab=plan.n_min < 20)
    model = HeldModel(plan.model_version, plan.model_sha256, plan.schema_sha256, plan.d)
    enrolment = Enrolment(authority.public)
    for _ in range(args.devices):
        identity = Identity.create(os.urandom)
        certificate = issue(authority, Certificate(os.urandom(16), identity.public, NOW_S + 9999, 1))
        yield Membership(identity, certificate, enrolment, {b"bench": plan_key.public}, model, floors)


def no_noise(_stddev: float, size: int) -> NDArray[np.int64]:
    return np.zeros(size, dtype=np.int64)


def run_ours(args: argparse.Namespace) -> dict[str, float]:
    """Return the cost of a device, of the server, the upload in bytes, and whether the sum is exact."""
    plan_key, authority = Identity.create(os.urandom), Identity.create(os.urandom)
    plan = make_plan(args, plan_key)
    members = list(make_members(args, plan, plan_key, authority))
    deltas = [np.random.default_rng(seed).standard_normal(args.dim).astype(np.float32) for seed in range(VECTORS)]
    steps, meters, server, quantizing = [], {}, Meter(), Meter()
    for delta in deltas:
        with quantizing:
            steps.append(quantize(delta, plan, os.urandom))
    lobby = Lobby(plan, members[0].enrolment, floors=members[0].floors, now_s=NOW_S)
    devices, uploaded, which = {}, {}, {}
    for place, member in enumerate(members):
        device = Device(plan, member, update=NoisyUpdate(plan, steps[place % VECTORS], no_noise), entropy=os.urandom)
        with (meter := Meter()):
            advertise = device.start(NOW_S)
        device_id = advertise.device_id
        devices[device_id], meters[device_id], which[device_id] = device, meter, place % VECTORS
        uploaded[device_id] = len(encode(advertise))
        with server:
            lobby.receive(device_id, advertise, NOW_S)
    with server:
        shard = lobby.form_shards(os.urandom, NOW_S)[0]
    dropped = set(sorted(devices)[: int(args.devices * args.dropout)])
    drive(shard, devices, dropped, meters=meters, server=server, uploaded=uploaded)
    counts = np.bincount([which[device_id] for device_id in shard.total.survivors], minlength=VECTORS)
    wanted = sum(int(count) * vector.astype(np.int64) for count, vector in zip(counts, steps, strict=True))
    alive = [device_id for device_id in devices if device_id not in dropped]
    return {
        "client_cpu_s": statistics.mean(meters[each].seconds for each in alive) + quantizing.seconds / VECTORS,
        "server_s": server.seconds,
        "upload": max(uploaded.values()),
        "exact": bool(np.array_equal(shard.total.steps, wanted)),
    }


def drive(
    shard: Shard,
    devices: dict[bytes, Device],
    dropped: set[bytes],
    *,
    meters: dict[bytes, Meter],
    server: Meter,
    uploaded: dict[bytes, int],
) -> None:
    roster = encode(shard.roster)
    outgoing = dict.fromkeys(devices, shard.roster)
    while not shard.is_over:
        for device_id, message in outgoing.items():
            if shard.phase >= Phase.MASKED and device_id in dropped:
                continue
            encoded = roster if message is shard.roster else encode(message)
            with meters[device_id]:
                replies = [encode(each) for each in devices[device_id].step(decode(type(message), encoded), NOW_S)]
            uploaded[device_id] += sum(len(each) for each in replies)
            with server:
                for reply in replies:
                    shard.receive(device_id, decode(REPLIES[type(message)], reply), NOW_S)
        with server:
            outgoing = shard.close_phase(NOW_S)


def timed(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
    """CPU time of one of some calls, and what the last returned."""
    with (meter := Meter()):
        for _ in range(repeats):
            result = work()
    return meter.seconds / repeats, result


def flower_keys(count: int, t: int) -> tuple[dict[str, float], bytes]:
    """Seconds of each of Flower's steps with keys and shares, and a shared key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
    from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes

    private, public = generate_key_pairs()
    seed, sk_bytes = os.urandom(32), private_key_to_bytes(private)
    spent_s: dict[str, float] = {}
    spent_s["keys"], _ = timed(generate_key_pairs)
    spent_s["seed_shares"], seed_shares = timed(lambda: create_shares(seed, t, count), 1)
    spent_s["key_shares"], key_shares = timed(lambda: create_shares(sk_bytes, t, count), 1)
    spent_s["agree"], shared = timed(lambda: generate_shared_key(private, public))
    plaintext = share_keys_plaintext_concat(1, 2, seed_shares[0], key_shares[0])
    spent_s["seal"], sealed = timed(lambda: encrypt(shared, plaintext))
    spent_s["open"], _ = timed(lambda: share_keys_plaintext_separate(decrypt(shared, sealed)))
    spent_s["combine_seed"], _ = timed(lambda: combine_shares(seed_shares[:t]), 1)
    spent_s["combine_key"], combined = timed(lambda: combine_shares(key_shares[:t]), 1)
    if combined != sk_bytes or not isinstance(private, ec.EllipticCurvePrivateKey):
        raise RuntimeError("Flower's functions did not do what the comparison needs")
    return spent_s, shared


def flower_vectors(dim: int, shared: bytes) -> dict[str, float]:
    """Seconds of each of Flower's steps with vectors."""
    from flwr.common.secure_aggregation import quantization
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        factor_combine,
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    delta, modulus = np.random.default_rng(9).standard_normal(dim).astype(np.float32), 2**32
    spent_s: dict[str, float] = {}
    spent_s["quantize"], quantized = timed(lambda: factor_combine(1, quantization.quantize([delta], 8.0, 2**22)), 2)
    spent_s["generate"], stream = timed(lambda: pseudo_rand_gen(shared, modulus, [(), (dim,)]))
    spent_s["add"], vector = timed(lambda: parameters_addition(quantized, stream))
    spent_s["subtract"], _ = timed(lambda: parameters_subtraction(vector, stream))
    spent_s["mod"], _ = timed(lambda: parameters_mod(vector, modulus))
    return spent_s


def run_flower(args: argparse.Namespace) -> dict[str, float]:
    """Return the cost of one of Flower's SecAgg+ clients and of its server at the same size, repeated steps multiplied."""
    count = args.devices
    dropped = int(count * args.dropout)
    survivors = count - dropped
    of_keys, shared = flower_keys(count, threshold(count))
    spent_s = of_keys | flower_vectors(args.dim, shared)
    mask_s = spent_s["generate"] + (spent_s["add"] + spent_s["subtract"]) / 2
    masks_s = (count + survivors + dropped * survivors) * mask_s + spent_s["quantize"]
    client_s = 2 * spent_s["keys"] + spent_s["seed_shares"] + spent_s["key_shares"]
    client_s += (count - 1) * (2 * spent_s["agree"] + spent_s["seal"] + spent_s["open"])
    client_s += spent_s["quantize"] + count * mask_s + spent_s["mod"]
    server_s = survivors * (spent_s["add"] + spent_s["combine_seed"] + mask_s)
    server_s += dropped * (spent_s["combine_key"] + survivors * (spent_s["agree"] + mask_s)) + 2 * spent_s["mod"]
    return {"peer_client_cpu_s": client_s, "peer_server_s": server_s, "peer_masks_only_s": masks_s}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--devices", type=at_least(5), default=128)
    parser.add_argument("--dim", type=at_least(1), default=50_000)
    parser.add_argument("--dropout", type=share, default=0.3)
    args = parser.parse_args(given)
    if args.devices > MOST_DEVICES:
        parser.error(f"--devices {args.devices}: give {MOST_DEVICES} or fewer, one shard has no more")
    left, needed = args.devices - int(args.devices * args.dropout), max(fewest(args.devices), threshold(args.devices))
    if left < needed:
        parser.error(
            f"--dropout {args.dropout:g} leaves {left} of {args.devices} devices, {needed} are needed: give a smaller share"
        )
    return args


def main() -> None:
    """Run from the command line."""
    args = arguments()
    ours = run_ours(args)
    peer = run_flower(args)
    total, theirs = ours["client_cpu_s"] + ours["server_s"], peer["peer_client_cpu_s"] + peer["peer_server_s"]
    figures = {
        "client_cpu_s": ours["client_cpu_s"], "upload_mb": ours["upload"] / 1e6, "server_s": ours["server_s"], "exact": ours["exact"],
        "vs_flower_secaggplus": total / theirs, "vs_flower_masks_only": total / peer["peer_masks_only_s"], **peer,
    }  # fmt: skip
    figures = {name: value if isinstance(value, bool) else round(value, 4) for name, value in figures.items()}
    figures["peer_measured"] = f"masks, seals, agreements {REPEATS} times, shares and recoveries once, then multiplied"
    finish(figures)


if __name__ == "__main__":
    run(main)
