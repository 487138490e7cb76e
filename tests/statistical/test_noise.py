"""D2: the noise is the discrete Gaussian it is accounted as, and no two draws of it are related."""

import os
import signal
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from tests.support.privacy import ReplayableEntropy

from earmark_shared.errors import NoiseError
from earmark_shared.privacy import sampler
from earmark_shared.privacy.sampler import MAX_STDDEV, discrete_gaussian, uniform_words

DRAWS = 1_000_000
GRID = 1.2 * 2**20


def exact_bins(stddev, bins=200):
    """Integer edges of about equally likely bins, and their exact probabilities (to 1e-9 at these stddevs)."""
    if stddev < 64:
        values = np.arange(-int(14 * stddev) - 2, int(14 * stddev) + 3)
        weights = np.exp(-(values**2) / (2 * stddev**2))
        weights /= weights.sum()
        keep = weights * DRAWS > 20
        edges = np.concatenate([[-np.inf], values[keep][1:] - 0.5, [np.inf]])
        return edges, np.array([weights[(values > low) & (values < high)].sum() for low, high in pairwise(edges)])
    inner = np.unique(np.round(stddev * stats.norm.ppf(np.arange(1, bins) / bins)) + 0.5)
    edges = np.concatenate([[-np.inf], inner, [np.inf]])
    return edges, np.diff(stats.norm.cdf(edges / stddev))


def chi_square_p(samples, stddev):
    edges, probabilities = exact_bins(stddev)
    counts = np.histogram(samples, np.clip(edges, -1e12, 1e12))[0]
    return stats.chisquare(counts, probabilities * len(samples)).pvalue


def exact_variance(stddev):
    values = np.arange(-400, 401)
    weights = np.exp(-(values**2) / (2 * stddev**2))
    return (values**2 * weights).sum() / weights.sum() if stddev < 8 else stddev**2


def complaints(samples, stddev):
    """What is wrong with these draws, if anything."""
    variance = exact_variance(stddev)
    found = []
    if abs(samples.mean()) > 5 * np.sqrt(variance / len(samples)):
        found.append("mean")
    if abs(samples.var() / variance - 1) > 0.005:
        found.append("variance")
    if not chi_square_p(samples, stddev) > 1e-4:
        found.append("shape")
    for far in (3, 4, 5):
        beyond = int((np.abs(samples) > far * np.sqrt(variance)).sum())
        wanted = 2 * stats.norm.sf(far) * len(samples)
        if stddev >= 64 and not stats.poisson.cdf(beyond, wanted) > 1e-6 and beyond < wanted:
            found.append(f"too few beyond {far} sigma")
        if stddev >= 64 and stats.poisson.sf(beyond - 1, wanted) < 1e-6:
            found.append(f"too many beyond {far} sigma")
    return found


@pytest.mark.parametrize("stddev", [0.5, 4.0, 1024.0, GRID])
def test_a_million_draws_are_the_discrete_gaussian(stddev):
    samples = discrete_gaussian(stddev, DRAWS, ReplayableEntropy(b"a million"))
    assert samples.dtype == np.int64
    assert complaints(samples, stddev) == []


@pytest.mark.slow
@pytest.mark.parametrize("stddev", [1.0, 2047.9, 2048.1, 5000.0, 2.0**24])
def test_every_size_of_noise_is_the_discrete_gaussian(stddev):
    assert complaints(discrete_gaussian(stddev, DRAWS, ReplayableEntropy(b"every size")), stddev) == []


@pytest.mark.parametrize(
    ("fault", "broken"),
    [
        ("half the noise", lambda samples: samples // 2),
        ("one per cent less", lambda samples: np.round(samples * 0.99).astype(np.int64)),
        ("never negative", np.abs),
        ("off by a tenth of sigma", lambda samples: samples + int(GRID / 10)),
        ("cut at three sigma", lambda samples: np.clip(samples, -3 * GRID, 3 * GRID)),
        ("no noise", np.zeros_like),
    ],
)
def test_control_broken_noise_is_noticed(fault, broken):
    samples = discrete_gaussian(GRID, DRAWS, ReplayableEntropy(b"control"))
    assert complaints(samples, GRID) == []
    assert complaints(broken(samples), GRID), fault


@pytest.mark.parametrize("stddev", [0.5, 3.7, 300.0])
def test_the_table_holds_the_exact_probabilities(stddev):
    table = sampler._table(stddev)
    thresholds = [0, *(int(high) << 64 | int(low) for high, low in zip(table.upper, table.lower, strict=True)), 1 << 128]
    with localcontext() as context:
        context.prec = 60
        weights = [
            (-(Decimal(table.lowest + place) ** 2) / (2 * Decimal(stddev) ** 2)).exp() for place in range(len(thresholds) - 1)
        ]
        total = sum(weights)
        wrong = [
            place
            for place, weight in enumerate(weights)
            if abs(Decimal(thresholds[place + 1] - thresholds[place]) / (1 << 128) - weight / total) > Decimal(2) ** -126
        ]
    assert wrong == []
    assert table.lowest <= -12 * stddev


def test_a_tie_is_decided_by_the_lower_word():
    table = sampler._Table(
        upper=np.array([5, 7, 7, 7, 9], dtype=np.uint64), lower=np.array([0, 10, 20, 30, 0], dtype=np.uint64), lowest=0
    )

    def values_for(upper, lower):
        words = iter([np.array([upper], dtype=np.uint64), np.array([lower], dtype=np.uint64)])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampler, "uniform_words", lambda *_: next(words))
            return sampler._draw(table, 1, os.urandom).tolist()

    assert values_for(4, 0) == [0]
    assert values_for(6, 0) == [1]
    assert [values_for(7, low) for low in (9, 10, 19, 20, 29, 30, 2**64 - 1)] == [[1], [2], [2], [3], [3], [4], [4]]
    assert values_for(9, 0) == [5]


def test_calls_share_nothing():
    entropy = ReplayableEntropy(b"calls")
    calls = np.array([discrete_gaussian(GRID, 100_000, entropy) for _ in range(4)]) / GRID
    correlations = np.corrcoef(calls)[np.triu_indices(4, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(100_000)
    lagged = np.corrcoef(calls[0][:-1], calls[0][1:])[0, 1]
    assert abs(lagged) < 5 / np.sqrt(100_000)


def test_control_a_fixed_seed_is_noticed():
    calls = np.array([discrete_gaussian(GRID, 10_000, bytes) for _ in range(2)])
    assert np.corrcoef(calls)[0, 1] > 0.99


def in_a_fork(work):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        left = work().tobytes()
        while left:
            left = left[os.write(writing, left) :]
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = np.frombuffer(pipe.read(), dtype=np.int64)
    os.waitpid(child, 0)
    return found


def test_a_fork_draws_other_noise():
    discrete_gaussian(GRID, 8, os.urandom)
    theirs = in_a_fork(lambda: discrete_gaussian(GRID, 1000, os.urandom))
    ours = discrete_gaussian(GRID, 1000, os.urandom)
    assert len(theirs) == 1000
    assert not (ours == theirs).any()


def test_control_a_generator_kept_across_a_fork_is_noticed():
    kept = ReplayableEntropy(b"kept")
    theirs = in_a_fork(lambda: discrete_gaussian(GRID, 1000, kept))
    assert (discrete_gaussian(GRID, 1000, kept) == theirs).all()


def test_words_use_all_their_bits():
    words = uniform_words(200_000, ReplayableEntropy(b"bits"))
    ones = np.array([int(((words >> np.uint64(bit)) & np.uint64(1)).sum()) for bit in range(64)])
    assert np.abs(ones - 100_000).max() < 5 * np.sqrt(50_000)


@pytest.mark.parametrize("stddev", [0.0, -1.0, 0.1, MAX_STDDEV * 2, float("nan"), float("inf")])
def test_noise_that_can_not_be_drawn_is_refused(stddev):
    with pytest.raises(NoiseError):
        discrete_gaussian(stddev, 1, os.urandom)


def test_entropy_that_falls_short_is_refused():
    with pytest.raises(NoiseError):
        discrete_gaussian(4.0, 1, lambda _: b"short")
