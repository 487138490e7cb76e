"""The labels that segments can get: what the model's file says of each, and the list that is scored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from earmark_shared.errors import ModelError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LabelList:
    """Labels that can be scored: `vectors (labels, text_dim)`, `similarity (labels,)`; `is_broad` ones yield to narrower ones."""

    names: tuple[str, ...]
    vectors: Floats
    similarity: Floats
    is_broad: npt.NDArray[np.bool_]

    @cached_property
    def turned(self) -> Floats:
        """The vectors as columns, `(text_dim, labels)`, side by side in memory."""
        return np.ascontiguousarray(self.vectors.T)


@dataclass(frozen=True)
class BaseLabel:
    """One entry of labels.json: a class of the encoder under the name people read."""

    name: str
    is_broad: bool
    is_listed: bool


def read_labels(data: bytes) -> tuple[BaseLabel, ...]:
    """The entries of labels.json, in the order of the head's classes.

    Raises:
        ModelError: it is not as the model's builder writes it.
    """
    try:
        return tuple(BaseLabel(str(row["name"]), bool(row["broad"]), bool(row["listed"])) for row in json.loads(data)["labels"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError("The model's labels can't be read.") from error
