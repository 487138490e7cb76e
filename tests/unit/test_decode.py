import errno
import hashlib
import os
import struct

import numpy as np
import pytest
import soundfile
from tests.soundmaker import CONTAINERS, noise, sound_bytes, tone, wav_bytes, write_sound

from earmark_client.audio import opening, process
from earmark_client.audio.decode import DecodeLimits, Decoder, SoundInfo, content_sha256, display_name
from earmark_shared.errors import (
    AudioError,
    AudioLimitError,
    DamagedAudioError,
    EmptyAudioError,
    NotAudioError,
    UnreadableAudioError,
    UnsafePathError,
)


@pytest.fixture(scope="module")
def decoder():
    with Decoder() as one:
        yield one


def decoded(decoder, path, root=None):
    with decoder.open(path, (root or path.parent,)) as stream:
        blocks = list(stream)
        return np.concatenate(blocks), stream


def refused(decoder, path, kind, *words):
    with pytest.raises(kind) as caught:
        decoded(decoder, path)
    message = str(caught.value)
    assert path.name in message
    assert all(word in message for word in words), message
    assert caught.value.hint
    assert caught.value.exit_code == 20
    return caught.value


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_tone_that_was_written(decoder, tmp_path, container):
    path = write_sound(tmp_path, "tone", tone(1.0, 1000.0, rate_hz=48_000), container=container, rate_hz=48_000)
    waveform, stream = decoded(decoder, path)
    assert stream.info == SoundInfo(48_000, 1, CONTAINERS[container][0])
    assert waveform.dtype == np.float32
    assert abs(stream.duration_s - 1.0) < 0.12  # MP3 pads
    middle = waveform[4000:12000] * np.hanning(8000)
    assert abs(np.argmax(np.abs(np.fft.rfft(middle))) * 2.0 - 1000.0) <= 2.0
    assert abs(np.sqrt(np.mean(waveform[4000:12000] ** 2)) - 0.3 / np.sqrt(2)) < 0.02


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 96_000, 192_000])
def test_every_rate_becomes_16_khz_of_the_same_length(decoder, tmp_path, rate_hz):
    waveform, stream = decoded(decoder, write_sound(tmp_path, "x", tone(2.0, rate_hz=rate_hz), rate_hz=rate_hz))
    assert abs(waveform.size - 32_000) <= 1
    assert stream.duration_s == waveform.size / 16_000


def test_16_khz_sound_is_not_resampled(decoder, tmp_path):
    sound = noise(5.0)
    waveform, _ = decoded(decoder, write_sound(tmp_path, "x", sound, container="wavfloat"))
    assert np.array_equal(waveform, sound)


def test_resampling_is_soxrs_over_the_whole(decoder, tmp_path):
    import soxr

    sound = noise(5.0, rate_hz=44_100)
    waveform, _ = decoded(decoder, write_sound(tmp_path, "x", sound, container="wavfloat", rate_hz=44_100))
    np.testing.assert_allclose(waveform, soxr.resample(sound, 44_100, 16_000, quality="HQ"), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_channels_are_averaged(decoder, tmp_path, channels):
    sound = np.stack([tone(0.5, 300.0 * (k + 1)) for k in range(channels)], axis=1)
    waveform, stream = decoded(decoder, write_sound(tmp_path, "x", sound, container="wavfloat"))
    assert stream.info.channels == channels
    np.testing.assert_allclose(waveform, sound.mean(axis=1), atol=1e-6)


def test_the_same_file_gives_the_same_bits_from_any_worker(decoder, tmp_path):
    path = write_sound(tmp_path, "x", noise(3.0, rate_hz=44_100), container="ogg", rate_hz=44_100)
    with Decoder() as another:
        assert np.array_equal(decoded(decoder, path)[0], decoded(another, path)[0])


def test_hash_is_of_the_bytes_and_leaves_decoding_alone(decoder, tmp_path):
    path = write_sound(tmp_path, "x", tone(0.5), container="flac")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    with decoder.open(path, (tmp_path,)) as stream:
        assert stream.content_sha256() == expected
        assert sum(block.size for block in stream) == 8000
        assert stream.content_sha256() == expected
    assert content_sha256(path) == expected


def test_hashing_alone_starts_no_decoding(decoder, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(b"nonsense")
    before = decoder._process.pid
    with decoder.open(path, (tmp_path,)) as stream:
        assert len(stream.content_sha256()) == 64
    assert decoder._process.pid == before


def test_leaving_early_is_fine_and_the_next_file_works(decoder, tmp_path):
    path = write_sound(tmp_path, "x", noise(30.0))
    with decoder.open(path, (tmp_path,)) as stream:
        next(iter(stream))
    assert decoder._process.pid is None  # nothing waits for another yet
    with decoder.open(path, (tmp_path,)) as stream:
        assert stream.info.channels == 1
    waveform, _ = decoded(decoder, path)
    assert waveform.size == 480_000


def test_a_refusal_by_the_header_alone_keeps_the_worker(decoder, tmp_path):
    path = tmp_path / "bad.wav"
    path.write_bytes(wav_bytes(bytes(90_000), channels=9))
    good = write_sound(tmp_path, "good", tone(0.5))
    decoded(decoder, good)
    before = decoder._process.pid
    refused(decoder, path, AudioLimitError)
    with decoder.open(good, (tmp_path,)) as stream:
        assert stream.info.channels == 1
    assert decoded(decoder, good)[0].size == 8000
    assert decoder._process.pid == before


def test_a_stream_is_read_once(decoder, tmp_path):
    path = write_sound(tmp_path, "x", tone(0.5))
    with decoder.open(path, (tmp_path,)) as stream:
        list(stream)
        with pytest.raises(AudioError, match="once"):
            list(stream)


def test_one_worker_serves_many_files(decoder, tmp_path):
    path = write_sound(tmp_path, "x", tone(0.5))
    decoded(decoder, path)
    before = decoder._process.pid
    for _ in range(5):
        decoded(decoder, path)
    assert decoder._process.pid == before


def test_no_worker_outlives_its_decoder(tmp_path):
    with Decoder() as one:
        decoded(one, write_sound(tmp_path, "x", tone(0.5)))
        pid = one._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", EmptyAudioError, ["empty"]),
        (b"Dear diary, today", NotAudioError, ["not a sound file"]),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), NotAudioError, ["not a sound file"]),
        (b"\xff\xff\xff\xff" * 20, NotAudioError, ["not a sound file"]),
        (b"OggS" + bytes(100), DamagedAudioError, ["damaged"]),
        (wav_bytes(bytes(100_000), rate_hz=1), AudioLimitError, ["1 samples a second"]),
        (wav_bytes(bytes(100_000), rate_hz=7_999), AudioLimitError, ["7999"]),
        (wav_bytes(bytes(100_000), rate_hz=192_001), AudioLimitError, ["192001"]),
        (wav_bytes(bytes(90_000), channels=9), AudioLimitError, ["9 channels"]),
        (wav_bytes(bytes(100_000)), EmptyAudioError, ["silence"]),
        (wav_bytes(b"\1\2" * 1_599), EmptyAudioError, ["0.100 s"]),
        (wav_bytes(b"\1\2" * 9_000, data_length=90_000), DamagedAudioError, ["nothing of it is stored"]),
        (wav_bytes(np.full(9_000, np.nan, "<f4").tobytes(), bits=32, code=3), DamagedAudioError, ["not numbers"]),
        (wav_bytes(np.full(9_000, -np.inf, "<f4").tobytes(), bits=32, code=3), DamagedAudioError, ["not numbers"]),
        (wav_bytes(np.full(9_000, 4.1, "<f4").tobytes(), bits=32, code=3), DamagedAudioError, ["full scale"]),
    ],
)
def test_what_cannot_be_used_is_named_with_reason_and_remedy(decoder, tmp_path, content, kind, words):
    path = tmp_path / "bad.wav"
    path.write_bytes(content)
    refused(decoder, path, kind, *words)
    assert decoded(decoder, write_sound(tmp_path, "good", tone(0.5)))[0].size == 8000


def test_four_times_full_scale_is_the_most_and_the_resamplers_ringing_is_clipped(decoder, tmp_path):
    square = np.where(np.arange(44_100) // 50 % 2, 4.0, -4.0).astype(np.float32)
    waveform, _ = decoded(decoder, write_sound(tmp_path, "x", square, container="wavfloat", rate_hz=44_100))
    assert np.abs(waveform).max() == 4.0


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_recorders_placeholder_length_is_not_damage(decoder, tmp_path, length):
    path = tmp_path / "live.wav"
    path.write_bytes(wav_bytes(b"\1\2" * 9_000, data_length=length, riff_length=length))
    try:
        assert decoded(decoder, path)[0].size == 9_000
    except EmptyAudioError:
        assert length == 0  # libsndfile takes a length of 0 at its word


@pytest.mark.parametrize("container", ["wav", "wavfloat", "flac", "ogg", "opus", "mp3", "aiff"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_damaged(decoder, tmp_path, container, share):
    data = sound_bytes(tmp_path, container, seconds=4.0)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    refused(decoder, path, DamagedAudioError, "nothing of it is stored")


def test_without_the_check_a_truncated_file_gets_through(tmp_path, monkeypatch):
    data = sound_bytes(tmp_path, "ogg", seconds=4.0)
    path = tmp_path / "cut"
    path.write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(
        process, "_START", process._START.replace("worker.main", "worker.is_cut_short = lambda *_: False; worker.main")
    )
    with Decoder() as careless:
        assert 8_000 < decoded(careless, path)[0].size < 60_000


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (DecodeLimits(longest_s=1.0), "longer than"),
        (DecodeLimits(expansion=0.5, expansion_free_bytes=1000), "grows more"),
        (DecodeLimits(most_channels=0), "1 channels"),
    ],
)
def test_limits_are_held(tmp_path, limits, words):
    path = write_sound(tmp_path, "x", noise(5.0))
    with Decoder(limits) as strict:
        refused(strict, path, AudioLimitError, words)


def test_paths_outside_every_root_are_refused(decoder, tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    path = write_sound(outside, "x", tone(0.5))
    (inside / "folder").symlink_to(outside)
    for named in (path, inside / ".." / "out" / "x.wav", inside / "folder" / "x.wav"):
        with pytest.raises(UnsafePathError, match="outside"):
            decoded(decoder, named, inside)
    assert decoded(decoder, inside / ".." / "out" / "x.wav", outside)[0].size == 8000
    assert decoded(decoder, path, path)[0].size == 8000


def test_links_folders_pipes_and_missing_files_each_have_their_error(decoder, tmp_path):
    path = write_sound(tmp_path, "x", tone(0.5))
    (tmp_path / "link.wav").symlink_to(path)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    refused(decoder, tmp_path / "link.wav", UnsafePathError, "is a link")
    refused(decoder, tmp_path / "pipe.wav", UnsafePathError, "not a plain file")
    refused(decoder, tmp_path / "folder.wav", UnsafePathError, "is a folder")
    refused(decoder, tmp_path / "gone.wav", UnreadableAudioError, "no such file")
    refused(decoder, tmp_path / "x.wav" / "y.wav", UnreadableAudioError, "no such file")


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [(13, UnreadableAudioError, "may not read"), (5, UnreadableAudioError, "can't be read"), (6, UnsafePathError, "plain file")],
)
def test_what_the_system_refuses_is_translated(decoder, tmp_path, monkeypatch, number, kind, words):
    path = write_sound(tmp_path, "x", tone(0.5))

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(opening.os, "open", refuse)
        with pytest.raises(kind, match=words), opening.open_sound(path, (tmp_path,)):
            pass


@pytest.mark.parametrize("call", ["pread", "fstat"])
def test_a_disk_that_fails_after_opening_is_the_files_error(decoder, tmp_path, monkeypatch, call):
    path = write_sound(tmp_path, "x", tone(0.5))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(opening.os, call, fail)
        refused(decoder, path, UnreadableAudioError, "can't be read (Input/output error)")
        with pytest.raises(UnreadableAudioError, match=path.name):
            content_sha256(path)


def test_a_file_that_is_renamed_while_it_is_open_keeps_its_size_and_time(decoder, tmp_path):
    path = write_sound(tmp_path, "x", tone(0.5))
    with decoder.open(path, (tmp_path,)) as stream:
        path.rename(tmp_path / "y.wav")
        assert stream.status == (tmp_path / "y.wav").stat()


def test_only_what_is_surely_not_there_is_gone(tmp_path):
    path = write_sound(tmp_path, "x", tone(0.5))
    assert not opening.is_gone(str(path))
    assert opening.is_gone(str(tmp_path / "y.wav"))
    assert opening.is_gone(str(path / "y.wav"))
    assert not opening.is_gone("/" + "y" * 300)  # can't be looked at


def test_a_file_over_16_gib_is_refused_unread(decoder, tmp_path):
    path = tmp_path / "huge.wav"
    with path.open("wb") as file:
        file.truncate(16 * 1024**3 + 1)  # sparse
    refused(decoder, path, AudioLimitError, "16 GiB")


def test_a_file_that_changes_while_it_is_read_is_refused(decoder, tmp_path):
    path = write_sound(tmp_path, "x", tone(0.5))
    with pytest.raises(DamagedAudioError, match="changed"), decoder.open(path, (tmp_path,)) as stream:
        list(stream)
        with path.open("ab") as file:
            file.write(b"more")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain ü 犬.wav", "plain ü 犬.wav"),
        ("a\x1b[31mred.wav", r"a\x1b[31mred.wav"),
        ("two\nlines.wav", r"two\nlines.wav"),
        ("a\u202egpj.wav", r"a\u202egpj.wav"),
        ("zero\u200bwidth.wav", r"zero\u200bwidth.wav"),
        ("\u2066iso.wav", r"\u2066iso.wav"),
        ("latin\udce9.wav", r"latin\xe9.wav"),
    ],
)
def test_names_are_shown_escaped(name, shown):
    assert display_name(name) == shown
    assert display_name(name).isprintable()


def test_odd_names_decode_and_undecodable_ones_are_refused(decoder, tmp_path):
    odd = tmp_path / "a\u202e\x1b\n.wav"
    write_sound(tmp_path, "x", tone(0.5)).rename(odd)
    assert decoded(decoder, odd)[0].size == 8000
    latin = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    odd.rename(os.fsdecode(latin))
    with pytest.raises(UnsafePathError, match="UTF-8") as caught:
        decoded(decoder, tmp_path / os.fsdecode(b"caf\xe9.wav"))
    assert str(caught.value).isprintable()


def test_metadata_is_not_looked_at(decoder, tmp_path):
    path = tmp_path / "tagged.ogg"
    with soundfile.SoundFile(path, "w", 16_000, 1, format="OGG") as file:
        file.title = "My secret title"
        file.write(tone(0.5))
    with decoder.open(path, (tmp_path,)) as stream:
        list(stream)
        assert "secret" not in repr(vars(stream)) + repr(stream.info)


def test_an_mp3_with_an_empty_tag_and_a_torn_first_frame_is_read(tmp_path):
    torn = tmp_path / "torn.mp3"
    whole = write_sound(tmp_path, "whole", noise(3.0, rate_hz=44_100), container="mp3", rate_hz=44_100).read_bytes()
    second_frame = whole.index(whole[:2], 4)
    torn.write_bytes(b"ID3\x03" + bytes(second_frame) + whole[second_frame:])
    with Decoder() as decoder, decoder.open(torn, (tmp_path,)) as stream:
        # The torn frame held the length; from what is left libmpg123 can only guess it.
        assert sum(len(block) for block in stream) > 12_000


ID3 = b"ID3\x03\0\0\0\x01\x1c\x20" + bytes(20_000)
"""A tag of 20,000 bytes, as one with a picture is."""


def mp3(folder):
    """The bytes of three seconds of noise at a constant rate: the first frame, which tells the length, and the others."""
    path = folder / "constant.mp3"
    soundfile.write(path, noise(3.0, rate_hz=44_100), 44_100, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    data = path.read_bytes()
    second_frame = data.index(data[:2], 4)
    return data[:second_frame], data[second_frame:]


def test_an_mp3_without_a_length_is_not_taken_for_cut_because_of_its_tag(decoder, tmp_path):
    head, rest = mp3(tmp_path)
    assert b"Info" in head
    (tmp_path / "tagged.mp3").write_bytes(ID3 + rest)
    assert abs(decoded(decoder, tmp_path / "tagged.mp3")[0].size / 16_000 - 3.0) < 0.1


@pytest.mark.parametrize("tag", [b"", ID3])
def test_an_mp3_that_tells_its_length_is_cut_if_it_ends_before_tag_or_not(decoder, tmp_path, tag):
    head, rest = mp3(tmp_path)
    (tmp_path / "cut.mp3").write_bytes(tag + head + rest[: len(rest) // 2])
    refused(decoder, tmp_path / "cut.mp3", DamagedAudioError, "ends before its header says")
    (tmp_path / "whole.mp3").write_bytes(tag + head + rest)
    assert abs(decoded(decoder, tmp_path / "whole.mp3")[0].size / 16_000 - 3.0) < 0.1


def ape(size, *, with_header=True):
    """An APE tag with one item of `size` bytes."""
    item = struct.pack("<II", size, 2) + b"Cover Art (Front)\0" + b"x" * size
    has_header = (1 << 31) * with_header
    header, foot = (b"APETAGEX" + struct.pack("<IIII8x", 2000, len(item) + 32, 1, flags | has_header) for flags in (1 << 29, 0))
    return header * with_header + item + foot


ID3V1 = b"TAG" + bytes(125)


@pytest.mark.parametrize("tells_length", [True, False], ids=["length", "no-length"])
@pytest.mark.parametrize(
    ("front", "back"),
    [
        (b"", ape(100, with_header=False)),
        (b"", ape(20_000)),
        (b"", ape(20_000, with_header=False)),
        (b"", ape(20_000, with_header=False) + ID3V1),
        (ape(20_000), b""),
        (ape(100), ape(2_000, with_header=False)),
    ],
    ids=["small", "header", "no-header", "and-id3v1", "in-front", "both"],
)
def test_an_ape_tag_is_no_sound(decoder, tmp_path, front, back, tells_length):
    head, rest = mp3(tmp_path)
    (tmp_path / "plain.mp3").write_bytes(head * tells_length + rest)
    (tmp_path / "tagged.mp3").write_bytes(front + head * tells_length + rest + back)
    plain, tagged = (decoded(decoder, tmp_path / f"{name}.mp3")[0] for name in ("plain", "tagged"))
    assert np.array_equal(plain, tagged)


def test_control_as_much_that_is_no_tag_is_damage(decoder, tmp_path):
    _, rest = mp3(tmp_path)
    foot_of_another_length = ape(20_000, with_header=False).replace(struct.pack("<I", 20_058), struct.pack("<I", 1 << 30))
    for name, tail in (("plain", b"x" * 20_000), ("lying", foot_of_another_length)):
        (tmp_path / f"{name}.mp3").write_bytes(rest + tail)
        refused(decoder, tmp_path / f"{name}.mp3", DamagedAudioError, "the sound is damaged")


def test_a_flac_behind_a_tag_is_read_and_held_to_its_length(decoder, tmp_path):
    flac = write_sound(tmp_path, "plain", noise(1.0), container="flac").read_bytes()
    (tmp_path / "tagged.flac").write_bytes(ID3 + flac)
    waveform, stream = decoded(decoder, tmp_path / "tagged.flac")
    assert (waveform.size, stream.info.container) == (16_000, "FLAC")
    (tmp_path / "cut.flac").write_bytes(ID3 + flac[: len(flac) // 2])
    refused(decoder, tmp_path / "cut.flac", DamagedAudioError, "nothing of it is stored")


def test_what_else_hides_behind_a_tag_is_refused(decoder, tmp_path):
    for name, hidden in (("a", sound_bytes(tmp_path, "wav")), ("b", b"fLaC"), ("c", b"")):
        (tmp_path / name).write_bytes(ID3 + hidden)
        refused(decoder, tmp_path / name, AudioError)


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW", "ALAW"])
def test_wav_of_every_telephone_is_read_and_held_to_its_length(decoder, tmp_path, subtype):
    path = tmp_path / "call.wav"
    soundfile.write(path, noise(1.0, rate_hz=8_000), 8_000, subtype=subtype)
    assert abs(decoded(decoder, path)[0].size / 16_000 - 1.0) < 0.1
    os.truncate(path, path.stat().st_size // 2)
    refused(decoder, path, DamagedAudioError, "nothing of it is stored")
