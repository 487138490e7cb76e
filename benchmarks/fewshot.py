"""How well does a sound that was taught from a few examples get told from others, and does what is none of them stay *nothing*?

    python benchmarks/fewshot.py --data DIR --csv FILE [--shots 1 3 5] [--episodes 200]

An episode draws five labels, teaches each from so many clips, and asks which of the five each other clip of these labels is: the
one whose score is highest (`accuracy_N`, the mean over episodes). Examples and questions come from different recordings
(`freesound_id` or `group`). `open_set_auroc` is the chance that a clip of a taught label scores higher than one of another label does,
with the most shots. Scores are those that a search for the taught name ranks by. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import Parser, add_rows, at_least, data_folder, finish, read_rows, run, say, table

from earmark_client.asking import find_example
from earmark_client.library import Library
from earmark_client.search import Target, score_pool
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import SettingsError

if TYPE_CHECKING:
    import numpy.typing as npt
    from common import Row

    Floats = npt.NDArray[np.float32]

LABELS = 5
SEED = 7


class Taught:
    """A library of all clips, and the scores of its clips for sounds taught from some of them."""

    def __init__(self, library: Library, rows: list[Row]) -> None:
        """Add the clips; those that can't be read are told and left out."""
        self.rows = add_rows(library, rows)
        self._library, self._shelf = library, library._shelf()
        by_path = {path: clip.id for clip in library.clips() for path in clip.paths}
        self._ids = np.array([by_path[str(row.path)] for row in self.rows])
        self._examples: dict[int, Floats] = {}

    def scores(self, chosen: list[int]) -> Floats:
        """`(clips,)` scores of all clips for the sound that these rows are examples of."""
        pool = self._shelf.catalogue.pool(None)
        target = Target(example=np.concatenate([self._example(row) for row in chosen]))
        scored = score_pool(self._shelf, target, pool, self._library._model.labeler.calibration)
        clips = self._shelf.catalogue.passage_clips
        best = np.zeros(int(max(clips.max(), self._ids.max())) + 1, np.float32)
        np.maximum.at(best, clips, scored.score)
        return best[self._ids]

    def _example(self, row: int) -> Floats:
        if row not in self._examples:
            self._examples[row] = find_example(self._library._database, self._library._model, self.rows[row].path, None)
        return self._examples[row]


def auroc(inside: Floats, outside: Floats) -> float:
    """The chance that one of `inside` is larger than one of `outside`; ties count half."""
    order = np.sort(outside)
    below = np.searchsorted(order, inside, side="left") + np.searchsorted(order, inside, side="right")
    return float(below.mean() / (2 * len(outside)))


def run_episode(
    taught: Taught, groups: dict[str, dict[str, list[int]]], shots: int, draw: np.random.Generator
) -> tuple[float, float]:
    """Accuracy and open-set AUROC of one draw of labels and examples."""
    labels = draw.choice(sorted(groups), LABELS, replace=False)
    columns, asked = [], []
    for column, label in enumerate(labels):
        recordings = draw.permutation(sorted(groups[label]))
        columns.append(taught.scores([int(draw.choice(groups[label][name])) for name in recordings[:shots]]))
        asked += [(row, column) for name in recordings[shots:] for row in groups[label][name]]
    scores = np.stack(columns, axis=1)
    rows, truth = np.array(asked).T
    strange = np.array([row for row, known in enumerate(taught.rows) if known.label not in set(labels)])
    return float((scores[rows].argmax(axis=1) == truth).mean()), auroc(scores[rows].max(axis=1), scores[strange].max(axis=1))


def by_recording(rows: list[Row], most: int) -> dict[str, dict[str, list[int]]]:
    """Rows by label and recording; labels with no more than `most` recordings are told and left out.

    Raises:
        SettingsError: the labels don't suffice for an episode and a clip that is none of it.
    """
    groups: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for at, row in enumerate(rows):
        groups[row.label][row.group].append(at)
    for label in sorted(groups):
        if len(groups[label]) <= most:
            say(f"left out: {label}, {len(groups[label])} recordings")
    enough = {label: found for label, found in groups.items() if len(found) > most}
    if len(enough) < LABELS or len(groups) == LABELS:
        told = (
            f"{len(groups)} labels, {len(enough)} of more than {most} recordings: an episode takes {LABELS}, and clips of another"
        )
        raise SettingsError(told, hint="give more recordings, or fewer --shots")
    return enough


def measure(rows: list[Row], shots: list[int], episodes: int) -> dict[str, float | int]:
    """Teach and ask, `episodes` times for each number of examples."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with Library.create(home, unlock=KeyFile(Path(folder) / "key")) as library:
            taught = Taught(library, rows)
            enough = by_recording(taught.rows, max(shots))
            result: dict[str, float | int] = {}
            for count in shots:
                draw = np.random.default_rng((SEED, count))
                pairs = [run_episode(taught, enough, count, draw) for _ in range(episodes)]
                accuracy, open_set = np.mean(pairs, axis=0)
                say(f"{count} shots: accuracy {accuracy:.4f}, open set {open_set:.4f}")
                result |= {f"accuracy_{count}": round(float(accuracy), 4), "open_set_auroc": round(float(open_set), 4)}
            return result | {"labels": len(enough), "episodes": episodes, "clips": len(taught.rows)}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=data_folder, required=True)
    parser.add_argument("--csv", type=table, required=True)
    parser.add_argument("--shots", type=at_least(1), nargs="+", default=[1, 3, 5])
    parser.add_argument("--episodes", type=at_least(1), default=200)
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    options = arguments()
    finish(measure(read_rows(options.data, options.csv), sorted(options.shots), options.episodes))


if __name__ == "__main__":
    run(main)
