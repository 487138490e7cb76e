"""The executor: only the installed app runs, and only for the bundle that is listed; what it needs of flwr is there."""

import hashlib
import inspect
import os
import time
from types import SimpleNamespace

import pytest

from earmark_shared.settings import go_offline

go_offline()

import httpx
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import context_to_proto, fab_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, ObjectTree, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PullTaskInputResponse
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supernode import start_client_internal
from flwr.supernode.runtime import run_clientapp
from scripts.in_process import NOW_S

from earmark_client.federation import executor as executor_module
from earmark_client.federation import flower as flower_module
from earmark_client.federation.direct import RuntimeClient
from earmark_client.federation.executor import AnswerLostError, Executor, Runtime
from earmark_client.federation.flower import KEY, answer_record, make_app
from earmark_client.federation.participant import Participant
from earmark_client.federation.supervisor import Node
from earmark_server.authority import create_authority
from earmark_server.settings import ServerSettings
from earmark_shared.bundle import bundle, bundle_sha256
from earmark_shared.crypto.nodes import NodeKey
from earmark_shared.errors import NetworkError
from earmark_shared.round import Abort, RoundPlan, Survivors
from earmark_shared.wire import envelope
from tests.support.rounds import Small


def context():
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={})


def message(kind="train.sa1_advertise", body=b""):
    made = Message(RecordDict({KEY: ConfigRecord({KEY: body})}), dst_node_id=2, message_type=kind)
    made.metadata.__dict__["_message_id"] = "m"
    return made


@pytest.fixture(autouse=True)
def inside_a_task():
    """Flower builds messages inside a task only; the executor's own are inside one."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 2, 3


class Counting(ClientApp):
    """An app that counts its calls."""

    calls = 0

    def __call__(self, message, context):
        self.calls += 1
        return Message(RecordDict(), reply_to=message)


def fab(content):
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


def test_the_bundle_is_the_same_bytes_and_flower_reads_it():
    from flwr.common.config import get_fab_config

    assert bundle() == bundle()
    assert hashlib.sha256(bundle()).hexdigest() == bundle_sha256()
    assert get_fab_config(bundle())["tool"]["flwr"]["app"]["components"]["serverapp"] == "earmark_server.flower:app"


@pytest.mark.parametrize("content", [b"", b"PK", bundle() + b"\0", bundle()[:-1]])
def test_a_bundle_that_is_not_listed_runs_nothing(content):
    app = Counting()
    reply = Executor(Runtime("127.0.0.1:1", b"s"), app).reply(message(), context(), fab(content))
    assert app.calls == 0
    assert reply.error.code == ErrorCode.INVALID_FAB


def test_a_bundle_with_the_listed_hash_written_beside_other_bytes_runs_nothing():
    app = Counting()
    lying = Fab(bundle_sha256(), b"other bytes", {})
    reply = Executor(Runtime("127.0.0.1:1", b"s"), app).reply(message(), context(), lying)
    assert app.calls == 0
    assert reply.error.code == ErrorCode.INVALID_FAB


def test_the_listed_bundle_runs_the_installed_app():
    app = Counting()
    reply = Executor(Runtime("127.0.0.1:1", b"s"), app).reply(message(), context(), fab(bundle()))
    assert app.calls == 1
    assert not reply.has_error()


def test_with_every_bundle_listed_any_would_run():
    """The control: without the comparison the app is called for a stranger's bundle."""
    app, content = Counting(), b"stranger"
    allowed = [hashlib.sha256(content).hexdigest()]
    Executor(Runtime("127.0.0.1:1", b"s"), app, allowed=allowed).reply(message(), context(), fab(content))
    assert app.calls == 1


def test_what_went_wrong_is_not_told_in_words():
    class Broken(ClientApp):
        def __call__(self, message, context):
            raise ValueError("/home/ann/Recordings/secret.wav")

    reply = Executor(Runtime("127.0.0.1:1", b"s"), Broken()).reply(message(), context(), fab(bundle()))
    assert reply.error == Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason="failed")


def test_a_node_that_is_not_there_is_a_network_error():
    with pytest.raises(NetworkError):
        Executor(Runtime("127.0.0.1:9", b"s"), Counting()).step()


class Announcing(RuntimeClient):
    """A node that announces a message; an orphan's contents never come, since the server died while it sent them."""

    def __init__(self, tree):
        self.tree, self.asked = tree, []

    def PullTaskInput(self, request):
        return PullTaskInputResponse(task_id=3, context=context_to_proto(context()), fab=fab_to_proto(fab(bundle())))

    def PullMessages(self, request):
        return PullAppMessagesResponse(message_object_trees=[self.tree])

    def PullObject(self, request):
        self.asked.append(request.object_id)
        content = CONTENTS.get(request.object_id)
        return PullObjectResponse(object_found=True, object_available=content is not None, object_content=content or b"")

    def ConfirmMessageReceived(self, request):
        return ConfirmMessageReceivedResponse()

    def SendTaskHeartbeat(self, request):
        return None

    def close(self):
        pass


ORPHAN = ObjectTree(object_id="0" * 64)
CONTENTS = {}


class Nodes:
    """A runtime whose tasks are claimed one after the other; a task's token is its place."""

    def __init__(self, *trees):
        self._trees, self._claimed = trees, 0

    def client(self, token=None):
        return self if token is None else Announcing(self._trees[int(token) - 1])

    def AcquireTask(self, request):
        self._claimed += 1
        return SimpleNamespace(token=str(self._claimed) if self._claimed <= len(self._trees) else "")

    def close(self):
        pass


@pytest.fixture
def a_message(monkeypatch):
    """A message whose contents a node has; which answers were pushed."""
    sent, pushed = message(), []
    with no_object_id_recompute():
        sent.metadata.__dict__["_message_id"] = sent.object_id
        monkeypatch.setattr(executor_module, "POLL_S", 0.01)
        for each, content in get_all_nested_objects(sent).items():
            monkeypatch.setitem(CONTENTS, each, content.deflate())
        monkeypatch.setattr(executor_module, "push_message", lambda client, reply, context: pushed.append(reply))
        monkeypatch.setattr(executor_module, "push_task_output", lambda *_: None)
        return get_object_tree(sent), pushed


def test_a_message_that_comes_is_answered(a_message):
    tree, pushed = a_message
    app = Counting()
    executor = Executor(Nodes(tree), app)
    assert executor.step()
    assert not executor.step()
    assert app.calls == len(pushed) == 1


def test_a_message_that_never_comes_is_not_waited_for_long(a_message, monkeypatch):
    monkeypatch.setattr(executor_module, "INPUT_S", 0.1)
    app = Counting()
    with pytest.raises(AnswerLostError):
        Executor(Nodes(ORPHAN), app).step()
    assert app.calls == 0


def test_a_message_that_the_node_gave_up_is_waited_for_no_longer(a_message):
    app, looks = Counting(), iter([False, False, True])
    with pytest.raises(AnswerLostError):
        Executor(Nodes(ORPHAN), app, is_given_up=lambda: next(looks)).step()
    assert app.calls == 0


def test_no_answer_is_left_with_a_node_that_dropped_its_message(a_message):
    """It would be sent in the place of the answer to the next message."""
    tree, pushed = a_message
    app = Counting()
    with pytest.raises(AnswerLostError):
        Executor(Nodes(tree), app, is_given_up=lambda: app.calls == 1).step()
    assert app.calls == 1
    assert not pushed


def test_a_node_that_dropped_a_message_is_known_by_its_log(tmp_path):
    log = tmp_path / "supernode.log"
    log.write_text("Ignoring reply message a1.\nRun ID 1 is not in `RUNNING` status. Ignoring mess")
    node = Node(None, log)
    assert not node.is_given_up()
    with log.open("a") as more:
        more.write("age b2.\nSent successfully\n")
    assert node.is_given_up()
    assert node.is_given_up()
    assert "Ignoring message %s." in inspect.getsource(start_client_internal._pull_and_store_message)


def test_the_private_modules_still_have_what_the_executor_uses():
    client = Runtime("127.0.0.1:9", b"s").client()
    assert isinstance(client, RuntimeClient)
    client.close()
    for name in ("AcquireTask", "SendTaskHeartbeat", "PullTaskInput", "PushTaskOutput"):
        assert callable(getattr(RuntimeClient, name))
    for name in ("push_message", "push_task_output"):
        assert getattr(executor_module, name) is getattr(run_clientapp, name)
    assert SuperExecAuthHttpInterceptor(master_secret=b"s", protected_methods={executor_module.ACQUIRE})
    assert RuntimeTokenHttpInterceptor("t") and RuntimeVersionHttpInterceptor(component_name="x")
    beats = []
    sender = HeartbeatSender(lambda: beats.append(1) or True)
    sender.start()
    for _ in range(100):
        if beats:
            break
        time.sleep(0.02)
    sender.stop()
    assert beats


def test_a_record_in_is_a_record_out_and_nothing_else(tmp_path):
    small = Small(tmp_path / "rounds", 6)
    participant = next(iter(small.devices.values()))
    run = small.coordinator.begin(NOW_S)
    content = RecordDict({KEY: ConfigRecord({KEY: envelope.pack((run.plan,))})})
    answered = answer_record(participant, RoundPlan, content, NOW_S)
    assert list(answered) == [KEY]
    assert list(answered[KEY]) == [KEY]
    (advertise,) = envelope.unpack(answered[KEY][KEY], (envelope.ANSWERS[RoundPlan],))
    assert advertise.device_id in small.devices


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({KEY: ConfigRecord({})}),
        RecordDict({KEY: ConfigRecord({KEY: "text"})}),
        RecordDict({KEY: ConfigRecord({KEY: b"rubbish"})}),
        RecordDict({KEY: ConfigRecord({KEY: envelope.pack((Survivors(bytes(32), (1,)),))})}),
    ],
)
def test_whatever_else_comes_is_answered_by_an_abort(tmp_path, content):
    small = Small(tmp_path / "rounds", 1)
    participant = next(iter(small.devices.values()))
    answered = answer_record(participant, RoundPlan, content, NOW_S)
    assert isinstance(envelope.unpack(answered[KEY][KEY], (Abort,))[0], Abort)


class Place:
    """What a SuperLink does about one node: it has number 7, and is let in only while it isn't connected."""

    def __init__(self, *, is_connected):
        self.is_connected, self.asked = is_connected, []

    def DeactivateNode(self, request):
        self.asked.append(request)
        self._refuse(unless=self.is_connected and request.node_id == 7)
        self.is_connected = False

    def ActivateNode(self, request):
        self.asked.append(request)
        self._refuse(unless=not self.is_connected)
        self.is_connected = True
        return SimpleNamespace(node_id=7)

    def close(self):
        self.asked.append("closed")

    def _refuse(self, *, unless):
        if not unless:
            raise httpx.HTTPStatusError("no", request=httpx.Request("POST", "https://x"), response=httpx.Response(400))


@pytest.mark.parametrize(
    ("is_connected", "known", "number", "is_free"),
    [(False, None, 7, True), (True, 7, 7, True), (False, 7, 7, True), (False, 5, 7, True), (True, None, None, False)],
    ids=["never connected", "lost", "left", "enrolled anew", "lost before its number was known"],
)
def test_a_device_takes_its_place_back(monkeypatch, is_connected, known, number, is_free):
    place = Place(is_connected=is_connected)
    monkeypatch.setattr(flower_module.FleetClient, "from_server_address", lambda *_, **__: place)
    assert flower_module.take_back_place("127.0.0.1:1", b"", NodeKey.create(), known) == number
    assert place.is_connected is not is_free
    assert place.asked[-1] == "closed"


def test_a_place_that_nobody_answers_for_is_left_as_it_is(tmp_path):
    ca = create_authority(tmp_path / "server", ServerSettings(), now_s=NOW_S, entropy=os.urandom).tls.pem
    assert flower_module.take_back_place("127.0.0.1:9", ca, NodeKey.create(), 7) in {None, 7}


def test_the_app_has_one_function_a_phase():
    app = make_app(Participant.__new__(Participant), clock=lambda: NOW_S)
    assert set(app._registered_funcs) == {f"train.{action}" for action in envelope.ACTIONS.values()}
