"""What devices sent does not outlive its round on the server's disk."""

import hashlib
import os
import sqlite3

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.object_store import ObjectStoreFactory

from earmark_server import node

BODY = os.urandom(100_000)


@pytest.fixture
def database(tmp_path):
    """Flower's database with an object that Flower has deleted, and Flower still at it."""
    path = tmp_path / "state.db"
    store = ObjectStoreFactory(str(path)).store()
    content = f"ConfigRecord  {len(BODY)}".encode() + b"\0" + BODY
    name = hashlib.sha256(content).hexdigest()
    store.preregister(1, ObjectTree(object_id=name))
    store.put(name, content)
    store.delete(name)
    yield path
    assert store.get(name) is None


def on_disk(path):
    return any(BODY[at : at + 32] in each.read_bytes() for each in path.parent.iterdir() for at in range(0, len(BODY), 5_000))


def test_what_flower_deleted_leaves_the_disk(database):
    assert on_disk(database), "control: SQLite keeps what was deleted"
    assert node.forget_messages(database)
    assert not on_disk(database)


def test_a_database_that_is_busy_or_missing_is_left_for_the_next_round(database, monkeypatch):
    monkeypatch.setattr(node, "FORGET_S", 0.01)
    with sqlite3.connect(database, isolation_level=None) as busy:
        busy.execute("BEGIN IMMEDIATE")
        assert not node.forget_messages(database)
        busy.execute("ROLLBACK")
    assert node.forget_messages(database)
    assert not node.forget_messages(database.with_name("none.db"))
