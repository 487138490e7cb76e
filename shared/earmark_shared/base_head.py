"""The head that a federation's rounds begin with: no correction yet, the schema and label set of the shipped model.

`base_head.json` and `.safetensors` beside this module are made by scripts/build_base_head.py; a server needs no model to read them.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from earmark_shared.errors import ModelError
from earmark_shared.head import Floats, HeadSchema
from earmark_shared.release import load_head

PATH = Path(__file__).with_name("base_head.json")
FIRST_VERSION = 0
"""The number of the head before any release."""


@cache
def _table() -> dict[str, str]:
    try:
        table: dict[str, str] = json.loads(PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("the base head can't be read", hint="reinstall Earmark") from error
    return table


def base_version() -> str:
    """Return the version of the shipped model that heads of this schema correct."""
    return _table()["base"]


@cache
def base_schema() -> HeadSchema:
    """Return the shipped model's head schema; ModelError if it can't be read."""
    return HeadSchema.from_json(_table()["schema"])


def base_arrays() -> dict[str, Floats]:
    """Return the first head's arrays: directions that public sound varies in, and nothing corrected."""
    try:
        return load_head(base_schema(), PATH.with_suffix(".safetensors").read_bytes())
    except OSError as error:
        raise ModelError("the base head can't be read", hint="reinstall Earmark") from error
