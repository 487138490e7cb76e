"""The constants that make raw evidence a probability: logistic regressions on trials in make-believe libraries of public recordings."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from earmark_client import ranking
from earmark_client.model.bundle import Bundle
from earmark_client.model.calibration import share_log_odds
from earmark_client.model.head import mean_direction
from earmark_client.model.labeler import query_phrases
from earmark_client.model.text import TextEncoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt
    from head_fit import Floats, Sounds

    from earmark_client.model.head import Head, Vectors

DISTRACTORS = ("instrument", "weapon_impact", "interface", "creature", "human")
WORD_WEIGHT, THRESHOLD = 0.9, 0.5
TRIALS_SEED = 20261122
LEFT_OUT_PARTS, SPLITS = 6, 30
"""Parts that labels are split into, each to be judged by constants fitted on the others, and how often that is done."""


@dataclass(frozen=True)
class Question:
    """Words as the head understands them; `label` is "" where no recording is the answer, `topic` what they are left out with."""

    label: str
    topic: str
    vector: Floats
    similarity: float
    background: float


def fit_logistic(inputs: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], ridge: float = 1e-2) -> list[float]:
    """Weights and offset of a logistic regression, by Newton's method; yes and no count equally, however many there are."""
    rows = np.c_[inputs, np.ones(len(inputs))]
    counts = np.where(wanted > 0, 0.5 / np.mean(wanted > 0), 0.5 / np.mean(wanted == 0))
    weights = np.zeros(rows.shape[1])
    penalty = ridge * np.diag([1.0] * (rows.shape[1] - 1) + [0.0])
    for _ in range(100):
        expected = 1 / (1 + np.exp(-rows @ weights))
        slope = rows.T @ (counts * (expected - wanted)) / len(rows) + penalty @ weights
        curvature = (rows * (counts * expected * (1 - expected))[:, None]).T @ rows / len(rows) + penalty
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), slope)
        weights -= step
        if np.abs(step).max() < 1e-9:  # four digits are kept
            break
    return [round(float(weight), 4) for weight in weights]


def libraries(sounds: Sounds) -> Iterator[npt.NDArray[np.int64]]:
    """Clips of make-believe libraries: each fold alone, and among 150 other sounds."""
    generator = np.random.default_rng(TRIALS_SEED)
    others = np.flatnonzero(np.isin(sounds.part, DISTRACTORS))
    for fold in sorted({part for part in sounds.part if part.startswith("fold")}):
        clips = np.flatnonzero(sounds.part == fold)
        yield clips
        yield np.concatenate((clips, np.sort(generator.choice(others, 150, replace=False))))


def text_trials(sounds: Sounds, vectors: Vectors, questions: list[Question]) -> Iterator[tuple[float, Question, bool]]:
    """Raw evidence of the best right and of the best wrong clip, for each library and question, and which it is."""
    for clips in libraries(sounds):
        rows, offsets = sounds.pick(clips)
        for question in questions:
            raw = ranking.segment_scores(vectors.text[rows], vectors.strength[rows], question.vector)
            by_clip = ranking.clip_scores(raw, offsets)
            right = sounds.label[clips] == question.label
            yield float(by_clip[~right].max()), question, False
            if right.any():
                yield float(by_clip[right].max()), question, True


def example_trials(sounds: Sounds, vectors: Vectors) -> Iterator[tuple[float, bool]]:
    """(raw, is right) of the best clip with the example's label and of the best without; never the example's own group."""
    for clips in libraries(sounds):
        rows, offsets = sounds.pick(clips)
        sound = vectors.sound[rows]
        for place in np.flatnonzero(np.char.startswith(sounds.part[clips], "fold")):
            raw = ranking.example_scores(sound[offsets[place] : offsets[place + 1]], sound, offsets)
            foreign = sounds.group[clips] != sounds.group[clips[place]]
            right = sounds.label[clips] == sounds.label[clips[place]]
            yield float(raw[foreign & ~right].max()), False
            if (foreign & right).any():
                yield float(raw[foreign & right].max()), True


def understand(base_dir: Path, head: Head, data_dir: Path, folder: Path) -> list[Question]:
    """All questions to calibrate on: those about ESC-10's labels, and words for what is no sound."""
    from build_head import QUERY_TEMPLATES

    known = json.loads((data_dir / "esc10" / "queries.json").read_text(encoding="utf-8"))
    asked = [(label, text) for label, texts in known.items() for text in (*texts["seen"] * 3, *texts["reworded"])]
    asked += [
        ("", line) for line in (folder / "not_sounds.txt").read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    sentences = TextEncoder(Bundle.load(base_dir))
    questions = []
    for label, text in asked:
        weights, similarity = head.weigh_classes(mean_direction(sentences.encode(query_phrases(text, QUERY_TEMPLATES))))
        questions.append(Question(label, label or text, head.fold_query(weights), similarity, head.background(weights)))
    return questions


def left_out_losses(inputs: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64], topics: list[str]) -> list[float]:
    """Mean log loss, yes and no counting equally, of topics under constants fitted on other topics, for each way to split them."""
    rows = np.c_[inputs, np.ones(len(inputs))]
    names, which = np.unique(topics, return_inverse=True)
    draw, losses = np.random.default_rng(TRIALS_SEED), []
    for _ in range(SPLITS):
        parts = (draw.permutation(len(names)) % LEFT_OUT_PARTS)[which]
        expected = np.zeros(len(rows))
        for part in range(LEFT_OUT_PARTS):
            here = parts == part
            expected[here] = 1 / (1 + np.exp(-rows[here] @ np.array(fit_logistic(inputs[~here], wanted[~here]))))
        losses.append(float(np.mean([-np.log(expected[wanted > 0]).mean(), -np.log(1 - expected[wanted == 0]).mean()])))
    return losses


def calibrate(sounds: Sounds, vectors: Vectors, questions: list[Question]) -> dict[str, float]:
    """The constants of `calibration.Calibration`; on standard output, what knowing a background is worth on topics left out."""
    raw, asked, right = zip(*text_trials(sounds, vectors, questions), strict=True)
    odds, right = share_log_odds(np.array(raw)), np.array(right, np.float64)
    as_label = np.c_[odds, [question.similarity for question in asked]]
    as_query = np.c_[as_label, share_log_odds(np.array([question.background for question in asked]))]
    without, losses = (left_out_losses(inputs, right, [question.topic for question in asked]) for inputs in (as_label, as_query))
    spread = np.std(np.subtract(losses, without))
    sys.stdout.write(f"left out: log loss {np.mean(without):.4f}, with backgrounds {np.mean(losses):.4f}, sd {spread:.4f}\n")
    text, query = fit_logistic(as_label, right), fit_logistic(as_query, right)
    likeness, alike = (np.array(column, np.float64) for column in zip(*example_trials(sounds, vectors), strict=True))
    example = fit_logistic(likeness[:, None], alike, ridge=1e-4)
    return {
        "text_slope": text[0],
        "text_similarity": text[1],
        "text_offset": text[2],
        "query_slope": query[0],
        "query_similarity": query[1],
        "query_background": query[2],
        "query_offset": query[3],
        "example_slope": example[0],
        "example_offset": example[1],
        "word_weight": WORD_WEIGHT,
        "threshold": THRESHOLD,
    }
