"""numpy's matrix products on one thread.

Segments are described on one thread a core already, in products too small to share out. numpy's OpenBLAS would share them out all
the same and let its helpers spin between two products: measured, the features of a segment then cost twenty times the processor
time. One thread also means one order of summing, whatever the machine is busy with.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

SETTER = "scipy_openblas_set_num_threads64_"


def use_one_thread() -> None:
    """From now on, in the whole process; without effect on a numpy that was built with another library."""
    for library in (Path(np.__file__).parents[1] / "numpy.libs").glob("libscipy_openblas*"):
        setter = getattr(ctypes.CDLL(str(library)), SETTER, None)
        if setter is not None:
            setter(1)
