"""A release's one text: what devices compare byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from earmark_shared.errors import ModelError
from earmark_shared.release import RANGES_MOST, Release, undoing

HEAD, SCHEMA = "0" * 64, "f" * 64
TEXT = f'{{"base":"base-0123456789ab","format":1,"head_sha256":"{HEAD}","number":7,"schema_sha256":"{SCHEMA}"}}'.encode()
UNDOING = TEXT.replace(b'"}', b'","undone":[[2,2],[4,6]]}')


@pytest.mark.parametrize(("text", "undone"), [(TEXT, ()), (UNDOING, ((2, 2), (4, 6)))])
def test_a_release_has_one_text_and_says_what_was_undone_only_where_something_was(text, undone):
    release = Release(7, "base-0123456789ab", HEAD, SCHEMA, undone)
    assert release.to_json() == text
    assert Release.from_json(text) == release
    assert [number for number in range(9) if release.undoes(number)] == ([2, 4, 5, 6] if undone else [])


@pytest.mark.parametrize(
    "text",
    [UNDOING.replace(b"[[2,2],[4,6]]", undone) for undone in
     (b"[]", b"2", b"[2]", b"[[2]]", b"[[2,2,2]]", b"[[0,2]]", b"[[-1,2]]", b"[[2,7]]", b"[[3,2]]", b"[[4,6],[2,2]]", b"[[2,4],[4,6]]",
      b"[[2.0,2]]", b'[["2",2]]', b"{}", b"null")]
    + [UNDOING.replace(b"undone", b"undOne"), TEXT + b" ", b"[]"],
)  # fmt: skip
def test_any_other_text_is_none(text):
    with pytest.raises(ModelError):
        Release.from_json(text)


@given(restored=st.lists(st.integers(0, 60), max_size=60))
def test_what_was_taken_back_is_what_a_list_of_all_numbers_says(restored):
    undone, taken_back = (), set()
    for newest, number in enumerate(restored, 1):
        if number < newest:
            undone = undoing(undone, number, newest)
            taken_back |= set(range(number + 1, newest + 1))
        release = Release(newest + 1, "base", HEAD, SCHEMA, undone)
        assert {each for each in range(newest + 2) if release.undoes(each)} == taken_back
        assert Release.from_json(release.to_json()) == release


def test_what_was_taken_back_long_ago_is_told_less_exactly_and_fits():
    undone = ()
    for newest in range(10**6 + 2, 10**6 + 2 + 3 * RANGES_MOST, 2):
        undone = undoing(undone, newest - 1, newest)
    release = Release(10**6 + 1000, "b" * 200, HEAD, SCHEMA, undone)
    assert len(undone) == RANGES_MOST
    assert undone[0][0] == 10**6 + 2
    assert undone[-1] == (newest, newest)
    assert Release.from_json(release.to_json()) == release
