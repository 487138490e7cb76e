"""R3, R5, R6: wrong keys, older copies, erased homes."""

import contextlib
import os
import shutil
import stat
import time

import pytest
from tests.attack import storekit

from earmark_client.store import home as homes
from earmark_client.store import keyrings, keys
from earmark_client.store.home import change_secret, create_home, erase_home, open_home
from earmark_client.store.keys import KeyFile, Keyring, Passphrase, create_key_file
from earmark_shared.errors import (
    EarmarkError,
    HomeExistsError,
    HomeMissingError,
    RollbackError,
    StoreError,
    TamperedError,
    WrongKeyError,
)

RIGHT = "correct horse battery staple"


def refusals(folder, guesses):
    """(seconds, message) of each refused guess."""
    refused = []
    for guess in guesses:
        started = time.perf_counter()
        with pytest.raises(WrongKeyError) as caught:
            keys.unlock(folder, guess)
        refused.append((time.perf_counter() - started, str(caught.value)))
    return refused


def wrong_passphrases(count):
    near = [RIGHT[:-1], RIGHT + " ", RIGHT.upper(), "", " " + RIGHT, RIGHT.replace("o", "0")]
    return [Passphrase(text) for text in [*near, *(f"guess {number}" for number in range(count))][:count]]


@pytest.fixture
def locked(tmp_path):
    """A folder with nothing but a header locked by RIGHT."""
    keys.write_header(tmp_path, Passphrase(RIGHT), os.urandom(32), os.urandom(16).hex())
    return tmp_path


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_wrong_passphrases_are_refused_slowly_and_alike(locked, count):
    refused = refusals(locked, wrong_passphrases(count))
    assert min(seconds for seconds, _ in refused) >= 0.15
    assert {message for _, message in refused} == {keys.REFUSED}


def test_control_the_right_passphrase_is_not_and_a_weak_derivation_is_fast(locked, monkeypatch):
    assert len(keys.unlock(locked, Passphrase(RIGHT))) == 32
    monkeypatch.setattr(keys, "ARGON2", {"memory_kib": 64, "passes": 1, "lanes": 1})
    monkeypatch.setattr(keys, "WRONG_PASSPHRASE_S", 0.0)
    keys.write_header(locked, Passphrase(RIGHT), os.urandom(32), os.urandom(16).hex())
    assert min(seconds for seconds, _ in refusals(locked, wrong_passphrases(5))) < 0.15


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_wrong_key_files_are_refused_alike(tmp_path, count):
    right = KeyFile(tmp_path / "right")
    create_key_file(right.path)
    keys.write_header(tmp_path, right, os.urandom(32), os.urandom(16).hex())
    guesses = []
    for number in range(count):
        guesses.append(KeyFile(tmp_path / f"wrong{number}"))
        create_key_file(guesses[-1].path)
    assert {message for _, message in refusals(tmp_path, guesses)} == {keys.REFUSED}
    assert len(keys.unlock(tmp_path, right)) == 32


def test_a_header_cannot_ask_for_endless_work(locked):
    path = locked / "key.json"
    for name, value in (("65536", "4294967295"), ('"passes": 3', '"passes": 9999999'), ("65536", "8")):
        text = path.read_text()
        path.write_text(text.replace(name, name.replace(name.split()[-1], value) if " " not in name else value))
        started = time.perf_counter()
        with pytest.raises(TamperedError):
            keys.unlock(locked, Passphrase(RIGHT))
        assert time.perf_counter() - started < 1
        path.write_text(text)


@pytest.fixture
def cheap_derivation(monkeypatch):
    """For tests of which secret opens what: what a guess costs is the passphrase tests' to say, and the same code asks for it."""
    monkeypatch.setattr(keys, "ARGON2", {"memory_kib": 64, "passes": 1, "lanes": 1})


def grown(tmp_path, secret):
    """A home, a copy of it from before its newest clip, and its secret."""
    folder = tmp_path / "home"
    secret = storekit.make_home(folder, clips=2, secret=secret)
    shutil.copytree(folder, tmp_path / "older")
    with open_home(folder, secret, write=True) as home, home.database.transaction():
        storekit.add_clip(home.database, 7)
    return folder, tmp_path / "older", secret


def put_back(folder, older, *names):
    for name in names:
        shutil.copy(older / name, folder / name)


def test_an_older_copy_is_noticed_by_the_keyring(tmp_path):
    folder, older, secret = grown(tmp_path, Keyring(storekit.FakeKeyring()))
    with open_home(folder, secret) as home:
        assert home.database.counts().clips == 3
    shutil.rmtree(folder)
    shutil.copytree(older, folder)
    with pytest.raises(RollbackError):
        open_home(folder, secret)
    with open_home(folder, secret, older="read") as home:
        assert home.is_rolled_back
        assert home.database.counts().clips == 2
        with pytest.raises(StoreError), home.database.transaction():
            storekit.add_clip(home.database, 8)
    with open_home(folder, secret, older="accept") as home, home.lock(), home.database.transaction():
        storekit.add_clip(home.database, 8)
    open_home(folder, secret).close()


def test_an_older_database_is_noticed_in_every_mode(tmp_path):
    folder, older, secret = grown(tmp_path, None)
    put_back(folder, older, "library.db")
    with pytest.raises(RollbackError):
        open_home(folder, secret)
    (folder / "seal.json").unlink()
    with pytest.raises(RollbackError):
        open_home(folder, secret)
    put_back(folder, older, "seal.json")  # the whole home, as the module's docstring admits, is not noticed in this mode
    open_home(folder, secret).close()


def test_a_seal_of_another_home_or_number_is_refused(tmp_path):
    folder, _, secret = grown(tmp_path, None)
    other = storekit.make_home(tmp_path / "other", clips=1)
    seal = (folder / "seal.json").read_text()
    for forged in ((tmp_path / "other" / "seal.json").read_text(), seal.replace("2 ", "1 ", 1), "", "x", "9" * 50, seal + "1"):
        (folder / "seal.json").write_text(forged)
        with pytest.raises(TamperedError):
            open_home(folder, secret)
    open_home(tmp_path / "other", other).close()


def test_control_without_the_seal_an_older_copy_opens(tmp_path, monkeypatch):
    folder, older, secret = grown(tmp_path, Keyring(storekit.FakeKeyring()))
    put_back(folder, older, "library.db", "key.json")
    monkeypatch.setattr(homes.Seal, "read", lambda _self: 0)
    with open_home(folder, secret) as home:
        assert home.database.counts().clips == 2


def every_secret(tmp_path):
    return {"keyring": Keyring(storekit.FakeKeyring()), "passphrase": Passphrase(RIGHT), "key-file": None}


@pytest.mark.parametrize("mode", ["keyring", "passphrase", "key-file"])
def test_an_erased_home_is_gone_and_so_is_its_older_copy(tmp_path, mode, cheap_derivation):
    folder, older, secret = grown(tmp_path, every_secret(tmp_path)[mode])
    started = time.perf_counter()
    erase_home(folder, secret)
    assert time.perf_counter() - started <= 5
    assert not folder.exists()
    with pytest.raises(HomeMissingError):
        open_home(folder, secret)
    if mode == "passphrase":
        (older / "key.json").unlink()  # it wraps the key under something a person remembers: whoever kept it kept the home
    if mode == "keyring":
        assert secret.backend.entries == {}
    with pytest.raises(EarmarkError):
        open_home(older, secret)


def test_control_with_the_key_kept_the_older_copy_opens(tmp_path, monkeypatch):
    folder, older, secret = grown(tmp_path, Keyring(storekit.FakeKeyring()))
    monkeypatch.setattr(keyrings.OpenKeyring, "forget", lambda *_: None)
    erase_home(folder, secret)
    with open_home(older, secret, older="read") as home:
        assert home.database.counts().clips == 2


def test_erasing_overwrites_the_key_before_it_is_unlinked(tmp_path, monkeypatch):
    folder, _, secret = grown(tmp_path, None)
    header, key = (folder / "key.json").read_bytes(), secret.path.read_bytes()
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context((folder / "key.json").open("rb")), stack.enter_context(secret.path.open("rb"))]
        erase_home(folder, secret)
        after = [handle.read() for handle in kept]
    assert len(after[0]) == len(header)
    assert after[0] != header
    assert after[1] != key


def test_a_home_without_its_header_says_what_is_missing_and_is_not_begun_anew(tmp_path):
    folder, older, secret = grown(tmp_path, None)
    (folder / "key.json").unlink()
    data = (folder / "library.db").read_bytes()
    with pytest.raises(HomeMissingError, match=r"library\.db, but no key\.json") as caught:
        open_home(folder, secret)
    assert "Restore key.json" in caught.value.hint
    with pytest.raises(HomeExistsError, match=r"library\.db") as caught:
        create_home(folder, secret)
    assert "restore key.json" in caught.value.hint
    assert (folder / "library.db").read_bytes() == data
    put_back(folder, older, "key.json")
    with open_home(folder, secret) as home:
        assert home.database.counts().clips == 3


@pytest.mark.parametrize("name", ["library.db", "library.db-wal", "seal.json"])
def test_a_person_s_own_file_is_not_overwritten(tmp_path, name):
    folder, secret = tmp_path / "own", KeyFile(tmp_path / "key")
    folder.mkdir()
    folder.chmod(0o755)
    (folder / name).write_text("mine")
    with pytest.raises(HomeExistsError, match=name):
        create_home(folder, secret)
    assert [path.read_text() for path in folder.iterdir()] == ["mine"]
    assert (stat.S_IMODE(folder.stat().st_mode), secret.path.exists()) == (0o755, False)


def test_a_person_s_own_models_are_not_erased(tmp_path):
    folder, _, secret = grown(tmp_path, None)
    ours = [
        "head-1.safetensors",
        "schema-ab.json",
        "imported",
        "shipped",
        "incoming",
        "tuf-ab",
        ".head-1.safetensors.0123456789ab",
    ]
    (folder / "models").mkdir()
    for name in (*ours, "mine"):
        (folder / "models" / name).touch() if "." in name else (folder / "models" / name).mkdir()
    erase_home(folder, secret)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == ["models", "models/mine"]


STEPS = {"folder": 0, "mark": 1, "database": 2, "seal": 3, "header": 4, "finished": 5}


def cut_short(monkeypatch, folder, secret, moment):
    """Create a home in a process that is killed before one of its steps."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        return
    places = [
        (homes, "make_private_folder"), (homes, "write_atomic"), (homes.Database, "create"), (homes.Seal, "write"),
        (keys, "write_header"), (homes, "_finish"),
    ]  # fmt: skip
    with contextlib.suppress(BaseException):
        monkeypatch.setattr(*places[STEPS[moment]], lambda *_: os._exit(9))
        create_home(folder, secret)
    os._exit(1)


@pytest.mark.parametrize("moment", [moment for moment in STEPS if moment != "finished"])
def test_a_creation_that_was_cut_short_is_begun_anew(tmp_path, monkeypatch, moment):
    folder, secret = tmp_path / "home", KeyFile(tmp_path / "key")
    cut_short(monkeypatch, folder, secret, moment)
    with pytest.raises(HomeMissingError) as caught:
        open_home(folder, secret)
    assert caught.value.hint == "Begin one: earmark init."
    create_home(folder, secret)
    open_home(folder, secret).close()


def test_a_creation_that_only_left_its_mark_is_no_licence(tmp_path, monkeypatch):
    """Killed with the header written there is a library; once opened, a later loss of its header is not taken for a cut."""
    folder, secret = tmp_path / "home", KeyFile(tmp_path / "key")
    cut_short(monkeypatch, folder, secret, "finished")
    with pytest.raises(HomeExistsError):
        create_home(folder, secret)
    assert (folder / keys.UNFINISHED_NAME).exists()
    open_home(folder, secret).close()
    (folder / "key.json").unlink()
    with pytest.raises(HomeExistsError):
        create_home(folder, secret)


def test_a_damaged_home_can_still_be_erased(tmp_path):
    folder, _, secret = grown(tmp_path, None)
    (folder / "key.json").write_bytes(b"{")
    (folder / "library.db").write_bytes(b"")
    erase_home(folder, secret)
    assert not folder.exists()


def test_a_key_file_goes_only_with_a_library_that_it_opens(tmp_path):
    """Another library's key, a private file that is no key, one that is gone: the library is erased, the file is not."""
    other = storekit.make_home(tmp_path / "other", clips=1)
    letter = KeyFile(tmp_path / "letter")
    letter.path.write_text("dear diary")
    letter.path.chmod(0o600)
    for number, secret in enumerate((other, letter, KeyFile(tmp_path / "gone"))):
        storekit.make_home(tmp_path / f"home{number}", clips=0)
        assert keys.own_key_file(tmp_path / f"home{number}", secret) is None
        erase_home(tmp_path / f"home{number}", secret)
        assert not (tmp_path / f"home{number}").exists()
        assert (tmp_path / f"home{number}.key").exists()
    open_home(tmp_path / "other", other).close()
    assert letter.path.read_text() == "dear diary"


def test_erasing_takes_along_what_a_killed_change_of_secret_left(tmp_path, monkeypatch, cheap_derivation):
    """Such a scratch file opens a copy of the database by the secret that was being set; so might one of the seal."""
    folder, _, secret = grown(tmp_path, None)
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.replace", lambda _scratch, _path: os._exit(9))
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                keys.rewrap(folder, secret, Passphrase("new"))
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (scratch,) = folder.glob(".key.json.*")
    (folder / ".seal.json.0123456789ab").touch()
    (folder / ".key.json.mine").touch()
    with scratch.open("rb") as kept:
        before = kept.read()
        erase_home(folder, secret)
        kept.seek(0)
        assert kept.read() not in (b"", before)
    assert [path.name for path in folder.iterdir()] == [".key.json.mine"]


def test_every_file_of_a_home_is_its_owners_alone(tmp_path):
    folder, _, secret = grown(tmp_path, None)
    with open_home(folder, secret, write=True):
        for path in [folder, *folder.iterdir(), secret.path]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_new_secret_shuts_out_the_old_one(tmp_path, cheap_derivation):
    folder, _, secret = grown(tmp_path, None)
    ring = Keyring(storekit.FakeKeyring())
    change_secret(folder, secret, Passphrase("one"))
    change_secret(folder, Passphrase("one"), Passphrase("two"))
    with pytest.raises(WrongKeyError):
        open_home(folder, Passphrase("one"))
    change_secret(folder, Passphrase("two"), ring)
    assert not (folder / "seal.json").exists()
    with open_home(folder, ring) as home:
        assert home.database.counts().clips == 3
    change_secret(folder, ring, secret)
    assert ring.backend.entries == {}
    open_home(folder, secret).close()
