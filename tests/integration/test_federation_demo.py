"""The whole federation on real Flower, as `make federation` shows it: SuperLink, SuperNodes, rounds, a release, a search made right."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.house.sources import ROOT

DEMO = [sys.executable, str(ROOT / "scripts" / "federation_demo.py"), "--sounds", str(ROOT / ".cache" / "sounds")]
pytestmark = pytest.mark.slow


def start(folder):
    """Start the demo; all that it writes is below `folder`."""
    environment = dict(os.environ) | {"TMPDIR": str(folder)}
    # A shell that runs the tests in its background has them ignore SIGINT, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(DEMO, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


def assert_nothing_is_left(folder):
    assert not list(folder.iterdir())
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in listing


@pytest.mark.timeout(1800)
def test_make_federation_ends_well_and_leaves_nothing(tmp_path):
    demo = start(tmp_path)
    output, _ = demo.communicate(timeout=1700)
    assert demo.returncode == 0, output
    assert output.count(": published as version") == 3
    assert output.count("searches with release 3") == 7
    assert output.count("Each clip: epsilon 1.9") == 6
    assert "answers: nothing" in output
    assert "answers: owl" in output
    assert_nothing_is_left(tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda signum: signum.name)
def test_make_federation_leaves_nothing_when_it_is_interrupted(tmp_path, signum):
    demo = start(tmp_path)
    seen = ""
    while "serving" not in seen:
        seen = demo.stdout.readline()
        assert seen, "it ended before it served"
    time.sleep(3)
    demo.send_signal(signum)
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 128 + signum, output
    assert_nothing_is_left(tmp_path)
