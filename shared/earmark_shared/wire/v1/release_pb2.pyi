from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Wanted(_message.Message):
    __slots__ = ("path", "start")
    PATH_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    start: int
    def __init__(self, path: _Optional[bytes] = ..., start: _Optional[int] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("is_there", "size", "data")
    IS_THERE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    is_there: bool
    size: int
    data: bytes
    def __init__(self, is_there: _Optional[bool] = ..., size: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
