"""A server on a machine where nothing that hears is installed: it starts, and runs a round on real Flower with a gate and a release."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from earmark_server.checkpoint import Checkpoint
from earmark_server.gate import PublicSet
from earmark_server.rounds import FOLDER, PUBLIC_SET
from earmark_shared.base_head import base_schema
from earmark_shared.head import unit_rows
from earmark_shared.wire.channel import Address
from tests.house.sources import ROOT
from tests.support.federation import HOST
from tests.support.nginx import free_ports
from tests.support.nodes import NodeDevice, taking_part

HEAVY = (
    "torch",
    "librosa",
    "faiss",
    "onnxruntime",
    "soundfile",
    "soxr",
    "transformers",
    "opacus",
    "sqlcipher3",
    "tokenizers",
    "onnx",
)
LOOK = "import importlib.util, json, sys; print(json.dumps([n for n in sys.argv[1:] if importlib.util.find_spec(n)]))"
PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", "-c", "constraints.txt")
DEVICES = 5

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def installed(python):
    """Which of the heavy packages a Python could import."""
    done = subprocess.run([python, "-c", LOOK, *HEAVY], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The Python of an environment with the project and its `server` extra, made by pip like the Makefile's."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    python = folder / "bin" / "python"
    for what in (["setuptools"], ["--no-build-isolation", "-e", ".[server]"]):
        subprocess.run([python, *PIP, *what], cwd=ROOT, check=True, capture_output=True, timeout=600)
    return python


class Server:
    """`earmark-server` of the bare environment."""

    def __init__(self, python, folder):
        self._program, self.folder = python.with_name("earmark-server"), folder
        (self.port, self.member_port, self.flower) = free_ports(3)

    def call(self, *arguments):
        done = subprocess.run([self._program, *map(str, arguments)], capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def serving(self):
        log = self.folder.with_suffix(".log")
        with log.open("w") as output:
            command = [self._program, "serve", self.folder, "--flower-port", str(self.flower)]
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            until_s = time.monotonic() + 60
            while "serving" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until_s, log.read_text()
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            process.wait(30)


def made_up_set(seed=3, labels=40, each=3):
    """A public set of the right shapes, for what is asked here: that the gate runs. What it hears, test_public_set.py shows."""
    schema, draw = base_schema(), np.random.default_rng(seed)
    vectors = unit_rows(draw.normal(size=(len(schema.labels), schema.outputs)).astype(np.float32))
    rows = np.repeat(np.arange(labels, dtype=np.int32), each)
    heard = np.abs(draw.normal(size=(len(rows), schema.inputs))).astype(np.float32)
    near = unit_rows((vectors[rows] + 0.01 * draw.normal(size=(len(rows), schema.outputs))).astype(np.float32))
    return PublicSet(heard, near, rows, vectors, heard[:0], near[:0])


def test_nothing_that_hears_is_installed_there_and_all_of_it_is_here(bare):
    assert installed(bare) == set()
    assert installed(sys.executable) == set(HEAVY)


def test_a_server_without_them_starts_and_runs_a_round_to_its_release(bare, tmp_path):
    server = Server(bare, tmp_path / "server")
    server.call("init", server.folder, "--lab", "--host", HOST, "--port", server.port, "--member-port", server.member_port)
    (server.folder / PUBLIC_SET).write_bytes(made_up_set().dump())
    with server.serving():
        invited = [server.call("invite", server.folder).splitlines()[0].split() for _ in range(DEVICES)]
        devices = [NodeDevice(tmp_path, words[2], words[4], seed) for seed, words in enumerate(invited)]
        with taking_part(devices, Address(HOST, server.flower)):
            told = server.call("round", server.folder, "--flower-port", server.flower)
        for device in devices:
            device.close()
    assert "round 1: published as version 1" in told, told
    record = Checkpoint(server.folder / FOLDER).load().rounds[-1]
    assert record.outcome == "published"
    assert record.report["accuracy"] == record.report["accuracy_before"] == 1.0
    assert all(len(device.ledger.committed) == 1 for device in devices)
