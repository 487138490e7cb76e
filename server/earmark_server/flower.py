"""Flower at the server: the app that a SuperLink runs, and the calls that make it do so. With letters.py the only import of flwr here.

The app drives the coordinator's rounds over a Grid. Every wait is bounded by the plan's deadlines: a node that says nothing is a
device that dropped out. Who sent a reply is who the SuperLink authenticated: its node key is the registry's. What is not there yet
is asked for again, and whatever goes wrong with one message or reply costs that one alone.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from earmark_shared.settings import go_offline

go_offline()

import httpx  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key  # noqa: E402
from flwr.app import Context, Message  # noqa: E402
from flwr.common.constant import Status  # noqa: E402
from flwr.common.serde import fab_to_proto, user_config_to_proto  # noqa: E402
from flwr.proto.control_pb2 import (  # noqa: E402
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import PullAppMessagesRequest  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.supercore.constant import NodeStatus  # noqa: E402
from flwr.supercore.control import ControlHttpClient  # noqa: E402
from flwr.supercore.fab import Fab  # noqa: E402
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError  # noqa: E402
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # noqa: E402

from earmark_server.letters import fetch, letter, patiently, send  # noqa: E402
from earmark_shared.bundle import bundle, bundle_sha256  # noqa: E402
from earmark_shared.crypto.nodes import load_node  # noqa: E402
from earmark_shared.errors import MalformedError, NetworkError, ProtocolError  # noqa: E402
from earmark_shared.round import Abort, RoundPlan  # noqa: E402
from earmark_shared.wire.envelope import ACTIONS, ANSWERS, pack, unpack  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from flwr.proto.message_pb2 import ObjectTree
    from flwr.superlink.grid.http_grid import HttpGrid

    from earmark_server.round_run import RoundRun
    from earmark_shared.crypto.secrets import Entropy
    from earmark_shared.shapes import Message as RoundMessage

FAILED = "ServerApp failed with exception: "
"""What Flower puts before an error of ours."""
POLL_S = 1.0
GATHER_S, SETTLE_S = 120.0, 15.0
"""How long a run waits for as many nodes as a cohort needs; and, once those are there, for the rest: nobody new in so long."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds until there were as many as were asked for, of the server in whose folder the SuperLink was started."""
    from earmark_server.rounds import Rounds  # noqa: PLC0415  the registry and the keys are opened by this process alone

    with Rounds.open(Path.cwd()) as rounds:
        rounds.run(GridTransport(grid, rounds.node_owners, os.urandom), until=int(str(context.run_config["rounds"])))


@dataclass
class GridTransport:
    """Carries one round's messages over Flower."""

    grid: Grid
    owners: Mapping[bytes, bytes]
    """Node public key (SubjectPublicKeyInfo, DER) -> device id, of the devices that are enrolled."""
    entropy: Entropy
    _asked: dict[str, tuple[bytes, type[RoundMessage]]] = field(default_factory=dict)
    """Flower's message id -> who was asked what."""
    _coming: dict[str, tuple[tuple[bytes, type[RoundMessage]], ObjectTree]] = field(default_factory=dict)
    """Flower's id of a reply that was announced -> who was asked what, and of what the reply is made."""
    _met: set[bytes] = field(default_factory=set)
    """Every device that was connected at some time, and when the last of them came."""
    _newest_s: float = 0.0
    _epoch_s: float = 0.0
    """What turns the monotonic clock into Unix seconds as they were when the round began: a clock that is set moves no deadline."""

    def nodes(self) -> dict[bytes, int]:
        """Return the enrolled devices that are connected: device id -> node id."""
        found = {}
        for node in patiently(self.grid.get_nodes):
            owner = self.owners.get(_der(node.public_key))
            if owner is not None:
                found[owner] = node.node_id
        return found

    def gather(self, least: int, enough: int) -> dict[bytes, int]:
        """Return who is connected once `enough` devices are, or `least` and nobody new came for `SETTLE_S`; wait `GATHER_S` at most."""
        until_s = time.monotonic() + GATHER_S
        while True:
            nodes, now_s = self.nodes(), time.monotonic()
            if not self._met.issuperset(nodes):
                self._met |= set(nodes)
                self._newest_s = now_s
            is_settled = len(nodes) >= least and now_s - self._newest_s >= SETTLE_S
            if len(nodes) >= enough or is_settled or now_s >= until_s:
                return nodes
            time.sleep(POLL_S)

    def drive(self, run: RoundRun, nodes: Mapping[bytes, int]) -> None:
        """Carry messages until the round is over."""
        self._asked.clear()
        self._coming.clear()
        self._epoch_s = time.time() - time.monotonic()
        run.expect(len(nodes))
        outgoing: Mapping[bytes, RoundMessage] = dict.fromkeys(nodes, run.plan)
        while not run.is_over:
            self._push(run, outgoing, nodes)
            time.sleep(POLL_S)
            self._pull(run)
            outgoing = run.poll(self._now_s())

    def _now_s(self) -> int:
        return int(self._epoch_s + time.monotonic())

    def _push(self, run: RoundRun, outgoing: Mapping[bytes, RoundMessage], nodes: Mapping[bytes, int]) -> None:
        """Send each device its message. One that can't be sent is lost, as if its device had dropped out."""
        packed = {id(message): pack((message,)) for message in {id(each): each for each in outgoing.values()}.values()}
        for device_id, message in outgoing.items():
            kind = type(message)
            try:
                name = send(
                    cast("HttpGrid", self.grid), partial(self._letter, packed[id(message)], nodes[device_id], kind, run.plan)
                )
            except (httpx.HTTPStatusError, ObjectPushError):
                name = ""
            if name:
                self._asked[name] = device_id, kind
            elif kind is RoundPlan:
                run.decline()  # nobody waits for who was not asked

    def _letter(self, body: bytes, node_id: int, kind: type[RoundMessage], plan: RoundPlan) -> Message:
        ttl = float(plan.deadline_s[list(ACTIONS).index(kind)] + 60)
        content, group = letter(body, self.entropy), plan.round_id.hex()[:8]
        return Message(content, node_id, f"train.{ACTIONS[kind]}", ttl=ttl, group_id=group)

    def _pull(self, run: RoundRun) -> None:
        """Take what has come. Where Flower fails inside, as when its database is locked, the next poll asks again."""
        grid = cast("HttpGrid", self.grid)
        if self._asked:
            try:
                announced = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=list(self._asked)))  # noqa: SLF001
            except httpx.HTTPStatusError:
                return
            for message, tree in zip(announced.messages_list, announced.message_object_trees, strict=True):
                asked = self._asked.pop(message.metadata.reply_to_message_id, None)
                if asked is not None:
                    self._coming[message.metadata.message_id] = asked, tree
        for message_id, (asked, tree) in list(self._coming.items()):
            try:
                body = fetch(grid, tree)
            except (ObjectPullError, httpx.HTTPStatusError):
                continue  # not all there, or not now: whatever comes after its phase is refused as too late
            except httpx.TransportError:
                raise  # the SuperLink is gone, not a device
            except Exception as error:  # noqa: BLE001  a node may have put anything there
                run.refused.append(MalformedError(f"a reply can't be read: {type(error).__name__}"))
            else:
                self._take(run, asked, body)
            del self._coming[message_id]

    def _take(self, run: RoundRun, asked: tuple[bytes, type[RoundMessage]], body: bytes | None) -> None:
        """Hand a reply to the run; a node's error, and whatever is refused, is a device that says nothing."""
        device_id, kind = asked
        try:
            answers = () if body is None else unpack(body, (ANSWERS[kind], Abort))
            if kind is RoundPlan and not any(isinstance(answer, ANSWERS[kind]) for answer in answers):
                run.decline()
                return
            for answer in answers:
                run.receive(device_id, answer, self._now_s())
        except ProtocolError as error:
            run.refused.append(error)


class Control:
    """The SuperLink's own interface, on loopback: who its nodes are, and what it runs."""

    def __init__(self, address: str, ca_pem: bytes) -> None:
        """Talk to the SuperLink at `host:port`."""
        versions = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        self._client = ControlHttpClient.from_server_address(
            server_address=address, insecure=False, root_certificates=ca_pem, interceptors=[versions]
        )

    def __enter__(self) -> Self:
        """Use as a context manager: closed at the end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close; what HTTP says went wrong is a NetworkError."""
        self._client.close()
        if isinstance(error, httpx.HTTPError):
            raise NetworkError("the SuperLink does not answer", hint="is `earmark-server serve` running?") from error

    def node_ids(self) -> dict[bytes, int]:
        """Return every registered node: public key (DER) -> node id. Flower lists those that were shut out as well."""
        nodes = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {_der(node.public_key): node.node_id for node in nodes if node.status != NodeStatus.UNREGISTERED}

    def register(self, node_key: bytes) -> None:
        """Let a node in by its public key (SubjectPublicKeyInfo, DER)."""
        pem = load_node(node_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self._client.RegisterNode(RegisterNodeRequest(public_key=pem))

    def unregister(self, node_id: int) -> None:
        """Shut a node out."""
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, until: int) -> int:
        """Start the app, to run until the federation has had so many rounds in all; return the run's number.

        Raises:
            NetworkError: the SuperLink does not take it.
        """
        fab = fab_to_proto(Fab(bundle_sha256(), bundle(), {}))
        answer = self._client.StartRun(StartRunRequest(fab=fab, override_config=user_config_to_proto({"rounds": until})))
        if not answer.HasField("run_id"):
            raise NetworkError("the SuperLink does not start the run")
        return int(answer.run_id)

    def stop_runs(self) -> None:
        """End every run that is under way, for when none has a process; the SuperLink itself would notice a minute later."""
        for run_id, run in self._client.ListRuns(ListRunsRequest()).run_dict.items():
            if run.status.status != Status.FINISHED:
                self._client.StopRun(StopRunRequest(run_id=run_id))

    def has_ended(self, run_id: int) -> bool:
        """Return whether a run ended, however it did."""
        return bool(self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id].status.status == Status.FINISHED)

    def run_error(self, run_id: int) -> str:
        """Return what a run that failed died of, as its app's error said it; nothing if it did not say."""
        return str(self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict[run_id].status.details).removeprefix(FAILED)


def _der(public_key: bytes) -> bytes:
    """Return a node's public key as the registry has it; nothing if it is none."""
    try:
        return load_pem_public_key(public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError:
        return b""
