"""Flower at a device: the functions of a round, each one message in, one answer out. With executor.py and direct.py the only import of flwr.

One `ConfigRecord` carries the bytes both ways, under the key `sa1`; the server's holds a nonce beside it, which nobody reads. Nothing is kept in Flower's `Context`, which passes through the
SuperNode: a round's keys live in the participant, in this process' memory alone.

A private module of flwr used here, besides those of direct.py: `flwr.supernode.node_auth_http_interceptor`, with which a device takes
back a connection that it lost (`take_back_place`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from earmark_shared.settings import go_offline

go_offline()

import httpx  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.serialization import load_der_private_key  # noqa: E402
from flwr.app import ConfigRecord, Context, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL  # noqa: E402
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest  # noqa: E402
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor  # noqa: E402
from flwr.supercore.primitives.asymmetric import public_key_to_bytes  # noqa: E402
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor  # noqa: E402

from earmark_client.federation.direct import FleetClient  # noqa: E402
from earmark_shared.errors import MalformedError  # noqa: E402
from earmark_shared.wire.envelope import ACTIONS, pack, unpack  # noqa: E402

if TYPE_CHECKING:
    from earmark_client.federation.participant import Participant
    from earmark_shared.crypto.nodes import NodeKey
    from earmark_shared.shapes import Message as RoundMessage

KEY = "sa1"


def make_app(participant: Participant, *, clock: Callable[[], float]) -> ClientApp:
    """Return the app whose functions are the participant's answers."""
    app = ClientApp()
    for kind, action in ACTIONS.items():
        app.train(action)(_handler(participant, kind, clock))
    return app


def answer_record(participant: Participant, kind: type[RoundMessage], content: RecordDict, now_s: int) -> RecordDict:
    """Return the record that answers a record; what is not one message of `kind` is answered by an Abort."""
    try:
        messages = unpack(_body(content), (kind,))
        if len(messages) != 1:
            raise MalformedError("several messages came at once")  # noqa: TRY301  answered like any other
        answers = participant.answer(messages[0], now_s)
    except MalformedError as error:
        answers = (participant.refuse(error),)
    return RecordDict({KEY: ConfigRecord({KEY: pack(answers)})})


def take_back_place(superlink: str, ca_pem: bytes, key: NodeKey, known: int | None) -> int | None:
    """Say that this device's node is not connected any more, so that a new one is let in at once; return the node's number.

    A node that was lost counts as connected for up to a minute, and a second one with its key is refused for so long. `known` is
    what was returned last time: without it, a place that is taken can't be taken back, and the SuperLink's minute must pass. That
    it doesn't answer, or says no, changes nothing here.
    """
    private = load_der_private_key(bytes(key.private_bytes()), password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise MalformedError("the node key is not on an elliptic curve")
    versions, proof = RuntimeVersionHttpInterceptor("SuperNode"), NodeAuthHttpInterceptor(private, private.public_key())
    client = FleetClient.from_server_address(superlink, insecure=False, root_certificates=ca_pem, interceptors=[versions, proof])
    try:
        if known is not None:
            with contextlib.suppress(httpx.HTTPStatusError):
                client.DeactivateNode(DeactivateNodeRequest(node_id=known))
                return known
        public = public_key_to_bytes(private.public_key())
        asked = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        known = int(client.ActivateNode(asked).node_id)
        client.DeactivateNode(DeactivateNodeRequest(node_id=known))
    except (httpx.HTTPError, RuntimeError):
        return known
    finally:
        client.close()
    return known


def _handler(
    participant: Participant, kind: type[RoundMessage], clock: Callable[[], float]
) -> Callable[[Message, Context], Message]:
    def handle(message: Message, context: Context) -> Message:
        _ = context
        return Message(answer_record(participant, kind, message.content, int(clock())), reply_to=message)

    return handle


def _body(content: RecordDict) -> bytes:
    record = content.get(KEY)
    body = record.get(KEY) if isinstance(record, ConfigRecord) else None
    if not isinstance(body, bytes):
        raise MalformedError("the record holds no message of a round")
    return body
