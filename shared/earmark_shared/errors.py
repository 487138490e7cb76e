"""Every error Earmark raises on purpose, and the exit code each ends a command with.

    EarmarkError                     1
    |-- SettingsError               10   a flag, variable or file says something Earmark can't follow
    |-- AudioError                  20   a sound file can't be used (its own tree: see below)
    |   |-- NotAudioError           20
    |   |-- UnsafePathError         20
    |   |-- UnreadableAudioError    20
    |   |-- DamagedAudioError       20
    |   |-- AudioLimitError         20
    |   `-- EmptyAudioError         20
    |-- StoreError                  30
    |   |-- HomeMissingError        31
    |   |-- HomeExistsError         32
    |   |-- HomeInUseError          33
    |   |-- WrongKeyError           34
    |   |-- TamperedError           35
    |   |-- RollbackError           36
    |   |-- DiskFullError           37
    |   |-- NewerSchemaError        38
    |   `-- NotInLibraryError       39
    |-- TrustError                  40
    |   |-- ModelError              41
    |   |-- SignatureError          42
    |   |-- CertificateError        43
    |   |-- AdmissionError          44
    |   `-- LogError                45
    |-- PrivacyError                50
    |   |-- BudgetError             51
    |   |-- ClockError              52
    |   |-- ReplayedPlanError       53
    |   |-- LedgerError             54
    |   |-- LedgerRollbackError     55
    |   `-- NoiseError              56
    |-- ProtocolError               60
    |   |-- MalformedError          60
    |   |-- PhaseError              60
    |   |-- KeyExchangeError        60
    |   |-- PlanError               61
    |   |-- PolicyError             62
    |   |-- RosterError             63
    |   |-- BoxError                64
    |   |-- ConsistencyError        65
    |   |-- CountError              66
    |   |-- NormError               67
    |   |-- DeadlineError           68
    |   `-- RoundBudgetError        69
    `-- NetworkError                70
        `-- BusyError               71

A class's docstring is the sentence a user can read; `hint` is what to do next. Verification raises one of these, it never
returns a bool. A foreign exception is translated where it enters, with ``raise ... from``.
"""

from __future__ import annotations


class EarmarkError(Exception):
    """Earmark could not do what was asked."""

    exit_code = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """Keep `message` (default: the class's sentence) and what the reader can do about it."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.hint = hint


class SettingsError(EarmarkError):
    """A setting is not understood."""

    exit_code = 10


class AudioError(EarmarkError):
    """A sound file can't be used."""

    exit_code = 20


class NotAudioError(AudioError):
    """The file is not a sound file that Earmark reads."""


class UnsafePathError(AudioError):
    """The path is not a plain file inside the folder that was named."""


class UnreadableAudioError(AudioError):
    """The sound file can't be read."""


class DamagedAudioError(AudioError):
    """The sound file is damaged."""


class AudioLimitError(AudioError):
    """The sound file asks for more than a decoder may use."""


class EmptyAudioError(AudioError):
    """The sound file holds no sound."""


class StoreError(EarmarkError):
    """The library can't be used."""

    exit_code = 30


class HomeMissingError(StoreError):
    """There is no library here."""

    exit_code = 31


class HomeExistsError(StoreError):
    """There is a library here already."""

    exit_code = 32


class HomeInUseError(StoreError):
    """Another Earmark is writing to this library."""

    exit_code = 33


class WrongKeyError(StoreError):
    """The key or passphrase does not open this library."""

    exit_code = 34


class TamperedError(StoreError):
    """The library was changed by something other than Earmark, or its disk is failing."""

    exit_code = 35


class RollbackError(StoreError):
    """The library is older than the one this device last saw."""

    exit_code = 36


class DiskFullError(StoreError):
    """The disk is full; nothing that was stored is lost."""

    exit_code = 37


class NewerSchemaError(StoreError):
    """The library was written by a newer Earmark."""

    exit_code = 38


class NotInLibraryError(StoreError):
    """The library holds nothing by that name."""

    exit_code = 39


class TrustError(EarmarkError):
    """Something that must be signed or hashed is not what it claims to be."""

    exit_code = 40


class ModelError(TrustError):
    """The model's files are not the ones its manifest names."""

    exit_code = 41


class SignatureError(TrustError):
    """A signature is not right."""

    exit_code = 42


class CertificateError(TrustError):
    """A certificate is not right, not current or revoked."""

    exit_code = 43


class AdmissionError(TrustError):
    """The server does not let this device in, or is not the server that the device was invited to."""

    exit_code = 44


class LogError(TrustError):
    """The enrolment log is not what it was: an entry was changed, removed or hidden."""

    exit_code = 45


class PrivacyError(EarmarkError):
    """The privacy budget does not allow this."""

    exit_code = 50


class BudgetError(PrivacyError):
    """This round would spend more privacy than is left."""

    exit_code = 51


class ClockError(PrivacyError):
    """The clock went back since privacy was last spent."""

    exit_code = 52


class ReplayedPlanError(PrivacyError):
    """This round was paid for before; it is not run twice."""

    exit_code = 53


class LedgerError(PrivacyError):
    """The record of spent privacy is damaged or was changed."""

    exit_code = 54


class LedgerRollbackError(LedgerError):
    """The record of spent privacy is older than the one this device last saw."""

    exit_code = 55


class NoiseError(PrivacyError):
    """A setting or a value would leave the noise too weak to protect anything."""

    exit_code = 56


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


class NetworkError(EarmarkError):
    """The server can't be reached."""

    exit_code = 70


class BusyError(NetworkError):
    """The server takes no more requests from here for now."""

    exit_code = 71
