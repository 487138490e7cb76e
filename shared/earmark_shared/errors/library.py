"""What goes wrong with settings, sounds and the library."""

from __future__ import annotations

from earmark_shared.errors.base import EarmarkError


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
