"""What a person's answers become when a device trains: only shared labels, one record a clip, nothing of an older data epoch."""

import os

import numpy as np
import pytest
from tests.support.homes import new_database

from earmark_client.federation.device import training_plan
from earmark_client.federation.training_data import CorrectionTrainer, HeldHead, training_set
from earmark_client.records import Correction
from earmark_client.store.database import ClipRow, LabelRow
from earmark_shared.errors import NoiseError
from earmark_shared.head import HeadSchema, first_head, unit_rows

VERSION = "base-0"
SCHEMA = HeadSchema(inputs=6, outputs=4, rank=2, trained=("up",), labels=("dog", "rain", "siren"))
LABEL_VECTORS = unit_rows(np.eye(3, 4, dtype=np.float32))
HEAD = HeldHead(0, SCHEMA, first_head(SCHEMA, b"t"), LABEL_VECTORS)


class Library:
    """A database with clips of three segments each."""

    def __init__(self, folder, clips=4):
        self.database = new_database(folder)
        rng = np.random.default_rng(3)
        self.segments, self.sound = {}, {}
        for place in range(clips):
            with self.database.transaction():
                row = ClipRow(f"{place:064x}", 3.0, 16_000, 1, 96_000, 1000.0 + place, 0.0, VERSION)
                clip = self.database.insert_clip(row, f"/sound/{place}.wav")
                sound = unit_rows(rng.normal(size=(3, 5)).astype("f4"))
                vectors = {
                    "text": unit_rows(rng.normal(size=(3, 4)).astype("f4")).astype(np.float16),
                    "sound": sound.astype(np.float16),
                    "strength": np.ones((3, 1), np.float32),
                    "encoder": (rng.integers(0, 100, (3, 6)).astype(np.int8), np.full(3, 0.01, np.float32)),
                }
                ids = self.database.add_segments([clip] * 3, [0, 1, 2], [1, 2, 3], model_version=VERSION, vectors=vectors)
                self.database.finish_clip(clip, duration_s=3.0)
            self.segments[clip], self.sound[clip] = ids, sound.astype(np.float16).astype(np.float32)
        self.clips = list(self.segments)

    def say(self, clip, name, *, is_present=True, segment=None):
        with self.database.transaction():
            self.database.add_correction(Correction(clip, segment, name, is_present), now_s=5.0)

    def teach(self, name, vectors):
        with self.database.transaction():
            self.database.put_label(LabelRow(name, name, "taught", VERSION, vector=vectors.ravel()))

    def set(self, **options):
        return training_set(self.database, VERSION, HEAD, **options)


@pytest.fixture
def library(tmp_path):
    made = Library(tmp_path)
    yield made
    made.database.close()


def test_a_yes_and_a_no_become_targets_of_one_record(library):
    clip = library.clips[0]
    library.say(clip, "dog")
    library.say(clip, "rain", is_present=False)
    data = library.set()
    assert data.targets.tolist() == [[1, -1, 0]] * 3
    assert data.clips.tolist() == [0, 0, 0]
    assert data.encoder_outputs.shape == (3, 6)
    assert np.allclose(np.linalg.norm(data.text, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("name", ["our baby Tom", "dogs", "dog ", ""])
def test_a_name_that_is_not_shared_never_trains(library, name):
    library.say(library.clips[0], name)
    library.teach(name or "x", library.sound[library.clips[1]])
    assert library.set().clip_count == 0


def test_a_name_counts_whatever_its_case(library):
    library.say(library.clips[0], "Dog")
    assert library.set().targets.tolist() == [[1, 0, 0]] * 3


def test_an_answer_about_a_segment_takes_that_segment_alone(library):
    clip = library.clips[1]
    library.say(clip, "siren", segment=int(library.segments[clip][2]))
    data = library.set()
    wanted = library.database.fetch("encoder", VERSION, library.segments[clip][2:]).float32()
    assert np.array_equal(data.encoder_outputs, wanted)


def test_what_is_said_of_a_moment_trains_that_moment_beside_what_is_said_of_the_clip(library):
    clip = library.clips[1]
    library.say(clip, "siren", segment=int(library.segments[clip][2]))
    library.say(clip, "dog")
    data = library.set()
    assert data.targets.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert data.clips.tolist() == [0, 0, 0]


@pytest.mark.parametrize("first", [True, False])
def test_a_yes_outlasts_a_no_where_both_were_said(library, first):
    clip, (here, _, _) = library.clips[0], library.segments[library.clips[0]]
    library.say(clip, "dog", is_present=first, segment=int(here) if first else None)
    library.say(clip, "dog", is_present=not first, segment=None if first else int(here))
    assert library.set().targets.tolist() == [[1, 0, 0], [-1, 0, 0], [-1, 0, 0]]


def test_a_clip_is_one_record_whatever_its_moments_are_said_to_be(library):
    clip = library.clips[0]
    library.say(clip, "dog", is_present=False, segment=int(library.segments[clip][0]))
    library.say(clip, "dog", segment=int(library.segments[clip][1]))
    data = library.set()
    assert data.targets.tolist() == [[-1, 0, 0], [1, 0, 0]]
    assert data.clip_count == 1


def test_a_taught_sound_is_a_yes_to_the_clips_it_was_taught_with(library):
    clip = library.clips[2]
    library.teach("siren", library.sound[clip][:1])
    data = library.set()
    assert data.targets.tolist() == [[0, 0, 1]]
    assert len(data.clips) == 1


def test_clips_of_an_older_data_epoch_stay_out(library):
    for clip in library.clips:
        library.say(clip, "dog")
    assert library.set().clip_count == 4
    assert library.set(since_s=1002.0).clip_count == 2


def test_text_vectors_can_be_made_anew(library):
    library.say(library.clips[0], "dog")
    data = library.set(text_of=lambda ids, outputs: np.ones((len(ids), 4), np.float32) * 7)
    assert np.allclose(data.text, 0.5)


@pytest.mark.parametrize(("clips", "is_lab", "least"), [(15, True, 16), (63, False, 64)])
def test_too_few_clips_do_not_train(clips, is_lab, least):
    with pytest.raises(NoiseError, match="too few"):
        training_plan(clips, is_lab=is_lab)
    assert training_plan(least, is_lab=is_lab).expected_clips <= least


def test_a_library_without_answers_does_not_train(library):
    with pytest.raises(NoiseError):
        CorrectionTrainer(HEAD, library.set(), training_plan(64, is_lab=False), os.urandom).event()
