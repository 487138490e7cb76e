"""A large library's search against a slow obvious one: what an index leaves out is found all the same, filtered, far down or in full."""

import hashlib
from functools import cache

import numpy as np
import pytest

from earmark_client import asking, candidates, shelf
from earmark_client.library import Library
from earmark_client.model.calibration import query_probability
from earmark_client.records import Query
from earmark_client.store.database import ClipRow
from earmark_client.store.keys import KeyFile

SEGMENTS = 20
CLIPS = {"rain": 240, "dogs": 20, "owls": 120}
TEXTS = {"rain": "rain", "dogs": "dog", "owls": "owl"}
THRESHOLD = 0.5


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder of rain with a folder of dogs in it, and one of owls with louder dogs; as large as an index begins."""
    folder = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch, Library.create(folder / "home", unlock=KeyFile(folder / "key")) as library:
        patch.setattr(shelf, "EXACT_BELOW", 500)
        patch.setattr(candidates, "EXACT_SEGMENTS", 1000)
        patch.setattr(candidates, "CANDIDATES", 40)
        patch.setattr(candidates, "MOST_CANDIDATES", 1000)
        patch.setattr(asking, "LEAST_NAMED", 5)
        fill(library)
        assert not library._shelf().text.is_exact
        yield library


def fill(library):
    model, database, random = library._model, library._database, np.random.default_rng(0)
    query = {kind: model.labeler.query_vector(text) for kind, text in TEXTS.items()}
    centres = {"rain": query["rain"], "dogs": query["dogs"], "owls": unit(query["dogs"]) + 2.5 * unit(query["owls"])}
    heard = {
        "rain": (0.3, 0.7),
        "dogs": (0.3, 0.8),
        "owls": (0.8, 0.95),
    }  # the evidence of its segments: rain's for rain, others' for dogs
    with database.transaction():
        for folder, kind in (("north", "rain"), ("north/dogs", "dogs"), ("south", "owls")):
            for number in range(CLIPS[kind]):
                text = unit(unit(centres[kind]) + 0.3 * unit(random.standard_normal((SEGMENTS, model.labeler.text_dim))))
                strength = (
                    random.uniform(*heard[kind], (SEGMENTS, 1)) / (text @ query["rain" if kind == "rain" else "dogs"])[:, None]
                )
                add_clip(library, f"/rec/{folder}/{number}.wav", text, strength)


def add_clip(library, path, text, strength):
    model, database = library._model, library._database
    row = ClipRow(hashlib.sha256(path.encode()).hexdigest(), 9.6, 16_000, 1, 99, 1.0, 2.0, model.base_version)
    clip_id = database.insert_clip(row, path)
    starts = 0.48 * np.arange(SEGMENTS)
    database.add_segments(
        [clip_id] * SEGMENTS,
        starts,
        starts + 0.975,
        model_version=model.base_version,
        vectors={
            "text": text.astype(np.float16),
            "sound": np.ones((SEGMENTS, model.labeler.sound_dim), np.float16),
            "strength": strength.astype(np.float32),
        },
    )
    database.finish_clip(clip_id, duration_s=9.6, names="")


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@cache
def every_score(library, text):
    """Every clip's score by its best three segments, straight from the database: clip id -> score."""
    model, database = library._model, library._database
    query, scores = model.labeler.text_query(text), {}
    for clip in library.clips():
        ids = database.segments_of(clip.id).ids
        vectors = database.fetch("text", model.version, ids).float32()
        strength = database.fetch("strength", model.base_version, ids).float32()[:, 0]
        raw = np.sort((vectors @ query.vector) * strength)[-3:].mean()
        scores[clip.id] = float(query_probability(raw, query.similarity, query.background, model.labeler.calibration))
    return scores


def slow_search(library, text, *, folder="/", least=THRESHOLD):
    """What a search has to find: clip id -> score, best first."""
    scores = every_score(library, text)
    found = {clip.id: scores[clip.id] for clip in library.clips(folder=folder) if scores[clip.id] >= least}
    return dict(sorted(found.items(), key=lambda each: -each[1]))


def found(library, text, **asked):
    return {hit.clip_id: hit.score for hit in library.search(Query(text=text, **asked)).hits}


def test_the_library_is_one_that_an_index_alone_gets_wrong(large):
    best = large._shelf().text.search(large._model.labeler.query_vector("dog")[None], 300)[0][0]
    clips = large._shelf().catalogue.clip_ids[large._shelf().catalogue.positions(best)]
    assert all("/south/" in large.clip(int(clip)).paths[0] for clip in clips)
    assert 10 < len(slow_search(large, "dog", folder="/rec/north")) < 30


@pytest.mark.parametrize("limit", [1, 10, 1000, None])
@pytest.mark.parametrize("folder", ["/rec/north", "/rec/north/dogs", "/rec"])
def test_what_is_there_is_found_under_any_filter(large, folder, limit):
    expected = slow_search(large, "dog", folder=folder)
    hits = found(large, "dog", folder=folder, limit=limit)
    assert len(hits) == min(len(expected), limit or len(expected))
    for clip, score in hits.items():
        assert score == pytest.approx(expected[clip], abs=1e-3)


def test_the_nearest_miss_is_one_that_passes_the_filter(large):
    expected = slow_search(large, "dog", folder="/rec/north", least=0.0)
    nearest = large.search(Query(text="dog", folder="/rec/north", min_score=0.9999)).nearest_miss
    assert nearest.clip_id in list(expected)[:3]


@pytest.mark.parametrize("limit", [1, 30, 100, 300])
def test_as_many_hits_are_shown_as_are_asked_for(large, limit):
    expected = slow_search(large, "dog")
    hits = found(large, "dog", limit=limit)
    assert len(hits) == min(limit, len(expected))
    assert min(hits.values()) >= list(expected.values())[:limit][-1] - 0.05


def test_score_nought_shows_everything(large):
    everything = slow_search(large, "dog", least=0.0)
    assert found(large, "dog", limit=100_000, min_score=0.0).keys() == everything.keys()
    assert len(found(large, "dog", limit=300, min_score=0.0)) == 300


def test_what_is_not_wanted_leaves_places_to_others(large):
    hits = large.search(Query(text="dog", exclude=("owl",))).hits
    assert {hit.path.split("/")[2] for hit in hits} == {"north"}
