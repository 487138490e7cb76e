"""A federation's rounds, one after the other, without I/O but the checkpoint: plan, run, aggregate, judge, publish.

    coordinator = Coordinator(checkpoint, first_model, settings, judge)
    run = coordinator.begin(now_s)                # a signed plan, on the disk before anybody sees it
    ...                                           # the transport drives it: round_run.py
    coordinator.finish(run)                       # sums -> candidate -> gate -> published, each step on the disk before the next

A server that was killed goes on from the checkpoint: a round that was under way is lost (its devices' masks can't be opened by a new
process, and its plan is never used again), a candidate that was computed is judged, a published head is the next round's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from earmark_server.aggregate import aggregate, apply_update
from earmark_server.checkpoint import Checkpoint, Model, RoundRecord, State
from earmark_server.round_run import RoundRun, Rules
from earmark_shared.crypto.secrets import draw
from earmark_shared.errors import CountError, PhaseError, TrustError
from earmark_shared.round import COHORT_LEAST, LAB_COHORT_LEAST, PROTO, Floors, RoundPlan
from earmark_shared.secagg.transcript import plan_hash
from earmark_shared.wire.codec import encode

if TYPE_CHECKING:
    from earmark_shared.crypto.certificates import Enrolment
    from earmark_shared.crypto.identities import Identity
    from earmark_shared.crypto.secrets import Entropy
    from earmark_shared.secagg.server import ShardSum

DEADLINES_S = (60, 60, 300, 30, 60)
SPARE_S = 600
"""What a plan is good for beyond its phases, twice each."""
SKEW_S = 30
REFUSED_TOLD = 3
"""Reasons in a round's record why devices that came forward were refused, those first that most were refused for."""
BLAMED_TOLD = 3
"""Devices named in a round's reason, those first that most others blame."""


@dataclass(frozen=True)
class Profile:
    """What a federation's rounds look like; devices refuse what is below their floors."""

    clip_c: float = 1.0
    log2_scale_c: int = 14
    z: float = 0.0
    """Device-level noise multiplier of a shard's sum: 0 (none claimed), 1 or 4."""
    n_min: int = COHORT_LEAST
    n_max: int = 128
    deadline_s: tuple[int, int, int, int, int] = DEADLINES_S
    shards: int = 1
    rate: float = 1.0
    """The head moves by this much of the mean update."""
    is_lab: bool = False

    @property
    def floors(self) -> Floors:
        """What the server itself refuses to go below."""
        return Floors(n_min=max(self.n_min, LAB_COHORT_LEAST), z=self.z, lab=self.is_lab)

    def draft(self, model: Model, now_s: int, *, round_id: bytes = bytes(16), key_id: bytes = bytes(32)) -> RoundPlan:
        """Return the plan of a round about `model`, not yet signed; MalformedError if a number is none that a plan can have."""
        return RoundPlan(
            round_id=round_id,
            proto=PROTO,
            model_version=model.version,
            model_sha256=model.sha256,
            schema_sha256=model.schema.sha256(),
            d=model.schema.size,
            clip_c=self.clip_c,
            log2_scale_c=self.log2_scale_c,
            z=self.z,
            n_min=self.n_min,
            n_max=self.n_max,
            deadline_s=self.deadline_s,
            not_before=now_s - SKEW_S,
            not_after=now_s + 2 * sum(self.deadline_s) + SPARE_S,
            shards=self.shards,
            key_id=key_id,
            sig=bytes(64),
        )


@dataclass(frozen=True)
class Judge:
    """Who decides about a candidate, and who publishes it."""

    gate: Callable[[Model, Model], Mapping[str, float]]
    """Old and candidate -> what was measured; TrustError refuses the candidate."""
    publish: Callable[[Model, Mapping[str, float]], None]
    """Make it a release. Called again for the same candidate after a crash: it must then do nothing twice."""
    newest: Callable[[], Model | None] = lambda: None
    """The newest release, whoever made it; None while nothing was released."""


@dataclass(frozen=True)
class Office:
    """What a coordinator signs with and draws from."""

    plan_key: Identity
    enrolment: Callable[[], Enrolment]
    entropy: Entropy


class Coordinator:
    """One federation's rounds."""

    def __init__(self, checkpoint: Checkpoint, first: Model, profile: Profile, office: Office, judge: Judge) -> None:
        """Go on from the checkpoint, or begin with the model `first`.

        Raises:
            StoreError: the checkpoint can't be read.
        """
        self._checkpoint, self._profile, self._office, self._judge = checkpoint, profile, office, judge
        self._state = checkpoint.load() or checkpoint.begin(first)
        if self._state.open_round is not None:
            self._save(self._state.with_last(outcome="lost", reason="the server stopped"))
        self._catch_up()
        if self._state.candidate:
            self._decide()

    @property
    def state(self) -> State:
        """Where the federation stands, as it is on the disk."""
        return self._state

    @property
    def model(self) -> Model:
        """The newest published head."""
        return self._checkpoint.model(self._state)

    def begin(self, now_s: int) -> RoundRun:
        """Make the next round's plan, sign it, and write it down.

        Raises:
            PhaseError: a round is under way. PolicyError: the profile is below the floors.
        """
        if self._state.open_round is not None:
            raise PhaseError("a round is under way")
        self._catch_up()
        plan = self._sign(self._plan(now_s))
        rules = Rules(self._office.enrolment(), self._profile.floors)
        run = RoundRun(plan, rules, entropy=self._office.entropy, now_s=now_s)
        record = RoundRecord(len(self._state.rounds) + 1, plan.round_id.hex(), encode(plan).hex(), plan.model_version)
        self._save(replace(self._state, rounds=(*self._state.rounds, record)))
        return run

    def finish(self, run: RoundRun) -> RoundRecord:
        """Turn a round's sums into the next head, if they can be and the gate lets it; return what became of the round."""
        if not run.is_over or self._state.open_round is None:
            raise PhaseError("the round is not over, or was finished before")
        try:
            self._compute(run)
        except (CountError, TrustError) as error:
            blamed = [f"{count} devices blame {device_id.hex()}" for device_id, count in run.blamed.most_common(BLAMED_TOLD)]
            reasons = "; ".join(dict.fromkeys([*(str(each) for each in (*run.failures, error)), *_refusals(run), *blamed]))
            self._save(self._state.with_last(outcome="aborted", reason=reasons))
            return self._state.rounds[-1]
        self._decide()
        return self._state.rounds[-1]

    def review(self) -> bool:
        """Judge the newest head again, by what the gate knows now; if it fails, publish the head before it as the next version.

        Versions never go down: devices take the old weights as they take any release. Killed in the middle, it is done again, or
        found done by `Checkpoint.catch_up`.

        Returns:
            Whether it was taken back.
        """
        if self._state.open_round is not None or self._state.candidate:
            return False
        self._catch_up()
        if not self._state.previous:
            return False
        newest, name = self.model, self._state.previous
        before = Model(newest.version - 1, newest.schema, self._checkpoint.arrays(newest.schema, name))
        try:
            self._judge.gate(before, newest)
        except TrustError as error:
            self._judge.publish(replace(before, version=newest.version + 1), {})
            self._save(replace(self._state.with_taken_back(str(error)), version=newest.version + 1, head=name, previous=""))
            return True
        return False

    def _plan(self, now_s: int) -> RoundPlan:
        round_id, key_id = bytes(draw(self._office.entropy, 16)), self._office.plan_key.public
        return self._profile.draft(self.model, now_s, round_id=round_id, key_id=key_id)

    def _sign(self, plan: RoundPlan) -> RoundPlan:
        return replace(plan, sig=self._office.plan_key.sign_digest(plan_hash(plan)))

    def _compute(self, run: RoundRun) -> None:
        model = self.model
        mean = aggregate(run.sums, run.plan)
        arrays = apply_update(model.schema, model.arrays, mean, rate=self._profile.rate)
        name = self._checkpoint.keep(model.schema, arrays)
        devices = sum(len(each.survivors) for each in run.sums)
        reason, transcripts = "; ".join(_refusals(run)), tuple(map(_trace, run.sums))
        state = self._state.with_last(outcome="candidate", devices=devices, transcripts=transcripts, reason=reason)
        self._save(replace(state, candidate=name))

    def _decide(self) -> None:
        """Judge the candidate and publish it; on the disk it stays a candidate until it is published or refused.

        One that is out already, since the server stopped before it wrote that down, is not judged again: devices have it.
        """
        newest = self._catch_up()
        if not self._state.candidate:
            return
        if newest is not None and newest.sha256.hex() == self._state.candidate:
            self._adopt(newest.version, {})
            return
        old = self.model
        candidate = Model(old.version + 1, old.schema, self._checkpoint.arrays(old.schema, self._state.candidate))
        try:
            report = dict(self._judge.gate(old, candidate))
        except TrustError as error:
            reasons = "; ".join(filter(None, (str(error), self._state.rounds[-1].reason)))
            self._save(replace(self._state.with_last(outcome="refused", reason=reasons), candidate=""))
            return
        self._judge.publish(candidate, report)
        self._adopt(candidate.version, report)

    def _adopt(self, version: int, report: dict[str, float]) -> None:
        """Write down that the candidate is the newest head."""
        state = self._state.with_last(outcome="published", report=report)
        self._save(replace(state, version=version, head=self._state.candidate, candidate="", previous=self._state.head))

    def _catch_up(self) -> Model | None:
        """Go on from what was released by hand meanwhile; return the newest release."""
        newest = self._judge.newest()
        if newest is not None:
            self._checkpoint.catch_up(newest)
            self._state = self._checkpoint.load() or self._state
        return newest

    def _save(self, state: State) -> None:
        self._checkpoint.save(state)
        self._state = state


def describe(record: RoundRecord) -> str:
    """Return one line about a round, for people."""
    version = record.model_version + 1
    named = {"published": f"published as version {version}", "taken back": f"version {version} taken back"}
    what = named.get(record.outcome, record.outcome)
    tail = f": {record.reason}" if record.reason else ""
    return f"round {record.number}: {what}, {record.devices} devices{tail}"


def _refusals(run: RoundRun) -> list[str]:
    told = run.turned_away.most_common(REFUSED_TOLD)
    return [f"{count} device{'s' if count > 1 else ''} refused: {reason}" for reason, count in told]


def _trace(total: ShardSum) -> tuple[str, str, str]:
    return total.t1.hex(), total.t3.hex(), hashlib.sha256(total.steps.astype("<i4").tobytes()).hexdigest()


def no_gate(old: Model, candidate: Model) -> Mapping[str, float]:
    """Judge nothing but that the candidate is a head: for simulations. `unflatten` has refused what is no weight."""
    if old.schema != candidate.schema:
        raise TrustError("the candidate has another schema")
    return {}


def publish_nowhere(candidate: Model, report: Mapping[str, float]) -> None:
    """Release nothing: for simulations, whose devices read the coordinator's own model."""
    _ = candidate, report
