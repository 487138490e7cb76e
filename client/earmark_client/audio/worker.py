"""The decoder's own process: it is handed open files, one after another, and answers with 16 kHz mono sound.

It knows no path, opens nothing and reads no metadata. One Unix socket carries everything. From the parent: a byte `D` with the
file's descriptor, then `G` (go) or `N` (next) once the header is known. To the parent: one-byte kind, length, payload:

    I  header: rate, channels, frames declared, container        B  float32 samples
    E  end of the sound                                          F  one byte: why there is no (more) sound

The parent trusts none of it and counts time, length and memory itself (`decode.py`).
"""

from __future__ import annotations

import array
import io
import os
import socket
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

BLOCK_FRAMES = 65_536
OUTPUT_RATE_HZ = 16_000
LARGEST_SAMPLE = 4.0
HEADER = struct.Struct("<cI")
INFO = struct.Struct("<IIq8s")
DECODE, GO, NEXT = b"D", b"G", b"N"
INFORM, BLOCK, END, FAULT = b"I", b"B", b"E", b"F"
DAMAGED, NOT_FINITE, TOO_LOUD, TRUNCATED, NO_MEMORY, UNEXPECTED = b"d", b"n", b"l", b"t", b"m", b"u"
MPEG_SEARCH_BYTES = 65_536
APE, APE_BYTES, APE_HAS_HEADER = b"APETAGEX", 32, 1 << 31
"""An APE tag's header and footer: how they begin, how long they are, and the flag that says there is a header, too."""
_CONTAINERS = {"WAV": b"WAV", "WAVEX": b"WAV", "RF64": b"WAV", "FLAC": b"FLAC", "OGG": b"OGG", "MP3": b"MP3", "MPEG": b"MP3"}
_CONTAINERS |= {"AIFF": b"AIFF"}


class FaultError(Exception):
    """The file can't be decoded; `code` says why."""

    def __init__(self, code: bytes) -> None:
        super().__init__(code)
        self.code = code


def main(descriptor: int) -> None:
    """Serve the parent at the other end of the socket `descriptor` until it hangs up."""
    from earmark_client.audio import sandbox

    channel = socket.socket(fileno=descriptor)
    warm_up()
    sandbox.lock_down()
    serve(channel)


def warm_up() -> None:
    """Decode one small sound, so that nothing needs importing once files can't be opened any more."""
    import numpy as np
    import soundfile

    memory = io.BytesIO()
    soundfile.write(memory, np.zeros(100, dtype=np.float32), 44_100, format="WAV")
    memory.seek(0)
    with soundfile.SoundFile(memory) as sound:
        for _ in waveforms(sound):
            pass
    with suppress(soundfile.LibsndfileError):
        soundfile.SoundFile(io.BytesIO(b"not a sound"))


def serve(channel: socket.socket) -> None:
    """Answer one file after another."""
    while True:
        request, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_LEN(4))
        if not request:
            return
        if request != DECODE or not ancillary:
            continue
        descriptor = array.array("i", ancillary[0][2][:4])[0]
        try:
            answer_file(channel, descriptor)
        except FaultError as fault:
            send(channel, FAULT, fault.code)
        except MemoryError:
            send(channel, FAULT, NO_MEMORY)
        except ConnectionError:
            return
        except Exception:  # noqa: BLE001  a decoder may raise anything; the parent starts a new worker
            send(channel, FAULT, UNEXPECTED)
        finally:
            os.close(descriptor)


def send(channel: socket.socket, kind: bytes, payload: bytes | memoryview) -> None:
    """One message; waits while the parent is busy, which is what bounds memory."""
    header = HEADER.pack(kind, len(payload))
    sent = channel.sendmsg([header, payload])
    if sent < len(header):
        channel.sendall(header[sent:])
    rest = memoryview(payload)[max(0, sent - len(header)) :]
    if rest:
        channel.sendall(rest)


def answer_file(channel: socket.socket, descriptor: int) -> None:
    """Header, the parent's word, then all of the sound."""
    with open_decoder(descriptor) as sound:
        container = _CONTAINERS.get(sound.format, b"")
        send(channel, INFORM, INFO.pack(sound.samplerate, sound.channels, sound.frames, container))
        if channel.recv(1) != GO:
            return
        for block in waveforms(sound):
            if block.size:
                send(channel, BLOCK, memoryview(block).cast("B"))
        decoded = sound.tell() if container in {b"FLAC", b"MP3"} else 0  # GSM in WAV can't be asked
        if is_cut_short(descriptor, container, sound.frames, decoded):
            raise FaultError(TRUNCATED)
    send(channel, END, b"")


def open_decoder(descriptor: int) -> Any:  # noqa: ANN401  soundfile has no types
    """The decoder of the file, tried once more from its first MPEG frame where an ID3 tag hides what the file is."""
    import soundfile

    end = before_ape(descriptor)
    for start in (0, first_mpeg_frame(descriptor)):
        os.lseek(descriptor, start, os.SEEK_SET)
        try:
            return soundfile.SoundFile(descriptor if end is None else Part(descriptor, start, end), closefd=False)
        except (soundfile.LibsndfileError, ValueError, TypeError) as refusal:
            cause = refusal
    raise FaultError(DAMAGED) from cause


def first_mpeg_frame(descriptor: int) -> int:
    """Where an MP3's first frame may begin behind its tag, 0 in any other file.

    libsndfile looks for it right behind the tag only, yet there are players' favourites with a tag of length 0 and a torn first frame.
    """
    behind = behind_tag(os.pread(descriptor, 16, 0))
    if not behind:
        return 0
    near = os.pread(descriptor, MPEG_SEARCH_BYTES, behind)
    frames = (at for at in range(len(near) - 1) if near[at] == 0xFF and near[at + 1] & 0xE6 == 0xE2)  # layer III
    return behind + next(frames, -behind)


def behind_tag(head: bytes) -> int:
    """Where the ID3 or APE tag ends that a file with these first sixteen bytes begins with; 0 if there is none."""
    if head[:8] == APE and len(head) == 16:
        return APE_BYTES + int.from_bytes(head[12:], "little")
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


def before_ape(descriptor: int) -> int | None:
    """Where an APE tag without a header begins that a file ends in, before an ID3v1 tag or not; None if there is none.

    libmpg123 knows them by their header. Without one it seeks the next frame in all of the tag, and more than a kilobyte is damage to it.
    """
    size = os.fstat(descriptor).st_size
    end = size - 128 if os.pread(descriptor, 3, max(0, size - 128)) == b"TAG" else size
    foot = os.pread(descriptor, APE_BYTES, max(0, end - APE_BYTES))
    length, _, flags = struct.unpack("<III", foot[12:24]) if foot[:8] == APE and len(foot) == APE_BYTES else (0, 0, 0)
    return end - length if APE_BYTES <= length <= end and not flags & APE_HAS_HEADER else None


class Part(io.RawIOBase):
    """The bytes `[start, end)` of an open file, as a file."""

    def __init__(self, descriptor: int, start: int, end: int) -> None:
        self._descriptor, self._start, self._size, self._place = descriptor, start, max(0, end - start), 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place."""
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  cffi's buffers have no type
        """Fill a buffer as far as there are bytes."""
        data = os.pread(self._descriptor, max(0, min(len(buffer), self._size - self._place)), self._start + self._place)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def waveforms(sound: Any) -> Any:  # noqa: ANN401  soundfile has no types
    """Blocks of 16 kHz mono float32, one per 65,536 frames of the file, the last with the resampler's rest."""
    import numpy as np
    import soundfile
    import soxr

    buffer = np.empty((BLOCK_FRAMES, sound.channels), dtype=np.float32)
    resampler = None
    if sound.samplerate != OUTPUT_RATE_HZ:
        resampler = soxr.ResampleStream(sound.samplerate, OUTPUT_RATE_HZ, 1, dtype="float32", quality="HQ")
    frames = BLOCK_FRAMES
    while frames == BLOCK_FRAMES:
        try:
            frames = sound.buffer_read_into(buffer, "float32")
        except soundfile.LibsndfileError as refusal:
            raise FaultError(DAMAGED) from refusal
        mono = mixed_down(checked(buffer[:frames]))
        yield mono if resampler is None else resampler.resample_chunk(mono, last=frames < BLOCK_FRAMES)


def checked(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`frames (n, channels)`, or a fault: no NaN or infinity, nothing beyond four times full scale."""
    if not frames.size:
        return frames
    largest = max(float(frames.max()), -float(frames.min()))  # either is NaN if any sample is
    if not largest < float("inf"):
        raise FaultError(NOT_FINITE)
    if largest > LARGEST_SAMPLE:
        raise FaultError(TOO_LOUD)
    return frames


def mixed_down(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean of the channels, `(n,)`, in memory of its own."""
    if frames.shape[1] == 1:
        return frames[:, 0].copy()
    mono: npt.NDArray[np.float32] = frames.mean(axis=1)
    return mono


def is_cut_short(descriptor: int, container: bytes, declared: int, decoded: int) -> bool:
    """Whether the file ends before the sound that its header or its last page promises; `decoded` frames matter in FLAC and MP3 only."""
    size = os.fstat(descriptor).st_size
    if container == b"MP3" and not _tells_its_length(descriptor):
        return False  # the decoder guessed from the file's size, its tags included
    if container in {b"FLAC", b"MP3"}:
        return declared < 1 << 60 and decoded + 4_608 < declared  # an MP3 encoder's padding is at most that
    if container in {b"WAV", b"AIFF"}:
        return _chunks_end(descriptor) > size
    return container == b"OGG" and _last_page_end(descriptor, size) > size


def _tells_its_length(descriptor: int) -> bool:
    """Whether an MP3's first frame holds a header with the length, where libmpg123 and encoders put it: behind the side information."""
    frame = os.pread(descriptor, 4 + 32 + 4, first_mpeg_frame(descriptor))
    return any(frame[4 + side :][:4] in {b"Xing", b"Info", b"VBRI"} for side in (9, 17, 32))


def _chunks_end(descriptor: int) -> int:
    """Where the sound chunk of a RIFF or FORM file says it ends; 0 if it doesn't say (a stream leaves it open)."""
    start = os.pread(descriptor, 12, 0)
    layout, wanted = (">4sI", b"SSND") if start[:4] == b"FORM" else ("<4sI", b"data")
    place = 12
    for _ in range(1_000):
        header = os.pread(descriptor, 8, place)
        if len(header) < 8:
            return 0
        name, length = struct.unpack(layout, header)
        if name == wanted:
            return 0 if start[:4] == b"RF64" or length >= 0x7FFF_0000 else place + 8 + length
        place += 8 + length + (length & 1)
    return 0


def _last_page_end(descriptor: int, size: int) -> int:
    """Where the last Ogg page says it ends; past the file if the page's own header is cut."""
    tail_start = max(0, size - 66_000)  # a page is at most 65,307 bytes
    tail = os.pread(descriptor, 66_000, tail_start)
    place = tail.rfind(b"OggS")
    if place < 0:
        return 0
    header = tail[place : place + 27]
    if len(header) < 27 or len(tail) < place + 27 + header[26]:
        return size + 1
    table = tail[place + 27 : place + 27 + header[26]]
    return tail_start + place + 27 + len(table) + sum(table)


if __name__ == "__main__":
    main(int(sys.argv[1]))
