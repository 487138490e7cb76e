"""Devices for a real SuperLink: enrolled, each with a SuperNode of its own and the executor in a thread; their update is fixed."""

import os
import threading
import time
from contextlib import ExitStack, contextmanager

import numpy as np
from scripts.in_process import Memory

from earmark_client.federation import enrol
from earmark_client.federation.executor import AnswerLostError, Executor
from earmark_client.federation.flower import make_app
from earmark_client.federation.participant import Participant, World
from earmark_client.federation.supervisor import running_node
from earmark_shared.base_head import FIRST_VERSION, base_arrays, base_schema
from earmark_shared.enrolment import read_plan_key
from earmark_shared.errors import NetworkError
from earmark_shared.head import arrays_sha256
from earmark_shared.round import Floors
from earmark_shared.secagg import checks
from tests.support.homes import new_database
from tests.support.rounds import LAB, FixedTrainer

POLL_S = 0.2
WORLD = enrol.World(time.time, os.urandom)


class NodeDevice:
    """An enrolled device that holds the first head and gives a small fixed update."""

    def __init__(self, folder, invitation, token, seed):
        self.database = new_database(folder, f"device{seed}.db")
        self.membership = enrol.join(
            self.database, enrol.read_invitation(invitation), enrol.read_token(token), WORLD, as_lab=True
        )
        self.update = (np.random.default_rng(seed).normal(size=base_schema().size) * 1e-3).astype(np.float32)
        self.ledger = Memory()
        self.participant = Participant(World(self._member, lambda _: FixedTrainer(self.update), self.ledger, os.urandom))

    def _member(self, now_s):
        enrolment, membership = enrol.follow(self.database, WORLD), enrol.joined(self.database)
        plan_key = read_plan_key(membership.root.plan_key, membership.root.authority, now_s=now_s)
        schema = base_schema()
        held = checks.HeldModel(FIRST_VERSION, arrays_sha256(schema, base_arrays()), schema.sha256(), schema.size)
        floors: Floors = LAB
        return checks.Membership(membership.keys.identity, membership.certificate, enrolment, {plan_key: plan_key}, held, floors)

    def take_part(self, superlink, is_stopped):
        """Do what the SuperNode is given, until `is_stopped`; a node that ends is started again."""
        while not is_stopped():
            with running_node(self.membership, superlink) as (runtime, node):
                executor = Executor(runtime, make_app(self.participant, clock=time.time), is_given_up=node.is_given_up)
                while node.poll() is None and not node.is_given_up() and not is_stopped():
                    try:
                        had_task = executor.step()
                    except AnswerLostError:
                        break
                    except NetworkError:
                        had_task = False
                    if not had_task:
                        time.sleep(POLL_S)
            if not is_stopped():
                time.sleep(5)

    def close(self):
        self.participant.close()
        self.database.close()


@contextmanager
def taking_part(devices, superlink):
    """Let devices take part for the block."""
    stop = threading.Event()
    threads = [threading.Thread(target=device.take_part, args=(superlink, stop.is_set), daemon=True) for device in devices]
    with ExitStack() as cleanup:
        for thread in threads:
            thread.start()
            cleanup.callback(thread.join, 60)
        cleanup.callback(stop.set)
        yield
