"""Learn the directions that a simulated head hears in, from synthesized words: a minute, after a change of the encoder (`make axes`)."""

from __future__ import annotations

import sys

from simulation.axes import PATH, RANK, discriminants, save_axes
from simulation.words import heard

from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle


def main() -> int:
    """Write simulation/word_axes.safetensors."""
    bundle = Bundle.load(BASE_MODEL)
    outputs, words = heard(Model(bundle))
    save_axes(discriminants(outputs, words, RANK), bundle)
    print(f"{PATH}: {RANK} directions from {len(words)} renderings")
    return 0


if __name__ == "__main__":
    sys.exit(main())
