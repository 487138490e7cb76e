"""One round at the server, without I/O: invitations, shards, deadlines, one retry, and the sums that were opened.

    run = RoundRun(plan, rules, entropy=os.urandom, now_s=now_s)
    run.receive(device_id, message, now_s)        # as they come; whatever is refused changes nothing
    outgoing = run.poll(now_s)                    # device id -> what to send next, whenever something is complete or overdue
    run.is_over, run.sums, run.failures

The transport sends the plan to everybody at first, and to those in `outgoing` again for the retry; it says by `expect` how many
were reached and by `decline` that one of them answered without coming forward.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from earmark_shared.errors import CountError, PhaseError, ProtocolError, RosterError
from earmark_shared.round import Abort, Advertise, Floors, RoundPlan
from earmark_shared.secagg.attempt import ATTEMPTS_MOST
from earmark_shared.secagg.forming import Lobby

if TYPE_CHECKING:
    from earmark_shared.crypto.certificates import Enrolment
    from earmark_shared.crypto.secrets import Entropy
    from earmark_shared.secagg.server import Shard, ShardSum
    from earmark_shared.shapes import Message


@dataclass(frozen=True)
class Rules:
    """What the server holds every round to."""

    enrolment: Enrolment
    floors: Floors


class RoundRun:
    """A round from its plan to its sums."""

    def __init__(self, plan: RoundPlan, rules: Rules, *, entropy: Entropy, now_s: int) -> None:
        """Wait for devices to come forward.

        Raises:
            PolicyError: the plan is below the floors.
        """
        self.plan = plan
        self.sums: list[ShardSum] = []
        self.failures: list[ProtocolError] = []
        """Why shards were given up."""
        self.refused: list[ProtocolError] = []
        """What was sent and not taken; for the transport to fill."""
        self.blamed: Counter[bytes] = Counter()
        """Device id -> how many devices left because of what it had sent them; they may all lie."""
        self._turned_away: dict[str, set[bytes]] = {}
        self._rules, self._entropy = rules, entropy
        self._attempt = 1
        self._lobby: Lobby | None = self._open_lobby(now_s)
        self._shards: dict[int, Shard] = {}
        self._places: dict[bytes, int] = {}
        self._again: set[bytes] = set()
        self._left: set[bytes] = set()
        self._expected: int | None = None
        self._declined = 0

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self._lobby is None and not self._shards and not self._again

    @property
    def is_gathering(self) -> bool:
        """Whether devices are coming forward."""
        return self._lobby is not None

    @property
    def deadline_s(self) -> int:
        """When to `poll` next at the latest, Unix seconds."""
        if self._lobby is not None:
            return self._lobby.deadline_s
        return min((shard.deadline_s for shard in self._shards.values()), default=0)

    @property
    def turned_away(self) -> Counter[str]:
        """Why devices that came forward were refused -> how many."""
        return Counter({reason: len(devices) for reason, devices in self._turned_away.items()})

    def expect(self, count: int) -> None:
        """Say how many devices were invited: when all have answered, nobody waits for the deadline."""
        self._expected = count

    def decline(self) -> None:
        """Count an invited device that will not come forward."""
        self._declined += 1

    def receive(self, sender: bytes, message: Message, now_s: int) -> None:
        """Take a message from an enrolled device. A refused message changes nothing.

        Raises:
            ProtocolError: it is refused; its subclass says why.
        """
        if self._lobby is not None:
            try:
                self._take_into_lobby(self._lobby, sender, message, now_s)
            except ProtocolError as error:
                self._turned_away.setdefault(str(error), set()).add(sender)
                raise
            return
        if sender not in self._places:
            raise RosterError("the sender is in no shard of this round")
        place = self._places[sender]
        if place not in self._shards:
            raise PhaseError("the sender's shard is over")
        shard = self._shards[place]
        shard.receive(sender, message, now_s)
        if isinstance(message, Abort) and sender not in self._left:
            self._left.add(sender)
            if message.culprit < len(shard.roster.members):
                self.blamed[shard.roster.members[message.culprit].device_id] += 1

    def poll(self, now_s: int) -> dict[bytes, Message]:
        """Close whatever is complete or overdue, and return what to send to whom."""
        outgoing: dict[bytes, Message] = {}
        if self._lobby is not None and (self._is_lobby_complete(self._lobby) or now_s >= self._lobby.deadline_s):
            outgoing |= self._form(self._lobby, now_s)
        for place, shard in list(self._shards.items()):
            while not shard.is_over and (shard.is_complete or now_s >= shard.deadline_s):
                outgoing |= self._close(shard, now_s)
            if shard.is_over:
                self._settle(place, shard)
        if self._again and not self._shards and self._lobby is None:
            outgoing |= self._try_again(now_s)
        return outgoing

    def _open_lobby(self, now_s: int) -> Lobby:
        return Lobby(self.plan, self._rules.enrolment, floors=self._rules.floors, now_s=now_s)

    def _is_lobby_complete(self, lobby: Lobby) -> bool:
        return self._expected is not None and len(lobby) + self._declined >= self._expected

    def _take_into_lobby(self, lobby: Lobby, sender: bytes, message: Message, now_s: int) -> None:
        if not isinstance(message, Advertise):
            raise PhaseError("devices come forward now")
        if self._attempt > 1 and sender not in self._again:
            raise RosterError("the retry is for devices whose shard was given up")
        lobby.receive(sender, message, now_s)

    def _form(self, lobby: Lobby, now_s: int) -> dict[bytes, Message]:
        self._lobby = None
        self._again.clear()
        try:
            formed = lobby.form_shards(self._entropy, now_s)
        except CountError as error:
            self.failures.append(error)
            return {}
        self._shards = dict(enumerate(formed))
        self._places = {each.device_id: place for place, shard in self._shards.items() for each in shard.roster.members}
        return {device_id: self._shards[place].roster for device_id, place in self._places.items()}

    def _close(self, shard: Shard, now_s: int) -> dict[bytes, Message]:
        try:
            return shard.close_phase(now_s)
        except ProtocolError as error:
            self.failures.append(error)
            return {}

    def _settle(self, place: int, shard: Shard) -> None:
        del self._shards[place]
        if shard.total is not None:
            self.sums.append(shard.total)
        elif self._attempt < ATTEMPTS_MOST:
            self._again |= {each.device_id for each in shard.roster.members} - shard.helped_open - self._left

    def _try_again(self, now_s: int) -> dict[bytes, Message]:
        least = self._rules.floors.n_min
        self._attempt += 1
        if len(self._again) < least or now_s >= self.plan.not_after:
            self._again.clear()
            return {}
        self._lobby = self._open_lobby(now_s)
        self._expected, self._declined = len(self._again), 0
        return dict.fromkeys(sorted(self._again), self.plan)
