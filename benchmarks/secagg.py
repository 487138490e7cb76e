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
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

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
REPEATS = 5


class Meter:
    """Adds up the CPU time of what runs inside `with`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.process_time() - self._start


def make_plan(args: argparse.Namespace, key: Identity) -> RoundPlan:
    plan = RoundPlan(
        round_id=os.urandom(16), proto=1, model_version=1, model_sha256=bytes(32), schema_sha256=bytes(32), d=args.dim, clip_c=1.0,
        log2_scale_c=14, z=0.0, n_min=min(20, args.devices), n_max=256, deadline_s=(600,) * 5, not_before=NOW_S,
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
    steps, meters, server = [], {}, Meter()
    for delta in deltas:
        with (meter := Meter()):
            steps.append(quantize(delta, plan, os.urandom))
        quantize_s = meter.seconds
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
        "client_cpu_s": statistics.mean(meters[each].seconds for each in alive) + quantize_s,
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


def run_flower(args: argparse.Namespace) -> dict[str, float]:
    """Return the cost of one of Flower's SecAgg+ clients and of its server at the same size, repeated steps multiplied."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.common.secure_aggregation import quantization
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        factor_combine,
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
        share_keys_plaintext_separate,
    )
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes

    count, t, modulus = args.devices, threshold(args.devices), 2**32
    dropped = int(count * args.dropout)
    survivors = count - dropped
    shape = [(), (args.dim,)]
    private, public = generate_key_pairs()
    seed, sk_bytes = os.urandom(32), private_key_to_bytes(private)
    delta = np.random.default_rng(9).standard_normal(args.dim).astype(np.float32)

    def timed(work: Callable[[], Any], repeats: int = REPEATS) -> tuple[float, Any]:
        with (meter := Meter()):
            for _ in range(repeats):
                result = work()
        return meter.seconds / repeats, result

    keys_s, _ = timed(generate_key_pairs)
    seed_shares_s, seed_shares = timed(lambda: create_shares(seed, t, count), 1)
    key_shares_s, key_shares = timed(lambda: create_shares(sk_bytes, t, count), 1)
    agree_s, shared = timed(lambda: generate_shared_key(private, public))
    plaintext = share_keys_plaintext_concat(1, 2, seed_shares[0], key_shares[0])
    seal_s, sealed = timed(lambda: encrypt(shared, plaintext))
    open_s, _ = timed(lambda: share_keys_plaintext_separate(decrypt(shared, sealed)))
    quantize_s, quantized = timed(lambda: factor_combine(1, quantization.quantize([delta], 8.0, 2**22)), 2)
    generate_s, stream = timed(lambda: pseudo_rand_gen(shared, modulus, shape))
    add_s, vector = timed(lambda: parameters_addition(quantized, stream))
    subtract_s, _ = timed(lambda: parameters_subtraction(vector, stream))
    mod_s, _ = timed(lambda: parameters_mod(vector, modulus))
    combine_seed_s, _ = timed(lambda: combine_shares(seed_shares[:t]), 1)
    combine_key_s, _ = timed(lambda: combine_shares(key_shares[:t]), 1)
    if combine_shares(key_shares[:t]) != sk_bytes or not isinstance(private, ec.EllipticCurvePrivateKey):
        raise RuntimeError("Flower's functions did not do what the comparison needs")

    mask_s = generate_s + (add_s + subtract_s) / 2
    masks_s = (count + survivors + dropped * survivors) * mask_s + quantize_s
    client_s = 2 * keys_s + seed_shares_s + key_shares_s + (count - 1) * (2 * agree_s + seal_s + open_s)
    client_s += quantize_s + count * mask_s + mod_s
    server_s = survivors * (add_s + combine_seed_s + mask_s)
    server_s += dropped * (combine_key_s + survivors * (agree_s + mask_s)) + 2 * mod_s
    return {"peer_client_cpu_s": client_s, "peer_server_s": server_s, "peer_masks_only_s": masks_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=128)
    parser.add_argument("--dim", type=int, default=50_000)
    parser.add_argument("--dropout", type=float, default=0.3)
    args = parser.parse_args()
    ours = run_ours(args)
    peer = run_flower(args)
    total, theirs = ours["client_cpu_s"] + ours["server_s"], peer["peer_client_cpu_s"] + peer["peer_server_s"]
    figures = {
        "client_cpu_s": ours["client_cpu_s"], "upload_mb": ours["upload"] / 1e6, "server_s": ours["server_s"], "exact": ours["exact"],
        "vs_flower_secaggplus": total / theirs, "vs_flower_masks_only": total / peer["peer_masks_only_s"], **peer,
    }  # fmt: skip
    figures = {name: value if isinstance(value, bool) else round(value, 4) for name, value in figures.items()}
    figures["peer_measured"] = f"masks, seals, agreements {REPEATS} times, shares and recoveries once, then multiplied"
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
