"""A command loads what it needs and no more, in a process of its own."""

import os
import resource
import subprocess
import sys

import pytest

from tests.cli.test_transcripts import EARMARK
from tests.support.sound import fill_folder

TELL = (
    "import sys; from earmark_client.cli.main import main; code = sum(main(command.split()) for command in sys.argv[1:]); "
    "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules})); sys.exit(code)"
)
NEVER = {"torch", "transformers", "flwr", "opacus", "librosa", "onnx", "earmark_server", "scipy", "sklearn", "numba"}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Return the top-level modules that are loaded when commands end that ran one after another in a process."""
    folder = tmp_path_factory.mktemp("start")
    fill_folder(folder / "sounds")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "EARMARK_HOME": "home", "EARMARK_KEY_FILE": "key"}

    def run(*commands):
        program = [sys.executable, "-c", TELL, *(" ".join(command) for command in commands)]
        done = subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.splitlines()[-1].split()[1:])

    run(["init"])
    return run


def test_adding_and_searching_load_no_training_library(loaded):
    assert not loaded(["add", "sounds"], ["search", "dog"], ["search", "--like", "sounds/tone.wav"]) & NEVER


def test_a_search_by_words_loads_no_audio_decoder(loaded):
    assert not loaded(["search", "dog"]) & {"soundfile", "soxr"}


def test_help_loads_nothing_heavy(loaded):
    heavy = {
        "numpy",
        "onnxruntime",
        "faiss",
        "sqlcipher3",
        "soundfile",
        "soxr",
        "tokenizers",
        "cryptography",
        "keyring",
        "logging",
    }
    assert not loaded(["--help"]) & (heavy | NEVER)


def test_help_costs_little_processor_time():
    """Processor time, since other tests run beside this one; benchmarks/cold.py measures the wall's."""
    costs_s = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([EARMARK, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs_s) < 0.3


LEAVING = """
import atexit, sys, threading, time
from earmark_client.cli.main import main
atexit.register(print, "asked for")
sys.argv = ["earmark", *{arguments}]
{before}
sys.exit(main())
"""
A_THREAD = 'threading.Thread(target=lambda: (time.sleep(1), print("still at work"))).start()'


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["no-such-command"], 2)])
@pytest.mark.parametrize(("before", "last"), [("", ["asked for"]), (A_THREAD, ["still at work", "asked for"])])
def test_a_process_leaves_with_its_code_and_nothing_undone(arguments, code, before, last):
    program = LEAVING.format(arguments=arguments, before=before)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert ended.stdout.splitlines()[-len(last) :] == last
