"""The frozen audio encoder: log-mel patches in, one vector a patch out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from earmark_client.model.session import check_inputs, check_output, open_session

if TYPE_CHECKING:
    from earmark_client.model.bundle import Bundle

# Every run of the graph has this many rows, the last one filled up with zeros: a row then meets the same kernels in the same
# order whatever else is encoded with it, so its vector is the same to the bit. Eight rows take a quarter less time each than one
# alone; sixteen would gain next to nothing and waste more on short clips.
BATCH = 8


class AudioEncoder:
    """One graph on one device. `encode` may be called from several threads at once.

    Args:
        bundle: the model; its encoder file is verified here.
        device: ``"cpu"``, or ``"cuda"`` where ONNX Runtime has it.
        threads: threads inside one run of the graph; the vectors do not depend on it.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", *, threads: int = 1) -> None:
        part, frontend = bundle.section("encoder"), bundle.section("frontend")
        self.dim = int(part["dim"])
        self.hears_waveforms = frontend.get("kind") == "waveform"
        # Whole waveforms are ten seconds or more: there is nothing to gain by four at once, and a query has one.
        self._batch = 1 if self.hears_waveforms else BATCH
        sizes = ("samples",) if self.hears_waveforms else ("frames", "bands")
        self.patch = tuple(int(frontend[size]) for size in sizes)
        self._input, self._output = str(part["input"]), str(part["output"])
        self._session = open_session(bundle, part["file"], device, threads=threads)
        check_inputs(self._session, {self._input: (None, *self.patch)})
        check_output(self._session, self._output, self.dim)

    def encode(self, log_mel: np.ndarray) -> np.ndarray:
        """(n, frames, bands) float32 patches -> (n, dim) float32, row by row the same bits whatever n is.

        An encoder with a front end of its own (`hears_waveforms`) takes (n, samples) instead.

        Raises:
            ValueError: the patches have another shape.
        """
        if log_mel.shape[1:] != self.patch:
            raise ValueError(f"patches of shape (n, {', '.join(map(str, self.patch))}) expected, not {log_mel.shape}")
        result = np.empty((len(log_mel), self.dim), np.float32)
        for start in range(0, len(log_mel), self._batch):
            rows = log_mel[start : start + self._batch].astype(np.float32, copy=False)
            batch = np.zeros((self._batch, *self.patch), np.float32)
            batch[: len(rows)] = rows
            result[start : start + len(rows)] = self._session.run([self._output], {self._input: batch})[0][: len(rows)]
        return result
