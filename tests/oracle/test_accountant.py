"""D1: epsilon agrees with Opacus's PRV accountant, stays under RDP's, and equals the closed form where there is one."""

import math
from functools import cache

import dp_accounting
import pytest
from dp_accounting.rdp import RdpAccountant

from earmark_shared.errors import NoiseError
from earmark_shared.privacy import accountant
from earmark_shared.privacy.accountant import (
    DEVICE_DELTA,
    DeviceGaussian,
    SampledGaussian,
    closed_form_epsilon,
    device_epsilon,
    device_noise_multiplier,
    record_epsilon,
)

SETTINGS = [
    (noise, probability, steps)
    for noise, probability, longest in [
        (0.7, 0.02, 1000),
        (0.9, 0.125, 100),
        (1.0, 0.02, 1000),
        (1.2, 0.10667, 1000),
        (1.5, 0.25, 100),
        (2.0, 0.125, 1000),
        (2.0, 0.5, 100),
        (3.0, 0.25, 1000),
        (4.0, 0.5, 1000),
        (6.0, 0.5, 1000),
    ]
    for steps in (20, 200, longest)
]
"""From epsilon 0.3 to about 30; beyond, an epsilon is not one, and the samplers' shortfall makes it infinite."""
FEW = [(1.0, 0.02, 20), (1.0, 0.02, 1000), (1.2, 0.10667, 200), (2.0, 0.125, 20), (3.0, 0.25, 20), (4.0, 0.5, 20)]
DELTA = 1e-5


@cache
def by_prv(noise, probability, steps):
    """Opacus's estimate with its lower and upper bounds."""
    from opacus.accountants import PRVAccountant  # with torch, which nobody but these tests should have to load

    prv = PRVAccountant()
    prv.history = [(noise, probability, steps)]
    return prv._get_dprv(eps_error=0.005, delta_error=DELTA / 1000).compute_epsilon(DELTA, DELTA / 1000, 0.005)


@cache
def by_rdp(noise, probability, steps):
    rdp = RdpAccountant()
    rdp.compose(dp_accounting.PoissonSampledDpEvent(probability, dp_accounting.GaussianDpEvent(noise)), steps)
    return rdp.get_epsilon(DELTA)


def agree(noise, probability, steps):
    ours = record_epsilon([SampledGaussian(noise, probability, steps)], delta=DELTA)
    _, theirs, upper = by_prv(noise, probability, steps)
    assert abs(ours - theirs) / theirs <= 0.01
    assert ours <= upper + 0.005
    assert ours <= by_rdp(noise, probability, steps)


@pytest.mark.parametrize("setting", FEW)
def test_the_accountants_agree(setting):
    agree(*setting)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting not in FEW])
def test_the_accountants_agree_on_every_setting(setting):
    agree(*setting)


@pytest.mark.parametrize("fault", [0.98, 1.02])
def test_control_a_wrong_noise_multiplier_is_noticed(fault, monkeypatch):
    right = accountant._epsilon
    monkeypatch.setattr(
        accountant,
        "_epsilon",
        lambda groups, delta: right({(noise * fault, q): count for (noise, q), count in groups.items()}, delta),
    )
    with pytest.raises(AssertionError):
        agree(*FEW[3])


@pytest.mark.parametrize(("noise", "rounds"), [(0.8, 1), (0.8, 10), (4.0, 10), (20.0, 1)])
def test_without_sampling_it_is_the_closed_form(noise, rounds):
    exact = closed_form_epsilon(noise / math.sqrt(rounds), DEVICE_DELTA)
    ours = device_epsilon([DeviceGaussian(noise)] * rounds)
    assert ours == pytest.approx(exact, rel=0.005)
    assert ours >= exact


@pytest.mark.parametrize(("noise", "epsilon"), [(0.3, 0.02), (1.0, 1.0), (1.0, 6.0), (5.0, 0.1)])
def test_the_closed_form_is_the_gaussians_hockey_stick(noise, epsilon):
    """Integrate max(0, p - e^epsilon q) over the line."""
    width = 1e-3
    grid = [-20 * noise + width * step for step in range(int((40 * noise + 1) / width))]

    def density(x, mean):
        return math.exp(-((x - mean) ** 2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))

    delta = sum(max(0.0, density(x, 1.0) - math.exp(epsilon) * density(x, 0.0)) for x in grid) * width
    assert accountant._closed_form_delta(noise, epsilon) == pytest.approx(delta, rel=1e-3, abs=1e-9)


def test_figures_of_the_design():
    assert record_epsilon([SampledGaussian(1.2, 32 / 300, 200)]) == pytest.approx(7.748, abs=0.002)
    assert record_epsilon([SampledGaussian(1.0, 0.02, 1000)]) == pytest.approx(3.90, abs=0.01)
    assert device_epsilon([DeviceGaussian(4.0)] * 10) == pytest.approx(3.75, abs=0.01)


def test_events_compose_whatever_their_order():
    first, second = SampledGaussian(1.2, 0.125, 20), SampledGaussian(2.0, 0.25, 10)
    together = record_epsilon([first, second, first])
    assert together == record_epsilon([second, SampledGaussian(1.2, 0.125, 40)])
    assert (
        max(record_epsilon([first]), record_epsilon([second])) < together < record_epsilon([first] * 2) + record_epsilon([second])
    )


def test_nothing_spent_is_zero():
    assert record_epsilon([]) == 0.0
    assert device_epsilon([]) == 0.0


def test_the_samplers_shortfall_is_paid_for(monkeypatch):
    """With a made-up cost of epsilon = log10(1 / delta), so that the fixed point can be checked by hand."""
    monkeypatch.setattr(accountant, "_epsilon", lambda groups, delta: -math.log10(delta))
    event = SampledGaussian(1.2, 0.125, 20)
    assert record_epsilon([event]) == pytest.approx(5.0)
    monkeypatch.setattr(accountant, "DISTANCE_PER_SAMPLE", 1e-8 / (20 * accountant.MAX_DIMENSIONS))
    with_shortfall = record_epsilon([event])
    assert with_shortfall > 5.05
    assert with_shortfall == pytest.approx(-math.log10(1e-5 - (1 + math.exp(with_shortfall)) * 1e-8))
    monkeypatch.setattr(accountant, "DISTANCE_PER_SAMPLE", 1.0)
    assert record_epsilon([event]) == math.inf


def claimed(stddev, colluders=0):
    """The multiplier claimed for 20 devices that would have 1.0 with true Gaussians."""
    return device_noise_multiplier(stddev, stddev * math.sqrt(20), contributors=20, colluders=colluders, dimensions=25_000)


def test_a_sum_of_small_integer_noises_claims_less():
    multipliers = [claimed(stddev) for stddev in (0.7, 1.0, 1.5, 2.0, 3.99, 4.0, 1024.0)]
    assert multipliers == sorted(multipliers)
    assert multipliers[-1] == pytest.approx(1.0)
    assert multipliers[0] < 0.1


@pytest.mark.parametrize("stddev", [1.0, 2.0, 3.9])
def test_below_four_steps_the_claim_covers_what_is_proven_for_integers(stddev):
    rho = 0.5
    assert closed_form_epsilon(claimed(stddev), DEVICE_DELTA) >= rho + 2 * math.sqrt(rho * math.log(1 / DEVICE_DELTA)) - 1e-6


def test_an_epsilon_that_means_nothing_is_infinite():
    """At epsilon 49 even the samplers' 2^-100 can't be paid for out of delta."""
    assert device_epsilon([DeviceGaussian(0.5)] * 10) == math.inf


def test_colluders_take_their_noise_with_them():
    assert claimed(1024.0, colluders=5) == pytest.approx(math.sqrt(15 / 20))
    with pytest.raises(NoiseError):
        claimed(1024.0, colluders=20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SampledGaussian(0.0, 0.1, 1),
        lambda: SampledGaussian(math.nan, 0.1, 1),
        lambda: SampledGaussian(1.0, 0.0, 1),
        lambda: SampledGaussian(1.0, 1.5, 1),
        lambda: SampledGaussian(1.0, 0.5, 0),
        lambda: DeviceGaussian(-1.0),
        lambda: DeviceGaussian(math.inf),
        lambda: record_epsilon([SampledGaussian(1.0, 0.5, 1)], delta=0.0),
        lambda: record_epsilon([SampledGaussian(1.0, 0.5, 1)], delta=1.0),
        lambda: device_noise_multiplier(0.0, 1.0, contributors=5, colluders=0, dimensions=5),
        lambda: device_noise_multiplier(8.0, math.inf, contributors=5, colluders=0, dimensions=5),
        lambda: device_noise_multiplier(8.0, 1.0, contributors=5, colluders=0, dimensions=0),
    ],
)
def test_what_protects_nothing_is_refused(make):
    with pytest.raises(NoiseError):
        make()
