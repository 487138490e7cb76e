"""S8: what one enrolled node puts into Flower's store in place of an answer costs no other device its round."""

import hashlib
import os
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid

from earmark_server.flower import GridTransport
from earmark_server.letters import KEY
from earmark_shared.round import NOBODY, Abort, AbortCode, Phase, Roster
from earmark_shared.wire.envelope import pack

HONEST = Abort(bytes(16), Phase.ADVERTISE, AbortCode.TIMEOUT, NOBODY)
DEVICES = (b"attacker" * 2, b"a device" * 2)


class Store:
    """Flower's Runtime API: what was announced in reply to which message, and the objects that are there."""

    def __init__(self):
        self.announced, self.objects, self.asked_for = [], {}, []

    def announce(self, place, tree, objects):
        reply = SimpleNamespace(metadata=SimpleNamespace(message_id=tree.object_id, reply_to_message_id=f"to {place}"))
        self.announced.append((reply, tree))
        self.objects |= objects

    def PullMessages(self, _request):
        announced, self.announced = self.announced, []
        return SimpleNamespace(
            messages_list=[reply for reply, _ in announced], message_object_trees=[tree for _, tree in announced]
        )

    def PullObject(self, request):
        self.asked_for.append(request.object_id)
        data = self.objects.get(request.object_id)
        return PullObjectResponse(object_found=True, object_available=data is not None, object_content=data or b"")

    def ConfirmMessageReceived(self, _request):
        return ConfirmMessageReceivedResponse()


class Round:
    """What a round's server half hears."""

    def __init__(self):
        self.refused, self.heard = [], []

    def receive(self, device_id, answer, _now_s):
        self.heard.append((device_id, answer))


def made(message):
    """A message's tree and its objects, as a node sends them."""
    return get_object_tree(message), {name: each.deflate() for name, each in get_all_nested_objects(message).items()}


def answer(body=None):
    return Message(RecordDict({KEY: ConfigRecord({KEY: body or pack((HONEST,))})}), dst_node_id=1, message_type="train.x")


def rubbish():
    """An answer whose record is no protobuf, under a hash that fits."""
    tree, objects = made(answer())
    (dictionary,) = tree.children
    (record,) = dictionary.children
    bad = b"ConfigRecord  4\x00\xff\xff\xff\xff"
    renamed = hashlib.sha256(bad).hexdigest()
    body = objects.pop(dictionary.object_id).replace(record.object_id.encode(), renamed.encode())
    outer = hashlib.sha256(body).hexdigest()
    head = objects.pop(tree.object_id).replace(dictionary.object_id.encode(), outer.encode())
    name = hashlib.sha256(head).hexdigest()
    children = [ObjectTree(object_id=outer, children=[ObjectTree(object_id=renamed)])]
    return ObjectTree(object_id=name, children=children), {renamed: bad, outer: body, name: head}


def no_message():
    """The answer's record dictionary in the place of the message."""
    tree, objects = made(answer())
    return tree.children[0], objects


def too_much():
    content = RecordDict({KEY: ConfigRecord({KEY: b""}), "more": ConfigRecord({KEY: b"more"})})
    return made(Message(content, dst_node_id=1, message_type="train.x"))


@pytest.fixture
def link(monkeypatch):
    """A grid over such a store, a transport that waits for two devices' answers, and the round."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    grid = http_grid.HttpGrid(token="unused")
    store = grid._client = Store()
    grid._run = SimpleNamespace(run_id=1)
    transport = GridTransport(
        grid, {}, os.urandom, {f"to {place}": (device_id, Roster) for place, device_id in enumerate(DEVICES)}
    )
    return SimpleNamespace(grid=grid, store=store, transport=transport, round=Round())


@pytest.mark.parametrize("reply", [rubbish, no_message, too_much])
def test_what_is_no_answer_is_a_device_that_says_nothing(link, reply):
    link.store.announce(0, *reply())
    link.store.announce(1, *made(answer()))
    link.transport._pull(link.round)
    assert link.round.heard == [(DEVICES[1], HONEST)]
    assert len(link.round.refused) == 1
    assert reply is not too_much or len(link.store.asked_for) == 3, "of what is too much nothing is fetched"


def test_control_flower_s_own_pull_loses_every_answer_with_it(link):
    link.store.announce(0, *rubbish())
    link.store.announce(1, *made(answer()))
    with pytest.raises(Exception, match="parsing message"):
        link.grid.pull_messages(["to 0", "to 1"])


def test_what_was_only_announced_holds_up_nobody_and_is_taken_once_it_is_there(link, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    late = pack((HONEST, HONEST))
    tree, objects = made(answer(late))
    link.store.announce(0, tree, {})
    link.store.announce(1, *made(answer()))
    link.transport._pull(link.round)
    link.transport._pull(link.round)
    assert link.round.heard == [(DEVICES[1], HONEST)]
    link.store.objects |= objects
    link.transport._pull(link.round)
    assert link.round.heard == [(DEVICES[1], HONEST), (DEVICES[0], HONEST), (DEVICES[0], HONEST)]
    assert not link.round.refused


def test_a_node_that_failed_says_nothing(link):
    failed = Message(Error(code=1, reason="it broke"), reply_to=answer())
    link.store.announce(0, *made(failed))
    link.transport._pull(link.round)
    assert not link.round.heard
    assert not link.round.refused


def test_a_superlink_that_is_gone_is_no_device_s_doing(link, monkeypatch):
    def gone(_request):
        raise http_grid.httpx.ConnectError("refused")

    link.store.announce(0, *made(answer()))
    monkeypatch.setattr(link.store, "PullObject", gone)
    with pytest.raises(http_grid.httpx.ConnectError):
        link.transport._pull(link.round)
