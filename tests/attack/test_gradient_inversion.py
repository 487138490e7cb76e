"""D11: from what a device sends back to its sound. A lone, raw update gives the sound away; a private one, or a sum of twenty, does not.

The attacker knows the model, the head, every label, and has the very recordings, cut at every 10 ms; the victim's clip is a piece of
one of them, cut anywhere and at another level. One clip's raw gradient is an outer product, from which the head's feature is read off
exactly; the nearest known piece is the picture. Baseline: a piece at random. Nine recordings, so chance is one in nine.
"""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm
from tests.house.sources import ROOT
from tests.soundmaker import noise, tone
from tests.support.inversion import RATE_HZ, Pieces, Victim, cosines, recordings, similarity
from tests.support.privacy import ReplayableEntropy

from earmark_client.federation.device import training_plan
from earmark_client.learn.finetune import planned_event, train
from earmark_shared.privacy.accountant import RECORD_DELTA, closed_form_epsilon, record_epsilon

SOUNDS = Path(ROOT) / ".cache" / "sounds"
CLIPS, VICTIMS, SUMMED = 64, 198, 20
LOUD = 0.02
"""Root mean square below which a piece is silence, which the product skips."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class World:
    """Recordings, the attacker's pieces of them, the victims' clips, and what each would send."""

    def __init__(self):
        self.victim, self.draw = Victim(), np.random.default_rng(5)
        self.size = self.victim.model.features.spec.segment_samples
        self.sounds = [sound for sound in recordings(SOUNDS).values() if len(sound) > 2 * RATE_HZ]
        cuts = [(place, at) for place, sound in enumerate(self.sounds) for at in range(0, len(sound) - self.size, 160)]
        pieces = [(place, self.sounds[place][at : at + self.size]) for place, at in cuts]
        pieces = [(place, piece) for place, piece in pieces if np.sqrt((piece**2).mean()) > LOUD]
        self.known = self.victim.hear([piece for _, piece in pieces], [place for place, _ in pieces])
        self.clips = self.victim.hear(
            *zip(*[self.private_piece(number % len(self.sounds)) for number in range(VICTIMS)], strict=True)
        )
        self.others = self.victim.hear([self.other_sound(number) for number in range(4 * CLIPS)], np.full(4 * CLIPS, -1))
        self.labels = self.draw.permutation(len(self.victim.schema.labels))[: len(self.sounds)]
        self.raw = self.victim.gradients(self.clips, self.labels[self.clips.source])

    def private_piece(self, place):
        """A piece of a recording, cut anywhere, at another level; as `(waveform, recording)`."""
        while True:
            at = int(self.draw.integers(len(self.sounds[place]) - self.size))
            piece = self.sounds[place][at : at + self.size]
            if np.sqrt((piece**2).mean()) > LOUD:
                return piece * self.draw.uniform(0.5, 1.0), place

    def other_sound(self, number):
        seconds = self.size / RATE_HZ
        if number % 2:
            return noise(seconds, seed=number, level=self.draw.uniform(0.02, 0.3))
        return tone(seconds, self.draw.uniform(100, 4000)) + noise(seconds, seed=number, level=0.01)

    def private_update(self, place):
        """What a device with this clip and 63 others sends, before masking: the product's training by the shipped plan."""
        rows, plan = self.draw.permutation(len(self.others.source))[: CLIPS - 1], training_plan(CLIPS, is_lab=False)
        one, many = self.clips[[place]], self.others[rows]
        together = Pieces(*(np.concatenate(pair) for pair in zip(vars(one).values(), vars(many).values(), strict=True)))
        labels = np.append(self.labels[one.source], self.draw.integers(0, len(self.victim.schema.labels), CLIPS - 1))
        data, paid = self.victim.training_set(together, labels), planned_event(plan, CLIPS)
        return -train(
            self.victim.schema,
            self.victim.arrays,
            data,
            plan,
            paid=paid,
            entropy=ReplayableEntropy(f"inversion {place}".encode()),
        ).update


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def private(world):
    return np.array([world.private_update(place) for place in range(VICTIMS)])


def baseline(world):
    """Mean likeness of a victim's picture to a random known one."""
    rows = world.draw.integers(0, len(world.known.source), (VICTIMS, 3))
    return np.mean(
        [similarity(mine, world.known.log_mel[row]) for mine, row3 in zip(world.clips.log_mel, rows, strict=True) for row in row3]
    )


def pictures(world, rows):
    """Mean likeness of victims' pictures to those of known pieces, and how often the recording is the right one."""
    like = [similarity(mine, world.known.log_mel[row]) for mine, row in zip(world.clips.log_mel, rows, strict=True)]
    return float(np.mean(like)), float((world.known.source[rows] == world.clips.source).mean())


def inverted(world, updates, name):
    """Read features off the updates and take the nearest known piece: likeness, and how often the recording is named."""
    rows, features = world.victim.nearest(world.victim.invert(updates), world.known)
    outputs = world.victim.encoder_outputs(features, world.known.encoder)
    like, named = pictures(world, rows)
    print(
        f"{name}, inverted: SSIM {like:.3f}, encoder cosine {cosines(outputs, world.clips.encoder).mean():.3f}, named {named:.3f}"
    )
    return like, named


def matched(world, updates, name):
    """Compare the updates with what known pieces would have sent: no inversion but the best guess among known sounds that there is."""
    samples = np.concatenate([np.flatnonzero(world.known.source == place)[::15] for place in range(len(world.sounds))])
    sent = world.victim.gradients(world.known[samples], world.labels[world.known.source[samples]])
    rows = samples[(updates @ (sent / np.linalg.norm(sent, axis=1, keepdims=True)).T).argmax(axis=1)]
    like, named = pictures(world, rows)
    print(f"{name}, matched: SSIM {like:.3f}, named {named:.3f}")
    return like, named


def most_that_epsilon_allows(choices):
    """How often the best guess among so many equally likely sounds is right, of one update by the shipped plan: a Gaussian bound."""
    epsilon = record_epsilon([planned_event(training_plan(CLIPS, is_lab=False), CLIPS)])
    low, high = 0.05, 2.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if closed_form_epsilon(1.0 / middle, RECORD_DELTA) <= epsilon else (low, middle)
    x = np.linspace(-8.0, 10.0, 4001)
    return float(np.trapezoid(norm.pdf(x - high) * norm.cdf(x) ** (choices - 1), x))


def sums(world, updates):
    """Each victim's update added to nineteen others, and how often the commonest recording of the twenty is the victim's."""
    groups = np.array(
        [np.append(world.draw.permutation(np.delete(np.arange(VICTIMS), at))[: SUMMED - 1], at) for at in range(VICTIMS)]
    )
    commonest = np.mean([np.bincount(world.clips.source[group]).max() / SUMMED for group in groups])
    return updates[groups].sum(axis=1), float(commonest)


def test_control_a_raw_update_gives_the_sound_away(world):
    read = world.victim.invert(world.raw)
    assert np.abs(cosines(read, world.victim.features(world.clips.encoder))).min() > 0.999
    like, named = inverted(world, world.raw, "raw update of one clip")
    assert like >= 0.5
    assert named > 0.9
    assert matched(world, world.raw, "raw update of one clip")[1] > 0.9


def test_a_private_update_does_not(world, private):
    like, named = inverted(world, private, "private update")
    print(f"at random: SSIM {baseline(world):.3f}, named {1 / len(world.sounds):.3f}")
    assert like <= baseline(world) + 0.10
    assert named <= 1 / len(world.sounds) + 0.05


def test_the_best_guess_about_a_private_update_is_within_its_epsilon(world, private):
    """Whoever saw one update alone, unmasked, may guess among known sounds a little better than chance; by how much is epsilon's to say."""
    like, named = matched(world, private, "private update")
    most = most_that_epsilon_allows(len(world.sounds))
    print(f"epsilon allows {most:.3f}")
    assert like <= baseline(world) + 0.10
    assert named <= most + 2.0 * np.sqrt(most * (1.0 - most) / VICTIMS)


def test_nor_does_a_sum_of_twenty(world, private):
    together, _ = sums(world, private)
    for attack in (inverted, matched):
        like, named = attack(world, together, "sum of twenty private updates")
        assert like <= baseline(world) + 0.10
        assert named <= 1 / len(world.sounds) + 0.05


def test_aggregation_alone_tells_the_commonest_sound_and_not_whose(world):
    """Twenty raw gradients of one clip each: at best the attacker learns which recording is commonest among them."""
    together, commonest = sums(world, world.raw)
    print(f"the commonest is the victim's: {commonest:.3f}")
    for attack in (inverted, matched):
        like, named = attack(world, together, "sum of twenty raw updates")
        assert like <= baseline(world) + 0.10
        assert named <= commonest + 0.05
