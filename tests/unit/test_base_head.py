"""The head that rounds begin with belongs to the shipped model, and corrects nothing."""

import numpy as np

from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.model.labeler import Labeler
from earmark_shared.base_head import base_arrays, base_schema, base_version
from earmark_shared.head import MAX_TRAINED, correct, flatten, unit_rows


def test_it_is_made_for_the_shipped_model():
    bundle = Bundle.load(BASE_MODEL)
    labeler, schema = Labeler(bundle), base_schema()
    assert base_version() == bundle.version
    assert schema.labels == labeler.label_list().names
    assert (schema.inputs, schema.outputs) == (bundle.section("encoder")["dim"], labeler.text_dim)
    assert schema.size <= MAX_TRAINED


def test_it_corrects_nothing_yet():
    arrays, rng = base_arrays(), np.random.default_rng(0)
    text = unit_rows(rng.normal(size=(5, 384)).astype("f4"))
    heard = np.maximum(rng.normal(size=(5, 1024)), 0).astype("f4")
    assert not flatten(base_schema(), arrays).any()
    assert np.allclose(correct(arrays, heard, text), text, atol=1e-6)
    assert arrays["down"].any()
    assert arrays["shift"].any()
