"""What a round needs of this library: who the device is, the newest head, and a person's corrections as training data.

    participant = open_participant(home, secret, model, clock=time.time)

Before each round the device asks who was shut out and what was released. A round is always about the newest release. Canary devices
(one in twenty) and lab homes search with it from then on; the others a day later, when those have tried it, or when their person runs
`earmark update`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from earmark_client import updating
from earmark_client.federation import enrol
from earmark_client.federation.identity import check_not_paused
from earmark_client.federation.participant import Participant, World
from earmark_client.federation.releases import fetch_newest
from earmark_client.federation.spending import open_ledger
from earmark_client.federation.training_data import CorrectionTrainer, HeldHead, training_set
from earmark_client.learn.finetune import TrainingPlan
from earmark_client.model.active import load_correction
from earmark_shared.base_head import FIRST_VERSION, base_arrays, base_schema
from earmark_shared.enrolment import read_plan_key
from earmark_shared.errors import ModelError, PolicyError
from earmark_shared.head import arrays_sha256, unit_rows
from earmark_shared.privacy.mechanism import public_bucket
from earmark_shared.release import is_canary
from earmark_shared.round import COHORT_LEAST, LAB_COHORT_LEAST, Floors
from earmark_shared.secagg import checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark_client.describe import Model
    from earmark_client.learn.ledger import Ledger
    from earmark_client.store.home import Home
    from earmark_client.store.keys import Secret
    from earmark_shared.crypto.certificates import Enrolment
    from earmark_shared.round import RoundPlan

TRAINING = TrainingPlan(clipping_bound=1.0, noise_multiplier=3.2, expected_clips=16, steps=10, learning_rate=0.2)
"""What a round's training looks like; chosen on public data. A step draws one clip in `SHARE`, at most `DRAWN_MOST`."""
SHARE, DRAWN_MOST = 4, 64
LAB_TRAINING = TrainingPlan(clipping_bound=1.0, noise_multiplier=8.0, expected_clips=16, steps=5, learning_rate=0.4, is_lab=True)
"""The same in a lab home, where five devices must do: few steps, each on all clips. Three such rounds cost epsilon 1.93."""


@dataclass
class RoundDevice:
    """One library in rounds."""

    home: Home
    model: Model
    ledger: Ledger
    clock: Callable[[], float]

    def member(self, now_s: int) -> checks.Membership:
        """Ask for news and the newest release, and say who this device is and what it holds.

        Raises:
            PolicyError: this device's person paused it. ModelError: an imported model is in force.
            NetworkError: the server's enrolment or release service can't be reached. TrustError: what it says is not right.
        """
        check_not_paused(self.home.database)
        enrolment = self._refresh()
        updating.check_in_force(self.home.database, self.model)
        membership, head = enrol.joined(self.home.database), self.head()
        plan_key = read_plan_key(membership.root.plan_key, membership.root.authority, now_s=now_s)
        held = checks.HeldModel(head.version, arrays_sha256(head.schema, head.arrays), head.schema.sha256(), head.schema.size)
        least = LAB_COHORT_LEAST if membership.is_lab else COHORT_LEAST
        floors = Floors(n_min=least, lab=membership.is_lab)
        return checks.Membership(membership.keys.identity, membership.certificate, enrolment, {plan_key: plan_key}, held, floors)

    def trainer(self, plan: RoundPlan) -> CorrectionTrainer:
        """Return what trains for a round: on clips of this data epoch, from the head that the plan is about."""
        head = self.head()
        if head.version != plan.model_version:
            raise ModelError("the head changed while the round began")
        since_s = float(self.ledger.epoch_started_s())
        data = training_set(self.home.database, self.model.base_version, head, since_s=since_s)
        is_lab = enrol.joined(self.home.database).is_lab
        return CorrectionTrainer(head, data, training_plan(data.clip_count, is_lab=is_lab), os.urandom)

    def check_willing(self, member: checks.Membership) -> None:
        """Raise EarmarkError if this device's person has paused it, or left the federation, since a round began."""
        check_not_paused(self.home.database)
        if enrol.joined(self.home.database).certificate != member.certificate:
            raise PolicyError("This device is in another federation by now.")

    def head(self) -> HeldHead:
        """Return the head that rounds are about: the newest release, in force here or not yet; the first head before any."""
        release = updating.read_state(self.home.database).newest
        if release is None:
            version, schema, arrays = FIRST_VERSION, base_schema(), base_arrays()
        else:
            correction = load_correction(updating.models_folder(self.home), release)
            version, schema, arrays = release.number, correction.schema, correction.arrays
        listed = self.model.labeler.label_list()
        places = {name: place for place, name in enumerate(listed.names)}
        if missing := [label for label in schema.labels if label not in places]:
            raise ModelError(f"the shared label set holds {missing[0]!r}, which this model doesn't", hint="update Earmark")
        vectors = unit_rows(listed.vectors[[places[label] for label in schema.labels]])
        return HeldHead(version, schema, arrays, vectors)

    def _refresh(self) -> Enrolment:
        with self.home.lock():
            enrolment = enrol.follow(self.home.database, enrol.World(self.clock, os.urandom))
            release = fetch_newest(self.home, clock=self.clock)
            updating.enter(self.home, self.model, release)
            if release is not None:
                membership = enrol.joined(self.home.database)
                tries_first = membership.is_lab or is_canary(membership.alias)
                updating.receive(self.home, self.model, release, tries_first=tries_first, now_s=int(self.clock()))
        return enrolment


def training_plan(clip_count: int, *, is_lab: bool) -> TrainingPlan:
    """Return how to train on so many clips; their number enters only as a public bucket. NoiseError when they are too few."""
    bucket = public_bucket(clip_count, is_lab=is_lab)
    return (
        replace(LAB_TRAINING, expected_clips=bucket)
        if is_lab
        else replace(TRAINING, expected_clips=min(bucket // SHARE, DRAWN_MOST))
    )


def open_participant(home: Home, secret: Secret, model: Model, *, clock: Callable[[], float] = time.time) -> Participant:
    """Return this library's participant; `model` is the base model that is installed.

    Raises:
        AdmissionError: the library is in no federation. LedgerError: what was spent can't be known.
    """
    enrol.joined(home.database)
    ledger = open_ledger(home, secret, clock=clock)
    device = RoundDevice(home, model, ledger, clock)
    return Participant(World(device.member, device.trainer, ledger, os.urandom, device.check_willing))
