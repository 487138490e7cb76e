from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("proto",)
    PROTO_FIELD_NUMBER: _ClassVar[int]
    proto: int
    def __init__(self, proto: _Optional[int] = ...) -> None: ...

class Root(_message.Message):
    __slots__ = ("proto", "authority", "tls_ca", "tuf_root_sha256", "is_lab", "plan_key", "member_port", "challenge")
    PROTO_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    TLS_CA_FIELD_NUMBER: _ClassVar[int]
    TUF_ROOT_SHA256_FIELD_NUMBER: _ClassVar[int]
    IS_LAB_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    MEMBER_PORT_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    proto: int
    authority: bytes
    tls_ca: bytes
    tuf_root_sha256: bytes
    is_lab: bool
    plan_key: bytes
    member_port: int
    challenge: bytes
    def __init__(self, proto: _Optional[int] = ..., authority: _Optional[bytes] = ..., tls_ca: _Optional[bytes] = ..., tuf_root_sha256: _Optional[bytes] = ..., is_lab: _Optional[bool] = ..., plan_key: _Optional[bytes] = ..., member_port: _Optional[int] = ..., challenge: _Optional[bytes] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("challenge", "token", "identity", "node_key", "is_lab", "identity_sig", "node_sig")
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NODE_KEY_FIELD_NUMBER: _ClassVar[int]
    IS_LAB_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_SIG_FIELD_NUMBER: _ClassVar[int]
    NODE_SIG_FIELD_NUMBER: _ClassVar[int]
    challenge: bytes
    token: bytes
    identity: bytes
    node_key: bytes
    is_lab: bool
    identity_sig: bytes
    node_sig: bytes
    def __init__(self, challenge: _Optional[bytes] = ..., token: _Optional[bytes] = ..., identity: _Optional[bytes] = ..., node_key: _Optional[bytes] = ..., is_lab: _Optional[bool] = ..., identity_sig: _Optional[bytes] = ..., node_sig: _Optional[bytes] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ("cert", "tls_cert", "joined_s", "head", "index", "path")
    CERT_FIELD_NUMBER: _ClassVar[int]
    TLS_CERT_FIELD_NUMBER: _ClassVar[int]
    JOINED_S_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    cert: bytes
    tls_cert: bytes
    joined_s: int
    head: bytes
    index: int
    path: bytes
    def __init__(self, cert: _Optional[bytes] = ..., tls_cert: _Optional[bytes] = ..., joined_s: _Optional[int] = ..., head: _Optional[bytes] = ..., index: _Optional[int] = ..., path: _Optional[bytes] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class News(_message.Message):
    __slots__ = ("head", "proof", "revoked", "plan_key")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    PLAN_KEY_FIELD_NUMBER: _ClassVar[int]
    head: bytes
    proof: bytes
    revoked: bytes
    plan_key: bytes
    def __init__(self, head: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., revoked: _Optional[bytes] = ..., plan_key: _Optional[bytes] = ...) -> None: ...

class Renewal(_message.Message):
    __slots__ = ("alias", "sig")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    alias: bytes
    sig: bytes
    def __init__(self, alias: _Optional[bytes] = ..., sig: _Optional[bytes] = ...) -> None: ...

class Renewed(_message.Message):
    __slots__ = ("tls_cert", "cert")
    TLS_CERT_FIELD_NUMBER: _ClassVar[int]
    CERT_FIELD_NUMBER: _ClassVar[int]
    tls_cert: bytes
    cert: bytes
    def __init__(self, tls_cert: _Optional[bytes] = ..., cert: _Optional[bytes] = ...) -> None: ...

class Leave(_message.Message):
    __slots__ = ("alias", "sig")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    SIG_FIELD_NUMBER: _ClassVar[int]
    alias: bytes
    sig: bytes
    def __init__(self, alias: _Optional[bytes] = ..., sig: _Optional[bytes] = ...) -> None: ...

class Gone(_message.Message):
    __slots__ = ("left_s", "head", "index", "path")
    LEFT_S_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    left_s: int
    head: bytes
    index: int
    path: bytes
    def __init__(self, left_s: _Optional[int] = ..., head: _Optional[bytes] = ..., index: _Optional[int] = ..., path: _Optional[bytes] = ...) -> None: ...
