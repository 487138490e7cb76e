"""S8: nothing that one enrolled node announces in Flower's store, and no database of Flower's that is busy, ends a round for the others.

The store is Flower's own, as a SuperLink that is started with `--database` has it; so are the messages, carried by the product's transport.
"""

import os
import shutil
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import ConfigRecord, Message
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse, PushObjectResponse
from flwr.proto.runtime_pb2 import PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid
from scripts.in_process import NOW_S
from tests.support.fleet import swift_verification
from tests.support.rounds import Small, lab_profile

from earmark_client.federation.flower import answer_record
from earmark_server import flower, letters
from earmark_server.flower import GridTransport
from earmark_server.letters import KEY, NONCE, NONCE_SIZE, TRIES
from earmark_shared.round import Inbox, Roster, RoundPlan, Survivors
from earmark_shared.secagg import transcript
from earmark_shared.wire.envelope import ACTIONS, pack, unpack

RUN = 1
KINDS = {f"train.{action}": kind for kind, action in ACTIONS.items()}
COUNT = 6


def failed():
    """What Flower answers when it fails inside: a locked database, an object that is there under other children."""
    response = httpx.Response(500, request=httpx.Request("POST", "https://superlink"))
    return httpx.HTTPStatusError("500", request=response.request, response=response)


def some_id():
    return os.urandom(32).hex()


class Link:
    """A SuperLink's half of the Runtime API over Flower's store, with nodes that answer as soon as a message is there whole."""

    def __init__(self, place, devices):
        self.store = SqlObjectStore(str(place))
        self.store.initialize()
        self.devices, self.nodes = devices, {alias: 10 + number for number, alias in enumerate(devices)}
        self.waiting, self.announced, self.asked, self.tried = {}, [], [], []
        self.fails = lambda call, to: False
        self.attack = lambda alias, message: False

    def PushMessages(self, request):
        (proto,), (tree,) = request.messages_list, request.message_object_trees
        message = message_from_proto(proto)
        to = message.metadata.dst_node_id, KINDS[message.metadata.message_type]
        self.tried.append(to)
        self._fail("PushMessages", to)
        try:
            missing = self.store.preregister(RUN, tree)
        except ValueError as error:
            raise failed() from error
        self.waiting[tree.object_id] = message.metadata, tree
        return PushAppMessagesResponse(message_ids=[tree.object_id], objects_to_push=missing, session_id="session")

    def PushObject(self, request):
        self._fail("PushObject")
        self.store.put(request.object_id, request.object_content)
        return PushObjectResponse(stored=True)

    def PullMessages(self, request):
        self._fail("PullMessages")
        for name in set(request.message_ids) & set(self.waiting):
            self._answer(*self.waiting.pop(name))
        found, self.announced = self.announced, []
        return SimpleNamespace(messages_list=[reply for reply, _ in found], message_object_trees=[tree for _, tree in found])

    def PullObject(self, request):
        self._fail("PullObject")
        content = self.store.get(request.object_id)
        return PullObjectResponse(object_found=content is not None, object_available=bool(content), object_content=content or b"")

    def ConfirmMessageReceived(self, request):
        self.store.delete(request.message_object_id)
        return ConfirmMessageReceivedResponse()

    def _fail(self, call, to=None):
        if self.fails(call, to):
            raise failed()

    def _answer(self, metadata, tree):
        """Let a node fetch its message, and the device answer it."""
        parts = {each.object_id: self.store.get(each.object_id) for each in iterate_object_tree(tree)}
        assert all(parts.values()), "a message whose contents never come"
        message = inflate_object_from_contents(tree.object_id, parts)
        message.metadata.__dict__.update(_message_id=tree.object_id)
        self.store.delete(tree.object_id)
        alias = next(alias for alias, node in self.nodes.items() if node == metadata.dst_node_id)
        kind = KINDS[metadata.message_type]
        self.asked.append(message.content[KEY])
        if self.attack(alias, unpack(message.content[KEY][KEY], (kind,))[0]):
            return
        reply = Message(answer_record(self.devices[alias], kind, message.content, NOW_S), reply_to=message)
        self.store.preregister(RUN, get_object_tree(reply))
        for name, part in get_all_nested_objects(reply).items():
            self.store.put(name, part.deflate())
        named = SimpleNamespace(message_id=reply.object_id, reply_to_message_id=tree.object_id)
        self.announced.append((SimpleNamespace(metadata=named), get_object_tree(reply)))


class Poisoner:
    """An enrolled device that announces, in its own answer, what the server is about to send, as made of something that nobody has.

    It does so once for each of its `guesses` at what the server puts beside the message.
    """

    def __init__(self, link, plan, *guesses):
        self.link, self.plan, self.guesses = link, plan, guesses
        self.alias, self.roster, self.is_done = next(iter(link.devices)), None, False

    def __call__(self, alias, message):
        if isinstance(message, Roster):
            self.roster = message
        if alias != self.alias or not isinstance(message, Inbox):
            return False
        members = self.roster.members
        first = transcript.roster_hash(transcript.plan_hash(self.plan), members)
        me = [each.device_id for each in members].index(self.alias)
        guess = Survivors(first, tuple(place for place in range(len(members)) if place != me))
        for foreseen in self.guesses:
            record = get_object_tree(ConfigRecord({KEY: pack((guess,))} | foreseen))
            bad = ObjectTree(object_id=record.object_id, children=[ObjectTree(object_id=some_id())])
            self.link.store.preregister(RUN, ObjectTree(object_id=some_id(), children=[bad]))
        self.is_done = True
        return True


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    """An empty database with all of Flower's migrations behind it, to copy: they take as long as half a round."""
    place = tmp_path_factory.mktemp("migrated") / "state.db"
    store = SqlObjectStore(str(place))
    store.initialize()
    store._engine.dispose()
    return place


@pytest.fixture
def begun(tmp_path, migrated, monkeypatch):
    """A round that has begun: the link, the transport's parts and how to drive it."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    clock = SimpleNamespace(now_s=float(NOW_S))
    wait = SimpleNamespace(
        time=lambda: clock.now_s,
        monotonic=lambda: clock.now_s,
        sleep=lambda seconds: setattr(clock, "now_s", clock.now_s + seconds),
    )
    monkeypatch.setattr(flower, "time", wait)
    monkeypatch.setattr(letters, "time", wait)
    small = Small(tmp_path / "rounds", COUNT, profile=lab_profile())
    link = Link(shutil.copy(migrated, tmp_path), small.devices)
    grid = http_grid.HttpGrid(token="unused")
    grid._client, grid._run = link, SimpleNamespace(run_id=RUN)
    run = small.coordinator.begin(NOW_S)

    def drive(entropy=os.urandom):
        with swift_verification():
            GridTransport(grid, {}, entropy).drive(run, link.nodes)
        return run

    return SimpleNamespace(link=link, drive=drive, plan=run.plan)


def summed(run):
    return [len(total.survivors) for total in run.sums]


def foreseen(size):
    """A nonce that is none."""
    return bytes(size)


def test_an_honest_round_opens_and_each_message_holds_a_nonce_of_its_own(begun):
    assert summed(begun.drive()) == [COUNT]
    nonces = {record[NONCE] for record in begun.link.asked}
    assert len(nonces) == len(begun.link.asked) == COUNT * len(ACTIONS)
    assert {len(nonce) for nonce in nonces} == {NONCE_SIZE}
    assert len(begun.link.tried) == COUNT * len(ACTIONS)


def test_what_the_server_sends_next_cannot_be_announced_by_another(begun):
    guesses = {}, {NONCE: bytes(NONCE_SIZE)}, {NONCE: os.urandom(NONCE_SIZE)}
    begun.link.attack = poisoner = Poisoner(begun.link, begun.plan, *guesses)
    assert summed(begun.drive()) == [COUNT - 1]
    assert poisoner.is_done


def test_control_with_a_nonce_that_can_be_foreseen_the_round_comes_to_nothing_but_the_server_lives(begun):
    begun.link.attack = poisoner = Poisoner(begun.link, begun.plan, {NONCE: foreseen(NONCE_SIZE)})
    run = begun.drive(foreseen)
    assert poisoner.is_done
    assert run.is_over
    assert summed(run) == []


def test_a_message_that_was_refused_is_made_anew(begun):
    """Were a nonce ever foreseen, the next one is not."""
    begun.link.attack = poisoner = Poisoner(begun.link, begun.plan, {NONCE: foreseen(NONCE_SIZE)})
    once = iter([foreseen])

    def entropy(size):
        return next(once, os.urandom)(size) if poisoner.is_done else os.urandom(size)

    run = begun.drive(entropy)
    assert summed(run) == [COUNT - 1]
    assert len(begun.link.tried) == len(begun.link.asked) + 1


def test_a_database_that_is_locked_for_a_while_costs_nobody_anything(begun):
    left = dict.fromkeys(("PushMessages", "PushObject", "PullMessages", "PullObject"), 2)

    def fails(asked, _to):
        left[asked] -= 1
        return left[asked] >= 0

    begun.link.fails = fails
    run = begun.drive()
    assert max(left.values()) < 0
    assert summed(run) == [COUNT]
    assert not run.refused


@pytest.mark.parametrize(("kind", "count"), [(RoundPlan, COUNT - 1), (Survivors, COUNT)], ids=["the first", "after the update"])
def test_a_message_that_cannot_be_sent_is_lost_and_no_other(begun, kind, count):
    lost = begun.link.nodes[next(iter(begun.link.devices))], kind
    begun.link.fails = lambda call, to: to == lost
    assert summed(begun.drive()) == [count]
    assert begun.link.tried.count(lost) == TRIES
