"""Our errors <-> gRPC's status codes: what a server says no with, and what a device makes of it.

A server's words reach the device's screen only with the codes that a server of ours chooses, shortened; what went wrong inside
a server stays there.
"""

from __future__ import annotations

import traceback
from typing import NoReturn, cast

import grpc

from earmark_shared.errors import (
    AdmissionError,
    BusyError,
    CertificateError,
    EarmarkError,
    NetworkError,
    PolicyError,
    ProtocolError,
    TrustError,
)

WORDS_MOST = 200
TRY_LATER = "Try again later; nothing on this device was changed."


def refuse(context: grpc.ServicerContext, error: EarmarkError) -> NoReturn:
    """End a call with the status that stands for `error`."""
    code, words = _status(error)
    if code == grpc.StatusCode.INTERNAL:
        traceback.print_exc()  # for the operator; nothing that a server handles is a secret of a device's
    context.abort(code, words[:WORDS_MOST])
    raise error


def _status(error: EarmarkError) -> tuple[grpc.StatusCode, str]:
    codes = (
        (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (AdmissionError, grpc.StatusCode.PERMISSION_DENIED),
        (TrustError, grpc.StatusCode.UNAUTHENTICATED),
        (PolicyError, grpc.StatusCode.FAILED_PRECONDITION),
        (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    )
    for kind, code in codes:
        if isinstance(error, kind):
            return code, str(error)
    return grpc.StatusCode.INTERNAL, "the server failed"


def network_error(error: grpc.RpcError) -> EarmarkError:
    """Return the error that a failed call stands for on the device."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    words = (cast("str | None", error.details()) or "") if isinstance(error, grpc.Call) else ""
    said = words[:WORDS_MOST]
    if code == grpc.StatusCode.PERMISSION_DENIED:
        return AdmissionError(said, hint="Ask whoever runs the server for a new invitation.")
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return CertificateError(said, hint="`earmark leave --offline`, then join again with a new invitation.")
    if code == grpc.StatusCode.FAILED_PRECONDITION:
        return PolicyError(said)
    if code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}:
        return ProtocolError(f"The server did not understand: {said}", hint="Update Earmark.")
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return BusyError(hint=TRY_LATER)
    reason = {
        grpc.StatusCode.UNAVAILABLE: "can't be reached, or refuses this device's certificate",
        grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer",
    }
    return NetworkError(f"The server {reason.get(code, 'failed')}.", hint=TRY_LATER)
