"""Private files: whole or not at all, for their owner only."""

import errno
import multiprocessing
import os
import resource
import stat
import subprocess
import sys

import pytest

from earmark_shared import files
from earmark_shared.errors import DiskFullError, HomeInUseError, StoreError


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_written_files_are_private_and_whole(tmp_path):
    path = tmp_path / "file"
    files.write_atomic(path, b"one")
    files.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert mode(path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomic(path, b"one")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskFullError):
        files.write_atomic(path, b"two")
    monkeypatch.undo()
    assert path.read_bytes() == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_short_write_is_continued(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))
    files.write_atomic(tmp_path / "file", b"0123456789")
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_a_new_private_file_replaces_none(tmp_path):
    files.write_private(tmp_path / "file", b"one")
    with pytest.raises(StoreError):
        files.write_private(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"


def test_a_symlink_is_replaced_and_never_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    link = tmp_path / "link"
    link.symlink_to(victim)
    with pytest.raises(StoreError):
        files.read_private(link)
    files.wipe(link)
    assert victim.read_bytes() == b"precious"
    link.symlink_to(victim)
    files.write_atomic(link, b"new")
    assert victim.read_bytes() == b"precious"
    link.unlink()
    link.symlink_to(victim)
    with pytest.raises(StoreError):
        files.FileLock(link).acquire()


@pytest.mark.parametrize("permissions", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_can_read_is_refused(tmp_path, permissions):
    path = tmp_path / "secret"
    files.write_private(path, b"x")
    path.chmod(permissions)
    with pytest.raises(StoreError, match="others") as caught:
        files.read_private(path)
    assert "chmod 600" in caught.value.hint


def test_only_small_plain_files_are_read(tmp_path):
    path = tmp_path / "file"
    files.write_private(path, b"0123456789")
    assert files.read_private(path, limit=10) == b"0123456789"
    with pytest.raises(StoreError):
        files.read_private(path, limit=9)
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(StoreError):
        files.read_private(tmp_path / "fifo")
    with pytest.raises(StoreError):
        files.read_private(tmp_path / "missing")


def test_a_private_folder_is_made_and_closed(tmp_path):
    folder = tmp_path / "a" / "b"
    files.make_private_folder(folder)
    assert mode(folder) == 0o700
    folder.chmod(0o755)
    files.make_private_folder(folder)
    assert mode(folder) == 0o700


def hold(path, ready, done):
    with files.FileLock(path):
        ready.set()
        done.wait(20)


def test_one_process_holds_a_lock(tmp_path):
    path = tmp_path / "lock"
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, ready, done))
    other.start()
    assert ready.wait(20)
    with pytest.raises(HomeInUseError):
        files.FileLock(path).acquire()
    done.set()
    other.join()
    with files.FileLock(path):
        pass


def test_a_lock_is_taken_again_by_its_holder(tmp_path):
    lock = files.FileLock(tmp_path / "lock")
    with lock, lock:
        pass
    with lock, pytest.raises(HomeInUseError):
        files.FileLock(tmp_path / "lock").acquire()
    files.FileLock(tmp_path / "lock").acquire()


def test_a_lock_says_whether_somebody_holds_it(tmp_path):
    lock = files.FileLock(tmp_path / "lock")
    assert not lock.is_held()
    with files.FileLock(tmp_path / "lock"):
        assert lock.is_held()
    assert not lock.is_held()


def test_a_hardened_process_leaves_no_core_and_private_files(tmp_path):
    script = (
        "import os, resource, sys; from earmark_shared.files import harden_process; harden_process();"
        "open(sys.argv[1], 'w').close(); print(resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "file"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert mode(tmp_path / "file") == 0o600
    assert resource.getrlimit(resource.RLIMIT_CORE)[1] is not None


def test_wiping_a_missing_file_is_fine(tmp_path):
    files.wipe(tmp_path / "missing")
    path = tmp_path / "file"
    files.write_private(path, b"secret")
    with path.open("rb") as kept:
        files.wipe(path)
        assert kept.read() != b"secret"
    assert not path.exists()
