"""Clipped gradients from Opacus equal a loop over clips, segment by segment; the torch module equals the numpy formula."""

from dataclasses import replace

import numpy as np
import pytest
from tests.support.privacy import small_head, small_schema, training_set

from earmark_client.learn.finetune import ClipBatches
from earmark_shared.head import correct, flatten, unflatten
from earmark_shared.privacy.mechanism import GRID_STEPS, grid_sum

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")
SHARPNESS = 20.0
TRAINED = [("up", "bias"), ("up",), ("down", "up", "bias"), ("down", "shift", "up", "bias")]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    import torch  # loaded when the first of these tests runs, not by whoever collects them

    torch.set_num_threads(1)


def gradients_of(schema, head, data):
    """The product's gradients of every clip, by Opacus."""
    from earmark_client.learn.correction import ClipGradients

    return ClipGradients(schema, head, data.label_vectors, SHARPNESS)


def unit(vector):
    return vector / vector.norm().clamp(min=1e-12)


def segment_loss(weights, output, text, labels, targets):
    """One segment's loss, in words of one syllable: no batch, no padding, no layer."""
    import torch

    feature = unit(weights["down"] @ output + weights["shift"])
    corrected = unit(unit(text) + weights["up"] @ feature + weights["bias"])
    chances = torch.softmax(SHARPNESS * labels @ corrected, dim=0)
    yes, no = chances[targets > 0], chances[targets < 0]
    loss = torch.zeros((), dtype=torch.float64)
    if len(yes):
        loss = loss - torch.log(yes).mean()
    if len(no):
        loss = loss - torch.log(1.0 - no).mean()
    return loss


def brute_force(schema, head, data, clip):
    """The average of a clip's segment gradients, one backward pass a segment."""
    import torch

    labels = torch.from_numpy(data.label_vectors).double()
    total = np.zeros(schema.size)
    mine = np.flatnonzero(data.clips == clip)
    for segment in mine:
        weights = {name: torch.tensor(head[name], dtype=torch.float64, requires_grad=True) for name in head}
        output = torch.from_numpy(data.encoder_outputs[segment]).double()
        text = torch.from_numpy(data.text[segment]).double()
        segment_loss(weights, output, text, labels, torch.from_numpy(data.targets[segment])).backward()
        total += np.concatenate([weights[name].grad.numpy().ravel() for name in schema.trained])
    return total / len(mine)


@pytest.mark.parametrize("trained", TRAINED)
def test_clipped_gradients_equal_a_loop_over_segments(trained):
    schema = small_schema(trained=trained)
    head, data = small_head(schema), training_set(schema, clips=12)
    gradients = gradients_of(schema, head, data)
    drawn = np.array([0, 3, 4, 9, 11])
    (batch,) = ClipBatches(gradients.prepared(data)).of(drawn)
    found = gradients.of(flatten(schema, head).astype(np.float64), batch)
    wanted = np.array([brute_force(schema, head, data, clip) for clip in drawn])
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()

    bound = float(np.median(np.linalg.norm(wanted, axis=1)))
    clipped = sum(row * min(1.0, bound / np.linalg.norm(row)) for row in wanted)
    assert np.abs(grid_sum(found, bound) * (bound / GRID_STEPS) - clipped).max() <= 1e-5 * bound


def test_control_clipping_segments_instead_of_clips_is_another_sum():
    schema = small_schema()
    head, data = small_head(schema), training_set(schema, clips=12, most_segments=8)
    wanted = np.array([brute_force(schema, head, data, clip) for clip in range(12)])
    bound = float(np.median(np.linalg.norm(wanted, axis=1)))
    per_segment = np.concatenate([wanted] * 2)
    assert np.abs(grid_sum(per_segment, bound) - grid_sum(wanted, bound)).max() > 1e-3 * GRID_STEPS


def test_gradients_are_those_of_the_weights_asked_for():
    schema = small_schema()
    head, data = small_head(schema), training_set(schema, clips=6)
    gradients = gradients_of(schema, first := small_head(schema, seed=7), data)
    (batch,) = ClipBatches(gradients.prepared(data)).of(np.arange(6))
    gradients.of(flatten(schema, first).astype(np.float64), batch)
    moved = unflatten(schema, flatten(schema, head), first)
    found = gradients.of(flatten(schema, head).astype(np.float64), batch)
    wanted = np.array([brute_force(schema, moved, data, clip) for clip in range(6)])
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_the_module_is_the_shared_formula():
    import torch

    from earmark_client.learn.correction import Correction

    schema = small_schema()
    head, data = small_head(schema), training_set(schema, clips=9)
    module = Correction(schema, head)
    found = module.move(module.hear(torch.from_numpy(data.encoder_outputs).double()), torch.from_numpy(data.text).double())
    assert np.abs(found.detach().numpy() - correct(head, data.encoder_outputs, data.text)).max() < 1e-5


def test_another_clip_in_the_batch_changes_no_step_of_the_grid():
    """The sum moves by the clip's own part: the others' last bits stay below the grid."""
    schema = small_schema(inputs=200, outputs=100, rank=20)
    head, data = small_head(schema), training_set(schema, clips=80, most_segments=9)
    gradients = gradients_of(schema, head, data)
    weights, batches = flatten(schema, head).astype(np.float64), ClipBatches(gradients.prepared(data))

    def total(drawn):
        return sum(grid_sum(gradients.of(weights, part), 0.5) for part in batches.of(drawn))

    everybody = np.arange(70)
    for left_out in (0, 31, 69):
        moved = total(everybody) - total(np.delete(everybody, left_out))
        assert np.linalg.norm(moved) <= GRID_STEPS * (1 + 1e-6)
        assert np.abs(moved - total(np.array([left_out]))).max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_clip_that_gives_no_number_leaves_the_others_alone(value):
    schema = small_schema()
    head, data = small_head(schema), training_set(schema, clips=12)
    spoilt = data.encoder_outputs.copy()
    spoilt[data.clips == 3] = value
    gradients = gradients_of(schema, head, data)
    weights, everybody = flatten(schema, head).astype(np.float64), np.arange(12)
    (clean,) = ClipBatches(gradients.prepared(data)).of(everybody)
    (spoilt_batch,) = ClipBatches(gradients.prepared(replace(data, encoder_outputs=spoilt))).of(everybody)
    others = everybody != 3
    assert np.abs(gradients.of(weights, spoilt_batch)[others] - gradients.of(weights, clean)[others]).max() < 1e-12
