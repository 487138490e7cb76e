"""Words of a query: which count, which labels of people speak about them."""

import pytest

from earmark_client.asking import content_words, verdicts
from earmark_client.records import Correction


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a dog barking in the rain", {"dog", "barking", "rain"}),
        ("My Doorbell!", {"doorbell"}),
        ("", set()),
        ("my sound", {"my", "sound"}),
        ("Vögel — am Morgen", {"vögel", "am", "morgen"}),
    ],
)
def test_content_words(text, words):
    assert content_words(text) == words


def said(name, *, is_present=True):
    return Correction(1, None, name, is_present)


def test_a_yes_counts_as_far_as_its_words_are_the_querys():
    found = verdicts([said("dog"), said("dog barking"), said("cat")], "dog barking")
    assert [(correction.name, weight) for correction, weight in found] == [("dog", 0.5), ("dog barking", 1.0)]


def test_a_no_counts_only_about_exactly_these_words():
    found = verdicts([said("dog", is_present=False), said("dog barking", is_present=False)], "dog barking")
    assert [(correction.name, weight) for correction, weight in found] == [("dog barking", 0.0)]


def test_a_label_of_common_words_alone_is_found_by_them():
    assert verdicts([said("my sound"), said("recording")], "My sound") == [(said("my sound"), 1.0)]


def test_nobody_says_anything_about_an_example_alone():
    assert verdicts([said("dog")], None) == []
