"""Write shared/earmark_shared/base_head.json: the schema of the head that the shipped model's rounds begin with.

The label set is the shipped model's own list: public, and the same on every device. Run it when the shipped model changes.
"""

from __future__ import annotations

import json
from pathlib import Path

from earmark_client.model.bundle import Bundle
from earmark_client.model.labeler import Labeler
from earmark_shared.head import HeadSchema

ROOT = Path(__file__).resolve().parents[1]
RANK = 64
"""64 directions in what the encoder hears: with one bias each, 24,960 trained parameters."""


def base_head() -> dict[str, str]:
    """Return what the file holds."""
    bundle = Bundle.load(ROOT / "client/earmark_client/model/base")
    labeler = Labeler(bundle)
    labels = labeler.label_list().names
    schema = HeadSchema(int(bundle.section("encoder")["dim"]), labeler.text_dim, RANK, ("up", "bias"), labels)
    return {"base": bundle.version, "schema": schema.to_json()}


if __name__ == "__main__":
    (ROOT / "shared/earmark_shared/base_head.json").write_text(json.dumps(base_head(), indent=1) + "\n", encoding="utf-8")
