"""Settings: who wins, and what is refused."""

import errno
import os
from pathlib import Path

import pytest

from earmark_shared.errors import SettingsError
from earmark_shared.settings import NO_NETWORK, NO_PROXY, child_environment, go_offline, load_settings


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('home = "/from/file"\nlimit = 3\ndevice = "cpu"\nmin_score = 0.5\n')
    return path


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(config):
    environ = {"EARMARK_HOME": "/from/env", "EARMARK_LIMIT": "4"}
    settings = load_settings({"home": Path("/from/flag"), "limit": None}, config=config, environ=environ)
    assert (settings.home, settings.limit, settings.min_score, settings.jobs) == (Path("/from/flag"), 4, 0.5, None)


def test_without_anything_the_library_is_below_the_persons_home():
    assert load_settings({}, environ={}).home == Path.home() / ".local/share/earmark"


def test_a_file_may_be_named_by_the_environment(config):
    assert load_settings({}, environ={"EARMARK_CONFIG": str(config)}).limit == 3


def test_paths_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"home": "here", "key_file": "~/key"}, environ={})
    assert (settings.home, settings.key_file) == (tmp_path / "here", Path.home() / "key")


def test_a_settings_folder_that_nobody_may_look_into_is_named(monkeypatch, tmp_path):
    def refuse(_path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(SettingsError, match=r"config\.toml: Permission denied") as caught:
        load_settings({}, environ={})
    assert "permissions" in caught.value.hint


def test_an_unknown_key_of_a_file_is_refused_by_file_key_and_remedy(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("keyfile = 'x'\n")
    with pytest.raises(SettingsError, match=r"config.toml: `keyfile` is not a setting") as caught:
        load_settings({}, config=path, environ={})
    assert "key_file" in caught.value.hint
    assert caught.value.exit_code == 10


def test_an_unknown_variable_is_refused():
    with pytest.raises(SettingsError, match="EARMARK_KEYFILE is not a setting"):
        load_settings({}, environ={"EARMARK_KEYFILE": "x"})


def test_the_other_programs_variables_pass():
    assert load_settings({}, environ={"EARMARK_SERVER_PORT": "1"}).limit == 10


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limit", "many"), ("limit", "0"), ("jobs", "-1"), ("min_score", "1.5"), ("min_score", "x"), ("min_score", "nan"),
        ("device", "tpu"), ("verbose", "perhaps"), ("passphrase_fd", "-3"), ("home", ""),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_followed_is_refused_by_name(key, value):
    with pytest.raises(SettingsError, match=f"EARMARK_{key.upper()}") as caught:
        load_settings({}, environ={f"EARMARK_{key.upper()}": value})
    assert caught.value.hint


@pytest.mark.parametrize("text", ["limit = true", "limit = 2.5", "home = 3", "not toml"])
def test_a_file_with_a_wrong_type_is_refused(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"config\.toml"):
        load_settings({}, config=path, environ={})


def test_a_named_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="no such settings file"):
        load_settings({}, config=tmp_path / "none.toml", environ={})


def test_no_color_is_heard():
    assert load_settings({}, environ={"NO_COLOR": "1"}).color is False
    assert load_settings({}, environ={"NO_COLOR": ""}).color is True


def test_going_offline_switches_every_phone_home_off(monkeypatch):
    for name in NO_NETWORK:
        monkeypatch.setenv(name, "on")
    go_offline()
    assert {name: os.environ[name] for name in NO_NETWORK} == NO_NETWORK
    assert NO_NETWORK["FLWR_TELEMETRY_ENABLED"] == "0"


def test_a_program_that_we_start_asks_no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTPS_PROXY", "ALL_PROXY", "ftp_proxy"):
        monkeypatch.setenv(name, "http://proxy.example")
    given = child_environment(FLWR_HOME="/somewhere")
    assert {name: value for name, value in given.items() if name.lower().endswith("_proxy")} == NO_PROXY
    assert NO_PROXY["no_proxy"] == NO_PROXY["NO_PROXY"] == "127.0.0.1,localhost"
    assert given["FLWR_HOME"] == "/somewhere"
