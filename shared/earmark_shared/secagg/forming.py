"""SA1's first phase at the server: devices come forward, and are dealt into shards that are large enough.

Nobody is told a roster before it is final:

lobby = Lobby(plan, enrolment, floors=floors, now_s=now_s)
lobby.receive(sender, advertise, now_s)          # as they come; a refused one changes nothing
shards = lobby.form_shards(entropy, now_s)       # each with its roster
"""

from __future__ import annotations

from earmark_shared.crypto.certificates import Enrolment
from earmark_shared.crypto.hashing import digest
from earmark_shared.crypto.secrets import Entropy, draw
from earmark_shared.errors import CountError, DeadlineError, PhaseError, RosterError
from earmark_shared.round import Advertise, Floors, Roster, RoundPlan, check_floors
from earmark_shared.secagg import checks, transcript
from earmark_shared.secagg.server import Shard


class Lobby:
    """The devices that have come forward for one attempt of one round."""

    def __init__(self, plan: RoundPlan, enrolment: Enrolment, *, floors: Floors, now_s: int) -> None:
        """Wait for Advertise.

        Raises:
            PolicyError: the plan is below the floors.
        """
        check_floors(plan, floors)
        self.deadline_s = now_s + plan.deadline_s[0]
        """When to form shards, whoever is missing."""
        self._plan, self._enrolment, self._floors = plan, enrolment, floors
        self._plan_hash = transcript.plan_hash(plan)
        self._advertised: dict[bytes, Advertise] = {}

    def __len__(self) -> int:
        """Return how many devices have come forward."""
        return len(self._advertised)

    def receive(self, sender: bytes, advertise: Advertise, now_s: int) -> None:
        """Take a device's round keys. A refused message changes nothing.

        Raises:
            RosterError: the keys are not signed, not certified, not the sender's, somebody else's, or worthless.
            PhaseError: the device came forward before.
            DeadlineError: it came too late.
        """
        if now_s > self.deadline_s:
            raise DeadlineError("the device came forward too late")
        if advertise.device_id != sender:
            raise RosterError("a device comes forward as another")
        if sender in self._advertised:
            raise PhaseError("the device came forward before")
        checks.check_advertise(advertise, self._plan_hash, self._enrolment, now_s=now_s)
        checks.check_exchange_keys(advertise)
        checks.check_unique(_in_order({**self._advertised, sender: advertise}))
        self._advertised[sender] = advertise

    def form_shards(self, entropy: Entropy, now_s: int) -> tuple[Shard, ...]:
        """Deal the devices into shards of nearly equal size, at random.

        Raises:
            CountError: there are too few devices for one shard.
        """
        count = self._shard_count()
        salt = draw(entropy, 32)
        dealt = sorted(self._advertised, key=lambda device_id: digest("earmark/sa1/deal", salt, device_id))
        rosters = [
            Roster(self._plan_hash, shard, _in_order({each: self._advertised[each] for each in dealt[shard::count]}))
            for shard in range(count)
        ]
        return tuple(Shard(self._plan, roster, floors=self._floors, now_s=now_s) for roster in rosters)

    def _shard_count(self) -> int:
        """Return how many shards: those asked for, but each large enough to survive drop-outs, and none too large."""
        least = max(self._plan.n_min, self._floors.shard_least)
        there = len(self._advertised)
        count = max(-(-there // self._plan.n_max), min(self._plan.shards, there // least))
        if count == 0 or there // count < least:
            raise CountError(f"{there} devices came forward, a shard needs {least} and at most {self._plan.n_max}")
        return count


def _in_order(advertised: dict[bytes, Advertise]) -> tuple[Advertise, ...]:
    return tuple(advertised[device_id] for device_id in sorted(advertised))
