"""The trained head is laid out the same on every device, and nothing that doesn't fit gets in."""

import dataclasses

import numpy as np
import pytest
from tests.support.privacy import small_head, small_schema

from earmark_shared.errors import ModelError
from earmark_shared.head import HeadSchema, check_arrays, correct, first_head, flatten, unflatten, unit_rows

SCHEMA = small_schema()


def test_flatten_and_unflatten_are_inverse():
    head = small_head(SCHEMA)
    vector = flatten(SCHEMA, head)
    assert vector.shape == (SCHEMA.size,) == (16 * 6 + 16,)
    again = unflatten(SCHEMA, vector, first_head(SCHEMA, b"other") | {"down": head["down"], "shift": head["shift"]})
    assert all((again[name] == head[name]).all() for name in head)


def test_only_trained_arrays_change():
    head = small_head(SCHEMA)
    moved = unflatten(SCHEMA, flatten(SCHEMA, head) + np.float32(1), head)
    assert (moved["down"] == head["down"]).all()
    assert (moved["shift"] == head["shift"]).all()
    assert (moved["up"] == head["up"] + np.float32(1)).all()


def test_the_layout_is_the_schemas_order_row_by_row():
    schema = small_schema(trained=("down", "up"), inputs=2, outputs=2, rank=1)
    head = {
        "down": np.array([[1, 2]], "f4"),
        "shift": np.zeros(1, "f4"),
        "up": np.array([[3], [4]], "f4"),
        "bias": np.zeros(2, "f4"),
    }
    assert flatten(schema, head).tolist() == [1, 2, 3, 4]


def test_the_default_size_fits():
    assert HeadSchema(1024, 384, 64, ("up", "bias"), ("dog",)).size == 24_960
    assert HeadSchema(1024, 384, 17, ("down", "up", "bias"), ("dog",)).size == 24_320
    with pytest.raises(ModelError):
        HeadSchema(1024, 384, 66, ("up", "bias"), ("dog",))


def test_a_first_head_corrects_nothing():
    rng = np.random.default_rng(0)
    outputs, text = rng.normal(size=(7, 24)).astype("f4"), unit_rows(rng.normal(size=(7, 16)).astype("f4"))
    head = first_head(SCHEMA, b"seed")
    assert np.abs(correct(head, outputs, text) - text).max() < 1e-6
    assert (head["down"] == first_head(SCHEMA, b"seed")["down"]).all()
    assert not (head["down"] == first_head(SCHEMA, b"seed 2")["down"]).any()
    lengths = np.linalg.norm(unit_rows(outputs) @ head["down"].T, axis=1)
    assert 0.3 < lengths.mean() < 3.0


def test_a_correction_is_unit_length_and_the_formula():
    rng = np.random.default_rng(1)
    head = small_head(SCHEMA)
    outputs, text = rng.normal(size=(3, 24)).astype("f4"), rng.normal(size=(3, 16)).astype("f4")
    found = correct(head, outputs, text)
    for row in range(3):
        feature = head["down"] @ outputs[row] + head["shift"]
        moved = text[row] / np.linalg.norm(text[row]) + head["up"] @ (feature / np.linalg.norm(feature)) + head["bias"]
        assert np.abs(found[row] - moved / np.linalg.norm(moved)).max() < 1e-5


def test_silence_stays_silence():
    head = first_head(SCHEMA, b"x")
    assert (correct(head, np.zeros((1, 24), "f4"), np.zeros((1, 16), "f4")) == 0).all()


def test_the_schemas_hash_changes_with_everything_in_it():
    others = [
        dataclasses.replace(SCHEMA, inputs=25),
        dataclasses.replace(SCHEMA, outputs=17),
        dataclasses.replace(SCHEMA, rank=5),
        dataclasses.replace(SCHEMA, trained=("up",)),
        dataclasses.replace(SCHEMA, labels=SCHEMA.labels[::-1]),
    ]
    assert len({schema.sha256() for schema in [SCHEMA, *others]}) == 6
    assert len(SCHEMA.sha256()) == 32
    assert small_schema().sha256() == SCHEMA.sha256()


def test_the_schema_is_read_back_from_its_canonical_text():
    assert HeadSchema.from_json(SCHEMA.to_json()) == SCHEMA


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("float32", "float64"),
        lambda text: text + " ",
        lambda text: text.replace('"rank":6', '"rank":7'),
        lambda text: text.replace('"rank":6', '"rank":"six"'),
        lambda text: text.replace('"rank":6,', ""),
        lambda _: "{",
        lambda _: "[]",
        lambda text: text.replace('"label 0"', '"label 1"'),
    ],
)
def test_any_other_text_is_refused(spoil):
    with pytest.raises(ModelError):
        HeadSchema.from_json(spoil(SCHEMA.to_json()))


@pytest.mark.parametrize(
    "change", [{"trained": ()}, {"trained": ("bias", "up")}, {"trained": ("up", "other")}, {"labels": ()}, {"rank": 0}]
)
def test_a_schema_that_makes_no_sense_is_refused(change):
    with pytest.raises(ModelError):
        dataclasses.replace(SCHEMA, **change)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda head: head.pop("bias"),
        lambda head: head.update(extra=np.zeros(1, "f4")),
        lambda head: head.update(up=head["up"].T.copy()),
        lambda head: head.update(up=head["up"].astype("f8")),
        lambda head: head["up"].__setitem__((0, 0), np.nan),
        lambda head: head["down"].__setitem__((0, 0), np.inf),
        lambda head: head["bias"].__setitem__(0, 2e4),
    ],
)
def test_arrays_that_do_not_fit_are_refused(spoil):
    head = small_head(SCHEMA)
    check_arrays(SCHEMA, head)
    spoil(head)
    with pytest.raises(ModelError):
        check_arrays(SCHEMA, head)


@pytest.mark.parametrize(
    "vector", [np.zeros(SCHEMA.size - 1, "f4"), np.zeros(SCHEMA.size, "f8"), np.full(SCHEMA.size, np.nan, "f4")]
)
def test_a_vector_that_does_not_fit_is_refused(vector):
    with pytest.raises(ModelError):
        unflatten(SCHEMA, vector, small_head(SCHEMA))
