"""Bar A2: malformed files and unsafe paths. None crashes, hangs, leaks out of its folder or yields a number that isn't one."""

import os
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.attack import corpus
from tests.soundmaker import noise, sound_bytes, tone, wav_bytes, write_sound

from earmark_client.audio import opening, process, sandbox
from earmark_client.audio.decode import Decoder, SoundStream
from earmark_client.audio.features import FeatureExtractor
from earmark_client.audio.find import FoundSound, find_sounds
from earmark_client.audio.segment import Segmenter
from earmark_shared.errors import AudioError, DamagedAudioError, UnsafePathError

EXTRACTOR = FeatureExtractor()
OPENED = []
WATCHING = threading.Event()


def watch_opens(event, args):
    if event == "open" and WATCHING.is_set():
        OPENED.append(str(args[0]))


sys.addaudithook(watch_opens)


def features_of(decoder, path, root):
    """The way into the library: decode, cut, describe. The number of segments."""
    segmenter = Segmenter()
    with decoder.open(path, (root,)) as stream:
        cuts = [cut for block in stream for cut in segmenter.push(block)] + segmenter.flush()
    features = EXTRACTOR(np.stack([cut.waveform for cut in cuts])) if cuts else EXTRACTOR(np.empty((0, 15_600), np.float32))
    assert np.isfinite(features.log_mel).all()
    assert np.isfinite(features.multi_scale).all()
    return len(cuts)


def judge(files, folder):
    """Feed every file; names of those refused. Any exception but an AudioError, or 20 seconds, fails."""
    refused = []
    OPENED.clear()
    with Decoder() as decoder:
        for name, data in files:
            path = folder / f"{name}.wav"
            path.write_bytes(data)
            WATCHING.set()
            started_s = time.monotonic()
            try:
                features_of(decoder, path, folder)
            except AudioError as error:
                refused.append((name, path.name in str(error) and bool(error.hint)))
            finally:
                WATCHING.clear()
            assert time.monotonic() - started_s < 20
            path.unlink()
        good = write_sound(folder, "good", tone(1.0))
        assert features_of(decoder, good, folder) == 1
    outside = [name for name in OPENED if not name.startswith((str(folder), "/proc/")) and name != os.devnull]
    assert not outside
    assert all(is_explained for _, is_explained in refused)
    return [name for name, _ in refused]


MUST_FAIL = {f"rate-{rate}" for rate in corpus.RATES} | {f"channels-{count}" for count in corpus.CHANNELS}
MUST_FAIL |= {"bits-0", "random", "empty", "one-byte", "nan-0", "nan-5999", "inf-0", "minus-inf-all", "huge-all", "double"}


def test_malformed_files_short(tmp_path):
    files = [
        file
        for place, file in enumerate(corpus.whole(tmp_path, each=1))
        if place % 3 == 0 or place % 7 == 1 or file[0] in MUST_FAIL
    ]
    assert len(files) >= 60
    assert set(judge(files, tmp_path)) >= MUST_FAIL


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_malformed_files(tmp_path):
    files = list(corpus.whole(tmp_path))
    assert len(files) >= 300
    assert set(judge(files, tmp_path)) >= MUST_FAIL


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_fuzzed_containers(tmp_path):
    """Bar A3, short: 2,000 mutated containers."""
    seeds = [sound_bytes(tmp_path, container, seconds=0.3) for container in ("wav", "flac", "ogg", "opus", "mp3", "aiff")]
    edits = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=6)), min_size=1, max_size=6)
    with Decoder() as decoder:

        @settings(max_examples=2_000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(seeds), edits, st.booleans(), st.floats(0.01, 1.0))
        def fuzz(seed, changes, in_header, kept):
            data = bytearray(seed)
            for where, new in changes:
                place = int(where * (200 if in_header else len(data)))
                data[place : place + len(new)] = new
            path = tmp_path / "fuzz.bin"
            path.write_bytes(data[: int(len(data) * kept)])
            try:
                features_of(decoder, path, tmp_path)
            except AudioError:
                return

        fuzz()


def test_without_the_checks_nan_gets_through(tmp_path, monkeypatch):
    values = np.full(16_000, 0.1, "<f4")
    values[5_000] = np.nan
    path = tmp_path / "nan.wav"
    path.write_bytes(wav_bytes(values.tobytes(), bits=32, code=3))
    monkeypatch.setattr(
        process, "_START", process._START.replace("worker.main", "worker.checked = lambda frames: frames; worker.main")
    )
    with Decoder() as decoder, pytest.raises(DamagedAudioError, match="not numbers"):
        features_of(decoder, path, tmp_path)  # the parent looks again
    monkeypatch.setattr(SoundStream, "_check_finite", lambda *_: None)
    with Decoder() as decoder, decoder.open(path, (tmp_path,)) as stream:
        waveform = np.concatenate(list(stream))
    assert np.isnan(waveform).any()


def test_a_link_out_of_the_folder_is_not_followed_unless_the_check_is_gone(tmp_path, monkeypatch):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    secret = write_sound(outside, "secret", tone(1.0))
    (inside / "link.wav").symlink_to(secret)
    assert not [found for found in find_sounds([inside]) if isinstance(found, FoundSound)]
    with Decoder() as decoder:
        with pytest.raises(UnsafePathError):
            features_of(decoder, inside / "link.wav", inside)
        with pytest.raises(UnsafePathError):
            features_of(decoder, inside / ".." / "out" / "secret.wav", inside)
        monkeypatch.setattr(opening, "check_inside", lambda path, roots: None)
        monkeypatch.setattr(opening, "_open", lambda path: os.open(path, os.O_RDONLY))
        assert features_of(decoder, inside / "link.wav", inside) == 1
        assert features_of(decoder, inside / ".." / "out" / "secret.wav", inside) == 1


def test_a_pipe_is_refused_at_once_where_a_plain_open_waits_for_ever(tmp_path):
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    with Decoder() as decoder:
        started_s = time.monotonic()
        with pytest.raises(UnsafePathError, match="plain file"):
            features_of(decoder, pipe, tmp_path)
        assert time.monotonic() - started_s < 2
    careless = threading.Thread(target=lambda: pipe.open("rb").close(), daemon=True)
    careless.start()
    careless.join(0.3)
    assert careless.is_alive()
    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    careless.join(5)
    assert not careless.is_alive()


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom", "/dev/tty"])
def test_devices_are_not_read(device):
    from pathlib import Path

    with Decoder() as decoder, pytest.raises(AudioError) as caught:
        features_of(decoder, Path(device), Path("/dev"))
    assert caught.value.hint


REPORT = """
import mmap, os, socket
BIG = 1 << 30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # asked for, never touched
def tries(channel):
    did = []
    for name, act in (("open", lambda: open("/etc/passwd")), ("socket", lambda: socket.socket()), ("fork", os.fork), ("kill", lambda: os.kill(1, 0)),
                      ("write", lambda: os.open("/tmp/earmark-worker", os.O_CREAT | os.O_WRONLY)), ("memory", lambda: mmap.mmap(-1, *BIG))):
        try:
            if act() == 0:
                os._exit(0)
            did.append(name)
        except (OSError, MemoryError):
            pass
    channel.sendall(" ".join(did).encode() + b".")
"""


def what_a_worker_can_do(monkeypatch, start):
    monkeypatch.setattr(
        process, "_START", f"exec({REPORT!r}); " + start.replace("worker.main", "worker.serve = tries; worker.main")
    )
    one = process.WorkerProcess()
    one.start()
    one._channel.settimeout(20)
    said = b""
    while not said.endswith(b"."):
        said += one._channel.recv(100)
    one.stop()
    return set(said[:-1].decode().split())


def test_a_worker_can_do_nothing_but_decode(monkeypatch):
    start = process._START
    assert what_a_worker_can_do(monkeypatch, start) == set()
    loose = start.replace(
        "worker.main", "from earmark_client.audio import sandbox; sandbox.lock_down = lambda: None; worker.main"
    )
    assert what_a_worker_can_do(monkeypatch, loose) >= {"open", "socket", "fork", "memory"}


def test_a_seccomp_program_jumps_to_its_last_line_only_for_listed_calls():
    import struct

    program = sandbox.seccomp_program(7, [1, 5])
    lines = [struct.unpack("HBBI", program[place : place + 8]) for place in range(0, len(program), 8)]

    def run(architecture, call):
        at, value = 0, 0
        while True:
            code, yes, no, k = lines[at]
            if code == 0x20:
                value = architecture if k == 4 else call
                at += 1
            elif code == 0x15:
                at += 1 + (yes if value == k else no)
            else:
                return k

    assert run(7, 1) == run(7, 5) == 0x7FFF0000
    assert run(7, 2) == run(8, 1) == 0x00050001


@pytest.mark.parametrize(
    "harm",
    ["raise MemoryError", "import os; os._exit(3)", "os.abort()", "raise ValueError", "channel.sendall(b'B' + b'\\xff' * 400)"],
)
def test_a_worker_that_breaks_is_replaced(tmp_path, monkeypatch, harm):
    bad = f"def answer_file(channel, descriptor):\n    import os\n    if os.fstat(descriptor).st_size < 20000: {harm}\n    return real(channel, descriptor)"
    start = process._START.replace(
        "worker.main", f"real = worker.answer_file; exec({bad!r}); worker.answer_file = answer_file; worker.main"
    )
    monkeypatch.setattr(process, "_START", start)
    small, large = write_sound(tmp_path, "small", tone(0.5)), write_sound(tmp_path, "large", noise(2.0))
    with Decoder() as decoder:
        for _ in range(2):
            with pytest.raises(AudioError, match="small"):
                features_of(decoder, small, tmp_path)
            assert features_of(decoder, large, tmp_path) >= 3
