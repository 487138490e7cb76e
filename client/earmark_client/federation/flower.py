"""Flower at a device: the functions of a round, each one message in, one answer out. With executor.py the only import of flwr.

One `ConfigRecord` with one key, `sa1`, carries the bytes both ways. Nothing is kept in Flower's `Context`, which passes through the
SuperNode: a round's keys live in the participant, in this process' memory alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from earmark_shared.settings import go_offline

go_offline()

from flwr.app import ConfigRecord, Context, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from earmark_shared.errors import MalformedError  # noqa: E402
from earmark_shared.wire.envelope import ACTIONS, pack, unpack  # noqa: E402

if TYPE_CHECKING:
    from earmark_client.federation.participant import Participant
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
