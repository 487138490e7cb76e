"""Runs a device's part of a round in one warm process, and only code that is installed here.

A stock SuperNode executes the app bundle that the SuperLink sends. Ours is started with `--isolation process` and executes nothing:
this executor claims its tasks over the Runtime API on loopback, compares the bundle's hash with an allow-list, and calls the installed
`ClientApp`. For any other bundle the answer is Flower's INVALID_FAB, and nothing of it is unpacked.

Private modules of flwr used here and in direct.py, hence the exact pin; a test exercises each: `flwr.supernode.runtime.run_clientapp` (a task's output), `flwr.supercore.heartbeat`, `flwr.supercore.inflatable` (a task's input),
`flwr.supercore.task_identity`, `flwr.supercore.interceptors`. Flower's own `pull_task_input` waits two hours for contents that may never
come, as when a server dies while it sends them: here the node is started anew after `INPUT_S`, or when it says that it gave up.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from earmark_shared.settings import go_offline

go_offline()

import httpx  # noqa: E402
from flwr.app import Context, Error, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402, TC002
from flwr.common.constant import ErrorCode, SubStatus  # noqa: E402
from flwr.common.serde import context_from_proto, fab_from_proto  # noqa: E402
from flwr.proto.message_pb2 import ObjectTree  # noqa: E402, TC002
from flwr.proto.node_pb2 import Node  # noqa: E402
from flwr.proto.runtime_pb2 import (  # noqa: E402
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.fab import Fab  # noqa: E402, TC002
from flwr.supercore.heartbeat import HeartbeatSender  # noqa: E402
from flwr.supercore.inflatable import inflatable_protobuf_utils as contents  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import (  # noqa: E402
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
)
from flwr.supercore.interceptors import (  # noqa: E402
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output  # noqa: E402

from earmark_client.federation.direct import RuntimeClient  # noqa: E402
from earmark_shared.bundle import bundle_sha256  # noqa: E402
from earmark_shared.errors import NetworkError  # noqa: E402

TASK = "flwr-clientapp"
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
INPUT_S, POLL_S = 60.0, 0.5
"""How long a message's contents may take to come, and how often they are asked for."""
FAILED = "failed"
UNKNOWN_BUNDLE = "this device runs only what is installed on it"


@dataclass(frozen=True)
class Runtime:
    """Where the SuperNode's Runtime API listens, on loopback, and the secret that its tasks are claimed with."""

    address: str
    secret: bytes

    def client(self, token: str | None = None) -> RuntimeClient:
        """Open a client: to claim tasks, or with a task's token to work on it."""
        versions = RuntimeVersionHttpInterceptor(component_name="SuperExec" if token is None else TASK)
        proof = (
            SuperExecAuthHttpInterceptor(master_secret=self.secret, protected_methods={ACQUIRE})
            if token is None
            else RuntimeTokenHttpInterceptor(token)
        )
        return RuntimeClient.from_server_address(
            server_address=self.address, insecure=True, root_certificates=None, interceptors=[versions, proof]
        )


class AnswerLostError(NetworkError):
    """A task's message did not come, or its answer was not taken."""


class Executor:
    """One device's tasks, one after the other."""

    def __init__(
        self,
        runtime: Runtime,
        app: ClientApp,
        *,
        allowed: Collection[str] | None = None,
        is_given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run `app` for bundles whose SHA-256 (hexadecimal) is in `allowed`; by default only this version's own.

        `is_given_up` says whether the node dropped a message that it had announced.
        """
        self._runtime, self._app, self._is_given_up = runtime, app, is_given_up
        self._allowed = frozenset(allowed if allowed is not None else (bundle_sha256(),))

    def step(self) -> bool:
        """Claim one task and do it; return whether there was one.

        Raises:
            NetworkError: the SuperNode does not answer yet, or any more.
            AnswerLostError: it does not give the message, or did not take the answer and would wait for it for ever: it must be
                started anew.
        """
        with _translated(NetworkError), _closing(self._runtime.client()) as client:
            token = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TASK])).token
        if not token:
            return False
        with _translated(AnswerLostError), _closing(self._runtime.client(token)) as client, _beating(client):
            task = Task.announced(client)
            reply = self.reply(self._message(client, task), task.context, task.bundle)
            self._check_wanted()
            task.context.state = RecordDict()
            push_message(client, reply, task.context)
            push_task_output(client, task.context, SubStatus.COMPLETED, "")
        return True

    def _message(self, client: RuntimeClient, task: Task) -> Message:
        until_s = time.monotonic() + INPUT_S
        while (message := task.message(client)) is None:
            self._check_wanted()
            if time.monotonic() > until_s:
                raise AnswerLostError("the node beside this device announced a message that it doesn't have")
            time.sleep(POLL_S)
        return message

    def _check_wanted(self) -> None:
        """Raise AnswerLostError if the node dropped the message: it would take the answer for that to the next one."""
        if self._is_given_up():
            raise AnswerLostError("the node beside this device has dropped a message")

    def reply(self, message: Message, context: Context, fab: Fab) -> Message:
        """Return what the installed app answers, or an error that says nothing else."""
        if hashlib.sha256(fab.content).hexdigest() not in self._allowed:
            return Message(Error(code=ErrorCode.INVALID_FAB, reason=UNKNOWN_BUNDLE), reply_to=message)
        try:
            return self._app(message=message, context=context)
        except Exception:  # noqa: BLE001  its words, and even its kind, may tell what must not leave this device
            return _failed(message)


@dataclass(frozen=True)
class Task:
    """What a node announced; it claims that there is a message before it has the message's contents."""

    context: Context
    bundle: Fab
    tree: ObjectTree

    @classmethod
    def announced(cls, client: RuntimeClient) -> Task:
        """Ask what the task is about; RuntimeError if the node knows of no message."""
        task = client.PullTaskInput(PullTaskInputRequest())
        context = context_from_proto(task.context)
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task.task_id, task.run.run_id, context.node_id
        held = client.PullMessages(PullAppMessagesRequest())
        if not held.message_object_trees:
            raise RuntimeError("the node holds no message for this task")
        return cls(context, fab_from_proto(task.fab), held.message_object_trees[0])

    def message(self, client: RuntimeClient) -> Message | None:
        """Return the message, or None as long as its contents are not all there."""
        node, run_id = Node(node_id=self.context.node_id), self.context.run_id
        try:
            message = pull_and_inflate_object_from_tree(
                self.tree,
                contents.make_pull_object_fn_protobuf(client.PullObject, node, run_id),
                contents.make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run_id),
                return_type=Message,
                max_tries_per_object=1,
            )
        except ObjectPullError:
            return None
        message.metadata.__dict__["_message_id"] = self.tree.object_id  # not part of the contents; a reply names it
        return message


def _failed(message: Message) -> Message:
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=FAILED), reply_to=message)


@contextmanager
def _translated(kind: type[NetworkError]) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, ConnectionError, RuntimeError, ObjectPullError, ObjectPushError) as error:
        raise kind("the node beside this device does not answer") from error


@contextmanager
def _closing(client: RuntimeClient) -> Iterator[RuntimeClient]:
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _beating(client: RuntimeClient) -> Iterator[None]:
    """Tell the SuperNode that the task is being worked on; training may take minutes."""

    def beat() -> bool:
        try:
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
        except httpx.HTTPError:
            return False
        return True

    sender = HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        sender.stop()
