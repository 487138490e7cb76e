"""The encrypted database: what goes in comes out, and every fault has its name."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from tests.attack.storekit import MODEL, add_clip, kinds, make_home, vectors
from tests.support.homes import new_database

from earmark_client.records import Correction
from earmark_client.store import connection, keys, schema
from earmark_client.store.blobs import BLOB_BYTES
from earmark_client.store.database import ClipRow, Database, LabelRow
from earmark_shared.errors import (
    DiskFullError,
    HomeInUseError,
    HomeMissingError,
    NewerSchemaError,
    NotInLibraryError,
    StoreError,
    WrongKeyError,
)

KEY = b"k" * 32


@pytest.fixture
def path(tmp_path):
    return tmp_path / "library.db"


@pytest.fixture
def database(path):
    with new_database(path.parent, path.name, key=KEY) as opened:
        yield opened


def row(name="a", **more):
    return ClipRow(
        **{
            "content_sha256": name,
            "duration_s": 0.0,
            "sample_rate_hz": 8000,
            "channels": 2,
            "size_bytes": 5,
            "added_at_s": 1.0,
            "recorded_at_s": 2.0,
            "model_version": MODEL,
            **more,
        }
    )


def test_the_pragmas_are_what_the_design_says(database):
    settings = {
        name: database._one(f"PRAGMA {name}")[0]
        for name in (
            "journal_mode",
            "synchronous",
            "secure_delete",
            "temp_store",
            "trusted_schema",
            "foreign_keys",
            "cipher_memory_security",
        )
    }
    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "secure_delete": 1,
        "temp_store": 2,
        "trusted_schema": 0,
        "foreign_keys": 1,
        "cipher_memory_security": "1",
    }


def test_a_clip_is_searchable_once_it_is_finished(database):
    with database.transaction():
        clip_id = database.insert_clip(row(), "/r/a.wav")
        ids = database.add_segments([clip_id] * 4, range(4), range(1, 5), model_version=MODEL, vectors=kinds(1, 4))
    assert database.clips() == []
    assert len(database.segments().ids) == 0
    assert list(database.blocks("text", MODEL)) == []
    assert [len(block.ids) for block in database.blocks("text", MODEL, pending=True)] == [4]
    ((stored, where),) = database.pending_clips()
    assert (stored.stored_until_s, stored.is_ready, stored.model_version, where) == (4.0, False, MODEL, "/r/a.wav")
    with database.transaction():
        database.finish_clip(clip_id, duration_s=4.0, names="a")
    (clip,) = database.clips()
    assert (clip.paths, clip.duration_s, clip.sample_rate_hz, clip.recorded_at_s) == (("/r/a.wav",), 4.0, 8000, 2.0)
    table = database.segments()
    assert table.ids.tolist() == ids.tolist()
    assert table.start_s.tolist() == [0, 1, 2, 3]
    assert database.clip_by_hash("a").is_ready
    assert database.clip_by_hash("b") is None
    assert database.counts().segments == 4


def test_vectors_come_back_as_they_were_stored(database):
    with database.transaction():
        clips = [add_clip(database, number, segments=25) for number in range(3)]
    for kind in ("text", "sound", "strength"):
        stored = list(database.blocks(kind, MODEL))
        assert np.concatenate([block.ids for block in stored]).tolist() == list(range(1, 76))
        for number, block in enumerate(stored):
            expected = kinds(number, 25)[kind]
            rows, scales = expected if isinstance(expected, tuple) else (expected, None)
            assert np.array_equal(block.rows, rows)
            assert (scales is None) == (block.scales is None)
            assert scales is None or np.array_equal(block.scales, scales)
    wanted = np.array([70, 3, 26, 3])
    fetched = database.fetch("sound", MODEL, wanted)
    assert fetched.ids.tolist() == wanted.tolist()
    assert np.array_equal(fetched.rows[1], kinds(0, 25)["sound"][0][2])
    assert database.fetch("text", MODEL, np.empty(0, np.int64)).rows.size == 0
    with pytest.raises(NotInLibraryError):
        database.fetch("text", MODEL, np.array([76]))
    assert clips == [1, 2, 3]


def test_blobs_stay_small(database):
    with database.transaction():
        clip_id = database.insert_clip(row(), "/a")
        n = 3000
        database.add_segments(
            [clip_id] * n,
            np.arange(n),
            np.arange(n) + 1,
            model_version=MODEL,
            vectors={"text": vectors(0, n, 384).astype(np.float16)},
        )
    sizes = [size for (size,) in database._all("SELECT length(data) FROM vector_blobs")]
    assert max(sizes) <= BLOB_BYTES
    assert sum(sizes) == n * 768
    assert len(sizes) == 3


def test_removing_a_clip_takes_its_rows_out_of_shared_blobs(database):
    with database.transaction():
        clips = [database.insert_clip(row(name), f"/{name}") for name in "abc"]
        owners = [clips[number % 3] for number in range(90)]
        database.add_segments(owners, range(90), range(1, 91), model_version=MODEL, vectors=kinds(5, 90))
        for clip_id in clips:
            database.finish_clip(clip_id, duration_s=1.0, names=f"word{clip_id}")
        database.add_correction(Correction(clips[1], 2, "dog", True), now_s=1.0)
    with database.transaction():
        database.remove_clip(clips[1])
    left = [number for number in range(90) if number % 3 != 1]
    (block,) = database.blocks("sound", MODEL)
    assert block.ids.tolist() == [number + 1 for number in left]
    assert np.array_equal(block.rows, kinds(5, 90)["sound"][0][left])
    assert np.array_equal(block.scales, kinds(5, 90)["sound"][1][left])
    assert database.segments().ids.tolist() == block.ids.tolist()
    assert database.search_words("word2 dog") == []
    assert database.corrections() == []
    assert [clip.id for clip in database.clips()] == [clips[0], clips[2]]
    with database.transaction():
        database.remove_clip(clips[0])
        database.remove_clip(clips[2])
    assert list(database.blocks("text", MODEL)) == []
    assert database._all("SELECT * FROM clip_paths") == []
    with pytest.raises(NotInLibraryError), database.transaction():
        database.remove_clip(clips[0])
    with database.transaction():
        assert database.insert_clip(row("d"), "/d") == 4  # a forgotten id never comes back
        assert database.add_segments([4], [0], [1], model_version=MODEL, vectors={})[0] == 91


def test_many_clips_are_forgotten_in_one_go(database, monkeypatch):
    with database.transaction():
        clips = [database.insert_clip(row(name), f"/{name}") for name in "abcdef"]
        database.add_segments(clips * 15, range(90), range(1, 91), model_version=MODEL, vectors=kinds(5, 90))
        for clip_id in clips:
            database.finish_clip(clip_id, duration_s=1.0)
    rewritten, rewrite = [], database._rewrite_blob
    monkeypatch.setattr(database, "_rewrite_blob", lambda blob, gone: (rewritten.append(blob), rewrite(blob, gone)))
    with database.transaction():
        assert database.forget_places({clip_id: {f"/{name}"} for clip_id, name in zip(clips[1:], "bcdef", strict=True)}) == 5
    assert sorted(rewritten) == [1, 2, 3]  # a blob a kind, each once
    assert [clip.id for clip in database.clips()] == clips[:1]
    (block,) = database.blocks("sound", MODEL)
    assert block.ids.tolist() == database.segments().ids.tolist() == list(range(1, 91, 6))


def test_two_models_are_side_by_side(database):
    with database.transaction():
        add_clip(database, 0)
        database.add_vectors(database.segments().ids, model_version="model-2", vectors={"text": vectors(9, 20)})
    assert database.model_versions() == [MODEL, "model-2"]
    (new,) = database.blocks("text", "model-2")
    assert new.rows.dtype == np.float32
    with database.transaction():
        database.delete_vectors(MODEL, "text")
    assert list(database.blocks("text", MODEL)) == []
    assert len(list(database.blocks("sound", MODEL))) == 1
    with database.transaction():
        database.delete_vectors(MODEL)
    assert database.model_versions() == ["model-2"]


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((3, 4), np.float64),
        np.zeros((2, 4), np.float32),
        np.zeros(3, np.float32),
        np.zeros((3, 4), np.int8),
        (np.zeros((3, 4), np.int8), np.zeros(2, np.float32)),
        (np.zeros((3, 4), np.float32), np.zeros(3, np.float32)),
        np.full((3, 4), np.nan, np.float16),
        np.full((3, 4), np.inf, np.float32),
    ],
)
def test_vectors_that_fit_nothing_are_refused(database, bad):
    with pytest.raises(ValueError), database.transaction():
        clip_id = database.insert_clip(row(), "/a")
        database.add_segments([clip_id] * 3, range(3), range(1, 4), model_version=MODEL, vectors={"text": bad})
    assert database.counts().pending == 0
    assert database.epoch == 0


def test_paths(database):
    with database.transaction():
        first, second = database.insert_clip(row("a"), "/r/a.wav"), database.insert_clip(row("b"), "/r/b.wav")
        database.add_path(first, "/r/copy.wav")
        database.add_path(second, "/r/a.wav")  # the file there has new content
    assert database.clip(first).paths == ("/r/copy.wav",)
    assert database.clip_by_path("/r/a.wav") == second
    with database.transaction():
        database.remove_path("/r/a.wav")
    assert database.clip_by_path("/r/a.wav") is None
    with pytest.raises(NotInLibraryError):
        database.clip(99)


def test_filters(database):
    with database.transaction():
        for number, where in enumerate(["/r/a.wav", "/r/x/b.wav", "/r2/c.wav", "/r%/d.wav"]):
            clip_id = database.insert_clip(row(str(number), recorded_at_s=float(number)), where)
            database.finish_clip(clip_id, duration_s=1.0)
        database.set_labels(1, [("dog", 0.9), ("bark", 0.4)], model_version=MODEL)
        database.set_labels(2, [("dog", 0.8)], model_version=MODEL)
        database.add_correction(Correction(2, None, "dog", False), now_s=1.0)
        database.add_correction(Correction(3, None, "dog", True), now_s=1.0)

    def found(**filters):
        ids = database.clip_ids(**filters).tolist()
        assert [clip.id for clip in database.clips(**filters)] == ids
        return ids

    assert found() == [1, 2, 3, 4]
    assert found(folder="/r") == [1, 2]
    assert found(folder="/r/") == [1, 2]
    assert found(folder="/r%") == [4]
    assert found(after_s=1.0, before_s=2.0) == [2]  # before a day is not its midnight
    assert found(after_s=1.0, before_s=2.001) == [2, 3]
    assert found(label="dog") == [1, 3]
    assert found(label="dog", folder="/r2") == [3]
    assert database.labels_of(1) == [("dog", 0.9), ("bark", 0.4)]
    assert database.all_labels()[2] == [("dog", 0.8)]


def test_a_no_to_a_clip_hides_a_label_until_somebody_hears_it_at_a_moment(database):
    with database.transaction():
        clip_id = add_clip(database, 0)
        database.set_labels(clip_id, [("dog", 0.9)], model_version=MODEL)
        database.add_correction(Correction(clip_id, None, "dog", False), now_s=1.0)
    assert database.clip_ids(label="dog").tolist() == []
    with database.transaction():
        database.add_correction(Correction(clip_id, 3, "dog", True), now_s=2.0)
    assert database.clip_ids(label="dog").tolist() == [clip_id]
    with database.transaction():
        database.add_correction(Correction(clip_id, None, "dog", False), now_s=3.0)
    assert database.clip_ids(label="dog").tolist() == []


def test_a_folder_also_holds_what_an_interrupted_add_left(database):
    with database.transaction():
        database.finish_clip(database.insert_clip(row("a"), "/r/a.wav"), duration_s=1.0)
        database.insert_clip(row("b"), "/r/b.wav")
    assert database.clip_ids(folder="/r").tolist() == database.clip_ids().tolist() == [1, 2]
    assert [clip.id for clip in database.clips(folder="/r")] == [1]


@pytest.mark.parametrize("count", [0, 1, 2, 127, 128, 129, 300])
def test_labels_of_many_clips_are_all_stored_whatever_their_number(database, count):
    labels = {clip_id: [(f"label {clip_id}.{place}", 0.5) for place in range(count)] for clip_id in (1, 2)}
    with database.transaction():
        for clip_id in labels:
            database.finish_clip(database.insert_clip(row(str(clip_id)), f"/{clip_id}"), duration_s=1.0)
        database.add_labels(labels, model_version=MODEL)
    assert {clip_id: set(listed) for clip_id, listed in database.all_labels().items()} == {
        clip_id: set(listed) for clip_id, listed in labels.items() if listed
    }


def test_words(database):
    with database.transaction():
        for number, name in enumerate(["dog park", "café dog dog", "piano"]):
            clip_id = database.insert_clip(row(str(number)), f"/{number}")
            database.finish_clip(clip_id, duration_s=1.0, names=name)
        for number in range(3, 9):
            database.finish_clip(database.insert_clip(row(str(number)), f"/{number}"), duration_s=1.0, names="filler")
        database.set_words(3, corrections="grand not a dog")
        database.set_labels(1, [("music", 0.8)], model_version=MODEL)
    assert database.search_words("dog") == [1, 2, 3]
    assert database.search_words("cafe") == [2]
    assert database.search_words("grand cafe") == [2, 3]
    assert database.search_words("dog", also=["park piano"]) == [1, 3]
    assert database.search_words("dog", also=["?"]) == []
    assert database.search_words("music") == []  # the model's own labels are not among the words
    assert database.search_words("dog", limit=1) == [1]
    for odd in ('"', "dog NEAR(", "NOT dog", "names:dog", "*", "", "dog'; --", "a" * 5000):
        database.search_words(odd)


def test_the_pieces_of_many_additions_are_merged(database):
    for count in range(20):
        with database.transaction():
            database.finish_clip(database.insert_clip(row(str(count)), f"/{count}"), duration_s=1.0, names="rain")
    pieces = "SELECT count(DISTINCT segid) FROM words_idx"
    before = database.execute(pieces)[0][0]
    with database.transaction():
        database.merge_words()
    assert before > 1 == database.execute(pieces)[0][0]
    assert database.search_words("rain") == list(range(1, 21))


def test_labels_and_corrections(database):
    taught = LabelRow("doorbell", "my doorbell", "taught", MODEL, 0.4, vectors(1, 1)[0], b"x")
    with database.transaction():
        clip_id = add_clip(database, 0)
        database.put_label(LabelRow("siren", "old phrase", "user", MODEL))
        database.put_label(LabelRow("siren", "a siren", "user", MODEL))
        database.put_label(taught)
        for is_present in (True, False):
            database.add_correction(Correction(clip_id, None, "dog", is_present), now_s=1.0)
        database.add_correction(Correction(clip_id, 3, "dog", True), now_s=1.0)
    first, second = database.label_list()
    assert np.array_equal(first.vector, taught.vector)
    assert (first.threshold, first.extra, second.phrase, second.vector) == (0.4, b"x", "a siren", None)
    assert database.corrections((clip_id,)) == [Correction(clip_id, None, "dog", False), Correction(clip_id, 3, "dog", True)]
    assert database.corrections((99,)) == []
    with database.transaction():
        database.remove_label("siren")
    with pytest.raises(NotInLibraryError), database.transaction():
        database.remove_label("siren")


def test_a_transaction_is_all_or_nothing(database):
    heard = []
    database._on_commit = heard.append
    with pytest.raises(KeyError), database.transaction():
        add_clip(database, 0)
        raise KeyError
    assert database.counts().clips == 0
    with database.transaction(), database.transaction():
        add_clip(database, 0)
    assert database.epoch == 1
    assert heard == [1]
    with pytest.raises(StoreError, match="transaction"):
        database.set_meta("a", 1)
    with database.transaction():
        database.set_meta("a", 1)
        database.set_meta("a", b"2")
    assert database.get_meta("a") == b"2"
    assert database.get_meta("b", 7) == 7


def test_a_reader_sees_one_moment_while_a_writer_adds(path, database):
    with database.transaction():
        add_clip(database, 0)
    with Database.open(path, KEY) as reader:
        with reader.snapshot():
            assert len(reader.segments().ids) == 20
            with database.transaction():
                add_clip(database, 1)
            assert [len(block.ids) for block in reader.blocks("text", MODEL)] == [20]
        assert len(reader.segments().ids) == 40


def test_a_second_writer_waits_and_then_says_so(path, database, monkeypatch):
    monkeypatch.setattr(connection, "BUSY_S", 0.05)
    with Database.open(path, KEY) as second, database.transaction(), pytest.raises(HomeInUseError), second.transaction():
        pass


def test_another_thread_may_use_it(database):
    def work():
        with database.transaction():
            add_clip(database, 0)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert database.counts().clips == 1


def test_faults_have_names(path, database, tmp_path):
    database.close()
    with pytest.raises(WrongKeyError):
        Database.open(path, b"x" * 32)
    with pytest.raises(HomeMissingError):
        Database.open(tmp_path / "none.db", KEY)
    with Database.open(path, KEY) as opened:
        opened._sql("PRAGMA user_version = 99")
    with pytest.raises(NewerSchemaError):
        Database.open(path, KEY)


@pytest.mark.parametrize("code", [8, 14, 8 | 5 << 8])
def test_a_folder_that_can_t_be_written_is_named(path, database, monkeypatch, code):
    """As SQLite says it on a read-only disk; tests run by root are stopped by no permissions."""

    def refuse(*_):
        error = connection.dbapi2.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = code
        raise error

    monkeypatch.setattr(connection, "_connect", refuse)
    with pytest.raises(StoreError, match=r"library\.db can't be opened for writing") as caught:
        Database.open(path, KEY)
    assert "permissions" in caught.value.hint


def test_migrations_run_in_order_and_whole(path, monkeypatch):
    Database.create(path, KEY).close()
    second = ("CREATE TABLE later (x)",)
    monkeypatch.setattr(
        connection,
        "migrate",
        lambda raw: schema.migrate(raw, (*schema.MIGRATIONS, second, ("CREATE TABLE half (x)", "NONSENSE"))),
    )
    with pytest.raises(StoreError):
        Database.open(path, KEY)
    monkeypatch.setattr(connection, "migrate", lambda raw: schema.migrate(raw, (*schema.MIGRATIONS, second)))
    with Database.open(path, KEY) as opened:
        assert opened._one("PRAGMA user_version")[0] == len(schema.MIGRATIONS) + 1
        names = {name for (name,) in opened._all("SELECT name FROM sqlite_master")}
        assert "later" in names
        assert "half" not in names


def test_who_waited_for_another_s_migration_does_not_repeat_it(path, monkeypatch):
    """Two processes open a library after an upgrade: the second asked for the version before the first had changed it."""
    with monkeypatch.context() as before:
        before.setattr(connection, "migrate", lambda raw: schema.migrate(raw, schema.MIGRATIONS[:3]))
        Database.create(path, KEY).close()
    raws = []
    monkeypatch.setattr(connection, "migrate", raws.append)
    with Database.open(path, KEY), Database.open(path, KEY):
        late, first = raws
        begun = []

        class Waiting:
            def execute(self, statement):
                if statement == "BEGIN IMMEDIATE" and not begun:
                    begun.append(schema.migrate(first))
                return late.execute(statement)

        schema.migrate(Waiting())
        assert begun
    monkeypatch.undo()
    with Database.open(path, KEY) as opened:
        assert opened._one("PRAGMA user_version")[0] == len(schema.MIGRATIONS)
        opened.verify()


def test_a_full_disk_loses_nothing(database):
    with database.transaction():
        add_clip(database, 0)
    pages = database._one("PRAGMA page_count")[0]
    database._sql(f"PRAGMA max_page_count = {pages + 5}")
    with pytest.raises(DiskFullError), database.transaction():
        for number in range(1, 200):
            add_clip(database, number)
    assert database.counts().clips == 1
    database.verify()


def test_a_file_size_limit_is_a_full_disk_too(tmp_path):
    secret = make_home(tmp_path / "home", clips=1)
    script = f"""
import resource, sys
from pathlib import Path
from earmark_client.store.home import open_home
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import DiskFullError
from tests.attack.storekit import add_clip
with open_home(Path({str(tmp_path / "home")!r}), KeyFile(Path({str(secret.path)!r})), write=True) as home:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    try:
        with home.database.transaction():
            for number in range(1, 200):
                add_clip(home.database, number, 100)
    except DiskFullError:
        print("full", home.database.counts().clips)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["full", "1"], done.stderr
    with Database.open(tmp_path / "home" / "library.db", keys.unlock(tmp_path / "home", secret)) as opened:
        assert opened.counts().clips == 1
