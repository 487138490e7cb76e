from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RoundPlan(_message.Message):
    __slots__ = ("round_id", "proto", "model_version", "model_sha256", "schema_sha256", "d", "clip_c", "log2_scale_c", "z", "n_min", "n_max", "deadline_s", "not_before", "not_after", "shards", "key_id", "sig")
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    PROTO_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_SHA256_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_SHA256_FIELD_NUMBER: _ClassVar[int]
    D_FIELD_NUMBER: _ClassVar[int]
    CLIP_C_FIELD_NUMBER: _ClassVar[int]
    LOG2_SCALE_C_FIELD_NUMBER: _ClassVar[int]
    Z_FIELD_NUMBER: _ClassVar[int]
    N_MIN_FIELD_NUMBER: _ClassVar[int]
    N_MAX_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_S_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    round_id: bytes
    proto: int
    model_version: int
    model_sha256: bytes
    schema_sha256: bytes
    d: int
    clip_c: float
    log2_scale_c: int
    z: float
    n_min: int
    n_max: int
    deadline_s: _containers.RepeatedScalarFieldContainer[int]
    not_before: int
    not_after: int
    shards: int
    key_id: bytes
    sig: bytes
    def __init__(self, round_id: _Optional[bytes] = ..., proto: _Optional[int] = ..., model_version: _Optional[int] = ..., model_sha256: _Optional[bytes] = ..., schema_sha256: _Optional[bytes] = ..., d: _Optional[int] = ..., clip_c: _Optional[float] = ..., log2_scale_c: _Optional[int] = ..., z: _Optional[float] = ..., n_min: _Optional[int] = ..., n_max: _Optional[int] = ..., deadline_s: _Optional[_Iterable[int]] = ..., not_before: _Optional[int] = ..., not_after: _Optional[int] = ..., shards: _Optional[int] = ..., key_id: _Optional[bytes] = ..., sig: _Optional[bytes] = ...) -> None: ...

class Advertise(_message.Message):
    __slots__ = ("plan_hash", "device_id", "cert", "mask_pk", "share_pk", "sig")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    CERT_FIELD_NUMBER: _ClassVar[int]
    MASK_PK_FIELD_NUMBER: _ClassVar[int]
    SHARE_PK_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    device_id: bytes
    cert: bytes
    mask_pk: bytes
    share_pk: bytes
    sig: bytes
    def __init__(self, plan_hash: _Optional[bytes] = ..., device_id: _Optional[bytes] = ..., cert: _Optional[bytes] = ..., mask_pk: _Optional[bytes] = ..., share_pk: _Optional[bytes] = ..., sig: _Optional[bytes] = ...) -> None: ...

class Roster(_message.Message):
    __slots__ = ("plan_hash", "shard", "members")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    plan_hash: bytes
    shard: int
    members: _containers.RepeatedCompositeFieldContainer[Advertise]
    def __init__(self, plan_hash: _Optional[bytes] = ..., shard: _Optional[int] = ..., members: _Optional[_Iterable[_Union[Advertise, _Mapping]]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("dst", "ct")
    DST_FIELD_NUMBER: _ClassVar[int]
    CT_FIELD_NUMBER: _ClassVar[int]
    dst: int
    ct: bytes
    def __init__(self, dst: _Optional[int] = ..., ct: _Optional[bytes] = ...) -> None: ...

class ShareKeys(_message.Message):
    __slots__ = ("t1", "src", "b_commit", "boxes")
    T1_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    B_COMMIT_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    t1: bytes
    src: int
    b_commit: bytes
    boxes: _containers.RepeatedCompositeFieldContainer[Box]
    def __init__(self, t1: _Optional[bytes] = ..., src: _Optional[int] = ..., b_commit: _Optional[bytes] = ..., boxes: _Optional[_Iterable[_Union[Box, _Mapping]]] = ...) -> None: ...

class Inbox(_message.Message):
    __slots__ = ("t1", "boxes", "src")
    T1_FIELD_NUMBER: _ClassVar[int]
    BOXES_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    t1: bytes
    boxes: _containers.RepeatedCompositeFieldContainer[Box]
    src: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, t1: _Optional[bytes] = ..., boxes: _Optional[_Iterable[_Union[Box, _Mapping]]] = ..., src: _Optional[_Iterable[int]] = ...) -> None: ...

class MaskedChunk(_message.Message):
    __slots__ = ("t1", "src", "seq", "of", "data", "sha256", "sig")
    T1_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    t1: bytes
    src: int
    seq: int
    of: int
    data: bytes
    sha256: bytes
    sig: bytes
    def __init__(self, t1: _Optional[bytes] = ..., src: _Optional[int] = ..., seq: _Optional[int] = ..., of: _Optional[int] = ..., data: _Optional[bytes] = ..., sha256: _Optional[bytes] = ..., sig: _Optional[bytes] = ...) -> None: ...

class Survivors(_message.Message):
    __slots__ = ("t1", "u3")
    T1_FIELD_NUMBER: _ClassVar[int]
    U3_FIELD_NUMBER: _ClassVar[int]
    t1: bytes
    u3: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, t1: _Optional[bytes] = ..., u3: _Optional[_Iterable[int]] = ...) -> None: ...

class SurvivorSig(_message.Message):
    __slots__ = ("t3", "src", "sig")
    T3_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    t3: bytes
    src: int
    sig: bytes
    def __init__(self, t3: _Optional[bytes] = ..., src: _Optional[int] = ..., sig: _Optional[bytes] = ...) -> None: ...

class UnmaskReq(_message.Message):
    __slots__ = ("t1", "u3", "sigs")
    T1_FIELD_NUMBER: _ClassVar[int]
    U3_FIELD_NUMBER: _ClassVar[int]
    SIGS_FIELD_NUMBER: _ClassVar[int]
    t1: bytes
    u3: _containers.RepeatedScalarFieldContainer[int]
    sigs: _containers.RepeatedCompositeFieldContainer[SurvivorSig]
    def __init__(self, t1: _Optional[bytes] = ..., u3: _Optional[_Iterable[int]] = ..., sigs: _Optional[_Iterable[_Union[SurvivorSig, _Mapping]]] = ...) -> None: ...

class UnmaskShare(_message.Message):
    __slots__ = ("of", "is_mask_key", "y")
    OF_FIELD_NUMBER: _ClassVar[int]
    IS_MASK_KEY_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    of: int
    is_mask_key: bool
    y: bytes
    def __init__(self, of: _Optional[int] = ..., is_mask_key: _Optional[bool] = ..., y: _Optional[bytes] = ...) -> None: ...

class Unmask(_message.Message):
    __slots__ = ("t3", "src", "shares")
    T3_FIELD_NUMBER: _ClassVar[int]
    SRC_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    t3: bytes
    src: int
    shares: _containers.RepeatedCompositeFieldContainer[UnmaskShare]
    def __init__(self, t3: _Optional[bytes] = ..., src: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[UnmaskShare, _Mapping]]] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("round_id", "phase", "code", "culprit")
    class Code(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNSPECIFIED: _ClassVar[Abort.Code]
        PLAN: _ClassVar[Abort.Code]
        POLICY: _ClassVar[Abort.Code]
        ROSTER: _ClassVar[Abort.Code]
        BOX: _ClassVar[Abort.Code]
        CONSISTENCY: _ClassVar[Abort.Code]
        COUNT: _ClassVar[Abort.Code]
        NORM: _ClassVar[Abort.Code]
        TIMEOUT: _ClassVar[Abort.Code]
        BUDGET: _ClassVar[Abort.Code]
    UNSPECIFIED: Abort.Code
    PLAN: Abort.Code
    POLICY: Abort.Code
    ROSTER: Abort.Code
    BOX: Abort.Code
    CONSISTENCY: Abort.Code
    COUNT: Abort.Code
    NORM: Abort.Code
    TIMEOUT: Abort.Code
    BUDGET: Abort.Code
    ROUND_ID_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    CULPRIT_FIELD_NUMBER: _ClassVar[int]
    round_id: bytes
    phase: int
    code: Abort.Code
    culprit: int
    def __init__(self, round_id: _Optional[bytes] = ..., phase: _Optional[int] = ..., code: _Optional[_Union[Abort.Code, str]] = ..., culprit: _Optional[int] = ...) -> None: ...
