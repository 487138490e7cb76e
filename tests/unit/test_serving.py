"""What keeps a server serving: one process a folder, and a SuperLink that is there, or else said not to be."""

import socket

import pytest
from tests.support.federation import Federation

from earmark_server.cli import main
from earmark_server.service import LOCK, EnrolmentService, only_server, proxied_caller, start_behind_nginx
from earmark_shared.errors import HomeInUseError, NetworkError, SettingsError


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path / "srv", is_lab=True)
    yield made
    made.close()


@pytest.fixture
def service(federation):
    return EnrolmentService(federation.enroller, federation.limits, proxied_caller, clock=federation.clock)


# One process a folder


def test_a_folder_that_is_served_is_served_by_nobody_else(federation, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("earmark_server.cli.harden_process", lambda: None)
    with only_server(tmp_path / "srv"):
        assert main(["serve", str(tmp_path / "srv"), "--behind-nginx", str(tmp_path / "s")]) == HomeInUseError.exit_code
    said = capsys.readouterr()
    assert LOCK in said.err
    assert "hint: Stop that one first" in said.err
    assert "serving" not in said.out
    assert not (tmp_path / "s").exists()
    with only_server(tmp_path / "srv"):
        pass


def test_a_socket_that_a_server_listens_on_is_left_to_it(service, tmp_path):
    server = start_behind_nginx(service, tmp_path / "s")
    try:
        with pytest.raises(NetworkError, match="Another server listens"):
            start_behind_nginx(service, tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(tmp_path / "s"))
    finally:
        server.stop(0).wait()


def test_a_socket_that_a_killed_server_left_is_taken(service, tmp_path):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "s"))
    start_behind_nginx(service, tmp_path / "s").stop(0).wait()


def test_what_is_no_socket_is_not_removed(service, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(SettingsError, match="notes"):
        start_behind_nginx(service, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"
    with pytest.raises(NetworkError, match="nowhere"):
        start_behind_nginx(service, tmp_path / "nowhere" / "s")
