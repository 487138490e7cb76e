"""Two implementations of SA1 agree byte for byte, on frozen vectors, right and wrong; and the slow one agrees with the RFCs."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from tests.oracle import sa1_reference as ref
from tests.support.fleet import Stream

from earmark_shared.crypto import certificates, hashing, identities
from earmark_shared.crypto.exchange import ExchangeKey
from earmark_shared.crypto.keystream import keystream
from earmark_shared.crypto.sealing import open_sealed, seal_once
from earmark_shared.errors import EarmarkError
from earmark_shared.round import Floors, Phase, RoundPlan
from earmark_shared.secagg import checks, shamir, transcript
from earmark_shared.secagg.attempt import NoisyUpdate
from earmark_shared.secagg.device import Device
from earmark_shared.secagg.forming import Lobby

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"
RIGHT = json.loads((VECTORS / "sa1.json").read_text(encoding="utf-8"))
WRONG = json.loads((VECTORS / "sa1_wrong.json").read_text(encoding="utf-8"))
unhex = bytes.fromhex
BYTES_OF_PLAN = ("round_id", "model_sha256", "schema_sha256", "key_id", "sig")


def plan_values(plan):
    values = {name: unhex(value) if name in BYTES_OF_PLAN else value for name, value in plan.items()}
    return values | {"deadline_s": tuple(plan["deadline_s"])}


# ---- the reference against the RFCs --------------------------------------------------------------------------------------------
def test_reference_chacha20_is_rfc_8439():
    key, nonce = bytes(range(32)), unhex("000000090000004a00000000")
    assert ref.chacha_block(key, 1, nonce).hex().startswith("10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e")


def test_reference_x25519_is_rfc_7748():
    private = unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    public = unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert ref.x25519(private, public).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_reference_ed25519_is_rfc_8032():
    private = unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert ref.public_of(private).hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert ref.sign(private, b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")


# ---- building blocks -----------------------------------------------------------------------------------------------------------
def test_primitives_agree():
    for case in RIGHT["primitives"]["hash"]:
        assert hashing.digest(case["label"], *map(unhex, case["parts"])).hex() == case["value"]
    for case in RIGHT["primitives"]["kdf"]:
        key = hashing.derive_key(unhex(case["secret"]), unhex(case["salt"]), case["label"], *map(unhex, case["parts"]))
        assert key.hex() == case["value"]
    for case in RIGHT["primitives"]["prg"]:
        assert keystream(unhex(case["seed"]), len(case["value"]) // 8).tobytes().hex() == case["value"]
    for case in RIGHT["primitives"]["x25519"]:
        key = ExchangeKey(bytearray(unhex(case["private"])))
        assert (key.public.hex(), key.shared_secrets([unhex(case["peer"])])[0].hex()) == (case["public"], case["value"])
    for case in RIGHT["primitives"]["ed25519"]:
        identity = identities.Identity(unhex(case["private"]))
        assert (identity.public.hex(), identity.sign(case["label"], unhex(case["part"])).hex()) == (case["public"], case["value"])
    for case in RIGHT["primitives"]["seal"]:
        assert seal_once(unhex(case["key"]), unhex(case["plain"]), unhex(case["context"])).hex() == case["value"]
    for case in RIGHT["primitives"]["shamir"]:
        shares = shamir.split(unhex(case["secret"]), case["threshold"], case["count"], Stream(case["entropy"]))
        assert [share.hex() for share in shares] == case["value"]


# ---- whole rounds --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", RIGHT["rounds"], ids=lambda case: f"{len(case['devices'])}x{case['plan']['d']}")
def test_reference_replays_a_round(case):
    plan = plan_values(case["plan"])
    devices = [
        {
            "identity": unhex(each["identity"]),
            "entropy": each["entropy"],
            "cert": unhex(each["cert"]),
            **{k: each[k] for k in ("steps", "noise")},
        }
        for each in case["devices"]
    ]
    again = generator().plain(ref.run_round(plan, devices, case["u2"], case["u3"]))
    assert again == case["expected"]


@pytest.mark.parametrize("case", RIGHT["rounds"], ids=lambda case: f"{len(case['devices'])}x{case['plan']['d']}")
def test_module_gives_the_same_bytes(case):
    trust, expected, plan = RIGHT["trust"], case["expected"], RoundPlan(**plan_values(case["plan"]))
    now_s, floors = trust["now_s"], Floors(n_min=5, lab=True)
    enrolment = certificates.Enrolment(unhex(trust["authority"]))
    model = checks.HeldModel(plan.model_version, plan.model_sha256, plan.schema_sha256, plan.d)
    lobby, devices = Lobby(plan, enrolment, floors=floors, now_s=now_s), []
    for each, entry in zip(case["devices"], expected["roster"], strict=True):
        member = checks.Membership(
            identities.Identity(unhex(each["identity"])),
            unhex(each["cert"]),
            enrolment,
            {plan.key_id: unhex(trust["plan_key"])},
            model,
            floors,
        )
        noise = np.array(each["noise"], dtype=np.int64)
        update = NoisyUpdate(plan, np.array(each["steps"], dtype=np.int32), lambda stddev, size, noise=noise: noise)
        device = Device(plan, member, update=update, entropy=Stream(each["entropy"]))
        advertise = device.start(now_s)
        sent = {"id": advertise.device_id, "cert": advertise.cert, "mask_pk": advertise.mask_pk, "share_pk": advertise.share_pk}
        assert {name: value.hex() for name, value in {**sent, "sig": advertise.sig}.items()} == entry
        lobby.receive(advertise.device_id, advertise, now_s)
        devices.append(device)
    assert transcript.plan_hash(plan).hex() == expected["plan_hash"]
    (shard,) = lobby.form_shards(Stream("deal"), now_s)
    assert transcript.roster_hash(transcript.plan_hash(plan), shard.roster.members).hex() == expected["t1"]
    replay(shard, devices, case, now_s)
    assert shard.total.t3.hex() == expected["t3"]
    assert shard.total.steps.tolist() == expected["sum"]


def replay(shard, devices, case, now_s):
    expected, ids = case["expected"], [each.device_id for each in shard.roster.members]
    outgoing = dict.fromkeys(ids, shard.roster)
    while not shard.is_over:
        gone = {Phase.SHARE_KEYS: set(range(len(ids))) - set(case["u2"]), Phase.MASKED: set(case["u2"]) - set(case["u3"])}
        for index, device_id in enumerate(ids):
            if device_id in outgoing:
                replies = devices[index].step(outgoing[device_id], now_s)
                compare(shard.phase, index, replies, expected)
                for reply in replies if index not in gone.get(shard.phase, ()) else ():
                    shard.receive(device_id, reply, now_s)
        outgoing = shard.close_phase(now_s)


def compare(phase, index, replies, expected):
    name, first = str(index), replies[0]
    if phase is Phase.SHARE_KEYS:
        boxes = {str(box.dst): box.ct.hex() for box in first.boxes}
        assert {"commit": first.b_commit.hex(), "boxes": boxes} == expected["shared"][name]
    elif phase is Phase.MASKED and name in expected["masked"]:
        assert {"data": b"".join(part.data for part in replies).hex(), "sig": replies[-1].sig.hex()} == expected["masked"][name]
    elif phase is Phase.CONSISTENCY:
        assert first.sig.hex() == expected["confirmed"][name]
    elif phase is Phase.UNMASK:
        assert {str(share.of): share.y.hex() for share in first.shares} == expected["unmask"][name]


# ---- wrong things --------------------------------------------------------------------------------------------------------------
def module_does(operation, args):
    match operation:
        case "verify":
            identities.verify(unhex(args["public"]), unhex(args["signature"]), args["label"], *map(unhex, args["parts"]))
        case "combine":
            secret = shamir.combine({int(index): unhex(share) for index, share in args["shares"].items()})
            ref.need(secret == unhex(args.get("value", "")), "another secret")
        case "open":
            open_sealed(unhex(args["key"]), unhex(args["box"]), unhex(args["context"]))
        case "exchange":
            ExchangeKey(bytearray(unhex(args["private"]))).shared_secrets([unhex(args["public"])])
        case "certificate":
            certificates.read(unhex(args["cert"]), certificates.Enrolment(unhex(args["authority"])), now_s=args["now_s"])
        case "plan":
            plan = RoundPlan(**plan_values(args["plan"]))
            checks.check_plan_signature(plan, {plan.key_id: unhex(args["key"])})


def reference_does(operation, args):
    match operation:
        case "verify":
            ref.verify(unhex(args["public"]), unhex(args["signature"]), ref.H(args["label"], *map(unhex, args["parts"])))
        case "combine":
            secret = ref.combine({int(index): unhex(share) for index, share in args["shares"].items()})
            ref.need(secret == unhex(args.get("value", "")), "another secret")
        case "open":
            ref.unseal(unhex(args["key"]), unhex(args["box"]), unhex(args["context"]))
        case "exchange":
            ref.x25519(unhex(args["private"]), unhex(args["public"]))
        case "certificate":
            ref.read_certificate(unhex(args["cert"]), unhex(args["authority"]), args["now_s"])
        case "plan":
            plan = plan_values(args["plan"])
            ref.verify(unhex(args["key"]), plan["sig"], ref.plan_hash(plan))


@pytest.mark.parametrize("does", [module_does, reference_does])
@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case['operation']}: {case['name']}")
def test_wrong_things_fail_and_right_ones_do_not(case, does):
    if case["success"]:
        does(case["operation"], case["args"])
        return
    with pytest.raises((EarmarkError, ValueError)):
        does(case["operation"], case["args"])


def generator():
    spec = importlib.util.spec_from_file_location("gen_vectors", ROOT / "scripts" / "gen_vectors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_frozen_vectors_are_what_the_reference_makes():
    made = generator()
    assert made.plain(made.make_primitives()) == RIGHT["primitives"]
    assert made.plain(made.make_wrong()) == WRONG
