"""How well does a library find what is asked for, by words and by example, and does it know when there is nothing?

    python benchmarks/retrieval.py --data DIR --csv FILE --queries FILE [--known-queries FILE]

Everything goes through `Library` with the shipped model. Clips of one recording (`freesound_id` or `group`) never answer each other.
Last line: one JSON object with text_map, reworded_map, qbe_map, qbe_top1, present_top1, present_kept, absent_nothing, clips; null where
there is nothing to measure. With --known-queries (what the model's calibration has seen), text_map_new, reworded_map_new,
present_top1_new, present_kept_new and absent_nothing_new are the same over the labels that neither are in that file nor have a query in it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from common import Parser, Queries, Row, add_rows, data_folder, finish, queries, read_rows, run, table

from earmark_client.library import Library
from earmark_client.records import Query
from earmark_client.store.keys import KeyFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Found = TypeVar("Found")
ByLabel = dict[str, list[Found]]
"""What came of each query of a label."""
KEYS = ("text_map", "reworded_map", "qbe_map", "qbe_top1", "present_top1", "present_kept", "absent_nothing")


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


def by_words(library: Library, rows: list[Row], asked: Queries, kind: str) -> tuple[ByLabel[float], ByLabel[bool]]:
    """Average precision and whether the first hit is right, for each query of a kind."""
    precisions: ByLabel[float] = {}
    firsts: ByLabel[bool] = {}
    for label, texts in asked.items():
        relevant = {str(row.path) for row in rows if row.label == label}
        for text in texts.get(kind, []) if relevant else []:
            ranked = ranking(library, Query(text=text, limit=None, min_score=0.0))
            precisions.setdefault(label, []).append(average_precision(ranked, relevant))
            firsts.setdefault(label, []).append(bool(ranked) and ranked[0] in relevant)
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


def kept(library: Library, rows: list[Row], asked: Queries) -> ByLabel[bool]:
    """For each seen query, whether the default threshold still answers with a right clip."""
    outcome: ByLabel[bool] = {}
    for label, texts in asked.items():
        relevant = {str(row.path) for row in rows if row.label == label}
        answers = [library.search(Query(text=text, limit=len(rows))) for text in texts["seen"]] if relevant else []
        outcome[label] = [any(hit.path in relevant for hit in answer.hits) for answer in answers]
    return outcome


def nothing(library: Library, rows: list[Row], asked: Queries) -> ByLabel[bool]:
    """For each seen query, whether *nothing found* is the answer once all clips of its label are gone.

    The clips are really removed, and added again afterwards.
    """
    outcome: ByLabel[bool] = {}
    for label, texts in asked.items():
        gone = [row.path for row in rows if row.label == label]
        if not gone:
            continue
        library.remove([str(path) for path in gone])
        outcome[label] = [not library.search(Query(text=text)).hits for text in texts["seen"]]
        library.add(gone)
    return outcome


def new_labels(asked: Queries, known: Queries) -> set[str]:
    """The labels that `known` neither has nor has a query of, whatever the kind and the case of its letters."""
    texts_of = {label: {text.casefold() for texts in kinds.values() for text in texts} for label, kinds in asked.items()}
    seen = {text.casefold() for kinds in known.values() for texts in kinds.values() for text in texts} | {
        label.casefold() for label in known
    }
    return {label for label, texts in texts_of.items() if not (texts | {label.casefold()}) & seen}


def mean(found: Sequence[float]) -> float | None:
    """The mean, as it is printed; None of nothing."""
    return round(float(np.mean(found)), 4) if len(found) else None


def over(found: ByLabel[float] | ByLabel[bool], labels: set[str]) -> float | None:
    """The mean over all queries of these labels."""
    return mean([one for label, each in found.items() if label in labels for one in each])


def ask_all(library: Library, rows: list[Row], asked: Queries, known: Queries | None) -> dict[str, float | int | None]:
    """Ask a library of all rows everything."""
    seen, first = by_words(library, rows, asked, "seen")
    reworded, _ = by_words(library, rows, asked, "reworded")
    examples, example_first = by_example(library, rows)
    words = {
        "text_map": seen,
        "reworded_map": reworded,
        "present_top1": first,
        "present_kept": kept(library, rows, asked),
        "absent_nothing": nothing(library, rows, asked),
    }
    figures = {name: over(found, set(asked)) for name, found in words.items()}
    figures |= {"qbe_map": mean(examples), "qbe_top1": mean(example_first)}
    result: dict[str, float | int | None] = {name: figures[name] for name in KEYS}
    result["clips"] = library.status().clips
    if known is not None:
        new = new_labels(asked, known)
        result |= {f"{name}_new": over(found, new) for name, found in words.items()}
    return result


def measure(options: argparse.Namespace) -> dict[str, float | int | None]:
    """Build a library of the data set and ask it everything."""
    rows = read_rows(options.data, options.csv, options.queries)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        with Library.create(home, unlock=KeyFile(Path(folder) / "key")) as library:
            return ask_all(library, add_rows(library, rows), options.queries, options.known_queries)


def parser_of(told: str | None) -> Parser:
    """A command line that names a data set and its queries."""
    parser = Parser(told)
    parser.add_argument("--data", type=data_folder, required=True)
    parser.add_argument("--csv", type=table, required=True)
    parser.add_argument("--queries", type=queries, required=True)
    return parser


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = parser_of(__doc__)
    parser.add_argument("--known-queries", type=queries, help="the queries that the model was calibrated with, as in --queries")
    return parser.parse_args(given)


def main() -> None:
    """Run from the command line."""
    finish(measure(arguments()))


if __name__ == "__main__":
    run(main)
