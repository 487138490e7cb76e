"""SA1's device half: from a plan to one masked update and the shares that open the sum, never more.

    Plan -> start() -> Advertise        Roster    -> ShareKeys        Inbox     -> MaskedChunk ...
                                        Survivors -> SurvivorSig      UnmaskReq -> Unmask

Rules: each message is accepted once and in this order; every check (checks.py) runs before anything is sent; whatever goes
wrong ends the attempt, erases its secrets and sends nothing but a coded `abort`. A device signs one survivor set an attempt
and gives, of each other device, one kind of share. Another `Device` with the same `update` is the retry. Nothing here reads a clock, a file or entropy of its own.

    update = NoisyUpdate(plan, quantize(delta, plan, os.urandom), draw_noise)
    device = Device(plan, member, update=update, entropy=os.urandom)
    send(device.start(now_s))
    for message in received:
        send(*device.step(message, now_s))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from earmark_shared.crypto.certificates import peek
from earmark_shared.crypto.exchange import ExchangeKey
from earmark_shared.crypto.hashing import u16
from earmark_shared.crypto.sealing import open_sealed, seal_once
from earmark_shared.crypto.secrets import Entropy, erase
from earmark_shared.errors import (
    BoxError,
    DeadlineError,
    KeyExchangeError,
    MalformedError,
    PhaseError,
    ProtocolError,
    RosterError,
)
from earmark_shared.round import (
    DEADLINE_GRACE_S,
    NOBODY,
    SHARE_SIZE,
    Abort,
    Advertise,
    Box,
    Inbox,
    Phase,
    Roster,
    RoundPlan,
    ShareKeys,
    Survivors,
    SurvivorSig,
    Unmask,
    UnmaskReq,
    UnmaskShare,
    check_noise,
    threshold,
)
from earmark_shared.secagg import checks, transcript
from earmark_shared.secagg.attempt import NoisyUpdate, Secrets
from earmark_shared.secagg.chunks import chunk
from earmark_shared.secagg.masking import MaskSeeds, mask
from earmark_shared.secagg.shamir import element, split

if TYPE_CHECKING:
    from earmark_shared.shapes import Message


class Device:
    """One device in one attempt of one round."""

    def __init__(self, plan: RoundPlan, member: checks.Membership, *, update: NoisyUpdate, entropy: Entropy) -> None:
        """Get ready for one attempt with `update`; nothing is checked or sent before `start`."""
        self.phase = Phase.PLAN
        """The last phase that this device answered."""
        self.is_uploaded = False
        """Whether a masked update may have left the device: from then on the ledger stays charged."""
        self.abort: Abort | None = None
        """What to tell the server after an error."""
        self._plan, self._member, self._update, self._entropy = plan, member, update, entropy
        self._plan_hash = transcript.plan_hash(plan)
        self._secrets: Secrets | None = None
        self._answered_s = 0
        self._attempt = 0

    def start(self, now_s: int) -> Advertise:
        """Check the plan and return this device's round keys.

        Raises:
            PlanError, PolicyError: the device takes no part in this round.
        """
        with self._guarded():
            if self.phase is not Phase.PLAN:
                raise PhaseError("the round was started before")
            checks.check_plan(self._plan, self._member, now_s=now_s)
            self._attempt = self._update.begin_attempt()
            self._secrets = secrets = Secrets(self._entropy)
            mask_pk, share_pk = secrets.mask_key.public, secrets.share_key.public
            sig = self._member.identity.sign(transcript.ADVERTISE_SIG, self._plan_hash, mask_pk, share_pk)
            cert = self._member.certificate
            self._own = Advertise(self._plan_hash, peek(cert).alias, cert, mask_pk, share_pk, sig)
            self.phase, self._answered_s = Phase.ADVERTISE, now_s
            return self._own

    def step(self, message: Message, now_s: int) -> tuple[Message, ...]:
        """Take the server's next message and return what to send.

        Raises:
            ProtocolError: this attempt is over; its subclass and `abort` say why.
        """
        with self._guarded():
            self._check_time(now_s)
            self._update.check_current(self._attempt)
            reply = self._answer(message, now_s)
            self.phase, self._answered_s = Phase(self.phase + 1), now_s
            if self.phase is Phase.UNMASK:
                self._finish()
            return reply

    def expire(self, now_s: int) -> None:
        """End the attempt if the server's next message is overdue.

        Raises:
            DeadlineError: it is.
        """
        with self._guarded():
            self._check_time(now_s)

    def cancel(self) -> None:
        """End the attempt without a word: its secrets are erased, and it answers nothing more."""
        self._erase()
        self.phase = Phase.ABORTED

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._erase()
            if self.phase is not Phase.ABORTED and isinstance(error, ProtocolError):
                culprit = NOBODY if error.culprit is None else error.culprit
                self.abort = Abort(self._plan.round_id, self.phase, error.abort_code, culprit)
            self.phase = Phase.ABORTED
            raise

    def _check_time(self, now_s: int) -> None:
        if Phase.ADVERTISE <= self.phase <= Phase.CONSISTENCY:
            latest_s = min(self._answered_s + self._plan.deadline_s[self.phase - 1] + DEADLINE_GRACE_S, self._plan.not_after)
            if not self._answered_s <= now_s <= latest_s:
                raise DeadlineError("the server's message came too late, or the clock went backwards")

    def _answer(self, message: Message, now_s: int) -> tuple[Message, ...]:
        match self.phase, message:
            case Phase.ADVERTISE, Roster():
                return (self._share_keys(message, now_s),)
            case Phase.SHARE_KEYS, Inbox():
                return self._mask(message)
            case Phase.MASKED, Survivors():
                return (self._confirm(message),)
            case Phase.CONSISTENCY, UnmaskReq():
                return (self._unmask(message),)
        raise PhaseError(f"a {type(message).__name__} has no place after phase {self.phase.name}")

    def _share_keys(self, roster: Roster, now_s: int) -> ShareKeys:
        checks.check_roster(roster, self._plan, self._plan_hash, self._member.floors)
        self._index = checks.check_own_entry(roster, self._own)
        checks.check_members(roster, self._plan_hash, self._member.enrolment, now_s=now_s)
        self._members = roster.members
        check_noise(self._plan, len(self._members))
        self._t1 = transcript.roster_hash(self._plan_hash, self._members)
        boxes = tuple(self._boxes())
        commit = transcript.commitment(self._t1, self._index, self._held.self_seed)
        return ShareKeys(self._t1, self._index, commit, boxes)

    def _boxes(self) -> Iterator[Box]:
        held, count = self._held, len(self._members)
        seed_shares = split(held.self_seed, threshold(count), count, self._entropy)
        key_shares = split(held.mask_key.private, threshold(count), count, self._entropy)
        held.seed_shares[self._index], held.key_shares[self._index] = seed_shares[self._index], key_shares[self._index]
        others = [index for index in range(count) if index != self._index]
        for dst, secret in zip(others, self._exchange(held.share_key, others, "share_pk"), strict=True):
            key = transcript.share_key(secret, self._plan.round_id, self._t1, self._index, dst)
            held.inbox_keys[dst] = transcript.share_key(secret, self._plan.round_id, self._t1, dst, self._index)
            plaintext = seed_shares[dst] + key_shares[dst]
            yield Box(dst, seal_once(key, plaintext, transcript.box_context(self._t1, self._index, dst)))
            erase(key, secret, plaintext, seed_shares[dst], key_shares[dst])

    def _exchange(self, key: ExchangeKey, others: list[int], field: str) -> list[bytearray]:
        try:
            return key.shared_secrets([getattr(self._members[index], field) for index in others])
        except KeyExchangeError as error:
            raise RosterError("a device's key is worthless", culprit=others[error.culprit or 0]) from error

    def _mask(self, inbox: Inbox) -> tuple[Message, ...]:
        checks.check_same_transcript(inbox.t1, self._t1)
        checks.check_inbox(inbox, index=self._index, count=len(self._members))
        checks.check_quorum(self._plan, left=len(inbox.src) + 1, count=len(self._members))
        for src, box in zip(inbox.src, inbox.boxes, strict=True):
            self._open_box(src, box)
        seeds = self._mask_seeds(list(inbox.src))
        noisy = self._update.with_noise(self._plan.noise_stddev(len(self._members)))
        words = mask(noisy, seeds)
        seeds.erase()
        self._held.erase_masking()
        self.is_uploaded = True
        return chunk(words, self._member.identity, t1=self._t1, src=self._index)

    def _open_box(self, src: int, box: Box) -> None:
        held = self._held
        try:
            plaintext = open_sealed(held.inbox_keys[src], box.ct, transcript.box_context(self._t1, src, self._index))
            held.seed_shares[src], held.key_shares[src] = plaintext[:SHARE_SIZE], plaintext[SHARE_SIZE:]
            erase(plaintext)
            element(held.seed_shares[src])
            element(held.key_shares[src])
        except (BoxError, MalformedError) as error:
            raise BoxError(str(error), culprit=src) from error

    def _mask_seeds(self, others: list[int]) -> MaskSeeds:
        added = [transcript.self_key(self._held.self_seed, self._plan.round_id, self._t1)]
        subtracted: list[bytearray] = []
        for other, secret in zip(others, self._exchange(self._held.mask_key, others, "mask_pk"), strict=True):
            key = transcript.pair_key(secret, self._plan.round_id, self._t1, self._index, other)
            (added if other > self._index else subtracted).append(key)
            erase(secret)
        return MaskSeeds(added, subtracted)

    def _confirm(self, survivors: Survivors) -> SurvivorSig:
        checks.check_same_transcript(survivors.t1, self._t1)
        checks.check_survivors(survivors.u3, self._held.seed_shares.keys(), index=self._index)
        checks.check_quorum(self._plan, left=len(survivors.u3), count=len(self._members))
        self._survivors = survivors.u3
        self._t3 = transcript.survivors_hash(self._t1, survivors.u3)
        sig = self._member.identity.sign(transcript.CONSISTENT_SIG, self._t3, u16(self._index))
        return SurvivorSig(self._t3, self._index, sig)

    def _unmask(self, request: UnmaskReq) -> Unmask:
        checks.check_same_transcript(request.t1, self._t1)
        checks.check_same_transcript(transcript.survivors_hash(self._t1, request.u3), self._t3)
        checks.check_survivor_signatures(request.sigs, self._members, self._survivors, self._t3)
        self._update.mark_opened()
        return Unmask(self._t3, self._index, tuple(self._shares(frozenset(request.u3))))

    def _shares(self, survivors: frozenset[int]) -> Iterator[UnmaskShare]:
        for owner in sorted(self._held.seed_shares):
            is_dropped = owner not in survivors
            held = self._held.key_shares if is_dropped else self._held.seed_shares
            yield UnmaskShare(owner, is_dropped, bytes(held[owner]))

    @property
    def _held(self) -> Secrets:
        if self._secrets is None:
            raise PhaseError("the round was not started")
        return self._secrets

    def _finish(self) -> None:
        self._erase()
        self.phase = Phase.DONE

    def _erase(self) -> None:
        if self._secrets is not None:
            self._secrets.erase()
