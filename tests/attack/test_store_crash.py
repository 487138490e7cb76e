"""R4: a process that writes is killed at random moments; what it had committed is there, and nothing else."""

import json
import subprocess
import sys

import pytest
from tests.attack import storekit

from earmark_client.store.keys import KeyFile, create_key_file


def run(command, folder, count, *more):
    arguments = [command, folder, folder.parent / "home.key", f"count={count}", "seed=11", *more]
    done = subprocess.run([sys.executable, storekit.__file__, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kills", [25, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_killed_writer_leaves_what_it_committed(tmp_path, kills):
    storekit.make_home(tmp_path / "home", clips=0)
    outcome = run("kills", tmp_path / "home", kills)
    assert outcome["faults"] == []
    assert outcome["opened"] == kills
    assert outcome["clips"] >= kills // 10


def test_control_without_transactions_something_is_half_there(tmp_path):
    storekit.make_home(tmp_path / "home", clips=0)
    assert run("kills", tmp_path / "home", 10, "torn")["faults"] != []


@pytest.mark.parametrize("kills", [25, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_killed_change_of_secret_leaves_one_that_opens(tmp_path, kills):
    storekit.make_home(tmp_path / "home", clips=0)
    other = KeyFile(tmp_path / "other.key")
    create_key_file(other.path)
    assert run("rewrap", tmp_path / "home", kills, f"other={other.path}")["faults"] == []
