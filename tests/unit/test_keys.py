"""The three ways to lock a home, and what each refuses."""

import errno
import json
import os

import pytest
from tests.attack.storekit import FakeKeyring

from earmark_client.store import keyrings, keys
from earmark_client.store.home import LOCK_NAME, change_secret, check_free, create_home
from earmark_client.store.keys import KeyFile, Keyring, Passphrase, create_key_file
from earmark_shared.errors import (
    DiskFullError,
    HomeInUseError,
    HomeMissingError,
    SettingsError,
    StoreError,
    TamperedError,
    WrongKeyError,
)
from earmark_shared.files import FileLock


@pytest.fixture(autouse=True)
def cheap_passphrases(monkeypatch):
    monkeypatch.setattr(keys, "ARGON2", {"memory_kib": 64, "passes": 1, "lanes": 1})
    monkeypatch.setattr(keys, "WRONG_PASSPHRASE_S", 0.0)


@pytest.fixture
def key_file(tmp_path):
    create_key_file(tmp_path / "key")
    return KeyFile(tmp_path / "key")


def lock(folder, secret):
    data_key = os.urandom(32)
    keys.write_header(folder, secret, data_key, os.urandom(16).hex())
    return data_key


def test_each_mode_gives_back_the_key(tmp_path, key_file):
    for secret in (key_file, Passphrase("pass"), Passphrase(b"p\xff"), Keyring(FakeKeyring())):
        data_key = lock(tmp_path, secret)
        assert keys.unlock(tmp_path, secret) == data_key
        assert keys.read_mode(tmp_path) == secret.mode
        assert data_key.hex() not in (tmp_path / "key.json").read_text()


def test_text_and_its_utf8_are_one_passphrase(tmp_path):
    data_key = lock(tmp_path, Passphrase("grüße"))
    assert keys.unlock(tmp_path, Passphrase("grüße".encode())) == data_key


def test_a_passphrase_stays_out_of_tracebacks():
    assert "hunter2" not in repr(Passphrase("hunter2"))


def test_another_mode_is_named(tmp_path, key_file):
    lock(tmp_path, key_file)
    with pytest.raises(SettingsError, match="key-file"):
        keys.unlock(tmp_path, Passphrase("x"))


def test_no_header_is_no_library(tmp_path):
    with pytest.raises(HomeMissingError):
        keys.unlock(tmp_path, Passphrase("x"))


def test_a_home_that_nobody_may_look_into_is_named(tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.exists", refuse)
    for look in (keys.read_mode, check_free):
        with pytest.raises(StoreError, match=f"{tmp_path}: Permission denied") as caught:
            look(tmp_path)
        assert "permissions" in caught.value.hint


def test_rewrapping_keeps_the_data_key(tmp_path, key_file):
    ring = Keyring(FakeKeyring())
    data_key = lock(tmp_path, key_file)
    keys.rewrap(tmp_path, key_file, Passphrase("a"))
    keys.rewrap(tmp_path, Passphrase("a"), ring)
    assert keys.unlock(tmp_path, ring) == data_key
    keys.rewrap(tmp_path, ring, key_file)
    assert ring.backend.entries == {}
    assert keys.unlock(tmp_path, key_file) == data_key
    with pytest.raises(WrongKeyError):
        keys.rewrap(tmp_path, KeyFile(wrong(tmp_path)), Passphrase("b"))


def wrong(folder):
    create_key_file(folder / "wrong")
    return folder / "wrong"


def test_the_header_is_authenticated(tmp_path, key_file):
    lock(tmp_path, key_file)
    path = tmp_path / "key.json"
    header = json.loads(path.read_text())
    for name in ("home_id", "nonce", "wrapped"):
        changed = dict(header)
        changed[name] = ("1" if header[name][0] == "0" else "0") + header[name][1:]
        path.write_bytes(keys._canonical(changed))
        with pytest.raises(WrongKeyError):
            keys.unlock(tmp_path, key_file)
    for change in ({"version": 2}, {"mode": "none"}, {"kdf": {"passes": 1}}, {"nonce": "00"}, {"extra": 1}, {"home_id": 7}):
        path.write_bytes(keys._canonical({**header, **change}))
        with pytest.raises(TamperedError):
            keys.unlock(tmp_path, key_file)
    for data in (b"", b"{}", b"[]", b"\xff", json.dumps(header).encode()):
        path.write_bytes(data)
        with pytest.raises(TamperedError):
            keys.unlock(tmp_path, key_file)


def test_a_key_file_is_private_random_and_never_replaced(tmp_path):
    create_key_file(tmp_path / "a")
    create_key_file(tmp_path / "b")
    assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()
    assert len(bytes.fromhex((tmp_path / "a").read_text())) == 32
    with pytest.raises(StoreError):
        create_key_file(tmp_path / "a")


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_a_new_key_that_locked_nothing_is_gone_again(tmp_path, fault):
    with pytest.raises(fault), keys.new_key(tmp_path, KeyFile(tmp_path / "new")):
        assert (tmp_path / "new").exists()
        raise fault
    assert not (tmp_path / "new").exists()


def test_a_new_key_beside_a_home_that_another_opens_is_gone_again(tmp_path, key_file):
    lock(tmp_path, key_file)
    with pytest.raises(RuntimeError), keys.new_key(tmp_path, KeyFile(tmp_path / "new")):
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    assert keys.unlock(tmp_path, key_file)


def test_a_new_key_stays_if_it_locks_the_home_or_may_do_so(tmp_path):
    for name, damage in (("a", b""), ("b", b"?")):
        secret = KeyFile(tmp_path / name)
        with pytest.raises(RuntimeError), keys.new_key(tmp_path, secret):
            lock(tmp_path, secret)
            (tmp_path / "key.json").open("ab").write(damage)
            raise RuntimeError
        assert secret.path.exists()


def test_a_key_that_was_there_stays_whatever_fails(tmp_path, key_file):
    with pytest.raises(RuntimeError), keys.new_key(tmp_path, key_file):
        raise RuntimeError
    assert key_file.path.exists()


def test_a_key_that_found_no_room_leaves_nothing(tmp_path, monkeypatch):
    def full(path, data):
        path.write_bytes(data[:7])
        raise DiskFullError

    monkeypatch.setattr(keys, "write_private", full)
    with pytest.raises(DiskFullError):
        create_key_file(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_init_or_passwd_that_fails_can_be_tried_again_with_the_same_key_file(tmp_path):
    (tmp_path / "taken").write_text("no folder")
    new = KeyFile(tmp_path / "new")
    with pytest.raises(StoreError):
        create_home(tmp_path / "taken", new)
    assert not new.path.exists()
    home = tmp_path / "home"
    create_home(home, KeyFile(tmp_path / "old"))
    with FileLock(home / LOCK_NAME), pytest.raises(HomeInUseError):
        change_secret(home, KeyFile(tmp_path / "old"), new)
    assert not new.path.exists()
    change_secret(home, KeyFile(tmp_path / "old"), new)
    assert keys.unlock(home, new)


def test_an_open_or_foreign_key_file_is_refused(tmp_path, key_file):
    lock(tmp_path, key_file)
    key_file.path.chmod(0o644)
    with pytest.raises(StoreError, match="others"):
        keys.unlock(tmp_path, key_file)
    key_file.path.chmod(0o600)
    for text in ("", "not a key", "00" * 31, "AB" * 32, "zz" * 32):
        key_file.path.write_text(text)
        with pytest.raises(WrongKeyError):
            keys.unlock(tmp_path, key_file)


def test_a_missing_key_file_is_named(tmp_path, key_file):
    lock(tmp_path, key_file)
    key_file.path.unlink()
    with pytest.raises(WrongKeyError, match=str(key_file.path)):
        keys.unlock(tmp_path, key_file)


class PlaintextKeyring(FakeKeyring):
    """Named like keyrings.alt's."""


class Locked(FakeKeyring):
    def get_password(self, service, username):
        raise RuntimeError("locked")


def test_keyrings_that_do_not_encrypt_are_refused(tmp_path):
    for name, module in (
        ("PlaintextKeyring", "x"),
        ("Keyring", "keyring.backends.null"),
        ("Keyring", "keyring.backends.fail"),
        ("E", "keyrings.alt.file"),
    ):
        backend = type(name, (FakeKeyring,), {"__module__": module})()
        with pytest.raises(SettingsError) as caught:
            lock(tmp_path, Keyring(backend))
        assert "--key-file" in caught.value.hint
        assert backend.entries == {}


@pytest.mark.parametrize("module", ["keyring.backends.null", "keyring.backends.fail", "keyrings.alt.file", "unknown.module"])
def test_the_accounts_keyring_must_be_a_known_one(monkeypatch, module):
    import keyring

    monkeypatch.setattr(keyring, "get_keyring", type("Keyring", (FakeKeyring,), {"__module__": module}))
    with pytest.raises(SettingsError, match="no keyring"):
        Keyring().open()


def test_a_known_keyring_is_found_among_chained_ones(monkeypatch):
    import keyring

    good = type("Keyring", (FakeKeyring,), {"__module__": "keyring.backends.SecretService"})()
    bad = type("Keyring", (FakeKeyring,), {"__module__": "keyrings.alt.file"})()
    chain = type("ChainerBackend", (), {"__module__": "keyring.backends.chainer", "backends": [bad, good]})
    monkeypatch.setattr(keyring, "get_keyring", chain)
    assert Keyring().open().backend is good


def test_a_keyring_that_fails_is_our_own_error(tmp_path):
    with pytest.raises(StoreError, match="RuntimeError"):
        lock(tmp_path, Keyring(Locked()))


def test_a_missing_or_damaged_keyring_entry(tmp_path):
    ring = Keyring(FakeKeyring())
    lock(tmp_path, ring)
    (name,) = ring.backend.entries
    ring.backend.entries[name] = "*"
    with pytest.raises(StoreError):
        keys.unlock(tmp_path, ring)
    ring.backend.entries.clear()
    with pytest.raises(WrongKeyError):
        keys.unlock(tmp_path, ring)


def test_two_homes_share_a_keyring(tmp_path):
    ring = Keyring(FakeKeyring())
    folders = [tmp_path / "a", tmp_path / "b"]
    found = []
    for folder in folders:
        folder.mkdir()
        found.append(lock(folder, ring))
    assert [keys.unlock(folder, ring) for folder in folders] == found
    keys.destroy(folders[0], ring)
    assert keys.unlock(folders[1], ring) == found[1]


def test_derived_keys_differ_by_purpose():
    assert len({keys.derive(b"k" * 32, "a"), keys.derive(b"k" * 32, "b"), keys.derive(b"l" * 32, "a")}) == 3
    assert keyrings.SERVICE == "earmark"
