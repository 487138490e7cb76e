"""A model hears a library's clips again from their files: its segments are made beside those in force, and seen by nobody until then.

Killed at any moment: what was committed stays, and the next time goes on after a clip's last stored segment.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from earmark_client.ingest import Claims, Ingest
from earmark_client.intake import Intake
from earmark_client.labelling import LabelSet
from earmark_client.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from earmark_client.describe import Model
    from earmark_client.ingest import Begun, Finished, Known, Refused
    from earmark_client.records import Clip
    from earmark_client.store.database import Database
    from earmark_client.tally import AddProgress, AddReport


class _Wanted(Claims):
    """Takes on known clips and nothing else: a file that has changed since is not what the library knows."""

    def __init__(self, wanted: dict[str, float]) -> None:
        super().__init__((), wanted)
        self._wanted = wanted

    def take(self, content_sha256: str) -> float | None:
        """Where to go on from (s), or None if it is not wanted, or taken."""
        return super().take(content_sha256) if content_sha256 in self._wanted else None


class _Beside(Intake):
    """Stores a second model's segments of clips that are there; clips, names and labels stay as they are."""

    def __init__(self, database: Database, model: Model, labels: LabelSet, wanted: dict[str, Clip]) -> None:
        super().__init__(database, model, labels)
        self._is_beside = True
        self._wanted = wanted

    def _begin(self, event: Begun) -> None:
        self._clips[event.content_sha256] = self._wanted[event.content_sha256].id

    def _recognize(self, event: Known, tally: Tally) -> None:
        tally.current = str(event.path)
        tally.known += 1

    def _finish(self, event: Finished, clip_id: int, tally: Tally) -> None:  # noqa: ARG002  the clip's length is known
        self._best.pop(clip_id, None)
        self._database.finish_describing(clip_id, self._model.base_version)
        tally.added += 1

    def _take_back(self, event: Refused, tally: Tally) -> None:
        tally.problems.append((str(event.path), event.error))
        clip_id = None if event.content_sha256 is None else self._forget(event.content_sha256)
        if clip_id is not None:
            self._database.forget_described(clip_id, self._model.base_version)


def read_again(
    database: Database,
    model: Model,
    clips: Sequence[Clip],
    on_progress: Callable[[AddProgress], None] | None = None,
    *,
    jobs: int | None = None,
) -> AddReport:
    """Make this model's segments of the clips whose file is there, none of which it has heard; the caller holds the home's lock."""
    wanted = {clip.content_sha256: clip for clip in clips}
    begun = {sha: database.described_until_s(clip.id, model.base_version) for sha, clip in wanted.items()}
    paths = [Path(path) for clip in wanted.values() for path in filter(os.path.isfile, clip.paths)]
    files = [(path, path.parent) for path in paths]
    labels = LabelSet(model, database.label_list())
    with closing(Ingest(model, labels, _Wanted(begun), jobs=jobs).run(files)) as events:
        return _Beside(database, model, labels, wanted).store(events, Tally(len(files)), on_progress)
