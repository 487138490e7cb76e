"""Records refuse what is out of shape, and the floors are what the design says."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from tests.support.fleet import LAB, Fleet

from earmark_shared import errors
from earmark_shared import round as rounds
from earmark_shared.errors import MalformedError, PolicyError, ProtocolError
from earmark_shared.round import (
    Abort,
    AbortCode,
    Box,
    Floors,
    MaskedChunk,
    Phase,
    RoundPlan,
    Survivors,
    UnmaskShare,
    check_floors,
    check_noise,
    threshold,
)

PLAN = Fleet(1).plan


@pytest.mark.parametrize(
    ("count", "t"), [(3, 2), (5, 4), (10, 7), (20, 13), (32, 20), (50, 31), (100, 61), (128, 77), (256, 154)]
)
def test_threshold(count, t):
    assert threshold(count) == t == int(0.6 * count + 1e-9) + 1
    assert 2 * t > count


def test_no_shard_is_opened_by_its_colluders():
    """2t > n + n_c: how many colluders a shard stands, 7 of 32, 25 of 128, and never fewer than 6 (of 33)."""
    stands = {count: 2 * threshold(count) - count - 1 for count in range(rounds.SHARD_LEAST, rounds.DEVICES_MOST + 1)}
    assert (stands[32], stands[33], stands[128], min(stands.values())) == (7, 6, 25, 6)


def test_the_floors_are_the_designs():
    assert (rounds.COHORT_LEAST, rounds.LAB_COHORT_LEAST, rounds.SHARD_LEAST, rounds.DEVICES_MOST) == (20, 5, 32, 256)
    assert (rounds.DIMENSION_MOST, rounds.CLIP_MOST, rounds.PHASE_S_MOST, rounds.NOISE_STDDEV_LEAST) == (4_000_000, 10, 600, 4)
    assert (Floors().n_min, Floors().lab, LAB.n_min) == (20, False, 5)


def test_quorum_is_the_larger_of_threshold_and_cohort():
    assert replace(PLAN, n_min=20).quorum(32) == 20
    assert replace(PLAN, n_min=20).quorum(20) == 20
    assert replace(PLAN, n_min=20).quorum(128) == 77
    assert replace(PLAN, n_min=100).quorum(128) == 100


@pytest.mark.parametrize(
    ("d", "log2_scale", "fits"), [(1_048_576, 12, True), (1_048_577, 12, False), (4_000_000, 13, True), (4_000_001, 13, False)]
)
def test_scale_must_be_fine_for_the_dimension(d, log2_scale, fits):
    plan = replace(PLAN, d=d, log2_scale_c=log2_scale)
    if fits:
        check_floors(plan, LAB)
        return
    with pytest.raises(PolicyError):
        check_floors(plan, LAB)


def test_noise_is_divided_by_the_root_of_the_threshold():
    plan = replace(PLAN, z=4.0, log2_scale_c=14)
    assert plan.noise_stddev(128) == pytest.approx(4 * 2**14 / 77**0.5)
    assert plan.scale == 2**14
    assert replace(plan, clip_c=0.5).scale == 2**15


def test_noise_that_is_too_fine():
    coarse = replace(PLAN, z=0.011, log2_scale_c=12, n_max=128)
    check_noise(coarse, 100)
    check_noise(replace(coarse, z=0.0), 128)
    with pytest.raises(PolicyError):
        check_noise(replace(coarse, z=0.004), 128)


WRONG = [
    lambda: Survivors(bytes(31), (0,)),
    lambda: Survivors(bytearray(32), (0,)),
    lambda: Survivors(bytes(32), [0]),
    lambda: Survivors(bytes(32), (-1,)),
    lambda: Survivors(bytes(32), (65_536,)),
    lambda: Survivors(bytes(32), (True,)),
    lambda: Survivors(bytes(32), (0.0,)),
    lambda: Survivors(bytes(32), tuple(range(257))),
    lambda: Box(0, bytes(81)),
    lambda: UnmaskShare(0, 1, bytes(33)),
    lambda: UnmaskShare(0, False, bytes(32)),
    lambda: MaskedChunk(bytes(32), 0, 0, 1, b"", bytes(32), b""),
    lambda: MaskedChunk(bytes(32), 0, 0, 1, bytes(rounds.CHUNK_SIZE + 1), bytes(32), b""),
    lambda: MaskedChunk(bytes(32), 0, 0, 1, b"x", bytes(32), bytes(63)),
    lambda: rounds.ShareKeys(bytes(32), 0, bytes(32), ()),
    lambda: rounds.ShareKeys(bytes(32), 0, bytes(32), (b"box",)),
    lambda: Abort(bytes(16), 8, 0, 0),
    lambda: Abort(bytes(16), 0, 10, 0),
    lambda: replace(PLAN, clip_c=float("nan")),
    lambda: replace(PLAN, clip_c=1),
    lambda: replace(PLAN, z=float("inf")),
    lambda: replace(PLAN, key_id=b""),
    lambda: replace(PLAN, deadline_s=(1, 2, 3, 4)),
    lambda: replace(PLAN, not_after=2**64),
    lambda: replace(PLAN, d=-1),
]


@pytest.mark.parametrize("make", WRONG)
def test_what_is_out_of_shape_is_never_made(make):
    with pytest.raises(MalformedError):
        make()


def test_records_are_frozen_and_shaped():
    assert Survivors(bytes(32), (0, 65_535)).u3 == (0, 65_535)
    with pytest.raises(FrozenInstanceError):
        PLAN.d = 3
    assert (
        all(name in rounds.shapes(RoundPlan) for name in (field.name for field in fields(RoundPlan)))
        if hasattr(rounds, "shapes")
        else True
    )


def test_one_error_an_abort_code_in_the_range_60():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProtocolError)]
    assert {kind.abort_code for kind in kinds} == set(AbortCode)
    assert all(60 <= kind.exit_code <= 69 for kind in kinds)
    own = {kind.exit_code: kind.abort_code for kind in kinds if kind.exit_code > 60}
    assert own == {60 + code: code for code in range(1, 10)}
    assert ProtocolError("x", culprit=3).culprit == 3
    assert str(errors.CountError()) == "Too few devices are left for anything to be opened."


def test_phases_are_in_order():
    assert [phase.name for phase in Phase] == [
        "PLAN",
        "ADVERTISE",
        "SHARE_KEYS",
        "MASKED",
        "CONSISTENCY",
        "UNMASK",
        "DONE",
        "ABORTED",
    ]
