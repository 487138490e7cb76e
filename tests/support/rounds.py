"""Small federations for the tests of rounds: a coordinator on a folder, devices that train on nothing but a fixed update."""

import numpy as np
from scripts.in_process import NOW_S, Authorities, Memory, Network

from earmark_client.learn.ledger import Budget, Ledger
from earmark_server.checkpoint import Checkpoint, Model
from earmark_server.coordinator import Coordinator, Judge, Profile, no_gate, publish_nowhere
from earmark_shared.head import HeadSchema, first_head
from earmark_shared.privacy.accountant import SampledGaussian
from earmark_shared.round import Floors
from tests.support.privacy import KEY, MemoryAnchor, PlainStorage

SCHEMA = HeadSchema(inputs=6, outputs=4, rank=2, trained=("up", "bias"), labels=("dog", "rain", "siren"))
LAB = Floors(n_min=5, lab=True)
EVENT = SampledGaussian(noise_multiplier=8.0, sampling_probability=0.125, steps=4)
JUDGE = Judge(no_gate, publish_nowhere)


class FixedTrainer:
    """Gives the same update every time."""

    def __init__(self, update, event=EVENT):
        self._update, self._event = update, event

    def event(self):
        return self._event

    def update(self, paid):
        return self._update


def lab_profile(**changes):
    values = {"n_min": 5, "n_max": 64, "is_lab": True, "log2_scale_c": 16}
    return Profile(**(values | changes))


class Small:
    """A coordinator and `count` devices."""

    def __init__(self, folder, count, *, profile=None, judge=JUDGE, floors=LAB, ledgers=None, schema=SCHEMA):
        self.schema, self.profile, self.judge, self.folder = schema, profile or lab_profile(), judge, folder
        self.authorities = Authorities()
        self.first = Model(1, schema, first_head(schema, b"test"))
        self.coordinator = self.restart()
        self.updates, self.ledgers, self.devices = {}, {}, {}
        rng = np.random.default_rng(7)
        for place in range(count):
            update = (rng.normal(size=schema.size) * 0.1).astype(np.float32)
            ledger = ledgers[place] if ledgers else Memory()
            alias, device = self.authorities.device(floors, lambda: self.coordinator.model, self.trainer(update), ledger)
            self.updates[alias], self.ledgers[alias], self.devices[alias] = update, ledger, device

    @staticmethod
    def trainer(update):
        return lambda plan: FixedTrainer(update)

    def restart(self):
        """A new process over the same folder."""
        self.coordinator = Coordinator(Checkpoint(self.folder), self.first, self.profile, self.authorities.office(), self.judge)
        return self.coordinator

    def network(self, **options):
        return Network(self.devices, **options)

    def mean_of(self, aliases):
        return np.mean([self.updates[alias].astype(np.float64) for alias in aliases], axis=0)


def real_ledger(clock=lambda: NOW_S, budget=None):
    return Ledger(PlainStorage(), KEY, clock=clock, anchor=MemoryAnchor(), budget=budget or Budget())
