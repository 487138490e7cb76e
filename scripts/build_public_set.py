"""Write the public set that a server's gate judges candidates on, from labelled recordings that anybody may hear.

    python scripts/build_public_set.py --data DIR --csv FILE --out public.safetensors
    python scripts/build_public_set.py --data DIR --csv FILE --out public.safetensors --call rooster=crowing

FILE has the columns `file` (relative to DIR) and `label`; other columns are not looked at. A label is one of the names that devices share
(`earmark labels` lists them). `--call` says what another name means. A recording with an empty label is a *probe*: it has none of the
names, and a candidate that suddenly hears one in it is refused. Rows with names that aren't known are left out, and told.

This needs what a device needs (`pip install '.[device]'`) and runs on any machine but the server, which can't hear. The file goes to
DIR/public.safetensors in the server's folder; the server reads it at its next round.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from earmark_client.audio.decode import Decoder
from earmark_client.describe import Model
from earmark_client.library import BASE_MODEL
from earmark_client.model.bundle import Bundle
from earmark_server.gate import LEAST_EXAMPLES, Judging, PublicSet, judge
from earmark_shared.base_head import base_arrays, base_schema, base_version
from earmark_shared.errors import AudioError
from earmark_shared.files import write_atomic

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import Parser, data_folder, lines_of, run, table

Floats = npt.NDArray[np.float32]
SEGMENTS_MOST = 4
"""Segments kept of a recording: its loudest, which are the likeliest to hold what it is named for."""
PROBE = -1


@dataclass(frozen=True)
class Recording:
    """One row of the table."""

    path: Path
    label: int
    """Index of the schema's label; PROBE if it has none."""


def read_table(path: Path, data: Path, labels: Sequence[str], meaning: Mapping[str, str]) -> list[Recording]:
    """Return the rows whose label is known, and tell which names aren't; SettingsError if there is no such table."""
    places, unknown, found = {name: place for place, name in enumerate(labels)}, set(), []
    for row in lines_of(path):
        name = row["label"].strip()
        name = meaning.get(name, name)
        if name and name not in places:
            unknown.add(name)
        else:
            found.append(Recording(data / row["file"], places[name] if name else PROBE))
    for name in sorted(unknown):
        near = ", ".join(difflib.get_close_matches(name, labels, 3)) or "nothing like it"
        print(
            f"left out: {name!r} is not a shared name (there is: {near}); say what it means: --call {name}=...", file=sys.stderr
        )
    return found


def loudest(cuts: Sequence[Floats]) -> Floats:
    """Return at most SEGMENTS_MOST of a recording's waveforms, in their order."""
    power = np.array([float(np.square(cut).mean()) for cut in cuts])
    return np.stack([cuts[place] for place in np.sort(np.argsort(-power, kind="stable")[:SEGMENTS_MOST])])


def describe(recordings: Sequence[Recording], model: Model) -> Iterator[tuple[int, Floats, Floats]]:
    """Yield label, encoder outputs and text vectors of every recording that can be read and isn't silent."""
    with Decoder() as decoder:
        for recording in recordings:
            segmenter = model.segmenter()
            try:
                with decoder.open(recording.path, roots=(recording.path.parent,)) as stream:
                    cuts = [cut.waveform for block in stream for cut in segmenter.push(block)]
                    cuts += [cut.waveform for cut in segmenter.flush()]
            except AudioError as error:
                print(f"left out: {error}", file=sys.stderr)
                continue
            if cuts:
                vectors, encoder = model.describe(loudest(cuts))
                yield recording.label, encoder, vectors.text


def build(recordings: Sequence[Recording], model: Model) -> PublicSet:
    """Return what the shipped model makes of them; SystemExit if there is nothing to judge by."""
    schema, listed = base_schema(), model.labeler.label_list()
    encoder = {True: [np.zeros((0, schema.inputs), np.float32)], False: [np.zeros((0, schema.inputs), np.float32)]}
    text = {True: [np.zeros((0, schema.outputs), np.float32)], False: [np.zeros((0, schema.outputs), np.float32)]}
    labels: list[int] = []
    for label, heard, said in describe(recordings, model):
        encoder[label == PROBE].append(heard)
        text[label == PROBE].append(said)
        labels += [label] * (len(heard) if label != PROBE else 0)
    if not labels:
        sys.exit("none of the recordings has a shared name and can be read")
    places = {name: place for place, name in enumerate(listed.names)}
    return PublicSet(
        encoder=np.concatenate(encoder[False]),
        text=np.concatenate(text[False]),
        labels=np.array(labels, np.int32),
        label_vectors=listed.vectors[[places[name] for name in schema.labels]].astype(np.float32),
        probe_encoder=np.concatenate(encoder[True]),
        probe_text=np.concatenate(text[True]),
    )


def tell(public: PublicSet) -> None:
    """Say what the set can judge."""
    schema, first = base_schema(), base_arrays()
    counts = np.bincount(public.labels, minlength=len(schema.labels))
    report = judge(first, Judging(schema, first, public))
    print(f"{len(public.labels)} segments of {np.count_nonzero(counts)} names, {len(public.probe_encoder)} probes")
    print(
        f"names with the {LEAST_EXAMPLES} segments that it takes to be judged alone: {np.count_nonzero(counts >= LEAST_EXAMPLES)}"
    )
    print(f"the first head is right about {report.accuracy:.1%} of the segments")


def pair(text: str) -> tuple[str, str]:
    """Read NAME=MEANING."""
    name, is_there, meaning = text.partition("=")
    if not (name and is_there):
        raise argparse.ArgumentTypeError("write NAME=MEANING")
    return name, meaning


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=data_folder, required=True, help="where the recordings are")
    parser.add_argument("--csv", type=table, required=True, help="the table: file,label")
    parser.add_argument("--out", type=Path, required=True, help="what to write")
    parser.add_argument(
        "--call", type=pair, action="append", default=[], metavar="NAME=MEANING", help="what a name means; empty: a probe"
    )
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Write the set."""
    chosen = arguments(given)
    model = Model(Bundle.load(BASE_MODEL))
    if model.base_version != base_version():
        sys.exit(f"the model here is {model.base_version}, the federation's is {base_version()}")
    recordings = read_table(chosen.csv, chosen.data, base_schema().labels, dict(chosen.call))
    public = build(recordings, model)
    data = public.dump()
    PublicSet.load(base_schema(), data)
    write_atomic(chosen.out, data)
    tell(public)
    return 0


if __name__ == "__main__":
    run(main)
