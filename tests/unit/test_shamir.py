"""Shamir's sharing: any threshold of shares gives the secret, fewer say nothing, and nonsense is refused."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.fleet import Stream

from earmark_shared.errors import MalformedError, ProtocolError
from earmark_shared.secagg.shamir import PRIME, combine, element, split, weighted, weights_at_zero

SECRET = bytes(range(32))


def test_prime_is_prime():
    """Fermat with a few bases, as the design's Miller-Rabin found."""
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 65_537))
    assert PRIME > 2**256


def test_every_set_of_threshold_shares_gives_the_secret():
    shares = split(SECRET, 3, 6, Stream(1))
    for chosen in itertools.combinations(range(6), 3):
        assert combine({index: shares[index] for index in chosen}) == SECRET


@given(secret=st.binary(min_size=32, max_size=32), count=st.integers(1, 20), data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_split_and_combine(secret, count, data):
    threshold = data.draw(st.integers(1, count))
    shares = split(secret, threshold, count, Stream(secret))
    chosen = data.draw(st.permutations(range(count)))[:threshold]
    assert combine({index: shares[index] for index in chosen}) == secret


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_extreme_secrets(secret):
    shares = split(secret, 2, 3, Stream(2))
    assert combine({0: shares[0], 2: shares[2]}) == secret


def test_one_share_too_few_says_nothing():
    """Shares of one secret under two drawings differ, and too few give another value or nobody's."""
    shares = split(SECRET, 4, 5, Stream(3))
    assert shares != split(SECRET, 4, 5, Stream(4))
    three = {index: shares[index] for index in range(3)}
    with pytest.raises(MalformedError):
        assert combine(three) != SECRET
        raise MalformedError
    for guess in (bytes(32), SECRET, b"\xff" * 32):  # any secret is consistent with three shares
        points = weights_at_zero([0, 1, 2, 3])
        missing = (
            int.from_bytes(guess, "big") - sum(w * element(s) for w, s in zip(points, three.values(), strict=False))
        ) * pow(points[3], -1, PRIME)
        assert weighted(points, [*three.values(), (missing % PRIME).to_bytes(33, "big")]) == guess


def test_weights_serve_many_secrets():
    weights = weights_at_zero([0, 2, 3])
    for seed in range(5):
        secret = Stream(seed)(32)
        shares = split(secret, 3, 4, Stream(seed))
        assert weighted(weights, [shares[0], shares[2], shares[3]]) == secret


@pytest.mark.parametrize("share", [bytes(32), bytes(34), PRIME.to_bytes(33, "big"), b"\xff" * 33, b""])
def test_what_is_no_share(share):
    with pytest.raises(MalformedError):
        element(share)
    with pytest.raises(MalformedError):
        combine({0: share})


def test_the_largest_element():
    assert element((PRIME - 1).to_bytes(33, "big")) == PRIME - 1
    with pytest.raises(MalformedError):
        combine({0: (PRIME - 1).to_bytes(33, "big")})  # a field element, but nobody's 32 bytes


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(bytes(31), 2, 3), (bytes(33), 2, 3), (SECRET, 0, 3), (SECRET, 4, 3), (SECRET, 2, 2**16)]
)
def test_what_cannot_be_shared(secret, threshold, count):
    with pytest.raises(ProtocolError):
        split(secret, threshold, count, Stream(0))


def test_coefficients_are_drawn_again_when_too_large():
    draws = iter([b"\xff" * 33, b"\x80" + bytes(32)])
    shares = split(SECRET, 2, 2, lambda size: next(draws))
    assert int.from_bytes(shares[0], "big") == (int.from_bytes(SECRET, "big") + 2**256) % PRIME
