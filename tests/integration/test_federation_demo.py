"""The whole federation on real Flower, as `make federation` shows it: SuperLink, SuperNodes, rounds, a release, a search made right."""

import subprocess
import sys

import pytest

from tests.house.sources import ROOT

SOUNDS = ROOT / ".cache" / "sounds"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_make_federation_ends_well_and_leaves_nothing_running(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "federation_demo.py"),
        "--sounds",
        str(SOUNDS),
        "--keep",
        str(tmp_path / "kept"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1700)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": published as version") == 3
    assert "right." in done.stdout
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listing
