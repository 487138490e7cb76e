"""A federation of many devices in one process: `scripts/simulation/run.py` under the name that the benchmarks know.

python scripts/simulate.py --data DIR --cache FILE --devices 50 --rounds 10 --epsilon 8
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulation.run import main, run

if __name__ == "__main__":
    run(main)
