"""The gate: a candidate head is judged on public sound before anyone signs it.

    report = judge(candidate, Judging(schema, previous, PublicSet.load(schema, path.read_bytes())))
    report.check()                           # CandidateError says what is wrong with it

What is judged is public: the encoder outputs and text vectors of published recordings with known labels, made by
`scripts/build_public_set.py` and stored as safetensors. No device's data is here, and this program couldn't hear it if it were.

A poisoned candidate shows in one of five ways: a value that is no number, weights that are far too large or too far from those
before, a worse score, a label that is no longer found, or sounds that have none of the labels and suddenly get one of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import CandidateError, ModelError
from earmark_shared.head import Arrays, Floats, HeadSchema, check_arrays, correct, flatten, unit_rows
from earmark_shared.release import DTYPES, dump_arrays, load_arrays

Ints = npt.NDArray[np.int32]
STORED: dict[str, np.dtype[Any]] = {**DTYPES, "I32": np.dtype("<i4")}
LEAST_EXAMPLES = 20
"""A label with fewer public examples is not judged on its own: one more miss would already be a drop of more than 5 %."""


@dataclass(frozen=True)
class Limits:
    """What a candidate may cost; the figures of the release gate."""

    accuracy_drop: float = 0.01
    recall_drop: float = 0.05
    probe_rise: float = 0.02
    """More of the probes that any one label may claim than before: what a backdoor's trigger would show."""
    drift_most: float = 16.0
    """Euclidean distance of the trained parameters from those before."""
    norm_most: float = 64.0
    """Euclidean length of the trained parameters."""


@dataclass(frozen=True)
class PublicSet:
    """Public sound as a head sees it: n segments with one of L labels each, and m segments that have none of them."""

    encoder: Floats
    """`(n, inputs)` encoder outputs."""
    text: Floats
    """`(n, outputs)` the base model's text vectors."""
    labels: Ints
    """`(n,)` indices of the schema's labels."""
    label_vectors: Floats
    """`(L, outputs)` what a text vector is compared with."""
    probe_encoder: Floats
    """`(m, inputs)`, m may be 0."""
    probe_text: Floats
    """`(m, outputs)`."""

    @classmethod
    def load(cls, schema: HeadSchema, data: bytes) -> PublicSet:
        """Read what `dump` wrote; ModelError if it does not fit the schema, or holds a value that is no number."""
        stored = load_arrays(_shapes(schema), data, STORED)
        labels = stored.pop("labels")
        floats = {name: array.astype(np.float32) for name, array in stored.items()}
        public = cls(**floats, labels=labels.astype(np.int32))
        rows = (len(public.encoder), len(public.text), len(public.labels))
        if (
            labels.dtype != STORED["I32"]
            or len(set(rows)) != 1
            or not rows[0]
            or len(public.probe_encoder) != len(public.probe_text)
        ):
            raise ModelError("the public set's arrays don't belong together")
        if not all(np.isfinite(array).all() for array in floats.values()):
            raise ModelError("the public set holds a value that is no number")
        if not ((public.labels >= 0) & (public.labels < len(schema.labels))).all():
            raise ModelError("the public set names labels that the schema doesn't")
        return public

    def dump(self) -> bytes:
        """Return the set as safetensors bytes."""
        floats = ("encoder", "text", "label_vectors", "probe_encoder", "probe_text")
        arrays = {name: np.asarray(getattr(self, name), "<f4") for name in floats}
        return dump_arrays(arrays | {"labels": self.labels.astype("<i4")}, STORED)


@dataclass(frozen=True)
class Judging:
    """What a candidate is held against."""

    schema: HeadSchema
    previous: Arrays
    public: PublicSet
    limits: Limits = Limits()


@dataclass(frozen=True)
class Report:
    """What the gate found; kept with the round."""

    accuracy: float
    """Share of the public segments whose best label is the right one, with the candidate."""
    accuracy_before: float
    worst_label: str
    """The label that lost most recall."""
    worst_recall_drop: float
    probe_label: str
    """The label that most more probes go to."""
    probe_rise: float
    drift: float
    norm: float
    findings: tuple[str, ...]
    """Why it must not be released; nothing if it may."""

    def check(self) -> None:
        """Raise CandidateError if there are findings."""
        if self.findings:
            raise CandidateError("the candidate " + "; it ".join(self.findings))


def judge(candidate: Arrays, judging: Judging) -> Report:
    """Judge a candidate's arrays against the release before it."""
    schema, previous, public = judging.schema, judging.previous, judging.public
    try:
        check_arrays(schema, candidate)
    except ModelError as error:
        return _refusal(f"is no head: {error}")
    frozen = [name for name in candidate if name not in schema.trained and not np.array_equal(candidate[name], previous[name])]
    if frozen:
        return _refusal(f"changes {', '.join(frozen)}, which is not trained")
    before, after = (_chosen(arrays, public) for arrays in (previous, candidate))
    drops = _drops(before, after, public.labels, len(schema.labels))
    rises = _shares(candidate, public) - _shares(previous, public)
    lost, gained = int(np.argmax(drops)), int(np.argmax(rises))
    flat, flat_before = flatten(schema, candidate).astype(np.float64), flatten(schema, previous).astype(np.float64)
    measured = Report(
        accuracy=float(np.mean(after == public.labels)),
        accuracy_before=float(np.mean(before == public.labels)),
        worst_label=schema.labels[lost],
        worst_recall_drop=float(drops[lost]),
        probe_label=schema.labels[gained],
        probe_rise=float(rises[gained]),
        drift=float(np.linalg.norm(flat - flat_before)),
        norm=float(np.linalg.norm(flat)),
        findings=(),
    )
    return _with_findings(measured, judging.limits)


def _with_findings(found: Report, limits: Limits) -> Report:
    checks = (
        (
            found.accuracy < found.accuracy_before - limits.accuracy_drop,
            f"is right {found.accuracy:.1%} of the time, not {found.accuracy_before:.1%}",
        ),
        (found.worst_recall_drop > limits.recall_drop, f"misses {found.worst_recall_drop:.1%} more of {found.worst_label!r}"),
        (found.probe_rise > limits.probe_rise, f"hears {found.probe_label!r} in {found.probe_rise:.1%} more of what it isn't in"),
        (found.drift > limits.drift_most, f"is {found.drift:.1f} away from the release before"),
        (found.norm > limits.norm_most, f"has parameters of length {found.norm:.1f}"),
    )
    findings = tuple(words for is_wrong, words in checks if is_wrong)
    return replace(found, findings=findings)


def _refusal(words: str) -> Report:
    unknown = float("nan")
    return Report(
        accuracy=unknown,
        accuracy_before=unknown,
        worst_label="",
        worst_recall_drop=unknown,
        probe_label="",
        probe_rise=unknown,
        drift=unknown,
        norm=unknown,
        findings=(words,),
    )


def _scores(arrays: Arrays, encoder: Floats, text: Floats, label_vectors: Floats) -> Floats:
    """`(n, L)` cosines of corrected text vectors and labels."""
    scores: Floats = correct(arrays, encoder, text) @ unit_rows(label_vectors).T
    return scores


def _chosen(arrays: Arrays, public: PublicSet) -> Ints:
    best: Ints = np.argmax(_scores(arrays, public.encoder, public.text, public.label_vectors), axis=1).astype(np.int32)
    return best


def _drops(before: Ints, after: Ints, labels: Ints, label_count: int) -> npt.NDArray[np.float64]:
    """`(L,)` how much recall each label lost; -1 where there are too few examples to say."""
    count = np.bincount(labels, minlength=label_count)
    right = [np.bincount(labels[chosen == labels], minlength=label_count) for chosen in (before, after)]
    return np.asarray(np.where(count >= LEAST_EXAMPLES, (right[0] - right[1]) / np.maximum(count, 1), -1.0))


def _shares(arrays: Arrays, public: PublicSet) -> npt.NDArray[np.float64]:
    """`(L,)` the share of the probes that each label claims: as near to it as half of the sounds that really have their label."""
    rows, labels = np.arange(len(public.labels)), len(public.label_vectors)
    if not len(public.probe_encoder):
        return np.zeros(labels)
    near = np.median(_scores(arrays, public.encoder, public.text, public.label_vectors)[rows, public.labels])
    scores = _scores(arrays, public.probe_encoder, public.probe_text, public.label_vectors)
    claimed = np.argmax(scores, axis=1)[scores.max(axis=1) >= near]
    return np.asarray(np.bincount(claimed, minlength=labels) / len(scores))


def _shapes(schema: HeadSchema) -> dict[str, tuple[int, ...]]:
    return {
        "encoder": (-1, schema.inputs),
        "text": (-1, schema.outputs),
        "labels": (-1,),
        "label_vectors": (len(schema.labels), schema.outputs),
        "probe_encoder": (-1, schema.inputs),
        "probe_text": (-1, schema.outputs),
    }
