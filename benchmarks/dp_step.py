"""What privacy costs a training step of the head: DP-SGD (Opacus's gradients, our clipping, grid and noise) over the same step without.

Both take a drawn batch of the same clips through the same correction and move the same 24,960 weights, on one thread. The plain step is
what torch does by itself: float32, one backward pass, SGD. Steps alternate, and medians are compared, so that a busy machine
slows both. Synthetic encoder outputs: a step's time doesn't depend on what they say.

    python benchmarks/dp_step.py [--clips 256] [--expected 32] [--segments 20] [--steps 60]

The last line is one JSON object; `vs_plain` is the ratio of the medians.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from earmark_client.learn.correction import ClipGradients, Correction, clip_losses
from earmark_client.learn.finetune import (
    ClipBatch,
    ClipBatches,
    Integers,
    TrainingPlan,
    TrainingSet,
    planned_event,
    private_gradient,
)
from earmark_shared.head import Arrays, HeadSchema, first_head, flatten, unit_rows
from earmark_shared.privacy.mechanism import poisson_sample

LABELS = 50


def make_clips(count: int, segments: int) -> TrainingSet:
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(count), segments)
    targets = np.zeros((count, LABELS), dtype=np.int8)
    targets[np.arange(count), rng.integers(0, LABELS, count)] = 1
    return TrainingSet(
        encoder_outputs=rng.normal(size=(len(owners), 1024)).astype("f4"),
        text=unit_rows(rng.normal(size=(len(owners), 384)).astype("f4")),
        clips=owners,
        targets=targets[owners],
        label_vectors=unit_rows(rng.normal(size=(LABELS, 384)).astype("f4")),
    )


def as_float32(data: TrainingSet) -> TrainingSet:
    return replace(data, encoder_outputs=data.encoder_outputs.astype("f4"), text=data.text.astype("f4"))


class Plain:
    """The step without DP."""

    def __init__(self, schema: HeadSchema, head: Arrays, data: TrainingSet, plan: TrainingPlan) -> None:
        self.module = Correction(schema, head).float()
        self.labels = torch.from_numpy(data.label_vectors)
        self.optimizer = torch.optim.SGD([w for w in self.module.parameters() if w.requires_grad], lr=plan.learning_rate)
        self.plan = plan

    def step(self, batch: ClipBatch) -> None:
        self.optimizer.zero_grad()
        text = self.module(torch.from_numpy(batch.encoder_outputs), torch.from_numpy(batch.text))
        (clip_losses(text @ self.labels.T * self.plan.sharpness, batch).sum() / self.plan.expected_clips).backward()
        self.optimizer.step()


def timed(work: Callable[[Integers], None], drawn: Integers) -> float:
    began = time.perf_counter()
    work(drawn)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("clips", 256), ("expected", 32), ("segments", 20), ("steps", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="Full backward hook is firing")

    schema = HeadSchema(1024, 384, 64, ("up", "bias"), tuple(f"label {number}" for number in range(LABELS)))
    head, data = first_head(schema, b"benchmark"), make_clips(options.clips, options.segments)
    plan = TrainingPlan(clipping_bound=1.0, noise_multiplier=1.0, expected_clips=options.expected, steps=1, learning_rate=0.1)
    probability = planned_event(plan, options.clips).sampling_probability
    gradients, weights = ClipGradients(schema, head, data.label_vectors, plan.sharpness), flatten(schema, head).astype(np.float64)
    prepared, plain = gradients.prepared(data), Plain(schema, head, data, plan)
    batches, narrow = ClipBatches(prepared), ClipBatches(as_float32(prepared))

    def private_step(drawn: Integers) -> None:
        nonlocal weights
        weights = weights - plan.learning_rate * private_gradient(
            gradients, weights, batches, drawn, plan=plan, entropy=os.urandom
        )

    def plain_step(drawn: Integers) -> None:
        for batch in narrow.of(drawn):
            plain.step(batch)

    private_s, plain_s = [], []
    for _ in range(options.steps + 5):
        drawn = poisson_sample(options.clips, probability, os.urandom)
        private_s.append(timed(private_step, drawn))
        plain_s.append(timed(plain_step, drawn))
    dp_ms, plain_ms = 1e3 * median(private_s[5:]), 1e3 * median(plain_s[5:])
    print(f"{schema.size} parameters, {options.expected} clips of {options.segments} segments a step, median of {options.steps}")
    print(json.dumps({"vs_plain": round(dp_ms / plain_ms, 2), "dp_ms": round(dp_ms, 2), "plain_ms": round(plain_ms, 2)}))


if __name__ == "__main__":
    main()
