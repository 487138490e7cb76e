"""`earmark update` as people run it: up to date, forward, back, and what it says when it can't."""

import json
import shutil

import numpy as np
from safetensors.numpy import save_file

from earmark_shared.head import HeadSchema, first_head
from tests.cli.test_federation import person  # noqa: F401  a fixture

SCHEMA = HeadSchema(inputs=1024, outputs=384, rank=4, trained=("up", "bias"), labels=("dog",))


def put_head(folder, name, value):
    head = first_head(SCHEMA, b"cli") | {"bias": np.full(384, value, np.float32)}
    save_file(dict(head), folder / name)


def test_a_release_is_fetched_put_in_force_and_taken_back(person):  # noqa: F811
    person.server("init", "srv", "--host", "127.0.0.1", "--port", "0")
    person.earmark("init")
    assert "in no federation" in person.earmark("update", "--yes", code=44).err
    assert "no model to go back to" in person.earmark("update", "--rollback", "--yes", code=39).err
    with person.serving() as where:
        invited = person.invite(where["port"])
        assert invited["tuf_root_sha256"]
        person.earmark("join", invited["address"], "--token", invited["token"], "--yes")
        assert "up to date" in person.earmark("update").err
        base = json.loads(person.earmark("status", "--json").out)["model"]
        (person.folder / "schema.json").write_text(SCHEMA.to_json())
        put_head(person.folder, "one.safetensors", 0.01)
        person.server("publish", "srv", "one.safetensors", "schema.json", "--base", base)
        assert "--yes" in person.earmark("update", code=2).err
        forward = person.earmark("update", "--yes").err
        assert f"in force: {base}+" in forward
        assert "up to date" in person.earmark("update").err
        put_head(person.folder, "two.safetensors", 0.02)
        assert "released 2" in person.server("publish", "srv", "two.safetensors", "schema.json", "--base", base).err
        person.earmark("update", "--yes")
        assert "which was release 1" in person.server("take-back", "srv", "1").err
        assert person.earmark("update", "--yes").err == forward
        person.server("publish", "srv", "one.safetensors", "schema.json", "--base", "other-000000000000")
        assert "another base model" in person.earmark("update", "--yes", code=41).err
    assert "can't be reached" in person.earmark("update", "--yes", code=70).err
    back = person.earmark("update", "--rollback", "--yes").err
    assert "release 2, the one before, was taken back by the federation" in back
    assert back.endswith(f"in force: {base}\n")


def test_in_another_federation_it_begins_with_the_base_model_and_says_so(person):  # noqa: F811
    person.earmark("init")
    base = json.loads(person.earmark("status", "--json").out)["model"]
    (person.folder / "schema.json").write_text(SCHEMA.to_json())
    put_head(person.folder, "one.safetensors", 0.01)
    for said in ("in force", "came from another federation"):
        person.server("init", "srv", "--host", "127.0.0.1", "--port", "0")
        with person.serving() as where:
            invited = person.invite(where["port"])
            person.earmark("join", invited["address"], "--token", invited["token"], "--yes")
            if said == "in force":
                person.server("publish", "srv", "one.safetensors", "schema.json", "--base", base)
            assert said in person.earmark("update", "--yes").err
            person.earmark("leave", "--yes")
        shutil.rmtree(person.folder / "srv")
    assert json.loads(person.earmark("status", "--json").out)["model"] == base
