"""Sound files become events: a clip begins, encoded segments of it, it ends. `intake.py` stores them.

Who waits for whom: `jobs` lanes, each with a sandboxed decoder of its own, read files and cut segments; `jobs` encoder threads
turn batches of segments into vectors; the caller's thread alone writes the database. Every queue is bounded, so a ten-hour file
takes no more memory than a ten-minute one, and even a single long file keeps all cores busy.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.audio.decode import Decoder
from earmark_client.labelling import best_rows
from earmark_shared.errors import EarmarkError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from earmark_client.audio.decode import SoundInfo, SoundStream
    from earmark_client.audio.segment import Cut
    from earmark_client.describe import Floats, Model
    from earmark_client.labelling import LabelSet
    from earmark_client.model.head import Vectors

BATCH_SEGMENTS = 64
"""Segments described at once: 31 s of sound, enough that threads seldom wait for the interpreter, few enough to share out one file."""
_FIRST_SEGMENTS = 8
"""A lane's first batch, each next one twice as large: an `add` that is soon interrupted has kept something."""
_MOST_STEPS = 2 * BATCH_SEGMENTS
"""Cuts and events that wait for a full batch at most, as many as clips of one segment make of one: files that are all silence fill none."""
_AHEAD = 2
"""Batches of one lane that may be under way, per job."""


@dataclass(frozen=True)
class Batch:
    """Encoded segments of one clip, in order: `(segments,)` times and `(segments, dim)` vectors."""

    start_s: npt.NDArray[np.float64]
    end_s: npt.NDArray[np.float64]
    vectors: Vectors
    output: Floats
    best_labels: Floats
    """`(up to 3, labels)` the best scores of each label among these segments."""


@dataclass(frozen=True)
class Begun:
    """A file whose content is new, or was interrupted: batches follow."""

    path: Path
    content_sha256: str
    info: SoundInfo
    size_bytes: int
    recorded_at_s: float


@dataclass(frozen=True)
class Encoded:
    """The next batch of a begun file."""

    content_sha256: str
    batch: Batch


@dataclass(frozen=True)
class Finished:
    """A begun file has been read to its end."""

    content_sha256: str
    duration_s: float


@dataclass(frozen=True)
class Known:
    """A file whose content is stored already, or is being stored right now from another path."""

    path: Path
    content_sha256: str
    recorded_at_s: float


@dataclass(frozen=True)
class Refused:
    """A file that can't be used; whatever was stored of it goes."""

    path: Path
    error: EarmarkError
    content_sha256: str | None


Event = Begun | Encoded | Finished | Known | Refused


@dataclass(frozen=True)
class Cuts:
    """Segments of a begun file, still to be described."""

    content_sha256: str
    cuts: Sequence[Cut]


class Claims:
    """Which contents are stored, and which a lane has taken on: no two lanes store the same sound."""

    def __init__(self, stored: Iterable[str], pending: dict[str, float]) -> None:
        """Start from the hashes of ready clips and, for pending ones, the end of what is stored (s)."""
        self._taken = set(stored)
        self._pending = pending
        self._lock = threading.Lock()

    def take(self, content_sha256: str) -> float | None:
        """Take the content on: where to go on from (s), or None if it is stored or taken."""
        with self._lock:
            if content_sha256 in self._taken:
                return None
            self._taken.add(content_sha256)
            return self._pending.get(content_sha256, 0.0)


class Ingest:
    """Reads files in the background and yields what happened, in an order that can be stored as it comes."""

    def __init__(self, model: Model, labels: LabelSet, claims: Claims, *, jobs: int | None = None) -> None:
        """Use `jobs` lanes and encoder threads; default: one a core."""
        self._model = model
        self._labels = labels
        self._claims = claims
        self._jobs = jobs or len(os.sched_getaffinity(0))
        self._events: queue.Queue[Event | BaseException | None] = queue.Queue(maxsize=4 * self._jobs)
        self._stop = threading.Event()

    def run(self, files: Sequence[tuple[Path, Path]]) -> Generator[Event, None, None]:
        """Yield the events of `files`, pairs of a path and the folder it may not lead out of.

        A lane that fails for a reason of its own (not a file's) ends the run with that exception. Closing the iterator
        stops the lanes.
        """
        work: queue.SimpleQueue[tuple[Path, Path]] = queue.SimpleQueue()
        for item in files:
            work.put(item)
        with ExitStack() as stack:
            decoders = [stack.enter_context(Decoder()) for _ in range(min(self._jobs, len(files)))]
            self._model.open_audio()  # while the decoders' processes import their libraries
            pool = stack.enter_context(ThreadPoolExecutor(self._jobs, "encode"))
            lanes = [threading.Thread(target=self._lane, args=(work, decoder, pool), daemon=True) for decoder in decoders]
            try:
                for lane in lanes:
                    lane.start()
                yield from self._until_done(len(lanes))
            finally:
                self._stop.set()
                for lane in lanes:
                    lane.join()

    def _until_done(self, running: int) -> Iterator[Event]:
        while running:
            event = self._events.get()
            if event is None:
                running -= 1
            elif isinstance(event, BaseException):
                raise event
            else:
                yield event

    def _put(self, event: Event | BaseException | None) -> None:
        while not self._stop.is_set():  # then nobody takes events any more, and a batch has many
            try:
                return self._events.put(event, timeout=0.2)
            except queue.Full:
                continue
        return None

    def _lane(self, work: queue.SimpleQueue[tuple[Path, Path]], decoder: Decoder, pool: ThreadPoolExecutor) -> None:
        try:
            steps = _Steps(lambda group: pool.submit(self._describe, group), self._put, most_ahead=_AHEAD * self._jobs)
            while not self._stop.is_set():
                try:
                    path, root = work.get_nowait()
                except queue.Empty:
                    break
                self._read(decoder, path, root, steps)
            if not self._stop.is_set():
                steps.finish()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            self._put(error)
        finally:
            self._put(None)

    def _read(self, decoder: Decoder, path: Path, root: Path, steps: _Steps) -> None:
        taken: str | None = None
        try:
            with decoder.open(path, roots=(root,)) as stream:
                content_sha256 = stream.content_sha256()
                resume_s = self._claims.take(content_sha256)
                if resume_s is not None:
                    taken = content_sha256
                    self._put(Begun(path, taken, stream.info, stream.status.st_size, stream.status.st_mtime))
                    for cuts in self._groups(stream, resume_s):
                        steps.add(Cuts(taken, cuts))
        except EarmarkError as error:
            steps.add(Refused(path, error, taken))
        else:  # not before the file is closed: that may find that it changed meanwhile
            if taken is None:
                self._put(Known(path, content_sha256, stream.status.st_mtime))
            elif not self._stop.is_set():
                steps.add(Finished(taken, stream.duration_s))

    def _groups(self, stream: SoundStream, resume_s: float) -> Iterator[list[Cut]]:
        segmenter = self._model.segmenter()
        most = segmenter.share_of(BATCH_SEGMENTS)
        group: list[Cut] = []
        for block in stream:
            if self._stop.is_set():
                return
            group += [cut for cut in segmenter.push(block) if cut.end_s > resume_s]
            while len(group) >= most:
                yield group[:most]
                group = group[most:]
        group += [cut for cut in segmenter.flush() if cut.end_s > resume_s]
        if group:
            yield group

    def _describe(self, steps: Sequence[Cuts | Event]) -> list[Event]:
        """Describe the cuts among some steps, all at once; the steps as events, in their order."""
        waveforms = [cut.waveform for step in steps if isinstance(step, Cuts) for cut in step.cuts]
        if not waveforms:
            return [step for step in steps if not isinstance(step, Cuts)]
        vectors, output = self._model.describe(np.stack(waveforms))
        # Labels come from what is stored, so that an interrupted clip gets the same scores from what it stored before.
        text, sound = (stored.astype(np.float16).astype(np.float32) for stored in (vectors.searched, vectors.sound))
        scores = self._labels.scores(text, vectors.strength, sound)
        events: list[Event] = []
        start = 0
        for step in steps:
            if isinstance(step, Cuts):
                rows = slice(start, start + len(step.cuts))
                start = rows.stop
                times = np.array([(cut.start_s, cut.end_s) for cut in step.cuts])
                batch = Batch(times[:, 0], times[:, 1], vectors.rows(rows), output[rows], best_rows(None, scores[rows]))
                events.append(Encoded(step.content_sha256, batch))
            else:
                events.append(step)
        return events


class _Steps:
    """What a lane read, in order: cuts are described in full batches, across files, and all leaves as events in that order.

    A short clip would fill a batch of the encoder to a part only, and pay for the whole.
    """

    def __init__(
        self, describe: Callable[[list[Cuts | Event]], Future[list[Event]]], put: Callable[[Event], None], *, most_ahead: int
    ) -> None:
        self._describe, self._put, self._most_ahead = describe, put, most_ahead
        self._waiting: list[Cuts | Event] = []
        self._segments, self._full = 0, _FIRST_SEGMENTS
        self._ahead: deque[Future[list[Event]]] = deque()

    def add(self, step: Cuts | Event) -> None:
        """Take the next step; a full batch is sent off, and waited for if too many are under way. What is described leaves at once."""
        self._waiting.append(step)
        self._segments += len(step.cuts) if isinstance(step, Cuts) else 0
        if self._segments >= self._full or len(self._waiting) >= _MOST_STEPS:
            self._send()
        self._hand_on(self._most_ahead)

    def finish(self) -> None:
        """Send off what waits, and wait for everything."""
        self._send()
        self._hand_on(0)

    def _send(self) -> None:
        self._ahead.append(self._describe(self._waiting))
        self._waiting, self._segments = [], 0
        self._full = min(2 * self._full, BATCH_SEGMENTS)

    def _hand_on(self, most_ahead: int) -> None:
        while self._ahead and (len(self._ahead) > most_ahead or self._ahead[0].done()):
            for event in self._ahead.popleft().result():
                self._put(event)
