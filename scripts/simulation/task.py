"""What a simulated federation learns: a head's schema over real labels, devices' training sets, and held-out clips to judge by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from simulation.axes import load_axes
from simulation.sound import DIGITS, TEST, TRAINING, Sounds

from earmark_client.describe import Model
from earmark_client.learn.finetune import TrainingSet
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.model.labeler import mean_direction, query_phrases
from earmark_client.model.text import TextEncoder
from earmark_shared.head import Arrays, Floats, HeadSchema, correct, first_head, unit_rows

Integers = npt.NDArray[np.int64]
CLIPS = 64
"""Clips of one device: the fewest that may train outside a lab."""
POOR = 0.3
"""A label whose recall with the base model is below this is one that the base model does poorly."""
DIRICHLET = 0.5
HEARD_IN_DIGITS = "speech"
"""The model's class that spoken digits are heard as."""
PHRASINGS = ("{}", "the sound of {}")
"""What a label's vector is the mean direction of, as in the shipped head (scripts/build_head.py)."""


@dataclass(frozen=True)
class Task:
    """Sounds, a schema over their labels, and the head that rounds begin with."""

    sounds: Sounds
    schema: HeadSchema
    first: Arrays
    label_vectors: Floats
    """`(labels, outputs)` unit."""
    target: Integers
    """`(clips,)` index of each clip's label, -1 where it has none in the schema."""

    def training_set(self, clips: Integers) -> TrainingSet:
        """Return clips as a device would train on them: a yes to the label; without one a no to what the base model hears."""
        rows, places = self.sounds.rows(clips)
        targets = np.zeros((len(clips), len(self.schema.labels)), np.int8)
        scores = unit_rows(self.sounds.text[rows]) @ self.label_vectors.T
        for place, clip in enumerate(clips):
            known = self.target[clip]
            heard = int(scores[places == place].mean(axis=0).argmax()) if known < 0 else int(known)
            targets[place, heard] = 1 if known >= 0 else -1
        return TrainingSet(self.sounds.encoder[rows], self.sounds.text[rows], places, targets[places], self.label_vectors)

    def recalls(self, arrays: Arrays | None, part: str = TEST) -> dict[str, tuple[int, int]]:
        """Return label -> (right, held-out clips) with a head, or with the base model alone."""
        clips = np.flatnonzero((self.sounds.part == part) & (self.target >= 0))
        rows, places = self.sounds.rows(clips)
        text = unit_rows(self.sounds.text[rows])
        if arrays is not None:
            text = correct(arrays, self.sounds.encoder[rows], text)
        scores = np.zeros((len(clips), len(self.schema.labels)))
        np.add.at(scores, places, text @ self.label_vectors.T)
        counts = np.bincount(places)[:, None]
        right = (scores / counts).argmax(axis=1) == self.target[clips]
        return {
            label: (int(right[self.target[clips] == place].sum()), int((self.target[clips] == place).sum()))
            for place, label in enumerate(self.schema.labels)
        }


def make_task(sounds: Sounds, rank: int) -> Task:
    """Return the task of all labels that have held-out clips; `down` hears along what tells synthesized words apart."""
    labels = (*DIGITS, *sorted(set(sounds.label[sounds.part == TEST].tolist()) - {"", *DIGITS}))
    labels = tuple(label for label in labels if (sounds.label[sounds.part == TRAINING] == label).any())
    places = {label: place for place, label in enumerate(labels)}
    vectors = label_vectors(labels)
    schema = HeadSchema(sounds.encoder.shape[1], sounds.text.shape[1], rank, ("up",), labels)
    first = first_head(schema, b"simulation") | load_axes(Bundle.load(BASE_MODEL), rank)
    target = np.array([places.get(label, -1) for label in sounds.label.tolist()], dtype=np.int64)
    return Task(sounds, schema, first, vectors, target)


def label_vectors(labels: tuple[str, ...]) -> Floats:
    """Return `(labels, outputs)` unit text vectors: the model's own for words that it hears; for the digits, speech and how they differ.

    What a search compares with is the model's nearest classes; for "three" and "seven" those are the same (cosine 0.98), because the
    model hears no digits. A schema that adds such labels has to bring vectors that can be told apart: here the sentence model's, less
    what all of them share, and as much of the class that the model does hear in them. So a correction has to say only which digit.
    """
    model = Model(Bundle.load(BASE_MODEL))
    sentences = TextEncoder(model.bundle)
    said = {label: mean_direction(sentences.encode(query_phrases(label, PHRASINGS))) for label in (*labels, HEARD_IN_DIGITS)}
    shared = np.mean([said[label] for label in labels if label in DIGITS], axis=0)
    understand = model.labeler._head.understand  # noqa: SLF001  a query has another phrasing than a class
    speech, _, _ = understand(said[HEARD_IN_DIGITS])

    def vector(label: str) -> Floats:
        if label not in DIGITS:
            return understand(said[label])[0]
        return unit_rows((said[label] - shared)[None])[0] + unit_rows(speech[None])[0]

    return unit_rows(np.stack([vector(label) for label in labels]))


def poor_labels(task: Task) -> list[str]:
    """Return the labels that the base model does poorly, by what devices may train on: held-out clips have no say in it."""
    base = task.recalls(None, TRAINING)
    return [label for label, (right, count) in base.items() if right < POOR * count]


def accuracy(recalls: dict[str, tuple[int, int]], labels: list[str]) -> float:
    """Return the share of held-out clips of `labels` whose best label is the right one."""
    return sum(recalls[label][0] for label in labels) / max(sum(recalls[label][1] for label in labels), 1)


def split(task: Task, devices: int, how: str, rng: np.random.Generator) -> tuple[list[Integers], bool]:
    """Return each device's clips `(CLIPS,)`, and whether clips had to be drawn again across devices.

    First come the clips with a label; if they don't reach, those without one are added; then all are dealt out again.
    """
    sounds, wanted = task.sounds, devices * CLIPS
    known = rng.permutation(np.flatnonzero((sounds.part == TRAINING) & (task.target >= 0)))
    others = rng.permutation(np.flatnonzero((sounds.part == TRAINING) & (task.target < 0)))
    pool = np.concatenate((known, others))[:wanted]
    if len(pool) == wanted:
        return _deal(task, pool, how, rng), False
    dealt: list[Integers] = []
    while len(dealt) < devices:
        full = rng.permutation(pool)[: len(pool) // CLIPS * CLIPS]
        dealt += _deal(task, full, how, rng)
    return dealt[:devices], True


def _deal(task: Task, pool: Integers, how: str, rng: np.random.Generator) -> list[Integers]:
    sounds = task.sounds
    if how == "uploader":
        order = _runs(sounds.owner[pool], rng)
    elif how == "speaker":
        return _by_speaker(task, pool, rng)
    else:
        order = _dirichlet(task.target[pool], rng)
    return [pool[part] for part in np.split(order, len(pool) // CLIPS)]


def _runs(owners: npt.NDArray[np.str_], rng: np.random.Generator) -> Integers:
    """Put the clips of each owner next to each other, the owners in random order."""
    names = rng.permutation(np.unique(owners))
    rank = {name: place for place, name in enumerate(names.tolist())}
    return np.argsort([rank[owner] for owner in owners.tolist()], kind="stable")


def _by_speaker(task: Task, pool: Integers, rng: np.random.Generator) -> list[Integers]:
    """Give each device digits of one speaker (at a seam of two), and an even share of everything else."""
    spoken, other = (pool[mask] for mask in (task.sounds.is_spoken[pool], ~task.sounds.is_spoken[pool]))
    spoken = spoken[_runs(task.sounds.owner[spoken], rng)]
    count = len(pool) // CLIPS
    shares = [len(part) for part in np.array_split(rng.permutation(other), count)]
    ends = np.cumsum([CLIPS - share for share in shares])[:-1]
    parts = zip(np.split(spoken, ends), np.array_split(other, count), strict=True)
    return [np.concatenate(part) for part in parts]


def _dirichlet(targets: Integers, rng: np.random.Generator) -> Integers:
    """Order clips so that each device of CLIPS has labels in its own Dirichlet proportions, as far as the clips reach."""
    left = {label: list(np.flatnonzero(targets == label)) for label in np.unique(targets).tolist()}
    order: list[int] = []
    for _ in range(len(targets) // CLIPS):
        liking = dict(zip(left, rng.dirichlet([DIRICHLET] * len(left)), strict=True))
        for _ in range(CLIPS):
            there = [label for label in left if left[label]]
            weights = np.array([liking[label] + 1e-9 for label in there])
            order.append(left[there[rng.choice(len(there), p=weights / weights.sum())]].pop())
    return np.array(order, dtype=np.int64)
