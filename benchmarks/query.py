"""How long does a question take in a large library, how much memory, and does the index still find what is there?

    python benchmarks/query.py --segments 1000000

Seeded vectors in 20,000 clusters around the model's labels, 20 segments a clip, with real names and labels, in an encrypted home
(`synthetic.py`). A fresh process opens it as `Library` and answers texts it has not seen before. The last line is one JSON object:
`p50_ms`, `p99_ms` (text in, hits out, warm process), `overhead_ms` (p50 of what is neither text encoding nor the scan of the index),
`recall_at_10` (of the index's best ten among the ten of an exact float32 search, over the same texts), `rss_mb` (peak), `cold_1m_s`
(a fresh process: start, open, first answer; `cold_s` with another number of segments than a million). `--keep DIR` leaves the home there and uses it next time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from apart import peak_rss_mb, run_part
from common import Parser, at_least, finish, run, say, working_folder
from synthetic import Synthetic, build_home, open_library, query_texts

from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_client.records import Query

if TYPE_CHECKING:
    from collections.abc import Callable

WARM_UP = 30
QUERIES = 500
RECALL_QUERIES = 300
TEN = 10
MILLION = 1_000_000


class Stopwatch:
    """Adds up the time spent inside some methods, per query."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, method: str, name: str) -> None:  # noqa: ANN401
        """Time every call of `owner.method` under `name`."""
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            started_s = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started_s

        setattr(owner, method, timed)


def first_answer(home: Path, key: Path) -> dict[str, Any]:
    """Open and ask one thing; whoever started this process knows since when."""
    with open_library(home, key) as library:
        hits = library.search(Query(text="a dog barking in the distance")).hits
        return {"end_s": time.time(), "hits": len(hits)}


def ask(home: Path, key: Path) -> dict[str, Any]:
    """Answer the texts in a warm process; then look up what the index alone gives for them."""
    with open_library(home, key) as library:
        texts = query_texts(library._model.labeler.label_list().names, WARM_UP + QUERIES)
        for text in texts[:WARM_UP]:
            library.search(Query(text=text))
        rows, hits = time_queries(library, texts[WARM_UP:])
        rss_mb = peak_rss_mb()
        index = library._shelf().text
        vectors = np.stack([library._model.labeler.query_vector(text) for text in texts[:RECALL_QUERIES]])
        found = index.search(vectors, TEN)[0]
    total, text_s, scan_s = np.array(rows).T * 1000
    say(f"p50 of text encoding {np.median(text_s):.1f} ms, of the scan {np.median(scan_s):.1f} ms; answers with hits: {hits}")
    return {
        "p50_ms": float(np.median(total)),
        "p99_ms": float(np.percentile(total, 99)),
        "overhead_ms": float(np.median(total - text_s - scan_s)),
        "text_ms": float(np.median(text_s)),
        "scan_ms": float(np.median(scan_s)),
        "answered": hits / QUERIES,
        "rss_mb": rss_mb,
        "found": found.tolist(),
    }


def time_queries(library: Any, texts: list[str]) -> tuple[list[tuple[float, float, float]], int]:  # noqa: ANN401
    """Seconds a query in all, in text encoding and in the index's scan; and how many were answered."""
    watch = Stopwatch()
    watch.wrap(library._model.labeler._sentences, "encode", "text")
    scan = library._shelf().text._scan
    if scan is not None:
        watch.wrap(scan, "search", "scan")
    rows, hits = [], 0
    for text in texts:
        watch.seconds = {}
        started_s = time.perf_counter()
        answer = library.search(Query(text=text))
        total_s = time.perf_counter() - started_s
        rows.append((total_s, watch.seconds.get("text", 0.0), watch.seconds.get("scan", 0.0)))
        hits += bool(answer.hits)
    return rows, hits


def recall(found: list[list[int]], segments: int) -> float:
    """The share of the exact float32 search's ten best that the index found too; ids count from 1 in order of the rows."""
    model = Model(Bundle.load(BASE_MODEL))
    synthetic = Synthetic(model, segments)
    texts = query_texts(synthetic.labels, WARM_UP + QUERIES)[:RECALL_QUERIES]
    vectors = np.stack([model.labeler.query_vector(text) for text in texts])
    best = np.full((len(texts), TEN), -np.inf, np.float32)
    ids = np.zeros((len(texts), TEN), np.int64)
    first_id = 1
    for _, rows in synthetic.calls():
        scores = np.concatenate([best, vectors @ rows.weighted.T], axis=1)
        new = np.broadcast_to(np.arange(first_id, first_id + len(rows.text)), (len(texts), len(rows.text)))
        places = np.argpartition(-scores, TEN, axis=1)[:, :TEN]
        best = np.take_along_axis(scores, places, axis=1)
        ids = np.take_along_axis(np.concatenate([ids, new], axis=1), places, axis=1)
        first_id += len(rows.text)
    shares = [len(set(exact) & set(row)) / TEN for exact, row in zip(ids.tolist(), found, strict=True)]
    return statistics.mean(shares)


def measure(segments: int, keep: Path | None) -> dict[str, Any]:
    """Build, ask in fresh processes, compare."""
    with working_folder(keep) as folder:
        home, key = folder / "home", folder / "key"
        build_home(home, key, segments)
        started_s = time.time()
        cold, _ = run_part(__file__, "--part", "first_answer", "--home", home, "--key", key)
        say("cold start done")
        asked, _ = run_part(__file__, "--part", "ask", "--home", home, "--key", key)
        say("comparing with an exact search")
        found = asked.pop("found")
        cold_key = "cold_1m_s" if segments == MILLION else "cold_s"
        result = {**asked, "recall_at_10": recall(found, segments), cold_key: cold["end_s"] - started_s, "segments": segments}
    return {name: round(value, 4) for name, value in result.items()}


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = Parser(__doc__)
    parser.add_argument("--segments", type=at_least(1), default=MILLION)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--part", choices=["ask", "first_answer"], help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--key", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line; `--part` is how it calls itself."""
    options = arguments()
    if options.part:
        part = ask if options.part == "ask" else first_answer
        print(json.dumps(part(options.home, options.key)))
        return
    finish(measure(options.segments, options.keep))


if __name__ == "__main__":
    run(main)
