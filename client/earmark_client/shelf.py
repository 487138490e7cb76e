"""What a search needs in memory: the catalogue of segments, the vector indexes and what people said, in step with the database.

Index rows are *weighted text vectors*, a segment's unit text vector times its strength, so that an inner product with a query is
already the evidence that ranking wants. The sound index is loaded by the first search by example.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from earmark_client.catalogue import Catalogue
from earmark_client.labelling import LabelSet
from earmark_client.store.blocks import Block
from earmark_client.store.vectors import EXACT_BELOW, VectorIndex

if TYPE_CHECKING:
    import numpy.typing as npt

    from earmark_client.catalogue import Pool
    from earmark_client.describe import Model
    from earmark_client.records import Correction
    from earmark_client.store.database import Database, LabelRow

    Floats = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

MOST_NEW_SEGMENTS = 100_000
"""More new segments than this are loaded afresh, so that a large index is trained on them too."""


class Shelf:
    """The searchable vectors of one model version; a released head has text vectors of its own, and the base model's other ones."""

    def __init__(self, database: Database, model: Model) -> None:
        """Load the catalogue and the text index."""
        self._database = database
        self._model = model
        self._labels: LabelSet | None = None
        self.model_version = model.version
        self._versions = {"text": model.version, "sound": model.base_version, "strength": model.base_version}
        self._dims = {"text": model.labeler.text_dim, "sound": model.labeler.sound_dim}
        self._load()

    def _load(self) -> None:
        with self._database.snapshot():
            self._read_sayings()
            self.text = self._build("text")
            self.catalogue = self._read_catalogue(self.text.ids)
        self._sound: VectorIndex | None = None
        self._rows: Ints | None = None

    @property
    def sound(self) -> VectorIndex:
        """The index for search by example; ask within the snapshot in which the shelf was found current, or segments may be gone."""
        if self._sound is None:
            with self._database.snapshot():
                self._sound = self._build("sound")
        return self._sound

    @property
    def labels(self) -> LabelSet:
        """The label list in force."""
        if self._labels is None:
            self._labels = LabelSet(self._model, self.own_labels)
        return self._labels

    @property
    def is_current(self) -> bool:
        """Whether nothing at all was committed since the shelf was last filled: no sound, label, correction or model."""
        return self._database.epoch == self._epoch

    def refresh(self) -> None:
        """Take in what was added or removed since, by this process or another."""
        with self._database.snapshot():
            self._read_sayings()
            stored = self._database.segments().ids
            new, gone = np.setdiff1d(stored, self.text.ids), np.setdiff1d(self.text.ids, stored)
            if len(new) > MOST_NEW_SEGMENTS:
                self._load()
                return
            if len(new) or len(gone):
                self._change(self.text, "text", new, gone)
                if self._sound is not None:
                    self._change(self._sound, "sound", new, gone)
                self.catalogue = self._read_catalogue(self.text.ids)
                self._rows = None

    def text_scores(self, pool: Pool, target: Floats) -> Floats:
        """Inner products of the pool's weighted text vectors with `target` `(dim,)`: `(segments,) float32`."""
        if len(pool.ids) * 4 < len(self.catalogue):
            scores: Floats = self.text.vectors(pool.ids) @ target
            return scores
        ids, every = self.text.scores_all(target)
        if self._rows is None:
            order = np.argsort(
                ids, kind="stable"
            )  # a clip that an interrupted `add` began has lower ids than those that came before
            self._rows = order[np.searchsorted(ids, self.catalogue.ids, sorter=order)]
        return every[self._rows[pool.positions]]

    def _read_sayings(self) -> None:
        # Once a change and not once a search: each statement of an encrypted database costs a search up to a millisecond.
        self._epoch = self._database.epoch
        self.corrections: list[Correction] = self._database.corrections()
        self.own_labels: list[LabelRow] = self._database.label_list()
        self._labels = None

    def _change(self, index: VectorIndex, kind: str, new: Ints, gone: Ints) -> None:
        if len(gone):
            index.remove(gone)
        if len(new):
            block = self._database.fetch(kind, self._versions[kind], new)
            index.add(self._weighted(block) if kind == "text" else block)

    def _build(self, kind: str) -> VectorIndex:
        blocks = self._database.blocks(kind, self._versions[kind])
        if kind == "text":
            blocks = (self._weighted(block) for block in blocks)
        dtype = "float16" if kind == "text" else "int8"
        return VectorIndex.build(
            self._dims[kind], blocks, dtype=dtype, model_version=self._versions[kind], exact_below=EXACT_BELOW
        )

    def _weighted(self, block: Block) -> Block:
        strength = self._database.fetch("strength", self._versions["strength"], block.ids).float32()[:, 0]
        return Block(block.ids, block.rows, strength if block.scales is None else strength * block.scales)

    def _read_catalogue(self, ids: Ints) -> Catalogue:
        """Read times and clips of the segments that have vectors of this model."""
        table = self._database.segments()
        keep = np.isin(table.ids, ids)
        return Catalogue.order(table.ids[keep], table.clip_ids[keep], table.start_s[keep], table.end_s[keep])
