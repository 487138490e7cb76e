"""The two programs together, as people run them: make a server, invite, join, be told what that means, leave, erase."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from earmark_client.cli import federation_cmds, rounds_cmds
from earmark_client.cli.main import main as earmark_main
from earmark_client.federation import LAB_BANNER
from earmark_client.federation.identity import load_membership
from earmark_client.federation.spending import open_ledger
from earmark_client.store.home import open_home
from earmark_client.store.keys import KeyFile
from earmark_server import cli as server_cli
from earmark_server.authority import open_authority, renew
from earmark_server.cli import main as server_main
from earmark_server.rounds import Rounds
from earmark_shared.errors import EarmarkError, StoreError
from earmark_shared.release import dump_head, is_canary
from tests.support.federation import Federation
from tests.support.releases import BASE, SCHEMA, some_head


class Person:
    """Somebody at a shell, in a folder of their own. Commands run in this process (a new one each costs a second), `serve` in its own."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys = folder, capsys

    def run(self, main, words, code):
        self.capsys.readouterr()
        ended = main(list(words))
        said = self.capsys.readouterr()
        assert ended == code, said.out + said.err
        return said

    def earmark(self, *words, code=0):
        return self.run(earmark_main, words, code)

    def server(self, *words, code=0):
        return self.run(server_main, words, code)

    @contextmanager
    def serving(self):
        command = [sys.executable, "-m", "earmark_server.cli", "serve", "srv"]
        with subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, text=True) as server:
            try:
                yield dict(word.split("=") for word in server.stdout.readline().split()[1:])
            finally:
                server.send_signal(signal.SIGTERM)
                assert server.wait(10) == 0

    def invite(self, port):
        return json.loads(self.server("invite", "srv", "--port", port, "--json").out)

    def devices(self):
        return [json.loads(line) for line in self.server("devices", "srv", "--json").out.splitlines()]


@pytest.fixture
def person(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EARMARK_HOME", "home")
    monkeypatch.setenv("EARMARK_KEY_FILE", "key")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for harden in ("earmark_shared.files.harden_process", "earmark_server.cli.harden_process"):
        monkeypatch.setattr(harden, lambda: None)  # it would change the umask of the tests that follow
    return Person(tmp_path, capsys)


def test_a_lab_from_its_making_to_its_end(person):
    assert "LAB" in person.server("init", "srv", "--lab", "--host", "127.0.0.1", "--port", "0").err
    person.server("init", "srv", code=32)
    person.earmark("init")
    with person.serving() as where:
        invited = person.invite(where["port"])
        join = ("join", invited["address"], "--token", invited["token"], "--lab")
        assert "--yes" in person.earmark(*join, code=2).err
        assert person.devices() == []
        joined = person.earmark(*join, "--yes").err
        assert LAB_BANNER in joined
        assert "joined 127.0.0.1" in joined
        for told in (("status",), ("privacy",)):
            assert LAB_BANNER in person.earmark(*told).err
        secrets = keys_of(person)
        assert [path for path in (person.folder / "home").rglob("*") if any(key in path.read_bytes() for key in secrets)] == []
        person.earmark(*join, "--yes", code=44)
        assert LAB_BANNER in person.earmark("leave", "--yes").err
        assert [device["state"] for device in person.devices()] == ["revoked"]
        again = person.invite(where["port"])
        person.earmark("join", again["address"], "--token", again["token"], "--yes", code=62)
        person.earmark("join", again["address"], "--token", again["token"], "--yes", "--lab")
        assert "left the federation" in person.earmark("erase", "--yes").err
    assert [(device["state"], device["lab"]) for device in person.devices()] == [("revoked", True)] * 2
    assert all(device["is_canary"] == is_canary(bytes.fromhex(device["alias"])) for device in person.devices())


def keys_of(person):
    """The device's private keys, as they must not lie anywhere."""
    with open_home(person.folder / "home", KeyFile(person.folder / "key")) as home:
        keys = load_membership(home.database).keys
    found = (bytes(keys.identity.private_bytes()), bytes(keys.node.private_bytes()))
    assert all(found)
    return found


def test_a_budget_is_renewed_after_a_year_by_a_person_who_agrees(person, monkeypatch):
    person.earmark("init")
    person.earmark("privacy")
    assert "days to go" in person.earmark("privacy", "--renew", "--yes", code=51).err
    later_s = time.time() + 366 * 86_400
    monkeypatch.setattr(federation_cmds.time, "time", lambda: later_s)
    assert "--yes" in person.earmark("privacy", "--renew", code=2).err
    assert epochs(person) == 1
    assert person.earmark("privacy", "--renew", "--yes").out.startswith("Each clip: epsilon 0.00")
    assert epochs(person) == 2
    assert "days to go" in person.earmark("privacy", "--renew", "--yes", code=51).err


def epochs(person):
    with open_home(person.folder / "home", KeyFile(person.folder / "key")) as home:
        return len(open_ledger(home, KeyFile(person.folder / "key"), clock=time.time).rows())


def test_what_is_wrong_is_said_with_a_code(person):
    person.earmark("init")
    assert "copy all of it" in person.earmark("join", "https://example.org", "--token", "00", "--yes", code=10).err
    address = "earmark://127.0.0.1:1/" + "0" * 64
    person.earmark("join", address, "--token", "00", "--yes", code=10)
    assert "can't be reached" in person.earmark("join", address, "--token", "0" * 32, "--yes", code=70).err
    person.earmark("leave", "--yes", code=44)
    report = person.earmark("privacy")
    assert report.out.startswith("Each clip: epsilon 0.00")
    assert report.err == ""
    assert json.loads(person.earmark("privacy", "--json").out)["sent_rounds"] == 0
    assert "init" in person.server("invite", "nowhere", code=10).err
    person.server("devices", "nowhere", code=10)
    person.server("revoke", "nowhere", "xyz", code=2)


def test_an_operator_invites_revokes_and_renews(person):
    person.server("init", "srv", "--port", "7500")
    said = person.server("invite", "srv").out
    assert said.startswith("earmark join earmark://localhost:7500/")
    assert person.server("revoke", "srv", "00" * 16, code=44).err
    assert person.server("renew", "srv").err == "renewed\n"
    assert person.server("invite", "srv").out.split("/")[3][:64] == said.split("/")[3][:64]
    for path in (person.folder / "srv" / "keys").glob("root-*.pem"):
        path.unlink()
    assert person.server("renew", "srv").err == "renewed\n", "root isn't due yet"
    for path in (person.folder / "srv" / "keys").glob("targets-*.pem"):
        path.unlink()
    said = person.server("renew", "srv").err
    assert "lacks keys of targets; bring two of each" in said
    person.server("renew", "srv", "--restored", code=10)
    (person.folder / "srv" / "keys" / "timestamp-1.pem").unlink()
    assert "timestamp keys" in person.server("renew", "srv", code=10).err


@pytest.mark.parametrize("words", [
    ("--host", "münchen.example"), ("--host", ""), ("--host", 'a"b'), ("--host", "has space"), ("--host", "host:7443"), ("--host", "1.2.3"),
    ("--host", "a..b"), ("--host", "-a"), ("--host", "x" * 64), ("--host", "FE80::1"), ("--port", "65535"), ("--port", "65534"),
    ("--port", "7443", "--member-port", "7445"),
])  # fmt: skip
def test_a_server_that_nobody_could_reach_is_not_made(person, words):
    person.server("init", "srv", *words, code=10)
    assert not (person.folder / "srv").exists()


@pytest.mark.parametrize("words", [
    ("--host", "earmark.example.org", "--member-port", "7443"), ("--host", "192.0.2.7"), ("--host", "2001:db8::1"), ("--host", "my_box"),
    ("--host", "xn--mnchen-3ya.example"), ("--port", "65533"), ("--port", "0"),
])  # fmt: skip
def test_one_that_can_be_reached_is_made(person, words):
    person.server("init", "srv", *words)
    assert person.server("invite", "srv", "--port", "7443").out


@pytest.mark.parametrize("is_there", [False, True])
def test_a_making_that_fails_leaves_nothing(person, monkeypatch, is_there):
    folder = person.folder / "srv"
    if is_there:
        folder.mkdir()

    def fail(*_, **__):
        raise StoreError

    with monkeypatch.context() as patched:
        patched.setattr(server_cli, "create_repository", fail)
        person.server("init", "srv", code=30)
    assert [*folder.iterdir()] == [] if is_there else not folder.exists()
    person.server("init", "srv")
    with monkeypatch.context() as patched:
        patched.setattr(server_cli, "create_repository", fail)
        person.server("init", "srv", code=32)
    person.server("invite", "srv")


def test_no_round_is_begun_that_no_device_would_follow(person, monkeypatch):
    person.server("init", "srv")
    plan_key = person.folder / "srv" / "aggregator" / "plan.key"
    kept, now_s = plan_key.read_bytes(), time.time()
    plan_key.write_bytes(bytes(32))
    assert "another key" in person.server("round", "srv", code=43).err
    plan_key.write_bytes(kept)
    for days, code, what in ((31, 43, "round-plan key has expired"), (91, 46, "No device believes a release")):
        monkeypatch.setattr(server_cli.time, "time", lambda days=days: now_s + days * 86_400)
        for said in (person.server("round", "srv", code=code).err, refused_where_rounds_run(person, code)):
            assert what in said
            assert "earmark-server renew" in said
        renew(open_authority(person.folder / "srv"), now_s=int(time.time()) + 60 * 86_400, entropy=os.urandom)


def refused_where_rounds_run(person, code):
    """What a process says that Flower starts."""
    with pytest.raises(EarmarkError) as caught:
        Rounds.open(person.folder / "srv")
    assert caught.value.exit_code == code
    return f"{caught.value} {caught.value.hint}"


def test_an_operator_takes_the_first_release_back_and_lifts_numbers(person):
    person.server("init", "srv")
    (person.folder / "schema.json").write_bytes(SCHEMA.to_json().encode())
    (person.folder / "head").write_bytes(dump_head(SCHEMA, some_head(1)))
    person.server("take-back", "srv", "0", code=46)
    person.server("publish", "srv", "head", "schema.json", "--base", BASE)
    assert "newest" in person.server("take-back", "srv", "1", code=46).err
    assert "rounds began with" in person.server("take-back", "srv", "0").err
    assert "released 10002" in person.server("renew", "srv", "--restored").err
    (person.folder / "schema.json").write_bytes(b"\xff")
    assert "not text" in person.server("publish", "srv", "head", "schema.json", "--base", BASE, code=41).err


def test_a_lost_registry_is_named_and_no_command_makes_another(person):
    person.server("init", "srv")
    (person.folder / "srv" / "registry.db").unlink()
    for command in (("invite",), ("devices",), ("revoke", "00" * 16)):
        said = person.server(command[0], "srv", *command[1:], code=30).err
        assert "registry.db is missing" in said
        assert "backup" in said
    assert not (person.folder / "srv" / "registry.db").exists()


@pytest.mark.parametrize(("command", "code"), [("devices", 0), ("invite", 37)])
def test_on_a_full_disk_devices_are_listed_and_nobody_is_invited(person, command, code):
    """A process that may make no file longer stands for the disk."""
    person.server("init", "srv")
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
        "from earmark_server.cli import main\n"
        f"sys.exit(main(['{command}', 'srv']))"
    )
    done = subprocess.run([sys.executable, "-B", "-c", script], cwd=person.folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("no room" in done.stderr) == bool(code)


def test_a_device_whose_certificate_ran_out_is_not_called_enrolled(person, monkeypatch):
    federation = Federation(person.folder / "srv")
    federation.enroller.admit(federation.request(federation.enroller.invite())[0])
    federation.close()
    assert [device["state"] for device in person.devices()] == ["enrolled"]
    later_s = time.time() + 366 * 86_400
    monkeypatch.setattr(server_cli.time, "time", lambda: later_s)
    assert [device["state"] for device in person.devices()] == ["expired"]


def test_a_server_needs_nothing_that_hears(tmp_path):
    """Must show 8, the enrolment part: the server runs where these can't be imported."""
    code = (
        "import sys\n"
        "for name in ('torch', 'librosa', 'soundfile', 'soxr', 'faiss', 'onnxruntime', 'sqlcipher3', 'tokenizers', 'earmark_client'):\n"
        "    sys.modules[name] = None\n"
        "from earmark_server.cli import main\n"
        "sys.exit(main(['init', 'srv']) or main(['invite', 'srv', '--port', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def signals_kept():
    """What this process did about signals, put back afterwards."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda signum: signum.name)
def test_taking_part_ends_when_its_session_does(signals_kept, signum):
    stop = rounds_cmds._stop_when_told()
    assert not stop.is_set()
    signal.raise_signal(signum)
    assert stop.is_set()


def test_what_nohup_started_outlives_its_window(signals_kept):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = rounds_cmds._stop_when_told()
    signal.raise_signal(signal.SIGHUP)
    assert not stop.is_set()
    signal.raise_signal(signal.SIGTERM)
    assert stop.is_set()
