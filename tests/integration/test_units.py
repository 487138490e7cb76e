"""The systemd units of scripts/deploy: well-formed, closed as far as they say, and running commands that exist."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from earmark_client.cli.main import cli as client_cli
from earmark_server.cli import cli as server_cli
from tests.house.sources import ROOT

DEPLOY = ROOT / "scripts" / "deploy"
SERVER_UNITS = ("earmark-server.service", "earmark-round.service", "earmark-renew.service")
EVERY_SERVICE = (*SERVER_UNITS, "earmark-participate.service")
EXPOSURE_MOST = {"earmark-participate.service": 6.0} | dict.fromkeys(SERVER_UNITS, 1.5)
"""`systemd-analyze security`, 0 to 10; a user's unit can't be closed as far as a system's."""


def read_unit(name):
    """A unit's last values by key; keys may stand twice."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(DEPLOY / name, encoding="utf-8")
    return parser


@pytest.mark.parametrize("name", EVERY_SERVICE)
def test_a_service_gives_up_the_rights_it_does_not_need(name):
    service = read_unit(name)["Service"]
    assert {key: service[key] for key in ("NoNewPrivileges", "ProtectSystem", "PrivateTmp", "RestrictAddressFamilies")} == {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    }
    assert service["LimitCORE"] == "0"
    if name in SERVER_UNITS:
        assert (service["User"], service["IPAddressDeny"], service["IPAddressAllow"]) == ("earmark", "any", "localhost")


@pytest.mark.parametrize("name", SERVER_UNITS)
def test_a_service_runs_a_command_and_options_that_exist(name):
    program, command, *arguments = read_unit(name)["Service"]["ExecStart"].split()
    known = server_cli.commands[command]
    assert program == "/opt/earmark/bin/earmark-server"
    assert {each for each in arguments if each.startswith("-")} <= {option for each in known.params for option in each.opts}


def test_server_and_nginx_agree_on_folders_ports_and_the_socket():
    start = read_unit("earmark-server.service")["Service"]["ExecStart"].split()
    folder, socket = start[2], start[4]
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    assert f"server unix:{socket};" in text
    assert f"ssl_certificate {folder}/tls/server.pem;" in text
    assert [f"listen {port} ssl http2;" in text for port in (7443, 7444)] == [True, True]
    assert "server 127.0.0.1:7445;" in text


def test_the_guide_names_files_commands_and_options_that_exist():
    guide = (ROOT / "docs" / "guides" / "deploy.md").read_text(encoding="utf-8")
    lines = [line.strip() for line in guide.splitlines() if line.startswith("    ")]
    for path in re.findall(r"scripts/[\w./*-]+", " ".join(lines)):
        assert list(ROOT.glob(path)), path
    for line in lines:
        for program, known in (("earmark-server", server_cli.commands), ("earmark", client_cli.commands)):
            words = re.search(rf"(?:^|bin/){program} (\S+)(.*)", line)
            if words:
                options = {option for each in known[words[1]].params for option in each.opts}
                assert set(re.findall(r"--[a-z-]+", words[2])) <= options, line


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in DEPLOY.glob("earmark-*.*")))
def test_systemd_finds_no_fault_with_a_unit(name, tmp_path):
    """`systemd-analyze verify`, with our programs where they are here."""
    analyze = shutil.which("systemd-analyze")
    assert analyze, "this needs systemd's own tool (package systemd), though no running systemd"
    here = Path(sys.executable).parent
    for path in DEPLOY.glob("earmark-*.*"):
        text = path.read_text(encoding="utf-8").replace("/opt/earmark/bin", str(here)).replace("%h/.earmark-venv/bin", str(here))
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    kind = ("--user",) if "participate" in name else ()
    run = {"env": os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}, "capture_output": True, "text": True, "timeout": 60}
    done = subprocess.run([analyze, *kind, "verify", f"./{name}"], cwd=tmp_path, **run)
    assert done.returncode == 0, done.stderr
    assert name not in done.stderr
    if name.endswith(".service"):
        most = str(int(EXPOSURE_MOST[name] * 10))
        words = ["security", "--offline=true", f"--threshold={most}", f"./{name}"]
        done = subprocess.run([analyze, *kind, *words], cwd=tmp_path, **run)
        assert done.returncode == 0, done.stdout
