"""Masks go on and come off; the slot counts; what is sealed and erased."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.fleet import Stream

from earmark_shared.crypto.exchange import ExchangeKey
from earmark_shared.crypto.keystream import add_keystreams, keystream, subtract_keystreams
from earmark_shared.crypto.sealing import open_sealed, seal_once
from earmark_shared.crypto.secrets import draw, erase
from earmark_shared.errors import BoxError, KeyExchangeError, NormError, ProtocolError
from earmark_shared.secagg.attempt import Secrets
from earmark_shared.secagg.masking import STEP_MOST, MaskSeeds, mask, unmask


def seeds_of(count, seed=0):
    take = Stream(seed)
    return [bytearray(take(32)) for _ in range(count)]


@given(st.integers(0, 40_000), st.integers(0, 4), st.integers(0, 4), st.integers(0, 999))
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_unmask_undoes_mask(d, added, subtracted, seed):
    steps = keystream(bytes(32), d).astype(np.int64) % 2001 - 1000
    seeds = MaskSeeds(seeds_of(added, seed), seeds_of(subtracted, seed + 1))
    words = mask(steps, seeds)
    unmask(words, seeds)
    assert words[0] == 1
    assert np.array_equal(words[1:].view("<i4"), steps)


def test_pair_masks_cancel_and_the_slot_counts():
    seed = seeds_of(1)
    one = mask(np.array([5, -7]), MaskSeeds(added=seed))
    other = mask(np.array([-8, 9]), MaskSeeds(subtracted=seed))
    assert (one + other).view("<i4").tolist() == [2, -3, 2]
    assert (one - mask(np.array([5, -7]), MaskSeeds())).any()


def test_streams_add_and_subtract_across_blocks():
    words = keystream(b"w" * 32, 50_000)
    before, seeds = words.copy(), seeds_of(3)
    add_keystreams(words, seeds)
    by_hand = before + sum(keystream(seed, 50_000) for seed in seeds)
    assert np.array_equal(words, by_hand)
    subtract_keystreams(words, seeds)
    assert np.array_equal(words, before)


@pytest.mark.parametrize(
    "words", [np.zeros(4, dtype=">u4"), np.zeros(4, dtype=np.int64), np.zeros((2, 2), dtype="<u4"), np.zeros(8, dtype="<u4")[::2]]
)
def test_only_a_plain_vector_is_masked(words):
    with pytest.raises(ProtocolError):
        add_keystreams(words, seeds_of(1))


@pytest.mark.parametrize("value", [STEP_MOST, -STEP_MOST, 2**31, -(2**40)])
def test_a_coordinate_that_is_too_large(value):
    with pytest.raises(NormError):
        mask(np.array([0, value]), MaskSeeds())
    assert mask(np.array([0, STEP_MOST - 1]), MaskSeeds())[2] == STEP_MOST - 1


def test_seeds_are_erased():
    seeds = MaskSeeds(seeds_of(2), seeds_of(3, 1))
    seeds.erase()
    assert not any(map(any, [*seeds.added, *seeds.subtracted]))


def test_secrets_are_erased_in_two_steps():
    held = Secrets(Stream(0))
    held.inbox_keys[1], held.seed_shares[1], held.key_shares[1] = (bytearray(b"x" * 33) for _ in range(3))
    kept, box_key = held.seed_shares[1], held.inbox_keys[1]
    held.erase_masking()
    assert not any(held.mask_key.private + held.share_key.private + held.self_seed + box_key)
    assert kept == b"x" * 33
    held.erase()
    assert not any(kept)
    assert (held.seed_shares, held.key_shares, held.inbox_keys) == ({}, {}, {})


def test_entropy_must_give_what_was_asked():
    assert draw(Stream(0), 32) == Stream(0)(32)
    with pytest.raises(ProtocolError):
        draw(lambda size: bytes(size - 1), 32)
    secret = bytearray(b"abc")
    erase(secret)
    assert secret == bytes(3)


def test_sealed_bytes_open_only_as_sealed():
    sealed = seal_once(b"k" * 32, b"plain", b"context")
    assert len(sealed) == 5 + 16
    assert open_sealed(b"k" * 32, sealed, b"context") == b"plain"
    for key, box, context in [
        (b"K" * 32, sealed, b"context"),
        (b"k" * 32, sealed, b"Context"),
        (b"k" * 32, sealed[:-1], b"context"),
        (b"k", sealed, b"context"),
    ]:
        with pytest.raises(BoxError):
            open_sealed(key, box, context)


def test_exchange_agrees_and_names_the_worthless():
    one, other = ExchangeKey.create(Stream(1)), ExchangeKey.create(Stream(2))
    assert one.shared_secrets([other.public]) == other.shared_secrets([one.public])
    with pytest.raises(KeyExchangeError) as caught:
        one.shared_secrets([other.public, bytes(32)])
    assert caught.value.culprit == 1
    one.erase()
    assert not any(one.private)
