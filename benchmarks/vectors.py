"""What should a sound vector be made of? Recipes compared by search by example and by taught sounds.

    python benchmarks/vectors.py --data DIR [--csv FILE]

DIR holds esc10/ and corpus/. Each recipe is judged three times: on ESC-10's folds 2, 3 and 5 with axes that the corpus alone chose (`dev`),
on packages of the corpus that are left out of the axes (and of the encoder's fit), and on the clips of FILE (as a rule DIR/sounds30.csv, which
fits nothing) with the axes that would be shipped. On the way, a row of a Markdown table for each: mean average precision and first hit right by example; but for
the packages, also accuracy after one and after five examples. The last line is one JSON object: the same figures by recipe.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import Parser, Row, finish, folder_with, read_rows, run, say, table
from fewshot import SEED, by_recording, run_episode
from retrieval import each_as_example
from safetensors.numpy import load_file

from earmark_client import ranking
from earmark_client.library import BASE_MODEL
from earmark_client.model.head import Head

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from head_fit import Recipe, Sounds, class_probabilities, listed, read_sounds, sound_arrays
from student.sounds import HELD_PACKAGES

PLAIN = Recipe(roots=1, output_axes=128, class_axes=0, multi_axes=128, is_told=False)
BEFORE = Recipe(roots=1, output_axes=128, class_axes=0, multi_axes=128)
RECIPES: dict[str, tuple[Recipe, float]] = {
    "principal axes: no label is looked at": (PLAIN, 0.5),
    "square root, 128 axes, 128 of features": (BEFORE, 0.5),
    "fourth root": (replace(BEFORE, roots=2), 0.5),
    "class probabilities": (replace(Recipe(), roots=1), 0.5),
    "both": (Recipe(), 0.5),
    "and mean directions count .4: shipped": (Recipe(), 0.4),
    "they count .3": (Recipe(), 0.3),
    "64 class axes, 96 of the output": (replace(Recipe(), output_axes=96, class_axes=64), 0.4),
    "32 class axes, 128 of the output": (replace(Recipe(), output_axes=128, class_axes=32), 0.4),
    "class share .4": (replace(Recipe(), class_share=0.4), 0.4),
    "features share .2": (replace(Recipe(), multi_share=0.2), 0.4),
}
"""Recipe and the share of mean directions in a comparison, by name."""
SHOTS, EPISODES = (1, 5), 200


@dataclass(frozen=True)
class Judged:
    """Clips with their sound vectors, as `fewshot.run_episode` wants them."""

    rows: list[Row]
    sound: np.ndarray
    offsets: np.ndarray

    def scores(self, chosen: list[int]) -> np.ndarray:
        """`(clips,)` likeness of all clips to these rows' segments."""
        parts = [self.sound[self.offsets[row] : self.offsets[row + 1]] for row in chosen]
        return ranking.example_scores(np.concatenate(parts), self.sound, self.offsets)

    def by_example(self) -> tuple[float, float]:
        """Mean average precision and share of first hits that are right; `retrieval.py`'s rules."""
        paths = np.array([str(row.path) for row in self.rows])
        precisions, firsts = each_as_example(
            self.rows, lambda place: paths[np.argsort(-self.scores([place]), kind="stable")].tolist()
        )
        return float(np.mean(precisions)), float(np.mean(firsts))

    def taught(self) -> list[float]:
        """Accuracy after each of `SHOTS`, five labels at a time; labels with too few recordings are left out."""
        enough = by_recording(self.rows, max(SHOTS))
        draws = [np.random.default_rng((SEED, shots)) for shots in SHOTS]
        return [
            float(np.mean([run_episode(self, enough, shots, draw)[0] for _ in range(EPISODES)]))
            for shots, draw in zip(SHOTS, draws, strict=True)
        ]


def judged(sounds: Sounds, clips: np.ndarray, head: Head) -> Judged:
    """These clips as `head` hears them; of a package, each is a recording of its own."""
    rows, offsets = sounds.pick(clips)
    groups = np.where(np.isin(sounds.group, HELD_PACKAGES), np.arange(len(sounds.group)).astype(str), sounds.group)
    listing = [Row(Path(str(clip)), str(sounds.label[clip]), str(groups[clip])) for clip in clips]
    return Judged(listing, head.describe(sounds.output[rows], sounds.multi[rows]).sound, offsets)


def compare(sounds: Sounds) -> dict[str, list[float]]:
    """The figures of each recipe."""
    arrays = load_file(BASE_MODEL / "head.safetensors")
    kept = {name: value for name, value in arrays.items() if not name.startswith(("output_", "classes_", "multi_", "sound_"))}
    is_test, is_left_out = sounds.part == "test", np.isin(sounds.group, HELD_PACKAGES)
    is_dev = np.char.startswith(sounds.part, "fold")
    train = Sounds(*_only(sounds, np.flatnonzero(~is_test)))
    probabilities = class_probabilities(kept, train.output)
    figures: dict[str, list[float]] = {}
    for name, (recipe, share) in RECIPES.items():
        ranking.CENTROID_SHARE, figures[name] = share, []
        for asked in (is_dev, is_left_out, is_test):
            if asked.any():
                clips = np.flatnonzero(~asked[~is_test])
                head = Head({**kept, **sound_arrays(train, probabilities, clips, recipe)})
                found = judged(sounds, np.flatnonzero(asked), head)
                figures[name] += [*found.by_example(), *(() if asked is is_left_out else found.taught())]
        figures[name] = [round(figure, 3) for figure in figures[name]]
        say(f"| {name} | " + " | ".join(f"{figure:.3f}".lstrip("0") for figure in figures[name]) + " |")
    return figures


def _only(sounds: Sounds, clips: np.ndarray) -> tuple[np.ndarray, ...]:
    rows, offsets = sounds.pick(clips)
    return sounds.output[rows], sounds.multi[rows], offsets, sounds.label[clips], sounds.group[clips], sounds.part[clips]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=folder_with("esc10/esc10.csv", "corpus/corpus.csv"), required=True)
    parser.add_argument("--csv", type=table)
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    options = arguments()
    tested = read_rows(options.data, options.csv) if options.csv else []
    rows = [*listed(options.data), *((row.path, row.label, row.group, "test") for row in tested)]
    finish(compare(read_sounds(BASE_MODEL, rows, tell=say)))


if __name__ == "__main__":
    run(main)
