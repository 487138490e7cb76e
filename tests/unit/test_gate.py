"""The gate: what it lets through and what it stops, on public data that a test makes up."""

import dataclasses

import numpy as np
import pytest

from earmark_server import gate
from earmark_server.gate import Judging, Limits, PublicSet, judge
from earmark_shared.errors import CandidateError, ModelError
from earmark_shared.head import HeadSchema, first_head, unit_rows

LABELS = tuple(f"label {number}" for number in range(5))
SCHEMA = HeadSchema(inputs=24, outputs=12, rank=8, trained=("up", "bias"), labels=LABELS)
EACH = 60


def make_public(seed=0):
    """Sounds whose encoder output says the label clearly, and whose text vector says it less clearly."""
    draw = np.random.default_rng(seed)
    vectors = unit_rows(draw.normal(size=(len(LABELS), SCHEMA.outputs)).astype(np.float32))
    heard = draw.normal(size=(len(LABELS), SCHEMA.inputs)).astype(np.float32)
    labels = np.repeat(np.arange(len(LABELS), dtype=np.int32), EACH)
    encoder = np.abs(heard[labels] + 0.3 * draw.normal(size=(len(labels), SCHEMA.inputs))).astype(np.float32)
    text = unit_rows((vectors[labels] + 0.45 * draw.normal(size=(len(labels), SCHEMA.outputs))).astype(np.float32))
    probe = np.abs(draw.normal(size=(200, SCHEMA.inputs))).astype(np.float32)
    return PublicSet(encoder, text, labels, vectors, probe, unit_rows(draw.normal(size=(200, SCHEMA.outputs)).astype(np.float32)))


PUBLIC = make_public()
PREVIOUS = first_head(SCHEMA, b"gate")


def trained(flip=0.0, seed=1):
    """What a federation would come to: `up` moves towards the labels that the encoder hears, a share of which is wrong."""
    draw = np.random.default_rng(seed)
    features = unit_rows(PUBLIC.encoder @ PREVIOUS["down"].T)
    labels = PUBLIC.labels.copy()
    wrong = draw.random(len(labels)) < flip
    labels[wrong] = 0
    wanted = PUBLIC.label_vectors[labels]
    ridge = np.linalg.solve(features.T @ features + 0.5 * np.eye(SCHEMA.rank), features.T @ wanted)
    return PREVIOUS | {"up": np.asarray(0.7 * ridge.T, np.float32)}


def held(candidate, **limits):
    return judge(candidate, Judging(SCHEMA, PREVIOUS, PUBLIC, Limits(**limits)))


def scaled_backdoor():
    """Another label for whatever excites one feature, blown up by 50 as in model replacement."""
    clean = trained()
    update = np.zeros_like(clean["up"])
    update[:, 0] = PUBLIC.label_vectors[3]
    return clean | {"up": clean["up"] + 50 * update}


def not_a_number():
    poisoned = trained()
    poisoned["up"][3, 2] = np.nan
    return poisoned


def test_a_clean_candidate_is_let_through_and_is_better():
    report = held(trained())
    assert report.findings == ()
    assert report.accuracy > report.accuracy_before + 0.02
    report.check()


@pytest.mark.parametrize(
    "poisoned", [lambda: trained(flip=0.9), scaled_backdoor, not_a_number], ids=["flipped", "backdoor", "nan"]
)
def test_a_poisoned_candidate_is_stopped(poisoned):
    report = held(poisoned())
    assert report.findings
    with pytest.raises(CandidateError, match="the candidate"):
        report.check()


def test_without_its_limits_the_gate_lets_the_poisoned_through():
    endless = {name: float("inf") for name in ("accuracy_drop", "recall_drop", "probe_rise", "drift_most", "norm_most")}
    for candidate in (trained(flip=0.9), scaled_backdoor()):
        assert held(candidate, **endless).findings == ()


def test_a_value_that_is_no_number_is_found_by_its_own_check(monkeypatch):
    assert "no weight" in held(not_a_number()).findings[0]
    monkeypatch.setattr(gate, "check_arrays", lambda *_: None)
    with pytest.raises(ModelError):  # and by the next one down, `flatten`
        held(not_a_number())


def test_each_limit_finds_what_it_is_for():
    one_label = trained()
    one_label["bias"] = -3 * PUBLIC.label_vectors[2]
    report = held(one_label)
    assert report.worst_recall_drop > 0.05
    assert any("misses" in finding and report.worst_label in finding for finding in report.findings)
    towards = trained()
    towards["bias"] = 0.8 * PUBLIC.label_vectors[4]
    report = held(towards, accuracy_drop=1.0, recall_drop=1.0)
    assert report.probe_label == "label 4"
    assert [finding for finding in report.findings if "isn't in" in finding] == list(report.findings)
    far = held(trained(), drift_most=0.1)
    assert len(far.findings) == 1
    assert "away" in far.findings[0]
    assert "length" in held(trained(), norm_most=0.1).findings[0]


def test_a_drop_of_one_percent_is_let_through_and_more_is_not():
    assert held(PREVIOUS).findings == ()
    report = held(PREVIOUS)
    kept = dataclasses.replace(report, accuracy_before=0.8)
    assert gate._with_findings(dataclasses.replace(kept, accuracy=0.791), Limits()).findings == ()
    assert gate._with_findings(dataclasses.replace(kept, accuracy=0.789), Limits()).findings


def test_what_is_not_trained_may_not_change():
    other = trained()
    other["down"] = other["down"] * np.float32(1.001)
    assert "down" in held(other).findings[0]


def test_a_label_with_few_examples_is_not_judged_alone():
    few = np.flatnonzero((PUBLIC.labels != 1) | (np.cumsum(PUBLIC.labels == 1) <= gate.LEAST_EXAMPLES - 1))
    public = dataclasses.replace(PUBLIC, encoder=PUBLIC.encoder[few], text=PUBLIC.text[few], labels=PUBLIC.labels[few])
    away = trained()
    away["bias"] = -0.6 * PUBLIC.label_vectors[1]
    assert judge(away, Judging(SCHEMA, PREVIOUS, public, Limits())).worst_label != "label 1"
    assert held(away).worst_label == "label 1"


def test_the_public_set_survives_its_file():
    again = PublicSet.load(SCHEMA, PUBLIC.dump())
    for field in dataclasses.fields(PublicSet):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(PUBLIC, field.name))


@pytest.mark.parametrize(
    "change",
    [
        {"labels": PUBLIC.labels + 3},
        {"labels": PUBLIC.labels - 1},
        {"labels": PUBLIC.labels[:-1]},
        {"text": PUBLIC.text[:, :-1]},
        {"encoder": np.full_like(PUBLIC.encoder, np.nan)},
        {"probe_text": PUBLIC.probe_text[:3]},
        {"label_vectors": PUBLIC.label_vectors[:2]},
    ],
)
def test_a_public_set_that_does_not_fit_is_refused(change):
    with pytest.raises(ModelError):
        PublicSet.load(SCHEMA, dataclasses.replace(PUBLIC, **change).dump())


def test_a_public_set_without_probes_is_judged_without_them():
    nothing = dataclasses.replace(PUBLIC, probe_encoder=PUBLIC.probe_encoder[:0], probe_text=PUBLIC.probe_text[:0])
    report = judge(trained(), Judging(SCHEMA, PREVIOUS, PublicSet.load(SCHEMA, nothing.dump())))
    assert report.probe_rise == 0.0
