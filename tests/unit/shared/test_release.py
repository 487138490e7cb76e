"""A release's one text: what devices compare byte for byte."""

import pytest

from earmark_shared.errors import ModelError
from earmark_shared.release import Release

HEAD, SCHEMA = "0" * 64, "f" * 64
TEXT = f'{{"base":"base-0123456789ab","format":1,"head_sha256":"{HEAD}","number":3,"schema_sha256":"{SCHEMA}"}}'.encode()
UNDOING = TEXT.replace(b'"}', b'","undone":2}')


@pytest.mark.parametrize(("text", "undone"), [(TEXT, 0), (UNDOING, 2)])
def test_a_release_has_one_text_and_says_what_was_undone_only_where_something_was(text, undone):
    release = Release(3, "base-0123456789ab", HEAD, SCHEMA, undone)
    assert release.to_json() == text
    assert Release.from_json(text) == release


@pytest.mark.parametrize(
    "text",
    [UNDOING.replace(b":2}", b":0}"), UNDOING.replace(b":2}", b":3}"), UNDOING.replace(b":2}", b":-1}"),
     UNDOING.replace(b":2}", b":2.0}"), UNDOING.replace(b":2}", b':"2"}'), UNDOING.replace(b"undone", b"undOne"), TEXT + b" ", b"[]"],
)  # fmt: skip
def test_any_other_text_is_none(text):
    with pytest.raises(ModelError):
        Release.from_json(text)
