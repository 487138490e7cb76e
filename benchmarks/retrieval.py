"""How well does a library find what is asked for, by words and by example, and does it know when there is nothing?

    python benchmarks/retrieval.py --data DIR --csv FILE --queries FILE

Everything goes through `Library` with the shipped model. Clips of one recording (`freesound_id` or `group`) never answer each other.
Last line: one JSON object with text_map, reworded_map, qbe_map, qbe_top1, present_top1, present_kept, absent_nothing, clips.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from earmark_client.library import Library
from earmark_client.records import Query
from earmark_client.store.keys import KeyFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True)
class Row:
    """One labelled file of the data set."""

    path: Path
    label: str
    group: str


def read_rows(data: Path, table: Path) -> list[Row]:
    """Read the data set's table; a clip without a group is a group of its own."""
    with table.open(newline="") as source:
        return [
            Row((data / row["file"]).absolute(), row["label"], row.get("freesound_id") or row.get("group") or row["file"])
            for row in csv.DictReader(source)
        ]


def ranking(library: Library, query: Query) -> list[str]:
    """Paths of all clips, best first: each at its best hit."""
    return list(dict.fromkeys(hit.path for hit in library.search(query).hits))


def average_precision(ranked: list[str], relevant: set[str]) -> float:
    """Mean of the precision at each relevant clip's rank; a clip that is not ranked counts as precision 0."""
    found = 0
    total = 0.0
    for rank, path in enumerate(ranked, 1):
        if path in relevant:
            found += 1
            total += found / rank
    return total / len(relevant)


def by_words(
    library: Library, rows: list[Row], queries: dict[str, dict[str, list[str]]], kind: str
) -> tuple[list[float], list[bool]]:
    """Average precision and whether the first hit is right, for each query of a kind."""
    precisions, firsts = [], []
    for label, texts in queries.items():
        relevant = {str(row.path) for row in rows if row.label == label}
        for text in texts.get(kind, []) if relevant else []:
            ranked = ranking(library, Query(text=text, limit=None, min_score=0.0))
            precisions.append(average_precision(ranked, relevant))
            firsts.append(bool(ranked) and ranked[0] in relevant)
    return precisions, firsts


def each_as_example(rows: Sequence[Row], ranking_of: Callable[[int], Sequence[str]]) -> tuple[list[float], list[bool]]:
    """The same for each clip as query, its own group left out; clips without another relevant group are skipped.

    Args:
        rows: the clips.
        ranking_of: from a clip's place in `rows` to paths, the likest first; its own group may be among them.
    """
    precisions, firsts = [], []
    groups = {str(row.path): row.group for row in rows}
    for place, row in enumerate(rows):
        relevant = {str(other.path) for other in rows if other.label == row.label and other.group != row.group}
        if not relevant:
            continue
        ranked = [path for path in ranking_of(place) if groups[path] != row.group]
        precisions.append(average_precision(ranked, relevant))
        firsts.append(bool(ranked) and ranked[0] in relevant)
    return precisions, firsts


def by_example(library: Library, rows: list[Row]) -> tuple[list[float], list[bool]]:
    """Average precision and whether the first hit is right, as the library answers."""
    return each_as_example(rows, lambda place: ranking(library, Query(like=rows[place].path, limit=None, min_score=0.0)))


def kept(library: Library, rows: list[Row], queries: dict[str, dict[str, list[str]]]) -> list[bool]:
    """For each seen query, whether the default threshold still answers with a right clip."""
    outcome = []
    for label, texts in queries.items():
        relevant = {str(row.path) for row in rows if row.label == label}
        answers = [library.search(Query(text=text, limit=len(rows))) for text in texts["seen"]] if relevant else []
        outcome += [any(hit.path in relevant for hit in answer.hits) for answer in answers]
    return outcome


def nothing(library: Library, rows: list[Row], queries: dict[str, dict[str, list[str]]]) -> list[bool]:
    """For each seen query, whether *nothing found* is the answer once all clips of its label are gone.

    The clips are really removed, and added again afterwards.
    """
    outcome = []
    for label, texts in queries.items():
        gone = [row.path for row in rows if row.label == label]
        if not gone:
            continue
        library.remove([str(path) for path in gone])
        outcome += [not library.search(Query(text=text)).hits for text in texts["seen"]]
        library.add(gone)
    return outcome


def measure(data: Path, table: Path, query_file: Path) -> dict[str, float | int]:
    """Build a library of the data set and ask it everything."""
    rows = read_rows(data, table)
    queries = json.loads(query_file.read_text())
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with Library.create(home, unlock=KeyFile(Path(folder) / "key")) as library:
            report = library.add([row.path for row in rows])
            for path, problem in report.problems:
                print(f"{path}: {problem}", file=sys.stderr)
            seen, first = by_words(library, rows, queries, "seen")
            reworded, _ = by_words(library, rows, queries, "reworded")
            examples, example_first = by_example(library, rows)
            return {
                "text_map": round(float(np.mean(seen)), 4),
                "reworded_map": round(float(np.mean(reworded)), 4),
                "qbe_map": round(float(np.mean(examples)), 4),
                "qbe_top1": round(float(np.mean(example_first)), 4),
                "present_top1": round(float(np.mean(first)), 4),
                "present_kept": round(float(np.mean(kept(library, rows, queries))), 4),
                "absent_nothing": round(float(np.mean(nothing(library, rows, queries))), 4),
                "clips": library.status().clips,
            }


def arguments(told: str | None) -> argparse.Namespace:
    """A data set and its queries, from the command line."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    options = arguments(__doc__)
    print(json.dumps(measure(options.data, options.csv, options.queries)))


if __name__ == "__main__":
    main()
