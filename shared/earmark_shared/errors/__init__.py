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
    |   |-- LogError                45
    |   |-- ReleaseError            46
    |   `-- CandidateError          47
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

from earmark_shared.errors.base import (
    EarmarkError,
)
from earmark_shared.errors.library import (
    AudioError,
    AudioLimitError,
    DamagedAudioError,
    DiskFullError,
    EmptyAudioError,
    HomeExistsError,
    HomeInUseError,
    HomeMissingError,
    NewerSchemaError,
    NotAudioError,
    NotInLibraryError,
    RollbackError,
    SettingsError,
    StoreError,
    TamperedError,
    UnreadableAudioError,
    UnsafePathError,
    WrongKeyError,
)
from earmark_shared.errors.protocol import (
    BoxError,
    ConsistencyError,
    CountError,
    DeadlineError,
    KeyExchangeError,
    MalformedError,
    NormError,
    PhaseError,
    PlanError,
    PolicyError,
    ProtocolError,
    RosterError,
    RoundBudgetError,
)
from earmark_shared.errors.trust import (
    AdmissionError,
    BudgetError,
    BusyError,
    CandidateError,
    CertificateError,
    ClockError,
    LedgerError,
    LedgerRollbackError,
    LogError,
    ModelError,
    NetworkError,
    NoiseError,
    PrivacyError,
    ReleaseError,
    ReplayedPlanError,
    SignatureError,
    TrustError,
)

__all__ = [
    "AdmissionError",
    "AudioError",
    "AudioLimitError",
    "BoxError",
    "BudgetError",
    "BusyError",
    "CandidateError",
    "CertificateError",
    "ClockError",
    "ConsistencyError",
    "CountError",
    "DamagedAudioError",
    "DeadlineError",
    "DiskFullError",
    "EarmarkError",
    "EmptyAudioError",
    "HomeExistsError",
    "HomeInUseError",
    "HomeMissingError",
    "KeyExchangeError",
    "LedgerError",
    "LedgerRollbackError",
    "LogError",
    "MalformedError",
    "ModelError",
    "NetworkError",
    "NewerSchemaError",
    "NoiseError",
    "NormError",
    "NotAudioError",
    "NotInLibraryError",
    "PhaseError",
    "PlanError",
    "PolicyError",
    "PrivacyError",
    "ProtocolError",
    "ReleaseError",
    "ReplayedPlanError",
    "RollbackError",
    "RosterError",
    "RoundBudgetError",
    "SettingsError",
    "SignatureError",
    "StoreError",
    "TamperedError",
    "TrustError",
    "UnreadableAudioError",
    "UnsafePathError",
    "WrongKeyError",
]
