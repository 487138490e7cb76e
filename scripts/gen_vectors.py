"""Write the frozen vectors of SA1 from its slow reference (tests/oracle/sa1_reference.py): one JSON file of right, one of wrong.

    python scripts/gen_vectors.py                  # into tests/vectors/
    python scripts/gen_vectors.py --out /tmp/new   # to compare with

Bytes are hex. Both implementations replay both files (tests/oracle/test_sa1_reference.py). A change of a vector is a change of
the protocol: it needs another `proto` number.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "oracle"))

import sa1_reference as ref

NOW_S = 1_800_000_000


def secret(name: str) -> bytes:
    """Return 32 bytes that are the same every time."""
    return hashlib.sha256(f"earmark vector {name}".encode()).digest()


def plain(value: Any) -> Any:  # noqa: ANN401
    """Return `value` as JSON can hold it: bytes as hex, keys as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def make_plan(d: int, n_min: int, z: float) -> dict[str, Any]:
    """Return a signed plan."""
    plan = {
        "round_id": secret(f"round {d}")[:16], "proto": 1, "model_version": 41, "model_sha256": secret("model"),
        "schema_sha256": secret("schema"), "d": d, "clip_c": 0.75, "log2_scale_c": 13, "z": z, "n_min": n_min, "n_max": 64,
        "deadline_s": [60, 60, 300, 30, 61], "not_before": NOW_S - 60, "not_after": NOW_S + 3600, "shards": 1, "key_id": b"plan-key-1",
    }  # fmt: skip
    return plan | {"sig": ref.sign(secret("plan key"), ref.plan_hash(plan))}


def make_devices(count: int, d: int, *, noisy: bool) -> list[dict[str, Any]]:
    """Return enrolled devices in the order of their aliases, each with its update and noise."""
    devices = []
    for alias in sorted(secret(f"alias {place}")[:16] for place in range(count)):
        name = alias.hex()
        identity = secret(f"identity {name}")
        words = ref.prg(secret(f"steps {name}"), 2 * d)
        devices.append(
            {
                "identity": identity,
                "entropy": f"entropy {name}",
                "cert": ref.certificate(secret("authority"), alias, ref.public_of(identity), NOW_S + 86_400, 3),
                "steps": [word % 4001 - 2000 for word in words[:d]],
                "noise": [word % 20_001 - 10_000 if noisy else 0 for word in words[d:]],
            }
        )
    return devices


def make_round(count: int, d: int, u2: list[int], u3: list[int], *, z: float) -> dict[str, Any]:
    """Return a whole round: what goes in, and every byte that comes out."""
    plan, devices = make_plan(d, 5, z), make_devices(count, d, noisy=z > 0)
    return {"plan": plan, "devices": devices, "u2": u2, "u3": u3, "expected": ref.run_round(plan, devices, u2, u3)}


def make_primitives() -> dict[str, Any]:
    """Return the building blocks, each alone."""
    one, other, parts = secret("one"), secret("other"), [b"", b"a", b"\x00" * 33]
    shares = ref.split(one, 4, 7, ref.entropy("split"))
    return {
        "hash": [{"label": "earmark/sa1/plan", "parts": parts, "value": ref.H("earmark/sa1/plan", *parts)}],
        "kdf": [
            {"secret": one, "salt": other[:16], "label": "l", "parts": parts, "value": ref.KDF(one, other[:16], "l", *parts)}
        ],
        "prg": [{"seed": one, "value": ref.chacha(one, 4 * 40)}],
        "x25519": [
            {"private": one, "public": ref.x25519(one), "peer": ref.x25519(other), "value": ref.x25519(one, ref.x25519(other))}
        ],
        "ed25519": [
            {
                "private": one,
                "public": ref.public_of(one),
                "label": "l",
                "value": ref.sign(one, ref.H("l", b"part")),
                "part": b"part",
            }
        ],
        "seal": [{"key": one, "plain": other + one, "context": b"context", "value": ref.seal(one, other + one, b"context")}],
        "shamir": [{"secret": one, "threshold": 4, "count": 7, "entropy": "split", "value": shares}],
    }


def flipped(value: bytes, bit: int = 0) -> bytes:
    """Return `value` with one bit of it changed."""
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


Case = tuple[str, str, bool, dict[str, Any]]
"""Operation, name, whether it must succeed, and its arguments."""


def make_wrong() -> list[dict[str, Any]]:
    """Return operations that must fail, each beside the same operation done right (`success`)."""
    cases = [*signature_cases(), *share_cases(), *box_cases(), *exchange_cases(), *certificate_cases(), *plan_cases()]
    return [{"operation": operation, "name": name, "success": success, "args": args} for operation, name, success, args in cases]


def signature_cases() -> list[Case]:
    """Return what may be wrong with a signature."""
    one, label = secret("one"), "earmark/sa1/consistent"
    public, signature = ref.public_of(one), ref.sign(one, ref.H(label, b"t3", b"\x00\x04"))
    return [
        ("verify", "right", True, {"public": public, "signature": signature, "label": label, "parts": [b"t3", b"\x00\x04"]}),
        ("verify", "bit flipped", False, {"public": public, "signature": flipped(signature, 77), "label": label, "parts": [b"t3", b"\x00\x04"]}),
        ("verify", "other index", False, {"public": public, "signature": signature, "label": label, "parts": [b"t3", b"\x00\x05"]}),
        ("verify", "other label", False, {"public": public, "signature": signature, "label": label + "x", "parts": [b"t3", b"\x00\x04"]}),
        ("verify", "parts joined", False, {"public": public, "signature": signature, "label": label, "parts": [b"t3\x00\x04"]}),
        ("verify", "parts shifted", False, {"public": public, "signature": signature, "label": label, "parts": [b"t3\x00", b"\x04"]}),
    ]  # fmt: skip


def share_cases() -> list[Case]:
    """Return what may be wrong with a secret's shares."""
    one = secret("one")
    shares = dict(enumerate(ref.split(one, 4, 7, ref.entropy("split"))))
    four = {index: shares[index] for index in (0, 2, 3, 6)}
    return [
        ("combine", "right", True, {"shares": four, "value": one}),
        ("combine", "one share changed", False, {"shares": four | {2: flipped(shares[2], 200)}, "value": one}),
        ("combine", "two shares swapped", False, {"shares": four | {2: shares[3], 3: shares[2]}, "value": one}),
        ("combine", "one too few", False, {"shares": {0: shares[0], 2: shares[2], 3: shares[3]}, "value": one}),
        ("combine", "share not below the prime", False, {"shares": four | {2: ref.P.to_bytes(33, "big")}, "value": one}),
        ("combine", "share of 32 bytes", False, {"shares": four | {2: shares[2][1:]}, "value": one}),
    ]  # fmt: skip


def box_cases() -> list[Case]:
    """Return what may be wrong with a sealed box."""
    one = secret("one")
    box = ref.seal(one, b"p" * 66, b"T1uv")
    return [
        ("open", "right", True, {"key": one, "box": box, "context": b"T1uv"}),
        ("open", "bit flipped", False, {"key": one, "box": flipped(box, 5), "context": b"T1uv"}),
        ("open", "tag flipped", False, {"key": one, "box": flipped(box, 8 * 80), "context": b"T1uv"}),
        ("open", "re-routed", False, {"key": one, "box": box, "context": b"T1vu"}),
        ("open", "other key", False, {"key": ref.public_of(one), "box": box, "context": b"T1uv"}),
    ]  # fmt: skip


def exchange_cases() -> list[Case]:
    """Return public keys that give away the common secret."""
    one = secret("one")
    low_orders = [
        bytes(32),
        b"\x01" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    ]
    return [
        ("exchange", "right", True, {"private": one, "public": ref.x25519(secret("other"))}),
        *(("exchange", f"low order {place}", False, {"private": one, "public": key}) for place, key in enumerate(low_orders)),
    ]  # fmt: skip


def certificate_cases() -> list[Case]:
    """Return what may be wrong with a certificate."""
    authority, public = ref.public_of(secret("authority")), ref.public_of(secret("one"))
    cert = ref.certificate(secret("authority"), b"A" * 16, public, NOW_S, 3)
    return [
        ("certificate", "right", True, {"cert": cert, "authority": authority, "now_s": NOW_S}),
        ("certificate", "expired", False, {"cert": cert, "authority": authority, "now_s": NOW_S + 1}),
        ("certificate", "other authority", False, {"cert": cert, "authority": public, "now_s": NOW_S}),
        ("certificate", "alias changed", False, {"cert": flipped(cert, 8 * 3), "authority": authority, "now_s": NOW_S}),
        ("certificate", "version changed", False, {"cert": flipped(cert), "authority": authority, "now_s": NOW_S}),
        ("certificate", "cut short", False, {"cert": cert[:-1], "authority": authority, "now_s": NOW_S}),
    ]  # fmt: skip


def plan_cases() -> list[Case]:
    """Return what may be wrong with a plan: its key, or any of its fields."""
    plan = make_plan(9, 5, 0.0)
    return [
        ("plan", "right", True, {"plan": plan, "key": ref.public_of(secret("plan key"))}),
        ("plan", "other key", False, {"plan": plan, "key": ref.public_of(secret("one"))}),
        *(("plan", f"{name} changed", False, {"plan": plan | {name: value}, "key": ref.public_of(secret("plan key"))}) for name, value in CHANGES),
    ]  # fmt: skip


CHANGES: tuple[tuple[str, Any], ...] = (
    ("round_id", bytes(16)), ("proto", 2), ("model_version", 42), ("model_sha256", bytes(32)), ("schema_sha256", bytes(32)), ("d", 10),
    ("clip_c", 0.5), ("log2_scale_c", 14), ("z", 1.0), ("n_min", 6), ("n_max", 65), ("deadline_s", [60, 60, 300, 30, 60]),
    ("not_before", NOW_S), ("not_after", NOW_S), ("shards", 2), ("key_id", b"plan-key-2"),
)  # fmt: skip


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "vectors")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rounds = [
        make_round(5, 3, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], z=0.0),
        make_round(8, 9, [0, 1, 2, 4, 5, 6, 7], [0, 2, 4, 6, 7], z=0.0),
        make_round(7, 21, [0, 1, 2, 3, 5, 6], [1, 2, 3, 5, 6], z=2.0),
    ]
    authority = {"authority": ref.public_of(secret("authority")), "plan_key": ref.public_of(secret("plan key")), "now_s": NOW_S}
    right = {"primitives": make_primitives(), "trust": authority, "rounds": rounds}
    for name, content in (("sa1.json", right), ("sa1_wrong.json", make_wrong())):
        (out / name).write_text(json.dumps(plain(content), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
