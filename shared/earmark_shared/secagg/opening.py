"""Opening a shard's sum: shares back to secrets, secrets back to masks, masks off the sum.

A reconstructed secret is believed only if it is the one that its owner committed to (a self-mask seed) or that belongs to
its public key (a mask key). When it is not, a device sent a false share: other sets of `threshold` responders are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark_shared.crypto.exchange import ExchangeKey
from earmark_shared.crypto.secrets import erase
from earmark_shared.errors import CountError, MalformedError
from earmark_shared.round import Advertise, threshold
from earmark_shared.secagg import transcript
from earmark_shared.secagg.masking import MaskSeeds, unmask
from earmark_shared.secagg.shamir import weighted, weights_at_zero

if TYPE_CHECKING:
    from earmark_shared.crypto.keystream import Words

SUBSETS_MOST = 20
Check = Callable[[bytearray], bool]


@dataclass(frozen=True)
class Opened:
    """Everything about a shard that opening it needs."""

    round_id: bytes
    t1: bytes
    members: Sequence[Advertise]
    commitments: Mapping[int, bytes]
    """Commitment to the self-mask seed, by index of those who shared keys."""
    survivors: Sequence[int]

    @property
    def dropped(self) -> list[int]:
        """Who shared keys and sent no masked vector: their pair masks are still in the sum."""
        return sorted(set(self.commitments) - set(self.survivors))


def open_sum(masked_sum: Words, shard: Opened, shares: Mapping[int, Mapping[int, bytes]]) -> None:
    """Take every mask off `masked_sum` `(d + 1,)` in place; `shares` is responder -> owner -> share.

    Raises:
        CountError: some secret can't be put together from these shares.
    """
    groups = _Groups(shares, threshold(len(shard.members)))
    self_seeds = [_self_seed(shard, owner, groups) for owner in shard.survivors]
    unmask(masked_sum, MaskSeeds(added=self_seeds))
    erase(*self_seeds)
    for owner in shard.dropped:
        pair_seeds = _pair_seeds(shard, owner, groups)
        unmask(masked_sum, pair_seeds)
        pair_seeds.erase()


class _Groups:
    """Sets of exactly `threshold` responders, the one that worked last first."""

    def __init__(self, shares: Mapping[int, Mapping[int, bytes]], size: int) -> None:
        self._shares = shares
        self._groups = list(_windows(sorted(shares), size))
        self._weights = [weights_at_zero(group) for group in self._groups[:1]]

    def secret(self, owner: int, is_right: Check) -> bytearray:
        """Return the owner's secret from the first group of responders that gives the right one."""
        for place, group in enumerate(self._groups):
            if place == len(self._weights):
                self._weights.append(weights_at_zero(group))
            try:
                secret = weighted(self._weights[place], [self._shares[responder][owner] for responder in group])
            except MalformedError:
                continue
            if is_right(secret):
                self._put_first(place)
                return secret
        raise CountError("no set of shares gives a device's secret back", culprit=owner)

    def _put_first(self, place: int) -> None:
        self._groups.insert(0, self._groups.pop(place))
        self._weights.insert(0, self._weights.pop(place))


def _windows(responders: list[int], size: int) -> Iterator[list[int]]:
    """Yield up to `SUBSETS_MOST` runs of `size` around the ring of responders, evenly apart: any one is left out by some."""
    if len(responders) < size:
        raise CountError(f"{len(responders)} devices sent shares, {size} are needed")
    ring = responders * 2
    count = min(SUBSETS_MOST, len(responders)) if len(responders) > size else 1
    for turn in range(count):
        start = turn * len(responders) // count
        yield ring[start : start + size]


def _self_seed(shard: Opened, owner: int, groups: _Groups) -> bytearray:
    def is_right(secret: bytearray) -> bool:
        return transcript.commitment(shard.t1, owner, secret) == shard.commitments[owner]

    secret = groups.secret(owner, is_right)
    seed = transcript.self_key(secret, shard.round_id, shard.t1)
    erase(secret)
    return seed


def _pair_seeds(shard: Opened, owner: int, groups: _Groups) -> MaskSeeds:
    """Return the seeds of the masks that survivors hold with `owner`, as those survivors applied them."""

    def is_right(secret: bytearray) -> bool:
        return ExchangeKey(secret).public == shard.members[owner].mask_pk

    key = ExchangeKey(groups.secret(owner, is_right))
    added: list[bytearray] = []
    subtracted: list[bytearray] = []
    secrets = key.shared_secrets([shard.members[survivor].mask_pk for survivor in shard.survivors])
    for survivor, secret in zip(shard.survivors, secrets, strict=True):
        seed = transcript.pair_key(secret, shard.round_id, shard.t1, owner, survivor)
        (added if survivor < owner else subtracted).append(seed)
    erase(key.private, *secrets)
    return MaskSeeds(added, subtracted)
