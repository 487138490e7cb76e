"""Bar A1: small files that decode to a lot. Refused by expansion or allowance; long silence costs no more memory than short."""

import math
import re
import resource
import time
from pathlib import Path

import pytest
from tests.soundmaker import noise, wav_bytes, write_constant, write_sound

from earmark_client.audio import process
from earmark_client.audio.decode import DecodeLimits, Decoder
from earmark_client.audio.segment import Segmenter
from earmark_shared.errors import AudioLimitError

MIB = 1 << 20


def peak_of(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def own_peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def consume(path, limits=None):
    """Decode and cut all of a file: seconds of sound, segments, worker's peak bytes, growth of our own, processor seconds."""
    before = own_peak()
    with Decoder(limits) as decoder:
        segmenter, count = Segmenter(), 0
        with decoder.open(path, (path.parent,)) as stream:
            for block in stream:
                count += len(segmenter.push(block))
            count += len(segmenter.flush())
            return stream.duration_s, count, peak_of(decoder._process.pid), own_peak() - before, decoder._process._processor_s()


BOMBS = [("flac", 8, 48_000), ("ogg", 2, 48_000)]


@pytest.mark.parametrize(("container", "seconds"), [("flac", 60), ("ogg", 50)])
def test_small_bombs_are_refused_and_go_off_without_the_check(tmp_path, container, seconds):
    bomb = write_constant(tmp_path / "bomb", seconds, container=container, channels=8, level=0.0, beep_s=0.001)
    assert seconds * 48_000 * 8 * 4 / bomb.stat().st_size > 3_100
    with pytest.raises(AudioLimitError, match="grows more than 3000-fold"):
        consume(bomb)
    duration_s, *_ = consume(bomb, DecodeLimits(expansion=math.inf))
    assert duration_s == pytest.approx(seconds, abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("container", "channels", "rate_hz"), BOMBS)
def test_the_measured_bombs(tmp_path, container, channels, rate_hz):
    """237 kB of FLAC for 922 MB, 64 kB of Vorbis for 230 MB."""
    bomb = write_constant(tmp_path / "bomb", 600, container=container, channels=channels, rate_hz=rate_hz, level=0.0)
    assert bomb.stat().st_size < 260_000
    with pytest.raises(AudioLimitError, match="grows more"):
        consume(bomb)
    duration_s, _, peak, growth, _ = consume(bomb, DecodeLimits(expansion=math.inf))
    assert duration_s == pytest.approx(600, abs=0.1)
    assert peak < 1024 * MIB
    assert growth < 64 * MIB


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("container", ["opus", "mp3"])
def test_opus_and_mp3_stay_within_the_allowance(tmp_path, container):
    """Their expansion (1,681 and 96) is below the cap: they are let in, and cost what their length allows."""
    bomb = write_constant(tmp_path / "bomb", 600, container=container, channels=2, level=0.0)
    duration_s, _, peak, growth, used_s = consume(bomb)
    assert duration_s == pytest.approx(600, abs=1)
    assert used_s < 20 + 600 / 60
    assert peak < 1024 * MIB
    assert growth < 64 * MIB


def test_a_lying_length_is_refused_and_reserves_nothing(tmp_path):
    liar = tmp_path / "liar.wav"
    liar.write_bytes(wav_bytes(noise(1.0).tobytes(), data_length=2_000_000_000))
    before = own_peak()
    with pytest.raises(Exception, match="nothing of it is stored"):
        consume(liar)
    assert own_peak() - before < 64 * MIB


def test_ten_times_the_silence_costs_no_more_memory(tmp_path):
    short = write_constant(tmp_path / "short.flac", 60, rate_hz=16_000)
    long = write_constant(tmp_path / "long.flac", 600, rate_hz=16_000)
    _, _, short_peak, _, _ = consume(short)
    duration_s, _, long_peak, growth, _ = consume(long)
    assert duration_s == pytest.approx(600, abs=0.1)
    assert abs(long_peak - short_peak) < 8 * MIB
    assert growth < 16 * MIB


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("channels", "rate_hz"), [(1, 44_100), (2, 16_000)])
def test_ten_hours_of_silence_are_accepted(tmp_path, channels, rate_hz):
    path = write_constant(tmp_path / "night.flac", 36_000, rate_hz=rate_hz, channels=channels, level=0.0)
    duration_s, count, peak, growth, used_s = consume(path)
    assert duration_s == pytest.approx(36_000, abs=0.1)
    assert count >= 1
    assert used_s < 20 + 36_000 / 60
    assert peak < 256 * MIB
    assert growth < 64 * MIB
    print(f"ten hours: worker {peak / MIB:.0f} MiB, parent +{growth / MIB:.0f} MiB, {used_s:.0f} s of processor time")


SPIN = "def answer_file(channel, descriptor):\n    while True: pass"
SLEEP = "def answer_file(channel, descriptor):\n    import time\n    time.sleep(600)"


def with_answer(monkeypatch, code):
    start = process._START.replace("worker.main", f"exec({code!r}); worker.answer_file = answer_file; worker.main")
    monkeypatch.setattr(process, "_START", start)


def test_a_decoder_that_spins_is_stopped_by_the_allowance(tmp_path, monkeypatch):
    path = write_sound(tmp_path, "x", noise(1.0))
    with_answer(monkeypatch, SPIN)
    with pytest.raises(AudioLimitError, match="processor time"):
        consume(path, DecodeLimits(processor_s=0.3))
    started_s = time.monotonic()
    with pytest.raises(AudioLimitError, match="no sound"):  # without the allowance only the clock stops it
        consume(path, DecodeLimits(processor_s=math.inf, silent_s=0.8))
    assert time.monotonic() - started_s > 0.8


def test_a_decoder_that_sleeps_is_stopped_by_the_clock(tmp_path, monkeypatch):
    path = write_sound(tmp_path, "x", noise(1.0))
    with_answer(monkeypatch, SLEEP)
    with pytest.raises(AudioLimitError, match="no sound for"):
        consume(path, DecodeLimits(silent_s=0.6))


def test_the_allowance_grows_with_the_sound_and_is_per_file(tmp_path):
    path = write_sound(tmp_path, "x", noise(60.0, rate_hz=44_100), container="flac", rate_hz=44_100)
    tight = DecodeLimits(processor_s=0.5, processor_s_per_sound_s=1 / 60)
    with Decoder(tight) as decoder:
        for _ in range(12):  # more than the allowance together
            with decoder.open(path, (tmp_path,)) as stream:
                assert sum(block.size for block in stream) == pytest.approx(960_000, abs=1)
        assert decoder._process._processor_s() > 0.5


def test_a_slow_reader_holds_the_worker_back(tmp_path):
    """Back pressure: unread sound waits in the file, not in memory."""
    path = write_constant(tmp_path / "long.flac", 1_200, rate_hz=16_000)
    with Decoder() as decoder, decoder.open(path, (tmp_path,)) as stream:
        next(iter(stream))
        time.sleep(0.5)
        used_s = decoder._process._processor_s()
        time.sleep(0.5)
        assert decoder._process._processor_s() - used_s < 0.1
        assert peak_of(decoder._process.pid) < 100 * MIB
