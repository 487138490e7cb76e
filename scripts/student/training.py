"""Distillation: the student learns to give the teacher's embedding while every value is rounded as it will be when it is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from student.lessons import SHARD
from student.network import ACTIVATION_STEP, FLOAT_LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from student.lessons import Lessons
    from student.network import Encoder
    from student.sounds import Floats

    Halves = npt.NDArray[np.float16]

BATCH = 32
SAVE_EVERY = 50
CHECK_EVERY = 250
WARM_UP = 50


@dataclass(frozen=True)
class Plan:
    """How long and how fast, `rate` in steps of the grids that values are rounded to; `seed` orders the lessons."""

    steps: int
    rate: float
    seed: int
    shards: int
    device: str = "cpu"


class Loss(nn.Module):
    """Three shares of what the student leaves unexplained: of the embedding, of its square root, of the class evidence.

    The first counts each of the 1024 numbers by its own spread; square roots are what sound vectors are made of, classes what text
    vectors are made of. Evidence is squeezed where a class is certain either way. In the first, a patch counts less the farther its
    embedding is from the usual: YAMNet answers near silence thirty times as loud as any sound, and a few such would decide it all.
    """

    def __init__(self, embedding: Tensor, kernel: Floats, bias: Floats) -> None:
        super().__init__()
        spread = embedding.std(dim=0)
        self.register_buffer("spread", spread + 0.05 * spread.mean())
        self.register_buffer("middle", embedding.median(dim=0).values)
        root = torch.sqrt(embedding).std(dim=0)
        self.register_buffer("root_spread", root + 0.05 * root.mean())
        self.register_buffer("kernel", torch.from_numpy(kernel))
        self.register_buffer("bias", torch.from_numpy(bias))
        self.register_buffer("evidence_spread", self.evidence(embedding).std(dim=0))

    def evidence(self, embedding: Tensor) -> Tensor:
        """`(n, classes)` squeezed logits."""
        return 6 * torch.tanh((embedding @ self.kernel + self.bias + 3) / 6)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """A number, 3 or so for a student that knows nothing."""
        unusual = ((theirs - self.middle) / self.spread).square().mean(dim=1)
        plain = (((ours - theirs) / self.spread).square().mean(dim=1) / (1 + unusual)).mean()
        root = ((torch.sqrt(ours + 1e-3) - torch.sqrt(theirs + 1e-3)) / self.root_spread).square().mean()
        evidence = ((self.evidence(ours) - self.evidence(theirs)) / self.evidence_spread).square().mean()
        return plain + root + evidence


def rate_at(step: int, plan: Plan) -> float:
    """Warm-up, then half a cosine to nothing."""
    return plan.rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / plan.steps))


class Training:
    """One run; `folder`/NAME.pt holds all that is needed to go on with it."""

    def __init__(self, student: Encoder, loss: Loss, plan: Plan, path: Path) -> None:
        self.student, self.loss = student.to(plan.device), loss.to(plan.device)
        self._plan, self._path = plan, path
        learning = student.layers[FLOAT_LAYERS:]
        for layer in learning:
            layer.count_in(layer.scale)
        self._optimizer = torch.optim.Adam(
            [
                {"params": [layer.kernel for layer in learning], "unit": 1.0},
                {"params": [layer.bias for layer in learning], "unit": ACTIVATION_STEP},
            ],
            betas=(0.9, 0.99),
        )
        self._step = 0
        if path.exists():
            stored = torch.load(path, map_location=plan.device)
            student.load_state_dict(stored["student"])
            self._optimizer.load_state_dict(stored["optimizer"])
            self._step = stored["step"]

    def run(self, lessons: Lessons, say: Callable[[str], None], check: Callable[[], None]) -> None:
        """Train until the plan's last step, saving on the way and calling `check` every `CHECK_EVERY` steps."""
        passing, since = 0.0, self._step
        for patches, embedding in self._batches(lessons):
            passing += self._learn(patches, embedding)
            self._step += 1
            if self._step % SAVE_EVERY == 0 or self._step == self._plan.steps:
                say(f"step {self._step} of {self._plan.steps}: loss {passing / (self._step - since):.4f}")
                passing, since = 0.0, self._step
                self._save()
            if self._step % CHECK_EVERY == 0:
                check()

    def _batches(self, lessons: Lessons) -> Iterator[tuple[Halves, Halves]]:
        """Patches and embeddings from the step that is due on: shard after shard, each time in an order of its own."""
        per_shard = SHARD // BATCH
        while self._step < self._plan.steps:
            turn = self._step // per_shard
            patches, embedding = lessons.shard(turn % self._plan.shards)
            order = np.random.default_rng((self._plan.seed, turn)).permutation(SHARD)
            for place in range(self._step % per_shard, min(per_shard, self._plan.steps - turn * per_shard)):
                rows = np.sort(order[place * BATCH : (place + 1) * BATCH])
                yield patches[rows], embedding[rows]

    def _learn(self, patches: Halves, embedding: Halves) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(self._step, self._plan) * group["unit"]
        ours = self.student(torch.from_numpy(patches.astype(np.float32)).to(self._plan.device))
        loss = self.loss(ours, torch.from_numpy(embedding.astype(np.float32)).to(self._plan.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self._optimizer.step()
        return float(loss.detach())

    def _save(self) -> None:
        state = {"student": self.student.state_dict(), "optimizer": self._optimizer.state_dict(), "step": self._step}
        partial = self._path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self._path)
