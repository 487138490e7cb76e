"""Single messages over a grid of Flower's: one sent, one reply fetched. With flower.py the only import of flwr here.

A grid's own `push_messages` sends many at once, and where Flower refuses one of them, some are stored whose contents never come. Its
`pull_messages` waits up to two hours for contents that a node only announced, and one reply that can't be read takes all others with it.
So messages are sent one by one here, and replies are fetched one by one.

Flower keeps what nodes and server announce in one store, by the hash of its contents. Whoever knew what we send next could announce it
first, as made of something that nobody has, and ours would be refused. So each message holds a nonce, and another one each time it is
tried.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from earmark_shared.settings import go_offline

go_offline()

import httpx  # noqa: E402
from flwr.app import ConfigRecord, Message, RecordDict  # noqa: E402
from flwr.app.message import remove_content_from_message  # noqa: E402
from flwr.common.serde import message_to_proto  # noqa: E402
from flwr.proto.runtime_pb2 import PushAppMessagesRequest, PushAppMessagesResponse  # noqa: E402
from flwr.supercore.inflatable import inflatable_protobuf_utils as contents  # noqa: E402
from flwr.supercore.inflatable.inflatable_object import (  # noqa: E402
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree  # noqa: E402

from earmark_shared.errors import MalformedError  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.proto.message_pb2 import ObjectTree
    from flwr.supercore.run import Run
    from flwr.superlink.grid.http_grid import HttpGrid

    from earmark_shared.crypto.secrets import Entropy

T = TypeVar("T")
KEY = "sa1"
NONCE, NONCE_SIZE = "nonce", 16
OBJECTS = 3
"""What Flower makes of an answer: a message, its record dictionary, its one record."""
TRIES, AGAIN_S = 3, 1.0
"""How often a call is made before it counts as failed. Each time, Flower itself waits five seconds for its database."""


def letter(body: bytes, entropy: Entropy) -> RecordDict:
    """Return what carries the bytes of a round's message to a device, under a hash that nobody can foresee."""
    return RecordDict({KEY: ConfigRecord({KEY: body, NONCE: entropy(NONCE_SIZE)})})


def send(grid: HttpGrid, make: Callable[[], Message]) -> str:
    """Announce a message, made anew each time it is tried, then send its contents.

    Returns:
        Flower's id of it, or nothing where the SuperLink knows no such node.

    Raises:
        httpx.HTTPStatusError, ObjectPushError: it can't be sent.
    """
    client = grid._runtime_client  # noqa: SLF001

    def announce() -> tuple[PushAppMessagesResponse, dict[str, bytes]]:
        message = make()
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id  # as Flower's own grid does
            parts = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
            tree, head = get_object_tree(message), message_to_proto(remove_content_from_message(message))
        return client.PushMessages(PushAppMessagesRequest(messages_list=[head], message_object_trees=[tree])), parts

    answer, parts = patiently(announce)
    push = contents.make_push_object_fn_protobuf(client.PushObject, grid.node, _run_id(grid), answer.session_id)
    for name in answer.objects_to_push:
        patiently(partial(push, name, parts[name]))
    return str(answer.message_ids[0])


def fetch(grid: HttpGrid, tree: ObjectTree) -> bytes | None:
    """Return what a device answers with, or None where its node says that it failed.

    Raises:
        ObjectPullError: not all of it is there.
        httpx.HTTPStatusError: Flower failed inside.
    """
    for count, _ in enumerate(iterate_object_tree(tree), 1):
        if count > OBJECTS:
            raise MalformedError("a reply is made of more than an answer is")
    client, run_id = grid._runtime_client, _run_id(grid)  # noqa: SLF001
    reply = pull_and_inflate_object_from_tree(
        tree,
        contents.make_pull_object_fn_protobuf(client.PullObject, grid.node, run_id),
        contents.make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, grid.node, run_id),
        return_type=Message,
        max_tries_per_object=1,
    )
    return None if reply.has_error() else _body(reply)


def patiently(ask: Callable[[], T]) -> T:
    """Ask again where Flower fails inside, as when its database is locked, or another announced the same in another way.

    Raises:
        httpx.HTTPStatusError: it failed `TRIES` times, or by our fault.
    """
    for _ in range(TRIES - 1):
        try:
            return ask()
        except httpx.HTTPStatusError as error:
            if not error.response.is_server_error:
                raise
        time.sleep(AGAIN_S)
    return ask()


def _run_id(grid: HttpGrid) -> int:
    return cast("Run", grid._run).run_id  # noqa: SLF001


def _body(reply: Message) -> bytes:
    """Return the one value of the one record that a device answers with, or nothing."""
    record = reply.content.get(KEY)
    body = record.get(KEY) if isinstance(record, ConfigRecord) and set(reply.content) == {KEY} and set(record) == {KEY} else b""
    return body if isinstance(body, bytes) else b""
