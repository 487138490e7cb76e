"""Sound files to 16 kHz mono waveforms, decoded by a process that can do nothing else.

The parent opens the file (`opening.py`), hands the descriptor to its worker (`worker.py`) and counts what comes back: processor
time, length, expansion and every sample's range. On any fault the worker is killed and a new one serves the next file. The
reasons behind the numbers: docs/adr/0002-audio-allowance.md.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from earmark_client.audio import opening, worker
from earmark_client.audio.process import SilentWorkerError, SlowWorkerError, WorkerGoneError, WorkerProcess
from earmark_shared.errors import AudioError, AudioLimitError, DamagedAudioError, EmptyAudioError, NotAudioError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

SAMPLE_RATE_HZ = worker.OUTPUT_RATE_HZ
content_sha256 = opening.content_sha256
display_name = opening.display_name


@dataclass(frozen=True)
class DecodeLimits:
    """What one file may cost. A constant with a decision record; tests loosen it to show what it holds back."""

    lowest_rate_hz: int = 8_000
    highest_rate_hz: int = 192_000
    most_channels: int = 8
    longest_s: float = 24 * 3600.0
    shortest_s: float = 0.1
    processor_s: float = 20.0
    processor_s_per_sound_s: float = 1.0 / 60.0
    silent_s: float = 20.0
    """How long the worker may say nothing at all."""
    expansion: float = 3_000.0
    """Most decoded bytes (all channels, float32) per byte of the file ..."""
    expansion_free_bytes: int = 64 * 1024**2
    """... counted only beyond this many decoded bytes."""


@dataclass(frozen=True)
class SoundInfo:
    """What a file's header says of its sound; `container` is one of WAV, FLAC, OGG, MP3, AIFF."""

    sample_rate_hz: int
    channels: int
    container: str


_FAULTS: dict[bytes, tuple[type[AudioError], str, str]] = {
    worker.DAMAGED: (DamagedAudioError, "the sound is damaged; nothing of it is stored", "copy the file again, or convert it"),
    worker.NOT_FINITE: (
        DamagedAudioError,
        "holds samples that are not numbers; nothing of it is stored",
        "export it again from the program it is from",
    ),
    worker.TOO_LOUD: (
        DamagedAudioError,
        "holds samples beyond four times full scale; nothing of it is stored",
        "export it again as 16-bit sound",
    ),
    worker.TRUNCATED: (
        DamagedAudioError,
        "ends before its header says; nothing of it is stored",
        "copy the file again from where it came",
    ),
    worker.NO_MEMORY: (AudioLimitError, "needs more memory than a decoder may use", "convert it to WAV or FLAC first"),
}
_UNKNOWN_FAULT = (DamagedAudioError, "can't be decoded; nothing of it is stored", "convert it to WAV or FLAC first")


class SoundStream:
    """One open file: its hash, its header, and its waveform block by block, once."""

    def __init__(self, path: Path, descriptor: int, *, process: WorkerProcess, limits: DecodeLimits) -> None:
        """Wrap a descriptor that `open_sound` gave; `Decoder.open` is the way to one."""
        self.path = path
        self._samples = 0
        self._descriptor, self._process, self._limits = descriptor, process, limits
        self.status = opening.status_of(descriptor, path)
        self._info: SoundInfo | None = None
        self._is_silent = True
        self._is_consumed = False

    @property
    def duration_s(self) -> float:
        """Seconds of sound given so far; the whole once iteration ended."""
        return self._samples / SAMPLE_RATE_HZ

    def content_sha256(self) -> str:
        """Hex digest of the file's bytes, from the descriptor that is decoded."""
        return opening.content_sha256(self.path, self._descriptor)

    @property
    def info(self) -> SoundInfo:
        """The header; starts the decoder at the first call. Raises an AudioError."""
        if self._info is None:
            container = opening.container_of(self._descriptor, self.path)
            with self._explained():
                self._process.start_file(self._descriptor)
                kind, payload = self._receive()
                if kind != worker.INFORM or len(payload) != worker.INFO.size:
                    raise WorkerGoneError
            self._info = self._checked_info(payload, container)
        return self._info

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Blocks `(samples,) float32`, 16 kHz, finite and within [-4, 4]. Raises an AudioError, also after the last block."""
        info = self.info
        if self._is_consumed:
            raise AudioError(f"{display_name(self.path)}: a stream is read once", hint="open the file again")
        self._is_consumed = True
        with self._explained():
            self._process.go_on()
            while (message := self._receive())[0] == worker.BLOCK:
                block = np.frombuffer(message[1], dtype=np.float32)
                if block.size:
                    yield self._checked_block(block, info)
            if message[0] != worker.END:
                raise WorkerGoneError
            self._process.finish_file()
        self._check_not_empty()

    def _receive(self) -> tuple[bytes, bytearray]:
        """The worker's next message, a fault raised as its error."""
        limits = self._limits
        allowance_s = limits.processor_s + self.duration_s * limits.processor_s_per_sound_s
        kind, payload = self._process.receive(allowance_s=allowance_s, silent_s=limits.silent_s)
        if kind == worker.FAULT:
            raise self._error(*_FAULTS.get(bytes(payload), _UNKNOWN_FAULT))
        return kind, payload

    def _checked_info(self, payload: bytearray, container: str) -> SoundInfo:
        rate_hz, channels, _, found = worker.INFO.unpack(payload)
        limits = self._limits
        if found.rstrip(b"\0") != container.encode():
            raise self._error(NotAudioError, "is not what its first bytes say", f"Earmark reads {opening.CONTAINERS}")
        if not limits.lowest_rate_hz <= rate_hz <= limits.highest_rate_hz:
            reason = f"has {rate_hz} samples a second; Earmark reads {limits.lowest_rate_hz} to {limits.highest_rate_hz}"
            raise self._error(AudioLimitError, reason, "resample it, for example to 44100")
        if not 1 <= channels <= limits.most_channels:
            reason = f"has {channels} channels; Earmark reads 1 to {limits.most_channels}"
            raise self._error(AudioLimitError, reason, "mix it down to one or two channels")
        return SoundInfo(rate_hz, channels, container)

    def _checked_block(self, block: npt.NDArray[np.float32], info: SoundInfo) -> npt.NDArray[np.float32]:
        """The block, once length, expansion and range are seen to be within the limits."""
        limits = self._limits
        lowest, highest = float(block.min()), float(block.max())
        self._check_finite(lowest, highest)
        self._samples += block.size
        self._is_silent = self._is_silent and lowest == 0.0 == highest
        if self.duration_s > limits.longest_s:
            reason = f"is longer than {limits.longest_s / 3600:.0f} hours"
            raise self._error(AudioLimitError, reason, "split the recording into shorter files")
        decoded_bytes = self.duration_s * info.sample_rate_hz * info.channels * 4
        if decoded_bytes > max(limits.expansion_free_bytes, self.status.st_size * limits.expansion):
            reason = f"grows more than {limits.expansion:.0f}-fold when decoded"
            raise self._error(AudioLimitError, reason, "if it is a real recording, mix it down to mono or save it as WAV")
        if max(highest, -lowest) > worker.LARGEST_SAMPLE:  # only the resampler's ringing: the worker refused such files
            return np.clip(block, -worker.LARGEST_SAMPLE, worker.LARGEST_SAMPLE)
        return block

    def _check_finite(self, lowest: float, highest: float) -> None:
        """The worker looked already, at every channel; this is so that a broken one can't poison a library."""
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise self._error(*_FAULTS[worker.NOT_FINITE])

    def _check_not_empty(self) -> None:
        if self.duration_s < self._limits.shortest_s:
            reason = f"lasts only {self.duration_s:.3f} s"
            raise self._error(EmptyAudioError, reason, f"sounds need at least {self._limits.shortest_s} s")
        if self._is_silent:
            raise self._error(EmptyAudioError, "holds nothing but digital silence", "check the recording's input")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what may happen to a worker into the file's error."""
        allowance = self._limits.processor_s
        try:
            yield
        except SlowWorkerError as slow:
            reason = f"took more processor time than {allowance:.0f} s and 1 s a minute of sound"
            raise self._error(AudioLimitError, reason, "convert it to WAV or FLAC first") from slow
        except SilentWorkerError as silent:
            reason = f"gave no sound for {self._limits.silent_s:.0f} s"
            raise self._error(AudioLimitError, reason, "check the disk it is on, or convert it to WAV or FLAC first") from silent
        except WorkerGoneError as gone:
            raise self._error(*_UNKNOWN_FAULT) from gone

    def _error(self, kind: type[AudioError], reason: str, hint: str) -> AudioError:
        return kind(f"{display_name(self.path)}: {reason}", hint=hint)


class Decoder:
    """Decodes any number of files, one at a time, in one worker process. Not for sharing between threads: one each."""

    def __init__(self, limits: DecodeLimits | None = None) -> None:
        """Remember the limits; the worker starts on entering the context."""
        self._limits = limits or DecodeLimits()
        self._process = WorkerProcess()

    def __enter__(self) -> Self:
        """Start the worker, without waiting for it."""
        self._process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the worker."""
        self._process.stop()

    @contextmanager
    def open(self, path: Path, roots: Sequence[Path]) -> Iterator[SoundStream]:
        """A stream of the sound file at `path`, which must lie in one of the folders `roots`. Raises an AudioError."""
        with ExitStack() as stack:
            descriptor = stack.enter_context(opening.open_sound(path, roots))
            stack.callback(self._process.abandon_file)
            yield SoundStream(path, descriptor, process=self._process, limits=self._limits)
