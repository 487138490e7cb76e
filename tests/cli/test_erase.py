"""What `earmark erase` takes along and what it leaves, by the real commands, and where a new key may be written."""

import pytest

from earmark_client.cli.main import main
from tests.attack import storekit


@pytest.fixture
def earmark(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["--config", str(tmp_path / "config"), *arguments])
        return code, capsys.readouterr().err

    (tmp_path / "config").touch()
    return run


@pytest.fixture
def homes(tmp_path):
    """Two libraries, each with its own key file beside it."""
    for name in ("one", "two"):
        storekit.make_home(tmp_path / name, clips=0)
    return tmp_path


def test_another_library_s_key_file_stays(earmark, homes):
    key = (homes / "two.key").read_bytes()
    code, err = earmark("--home", "one", "--key-file", "two.key", "erase", "--yes")
    assert code == 0
    assert "destroyed unopened" in err
    assert "two.key stays" in err
    assert not (homes / "one").exists()
    assert (homes / "two.key").read_bytes() == key


def test_the_question_names_the_key_file_that_goes(earmark, homes):
    assert "one and its key file" in earmark("--home", "one", "--key-file", "one.key", "erase")[1]
    assert "key file" not in earmark("--home", "one", "--key-file", "two.key", "erase")[1]
    assert earmark("--home", "one", "--key-file", "one.key", "erase", "--yes") == (0, "erased; the key is gone\n")
    assert not (homes / "one.key").exists()


@pytest.mark.parametrize("options", [[], ["--key-file", "one.key"]], ids=["not named", "named"])
def test_a_library_whose_key_file_is_lost_is_destroyed(earmark, homes, options):
    (homes / "one.key").unlink()
    code, err = earmark("--home", "one", *options, "erase", "--yes")
    assert (code, "stays" in err) == (0, False)
    assert not (homes / "one").exists()


def test_a_library_whose_header_is_damaged_is_destroyed(earmark, homes):
    (homes / "one" / "key.json").write_bytes(b"{")
    code, err = earmark("--home", "one", "--key-file", "one.key", "erase", "--yes")
    assert (code, "one.key stays" in err) == (0, True)
    assert not (homes / "one").exists()


def test_a_new_key_is_never_a_file_that_is_there(earmark, homes):
    """A library that shared its key file with another would take that one along when it is erased."""
    code, err = earmark("--home", "three", "--key-file", "two.key", "init")
    assert (code, "two.key" in err, "hint: name a file" in err) == (10, True, True)
    assert not (homes / "three").exists()
    assert earmark("--home", "one", "--key-file", "one.key", "passwd", "--new-key-file", "two.key")[0] == 10
