"""What goes wrong with trust, privacy and the network."""

from __future__ import annotations

from earmark_shared.errors.base import EarmarkError


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


class ReleaseError(TrustError):
    """The released model is not signed, current and newer than the one that is here."""

    exit_code = 46


class CandidateError(TrustError):
    """The candidate is not good enough to be released."""

    exit_code = 47


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


class NetworkError(EarmarkError):
    """The server can't be reached."""

    exit_code = 70


class BusyError(NetworkError):
    """The server takes no more requests from here for now."""

    exit_code = 71
