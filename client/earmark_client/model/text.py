"""The sentence encoder: a few words in, one unit vector out; queries, labels and class names all go through it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from earmark_client.model.session import check_inputs, check_output, open_session
from earmark_shared.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark_client.model.bundle import Bundle


class TextEncoder:
    """One graph and its tokenizer. `encode` may be called from several threads at once."""

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        part = bundle.section("sentence")
        self.dim = int(part["dim"])
        self._input, self._mask, self._output = str(part["input"]), str(part["mask"]), str(part["output"])
        # Hashing and opening the graph take most of a cold search's start; the tokenizer is read meanwhile.
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(open_session, bundle, part["file"], device)
            self._tokenizer = _open_tokenizer(bundle.read(part["tokenizer"]), int(part["max_tokens"]))
            self._session = opening.result()
        check_inputs(self._session, {self._input: (None, None), self._mask: (None, None)})
        check_output(self._session, self._output, self.dim)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32 unit rows for n texts; what is beyond the longest sentence (128 tokens) is left out.

        Each text runs alone: without padding, and its vector can't depend on its neighbours.
        """
        result = np.empty((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            result[row] = self._encode_one(text)
        return result

    def _encode_one(self, text: str) -> np.ndarray:
        # A command line that is not UTF-8 reaches us with lone surrogates, which the tokenizer can't take.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids = np.array([self._tokenizer.encode(clean).ids], np.int64)
        vector: np.ndarray = self._session.run([self._output], {self._input: ids, self._mask: np.ones_like(ids)})[0][0]
        return vector


def _open_tokenizer(data: bytes, max_tokens: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare exceptions
        raise ModelError("The model's tokenizer can't be read.") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer
