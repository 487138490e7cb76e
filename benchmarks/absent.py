"""Are scores of what is there higher than scores of what isn't, and what is knowing a query's background worth?

    python benchmarks/absent.py --data DIR --csv FILE --queries FILE

Each query has two scores in a library of all clips: the best of a clip with its label, and the best of the others, which is what would be
found if there were none. The same again by a calibration that knows no background. Last line: one JSON object with auc (share of pairs in
which the first is higher, over all queries), kept and absent (shares on the right side of the threshold), the same with _plain behind
them for the calibration without, queries.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from common import Queries, Row, add_rows, finish, read_rows, run
from fewshot import auroc
from retrieval import parser_of

from earmark_client.library import Library
from earmark_client.records import Query
from earmark_client.store.keys import KeyFile


def best_scores(library: Library, rows: list[Row], queries: Queries) -> np.ndarray:
    """Scores `(queries, 2)` of the best clip with the query's label and of the best without, in [0, 1]."""
    labels = {str(row.path): row.label for row in rows}
    scores = []
    for label, texts in queries.items():
        for text in (*texts["seen"], *texts.get("reworded", [])) if label in labels.values() else ():
            hits = library.search(Query(text=text, limit=None, min_score=0.0)).hits
            scores.append(
                [max((hit.score for hit in hits if (labels[hit.path] == label) is right), default=0.0) for right in (True, False)]
            )
    return np.array(scores).reshape(-1, 2)


def told(scores: np.ndarray, threshold: float) -> list[float]:
    """Area under the curve, share kept and share of nothing found, of scores `(queries, 2)`."""
    present, absent = scores[:, 0], scores[:, 1]
    shares = (auroc(present, absent), (present >= threshold).mean(), (absent < threshold).mean())
    return [round(float(share), 4) for share in shares]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    return parser_of(__doc__).parse_args(given)


def main() -> None:
    """Run from the command line."""
    options = arguments()
    queries = options.queries
    rows = read_rows(options.data, options.csv, queries)
    result: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Library.create(Path(folder) / "home", unlock=KeyFile(Path(folder) / "key")) as library,
    ):
        rows = add_rows(library, rows)
        labeler = library._model.labeler  # only here is the same model asked with less than it knows
        known = labeler.calibration
        for ending in ("", "_plain"):
            labeler.calibration = known if not ending else dataclasses.replace(known, query_slope=0.0)
            scores = best_scores(library, rows, queries)
            names = (f"{name}{ending}" for name in ("auc", "kept", "absent"))
            result |= dict(zip(names, told(scores, known.threshold), strict=True))
        finish({**result, "queries": len(scores)})


if __name__ == "__main__":
    run(main)
