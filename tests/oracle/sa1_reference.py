"""SA1 a second time: slow, obvious, from the design's text, and sharing no line with `earmark_shared`.

Only the standard library: every primitive is written out from its RFC. It makes the frozen vectors (scripts/gen_vectors.py)
and replays them; the module must give the same bytes. Failures are ValueError. Nothing here is fit for secrets.
"""

import hashlib
import hmac
import struct
from functools import reduce

# ---- encodings: H, KDF and integers ------------------------------------------------------------------------------------------
be = lambda size: lambda number: number.to_bytes(size, "big")  # noqa: E731
u16, u32, u64, f64 = be(2), be(4), be(8), lambda number: struct.pack(">d", number)


def framed(label, *parts):
    return u16(len(label)) + label.encode() + b"".join(u32(len(part)) + part for part in parts)


def H(label, *parts):
    return hashlib.sha256(framed(label, *parts)).digest()


def KDF(secret, salt, label, *parts):
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, framed(label, *parts) + b"\x01", "sha256")


def entropy(seed):
    """A stream of bytes: SHA-256 of `seed/0`, `seed/1` and so on; each draw starts on a new block."""
    counter = iter(range(10**9))

    def take(size):
        blocks = -(-size // 32)
        return b"".join(hashlib.sha256(f"{seed}/{next(counter)}".encode()).digest() for _ in range(blocks))[:size]

    return take


# ---- RFC 8439: ChaCha20 and Poly1305 -----------------------------------------------------------------------------------------
def chacha_block(key, counter, nonce):
    rotate = lambda word, by: (word << by | word >> 32 - by) & 0xFFFFFFFF  # noqa: E731
    start = list(struct.unpack("<16I", b"expand 32-byte k" + key + struct.pack("<I", counter) + nonce))
    state = list(start)
    columns = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
    diagonals = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]
    for a, b, c, d in (columns + diagonals) * 10:
        for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            state[z] = rotate(state[z] ^ state[x], by)
    return struct.pack("<16I", *((one + other) & 0xFFFFFFFF for one, other in zip(state, start, strict=True)))


def chacha(key, size, counter=0, nonce=bytes(12)):
    return b"".join(chacha_block(key, counter + n, nonce) for n in range(-(-size // 64)))[:size]


def prg(key, words):
    return list(struct.unpack(f"<{words}I", chacha(key, 4 * words)))


def tag_of(key, sealed, context):
    one_time = chacha(key, 32)
    r, s = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF, int.from_bytes(one_time[16:], "little")
    data = context + bytes(-len(context) % 16) + sealed + bytes(-len(sealed) % 16) + struct.pack("<QQ", len(context), len(sealed))
    total = 0
    for n in range(0, len(data), 16):
        total = (total + int.from_bytes(data[n : n + 16] + b"\x01", "little")) * r % (2**130 - 5)
    return ((total + s) % 2**128).to_bytes(16, "little")


def seal(key, plain, context):
    sealed = bytes(a ^ b for a, b in zip(plain, chacha(key, len(plain), 1), strict=True))
    return sealed + tag_of(key, sealed, context)


def unseal(key, box, context):
    need(tag_of(key, box[:-16], context) == box[-16:], "tag")
    return bytes(a ^ b for a, b in zip(box[:-16], chacha(key, len(box) - 16, 1), strict=True))


def need(condition, what):
    if not condition:
        raise ValueError(what)


# ---- RFC 7748 and RFC 8032 over 2^255 - 19 ------------------------------------------------------------------------------------
Q = 2**255 - 19


def x25519(private, public=b"\x09" + bytes(31)):
    k = int.from_bytes(private, "little") & (2**255 - 8) % 2**255 | 2**254
    x1 = int.from_bytes(public, "little") % 2**255 % Q
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in reversed(range(255)):
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        x3, z3 = (d * a + c * b) ** 2 % Q, x1 * (d * a - c * b) ** 2 % Q
        x2, z2 = a * a * b * b % Q, (a * a - b * b) * (a * a + 121665 * (a * a - b * b)) % Q
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    shared = (x2 * pow(z2, Q - 2, Q) % Q).to_bytes(32, "little")
    need(any(shared), "all-zero secret")
    return shared


D = -121665 * pow(121666, Q - 2, Q) % Q
L = 2**252 + 27742317777372353535851937790883648493
BASE_Y = 4 * pow(5, Q - 2, Q) % Q


def add(one, other):
    """RFC 8032, 5.1.4: points as (X, Y, Z, T), x = X/Z, y = Y/Z, xy = T/Z."""
    (x1, y1, z1, t1), (x2, y2, z2, t2) = one, other
    a, b, c, d = (y1 - x1) * (y2 - x2) % Q, (y1 + x1) * (y2 + x2) % Q, 2 * t1 * t2 * D % Q, 2 * z1 * z2 % Q
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % Q, g * h % Q, f * g % Q, e * h % Q


def times(point, scalar):
    result = (0, 1, 1, 0)
    while scalar:
        result, point, scalar = add(result, point) if scalar & 1 else result, add(point, point), scalar >> 1
    return result


def point_of(encoded):
    y, sign = int.from_bytes(encoded, "little") % 2**255, encoded[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, Q - 2, Q) % Q
    x = pow(square, (Q + 3) // 8, Q)
    x = x if x * x % Q == square else x * pow(2, (Q - 1) // 4, Q) % Q
    need(y < Q and x * x % Q == square, "not a point")
    x = x if x & 1 == sign else Q - x
    return x, y, 1, x * y % Q


def bytes_of(point):
    x, y = (part * pow(point[2], Q - 2, Q) % Q for part in point[:2])
    return (y | (x & 1) << 255).to_bytes(32, "little")


BASE = point_of(BASE_Y.to_bytes(32, "little"))


def signing_key(private):
    h = hashlib.sha512(private).digest()
    return int.from_bytes(h[:32], "little") & 2**254 - 8 | 2**254, h[32:]


def public_of(private):
    return bytes_of(times(BASE, signing_key(private)[0]))


def sign(private, value):
    a, prefix = signing_key(private)
    scalar = lambda *parts: int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L  # noqa: E731
    r = scalar(prefix, value)
    big_r = bytes_of(times(BASE, r))
    return big_r + ((r + scalar(big_r, public_of(private), value) * a) % L).to_bytes(32, "little")


def verify(public, signature, value):
    s = int.from_bytes(signature[32:], "little")
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + value).digest(), "little") % L
    right = add(point_of(signature[:32]), times(point_of(public), k))
    need(len(signature) == 64 and s < L and bytes_of(times(BASE, s)) == bytes_of(right), "signature")


# ---- Shamir, certificates, plan, transcript ------------------------------------------------------------------------------------
P = 2**256 + 297


def split(secret, t, n, take):
    def draw():
        value = P
        while value >= P:
            value = int.from_bytes(take(33), "big") >> 7
        return value

    poly = [int.from_bytes(secret, "big")] + [draw() for _ in range(t - 1)]
    return [(sum(c * x**power for power, c in enumerate(poly)) % P).to_bytes(33, "big") for x in range(1, n + 1)]


def combine(shares):
    """The secret of `{index: share}`, by Lagrange at 0."""
    need(all(len(y) == 33 and int.from_bytes(y, "big") < P for y in shares.values()), "share")
    total = 0
    for i, y in shares.items():
        terms = [(j + 1) * pow(j - i, -1, P) for j in shares if j != i]
        total += int.from_bytes(y, "big") * reduce(lambda a, b: a * b % P, terms, 1)
    need(total % P < 2**256, "no secret")
    return (total % P).to_bytes(32, "big")


def certificate(authority, alias, identity, not_after, epoch):
    parts = b"\x01", alias, identity, u64(not_after), u64(epoch)
    return b"".join(parts) + sign(authority, H("earmark/certificate", *parts))


def read_certificate(cert, authority_pk, now):
    need(len(cert) == 129 and cert[:1] == b"\x01", "certificate")
    parts = cert[:1], cert[1:17], cert[17:49], cert[49:57], cert[57:65]
    verify(authority_pk, cert[65:], H("earmark/certificate", *parts))
    need(now <= int.from_bytes(cert[49:57], "big"), "expired")
    return parts


PLAN = {"round_id": bytes, "proto": u32, "model_version": u64, "model_sha256": bytes, "schema_sha256": bytes, "d": u32,
        "clip_c": f64, "log2_scale_c": u32, "z": f64, "n_min": u32, "n_max": u32, "deadline_s": lambda all_: b"".join(map(u32, all_)),
        "not_before": u64, "not_after": u64, "shards": u32, "key_id": bytes}  # fmt: skip


def plan_hash(plan):
    return H("earmark/sa1/plan", *(encode(plan[name]) for name, encode in PLAN.items()))


def roster_hash(digest, roster):
    entries = [part for e in roster for part in (e["id"], H("earmark/sa1/cert", e["cert"]), e["mask_pk"], e["share_pk"])]
    return H("earmark/sa1/roster", digest, u32(len(roster)), *entries)


def survivors_hash(t1, u3):
    return H("earmark/sa1/survivors", t1, u32(len(u3)), b"".join(map(u16, u3)))


# ---- one whole round -------------------------------------------------------------------------------------------------------------
def advertise(plan, device):
    take = entropy(device["entropy"])
    m, e, b = take(32), take(32), take(32)
    keys = {"mask_pk": x25519(m), "share_pk": x25519(e)}
    sig = sign(device["identity"], H("earmark/sa1/adv", plan_hash(plan), *keys.values()))
    return {"id": device["cert"][1:17], "cert": device["cert"], **keys, "sig": sig}, (m, e, b, take)


def run_round(plan, devices, u2, u3):
    """Play everybody, in order of alias; `u2` shared keys, `u3` sent their masked vector. Everything there is to compare."""
    roster, secrets = zip(*(advertise(plan, device) for device in devices), strict=True)
    n, rid, t1 = len(roster), plan["round_id"], roster_hash(plan_hash(plan), roster)
    t = 3 * n // 5 + 1
    out = {
        "plan_hash": plan_hash(plan),
        "roster": list(roster),
        "t": t,
        "t1": t1,
        "shared": {},
        "masked": {},
        "confirmed": {},
        "sum": [],
    }
    held = {}
    for u, (m, e, b, take) in enumerate(secrets):
        held[u] = split(b, t, n, take), split(m, t, n, take)
        boxes = {}
        for v in range(n):
            if v != u:
                key = KDF(x25519(e, roster[v]["share_pk"]), rid, "earmark/sa1/share", t1, u16(u), u16(v))
                boxes[v] = seal(key, held[u][0][v] + held[u][1][v], t1 + u16(u) + u16(v))
        out["shared"][u] = {"commit": H("earmark/sa1/commit", t1, u16(u), b), "boxes": boxes}
    for u in u3:
        y = prg(KDF(secrets[u][2], rid, "earmark/sa1/self", t1), plan["d"] + 1)
        for v in u2:
            if v != u:
                pair = KDF(
                    x25519(secrets[u][0], roster[v]["mask_pk"]), rid, "earmark/sa1/pair", t1, u16(min(u, v)), u16(max(u, v))
                )
                y = [a + (b if v > u else -b) for a, b in zip(y, prg(pair, plan["d"] + 1), strict=True)]
        words = [1] + [q + g for q, g in zip(devices[u]["steps"], devices[u]["noise"], strict=True)]
        data = struct.pack(f"<{len(y)}I", *((a + b) % 2**32 for a, b in zip(words, y, strict=True)))
        whole = hashlib.sha256(data).digest()
        out["masked"][u] = {"data": data, "sig": sign(devices[u]["identity"], H("earmark/sa1/masked", t1, u16(u), whole))}
    out["t3"] = survivors_hash(t1, u3)
    for u in u3:
        out["confirmed"][u] = sign(devices[u]["identity"], H("earmark/sa1/consistent", out["t3"], u16(u)))
    out["unmask"] = {u: {v: held[v][v not in u3][u] for v in u2} for u in u3}
    totals = [sum(devices[u]["steps"][k] + devices[u]["noise"][k] for u in u3) for k in range(plan["d"])]
    need(open_sum(plan, out, u2, u3) == [len(u3), *totals], "the reference does not open its own round")
    out["sum"] = totals
    return out


def open_sum(plan, out, u2, u3):
    """What the server does: add the masked vectors, put secrets together from shares, take the masks off."""
    size, t1, rid = plan["d"] + 1, out["t1"], plan["round_id"]
    total = [sum(column) for column in zip(*(struct.unpack(f"<{size}I", out["masked"][u]["data"]) for u in u3), strict=True)]
    for v in u2:
        secret = combine({u: out["unmask"][u][v] for u in u3[: out["t"]]})
        masks = [(1, KDF(secret, rid, "earmark/sa1/self", t1))]
        if v not in u3:
            need(x25519(secret) == out["roster"][v]["mask_pk"], "mask key")
            agreed = {u: x25519(secret, out["roster"][u]["mask_pk"]) for u in u3}
            masks = [
                (1 if v > u else -1, KDF(z, rid, "earmark/sa1/pair", t1, u16(min(u, v)), u16(max(u, v))))
                for u, z in agreed.items()
            ]
        for sign_, key in masks:
            total = [a - sign_ * b for a, b in zip(total, prg(key, size), strict=True)]
    return [(a + 2**31) % 2**32 - 2**31 for a in total]
