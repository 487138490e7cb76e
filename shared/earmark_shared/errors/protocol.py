"""What goes wrong in a round, one class an abort code of the protocol."""

from __future__ import annotations

from earmark_shared.errors.base import EarmarkError


class ProtocolError(EarmarkError):
    """A message breaks the protocol."""

    exit_code = 60
    abort_code = 0
    """What an `Abort` message says about it: `AbortCode` in round.py."""

    def __init__(self, message: str = "", *, hint: str = "", culprit: int | None = None) -> None:
        """Also keep the roster index of the device that caused it, if one did."""
        super().__init__(message, hint=hint)
        self.culprit = culprit


class MalformedError(ProtocolError):
    """A message is not one that the protocol knows."""


class PhaseError(ProtocolError):
    """A message came twice, or before or after its time."""


class KeyExchangeError(ProtocolError):
    """A public key is worthless."""

    abort_code = 3


class PlanError(ProtocolError):
    """The round's plan is not genuine, not current or not for this model."""

    exit_code = 61
    abort_code = 1


class PolicyError(ProtocolError):
    """The round asks for less protection than this device accepts."""

    exit_code = 62
    abort_code = 2


class RosterError(ProtocolError):
    """The list of devices in the round can't be trusted."""

    exit_code = 63
    abort_code = 3


class BoxError(ProtocolError):
    """A share that another device sealed for this one is damaged."""

    exit_code = 64
    abort_code = 4


class ConsistencyError(ProtocolError):
    """The server does not tell every device the same."""

    exit_code = 65
    abort_code = 5


class CountError(ProtocolError):
    """Too few devices are left for anything to be opened."""

    exit_code = 66
    abort_code = 6


class NormError(ProtocolError):
    """An update is not finite, or larger than its bound."""

    exit_code = 67
    abort_code = 7


class DeadlineError(ProtocolError):
    """A message came after its time."""

    exit_code = 68
    abort_code = 8


class RoundBudgetError(ProtocolError):
    """The privacy budget does not allow this round."""

    exit_code = 69
    abort_code = 9
