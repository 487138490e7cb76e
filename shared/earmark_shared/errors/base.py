"""The one base of every error."""

from __future__ import annotations


class EarmarkError(Exception):
    """Earmark could not do what was asked."""

    exit_code = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """Keep `message` (default: the class's sentence) and what the reader can do about it."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.hint = hint
