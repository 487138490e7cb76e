"""What one hostile address does to a server, for a bounded time. A program of its own, so that it doesn't slow the test that measures:

    python tests/support/flood.py garbage|slow|half-open PORT SECONDS [PATH]

It prints how much it sent. It speaks HTTP/2 by hand, since no client library would send what it sends.
"""

import asyncio
import os
import ssl
import struct
import sys
import time

HOST, FROM = "127.0.0.1", "127.0.0.2"
"""The honest device has another address than the flood, as it would."""
PATH = sys.argv[4] if len(sys.argv) > 4 else "/earmark.v1.Door/Greet"
RATE, BATCH = 2000, 20
HALF_OPEN, SLOW = 500, 100
START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0)[1:] + b"\x04\x00" + bytes(4)
HEADERS, DATA, RESET, GO_AWAY = 1, 0, 3, 7
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"".join(
    literal(name, value)
    for name, value in (
        (b":method", b"POST"), (b":scheme", b"https"), (b":path", PATH.encode()), (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    )
)  # fmt: skip


async def connect(port, read):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(HOST, port, ssl=context, local_addr=(FROM, 0))
    writer.write(START)
    return reader, writer, asyncio.create_task(read(reader))


async def drain(reader):
    """Read until the connection ends."""
    while await reader.read(65_536):
        pass


async def answered(reader):
    """Read until the call is answered, reset or cut off."""
    kind = None
    while kind not in {HEADERS, RESET, GO_AWAY}:
        head = await reader.readexactly(9)
        kind = head[3]
        await reader.readexactly(int.from_bytes(head[:3], "big"))


async def garbage(port, until_s):
    """Requests full of noise, RATE a second, on one connection after the other."""
    sent, began_s, line = 0, time.monotonic(), None
    while time.monotonic() < until_s:
        if line is None:
            (_, writer, reading), stream = await connect(port, drain), 1
            line = writer
        for _ in range(BATCH):
            body = b"\x00" + struct.pack(">I", 32) + os.urandom(32)
            line.write(frame(HEADERS, END_HEADERS, stream, HEAD) + frame(DATA, END_STREAM, stream, body))
            stream += 2
        sent += BATCH
        try:
            await line.drain()
        except OSError:
            line = None
        if reading.done() or line is None:
            line = None
            continue
        await asyncio.sleep(max(0, began_s + sent / RATE - time.monotonic()))
    return sent


async def half_open(port, until_s):
    """HALF_OPEN connections on which the handshake never begins; what the server closes is opened again."""
    opened = 0

    async def hold():
        nonlocal opened
        while time.monotonic() < until_s:
            try:
                reader, writer = await asyncio.open_connection(HOST, port, local_addr=(FROM, 0))
                opened += 1
                await asyncio.wait_for(reader.read(), max(0.1, until_s - time.monotonic()))
                writer.close()
            except OSError:
                await asyncio.sleep(0.2)

    await asyncio.gather(*(hold() for _ in range(HALF_OPEN)))
    return opened


async def slow(port, until_s):
    """SLOW calls at once that send ten bytes a second; one that is cut off begins again."""
    begun = 0

    async def call():
        nonlocal begun
        while time.monotonic() < until_s:
            try:
                _, writer, reading = await connect(port, answered)
                begun += 1
                writer.write(frame(HEADERS, END_HEADERS, 1, HEAD) + frame(DATA, 0, 1, b"\x00" + struct.pack(">I", 60_000)))
                while not reading.done() and time.monotonic() < until_s:
                    writer.write(frame(DATA, 0, 1, b"x"))
                    await writer.drain()
                    await asyncio.sleep(0.1)
                reading.cancel()
                writer.close()
            except (OSError, ssl.SSLError):
                pass
            await asyncio.sleep(3)

    await asyncio.gather(*(call() for _ in range(SLOW)))
    return begun


if __name__ == "__main__":
    os.nice(5)  # where it comes from it has a processor of its own
    kind = {"garbage": garbage, "half-open": half_open, "slow": slow}[sys.argv[1]]
    print(asyncio.run(kind(int(sys.argv[2]), time.monotonic() + float(sys.argv[3]))))
