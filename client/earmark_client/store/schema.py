"""The database's tables, as numbered migrations: step n brings a database of version n-1 to version n, and is never edited."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark_shared.errors import NewerSchemaError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlcipher3 import dbapi2

FIRST = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "INSERT INTO meta VALUES ('epoch', 0)",
    # AUTOINCREMENT: an id that was forgotten never comes back as something else.
    """CREATE TABLE clips (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        content_sha256 TEXT NOT NULL UNIQUE,
        duration_s REAL NOT NULL,
        sample_rate_hz INTEGER NOT NULL,
        channels INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        added_at_s REAL NOT NULL,
        recorded_at_s REAL NOT NULL,
        model_version TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('pending', 'ready')))""",
    "CREATE INDEX clips_by_state ON clips (state)",
    "CREATE TABLE clip_paths (path TEXT PRIMARY KEY, clip_id INTEGER NOT NULL REFERENCES clips ON DELETE CASCADE) WITHOUT ROWID",
    "CREATE INDEX clip_paths_by_clip ON clip_paths (clip_id)",
    """CREATE TABLE segments (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        clip_id INTEGER NOT NULL REFERENCES clips ON DELETE CASCADE,
        start_s REAL NOT NULL,
        end_s REAL NOT NULL)""",
    "CREATE INDEX segments_by_clip ON segments (clip_id)",
    # `data` and `scales` stay last: whoever reads the columns before them never walks through a megabyte of overflow pages.
    """CREATE TABLE vector_blobs (
        id INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        model_version TEXT NOT NULL,
        first_id INTEGER NOT NULL,
        last_id INTEGER NOT NULL,
        rows INTEGER NOT NULL,
        dim INTEGER NOT NULL,
        dtype TEXT NOT NULL,
        ids BLOB,
        scales BLOB,
        data BLOB NOT NULL)""",
    "CREATE INDEX vector_blobs_by_range ON vector_blobs (kind, model_version, first_id, last_id)",
    """CREATE TABLE clip_labels (
        clip_id INTEGER NOT NULL REFERENCES clips ON DELETE CASCADE,
        name TEXT NOT NULL,
        score REAL NOT NULL,
        model_version TEXT NOT NULL,
        PRIMARY KEY (clip_id, name)) WITHOUT ROWID""",
    "CREATE INDEX clip_labels_by_name ON clip_labels (name)",
    """CREATE TABLE label_list (
        name TEXT PRIMARY KEY,
        phrase TEXT NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('user', 'taught')),
        model_version TEXT NOT NULL,
        threshold REAL,
        vector BLOB,
        extra BLOB) WITHOUT ROWID""",
    """CREATE TABLE corrections (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        clip_id INTEGER NOT NULL REFERENCES clips ON DELETE CASCADE,
        segment_id INTEGER REFERENCES segments ON DELETE CASCADE,
        name TEXT NOT NULL,
        is_present INTEGER NOT NULL,
        created_at_s REAL NOT NULL)""",
    "CREATE INDEX corrections_by_clip ON corrections (clip_id)",
    "CREATE INDEX corrections_by_segment ON corrections (segment_id)",
    "CREATE VIRTUAL TABLE words USING fts5 (names, labels, corrections, tokenize = 'porter unicode61 remove_diacritics 2')",
    # Without this FTS5 leaves a deleted word in its index until some later merge.
    "INSERT INTO words (words, rank) VALUES ('secure-delete', 1)",
)

LEDGER = (
    """CREATE TABLE privacy_ledger (
        seq INTEGER PRIMARY KEY,
        at_s INTEGER NOT NULL,
        round_id BLOB NOT NULL,
        plan_hash BLOB NOT NULL,
        attempt INTEGER NOT NULL,
        mechanism TEXT NOT NULL,
        sigma REAL NOT NULL,
        q REAL NOT NULL,
        steps INTEGER NOT NULL,
        z_eff REAL NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('opened', 'reserved', 'committed', 'released')),
        prev_hash BLOB NOT NULL,
        mac BLOB NOT NULL)""",
    """CREATE TRIGGER privacy_ledger_no_update BEFORE UPDATE ON privacy_ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    """CREATE TRIGGER privacy_ledger_no_delete BEFORE DELETE ON privacy_ledger
        BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
)

FEDERATION = (
    # Keys, certificates and what is known of the federation: a blob each, read and written whole by federation/.
    "CREATE TABLE federation (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
)

SAID_WORDS = (
    # The model's own labels are in `clip_labels`; among the words they only made every list longer that a search walks through.
    "CREATE TEMP TABLE kept AS SELECT rowid AS id, names, corrections FROM words",
    "DROP TABLE words",
    "CREATE VIRTUAL TABLE words USING fts5 (names, corrections, tokenize = 'porter unicode61 remove_diacritics 2')",
    "INSERT INTO words (rowid, names, corrections) SELECT id, names, corrections FROM temp.kept",
    "DROP TABLE temp.kept",
    "INSERT INTO words (words, rank) VALUES ('secure-delete', 1)",
)

SEVERAL_MODELS = (
    # Each model cuts sound in its own way: a segment belongs to one. `segments` are those of the model in force, so that no reader can
    # mix two. A negative number marks what is still being made beside it, which no reader sees.
    "CREATE TABLE models (id INTEGER PRIMARY KEY, version TEXT NOT NULL UNIQUE)",
    "INSERT INTO models (version) SELECT model_version FROM clips GROUP BY model_version ORDER BY min(id)",
    "ALTER TABLE segments RENAME TO all_segments",
    "ALTER TABLE all_segments ADD COLUMN model INTEGER NOT NULL DEFAULT 1",
    """UPDATE all_segments SET model = (SELECT m.id FROM models m JOIN clips c ON c.model_version = m.version WHERE c.id = clip_id)
        WHERE (SELECT count(*) FROM models) > 1""",
    "CREATE INDEX segments_being_made ON all_segments (model) WHERE model < 0",
    """CREATE TABLE described (
        clip_id INTEGER NOT NULL REFERENCES clips ON DELETE CASCADE,
        model INTEGER NOT NULL,
        PRIMARY KEY (clip_id, model)) WITHOUT ROWID""",
    "INSERT INTO described SELECT c.id, m.id FROM clips c JOIN models m ON m.version = c.model_version WHERE c.state = 'ready'",
    """CREATE VIEW segments AS SELECT id, clip_id, start_s, end_s FROM all_segments
        WHERE model = ifnull((SELECT value FROM meta WHERE key = 'model_in_force'), 1)""",
)

MIGRATIONS: tuple[Sequence[str], ...] = (FIRST, LEDGER, FEDERATION, SAID_WORDS, SEVERAL_MODELS)


def migrate(connection: dbapi2.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> None:
    """Bring the database to the newest version, each step whole or not at all; NewerSchemaError if it is beyond it already."""
    version = _version(connection)
    if version > len(migrations):
        raise NewerSchemaError(hint="Install the newest Earmark.")
    for number, statements in enumerate(migrations[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _version(connection) >= number:  # another process took this step while we waited for it
                connection.execute("ROLLBACK")
                continue
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


def _version(connection: dbapi2.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
