"""A head on its way: published into a real repository, fetched over TLS by an enrolled device, taken back by a newer release."""

import shutil
import time

import numpy as np
import pytest
from tuf.api.metadata import Root

from earmark_client.federation.enrol import joined, member_channel
from earmark_client.federation.releases import fetch_newest, fetch_release
from earmark_client.model.active import load_correction
from earmark_server import publish, signing
from earmark_server.publish import Repository, create_repository
from earmark_server.releases import ReleasedFiles
from earmark_shared.base_head import base_arrays, base_schema
from earmark_shared.errors import (
    AdmissionError,
    CertificateError,
    HomeExistsError,
    MalformedError,
    NetworkError,
    ProtocolError,
    ReleaseError,
    SettingsError,
    StoreError,
)
from earmark_shared.release import dump_head, sha256_hex
from earmark_shared.releasing import PIECE_SIZE, Piece, Wanted
from earmark_shared.wire.channel import call, open_channel
from tests.support.federation import Clock, Federation
from tests.support.releases import BASE, SCHEMA, Device, some_head

DAY_S = 86_400


@pytest.fixture
def federation(tmp_path):
    made = Federation(tmp_path / "srv")
    places = made.authority.places
    made.repository = create_repository(places.tuf_root.parent, places.release_keys, clock=made.clock)
    with made.serving():
        yield made
    made.close()


@pytest.fixture
def device(federation, tmp_path):
    made = Device(tmp_path / "home")
    federation.join(made.database)
    return made


@pytest.fixture
def repository(tmp_path):
    clock = Clock()
    made = create_repository(tmp_path / "releases", tmp_path / "keys", clock=clock)
    made.clock, made.keys = clock, tmp_path / "keys"
    return made


def fetch(device):
    return fetch_newest(device.home, clock=device.clock)


def test_a_release_reaches_an_enrolled_device_and_so_does_its_end(federation, device):
    assert fetch(device) is None
    first = federation.repository.publish(some_head(1), SCHEMA, base=BASE)
    assert fetch(device) == first
    correction = load_correction(device.home.folder / "models", first)
    for name, array in some_head(1).items():
        np.testing.assert_array_equal(correction.arrays[name], array)
    assert fetch(device) == first  # nothing new is nothing wrong
    second = federation.repository.publish(some_head(2), SCHEMA, base=BASE)
    assert fetch(device) == second
    back = federation.repository.take_back(1)
    assert (back.number, back.head_sha256) == (3, first.head_sha256)
    assert fetch(device) == back
    assert not list((device.home.folder / "models").glob("incoming"))


def test_whoever_is_not_enrolled_gets_nothing(federation, device):
    membership = joined(device.database)
    wanted = Wanted(b"metadata/timestamp.json", 0)
    for address in (membership.address, membership.member_address):
        with open_channel(address, membership.ca_pem) as channel, pytest.raises((CertificateError, NetworkError)):
            call(channel, "Releases", "Fetch", wanted, Piece)
    federation.enroller.revoke(membership.alias)
    with pytest.raises(AdmissionError):
        fetch(device)


@pytest.mark.parametrize(
    "path", ["keys/root-1.pem", "../keys/root-1.pem", "metadata/../../keys/root-1.pem", "/etc/passwd", "lock", "metadata/.hidden",
             "targets/", "metadata//1.root.json", "metadata/1.root.json\n", "history/1.json", "root.json"]
)  # fmt: skip
def test_no_path_leads_anywhere_else(federation, device, path):
    with member_channel(joined(device.database)) as channel, pytest.raises(ProtocolError):
        call(channel, "Releases", "Fetch", Wanted(path.encode(), 0), Piece)


def test_a_link_is_not_followed(repository, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "releases" / "targets" / "link").symlink_to(tmp_path / "secret")
    files = ReleasedFiles(repository)
    assert not files.fetch(Wanted(b"targets/link", 0)).is_there
    assert not files.fetch(Wanted(b"targets/nothing", 0)).is_there


def test_a_long_file_comes_in_full_pieces(repository, tmp_path):
    data = np.random.default_rng(0).bytes(2 * PIECE_SIZE + 5)
    (tmp_path / "releases" / "targets" / "long").write_bytes(data)
    files = ReleasedFiles(repository)
    pieces = [files.fetch(Wanted(b"targets/long", start)) for start in range(0, len(data), PIECE_SIZE)]
    assert b"".join(piece.data for piece in pieces) == data
    assert [len(piece.data) for piece in pieces] == [PIECE_SIZE, PIECE_SIZE, 5]
    with pytest.raises(MalformedError):
        files.fetch(Wanted(b"targets/long", len(data) + 1))


def test_a_server_signs_its_timestamp_anew_while_it_is_asked(federation, device):
    federation.repository.publish(some_head(1), SCHEMA, base=BASE)
    assert fetch(device).number == 1
    for days in range(1, 12):  # through the ends of several timestamps and of the snapshot
        federation.clock.shift_s = device.shift_s = days * DAY_S
        assert fetch(device).number == 1


def test_without_its_online_keys_the_server_hands_out_what_ends(federation, device):
    federation.repository.publish(some_head(1), SCHEMA, base=BASE)
    for path in federation.authority.places.release_keys.iterdir():
        path.unlink()
    assert fetch(device).number == 1
    federation.clock.shift_s = device.shift_s = 2 * DAY_S
    with pytest.raises(ReleaseError, match="expired"):
        fetch(device)


def test_two_of_three_keys_release_and_one_does_not(repository):
    (repository.keys / "targets-1.pem").unlink()
    assert repository.can_sign()
    assert repository.publish(some_head(1), SCHEMA, base=BASE).number == 1
    (repository.keys / "targets-3.pem").unlink()
    assert not repository.can_sign()
    with pytest.raises(SettingsError, match="1 of the 2 targets keys"):
        repository.publish(some_head(2), SCHEMA, base=BASE)
    assert repository.current().number == 1


def test_keys_are_private_and_the_repository_is_made_once(repository, tmp_path):
    assert {path.stat().st_mode & 0o777 for path in repository.keys.iterdir()} == {0o600}
    assert len(list(repository.keys.iterdir())) == 8
    with pytest.raises(HomeExistsError):
        create_repository(tmp_path / "releases", tmp_path / "keys", clock=time.time)


def test_publishing_the_same_twice_is_one_release_and_numbers_only_grow(repository):
    first = repository.publish(some_head(1), SCHEMA, base=BASE, number=4)
    assert repository.publish(some_head(1), SCHEMA, base=BASE, number=4) == first
    for seed, number in ((2, 4), (2, 3)):
        with pytest.raises(ReleaseError):
            repository.publish(some_head(seed), SCHEMA, base=BASE, number=number)
    assert repository.publish(some_head(2), SCHEMA, base=BASE).number == 5
    with pytest.raises(ReleaseError):
        repository.take_back(9)


def test_a_head_that_was_out_before_undoes_what_came_after_it_and_later_releases_say_so(repository):
    def release(arrays, schema=SCHEMA, **how):
        return repository.publish(arrays, schema, base=BASE, **how).undone

    assert [release(some_head(seed)) for seed in (1, 2, 3)] == [(), (), ()]
    assert release(some_head(2)) == ((3, 3),)
    assert release(some_head(2), number=4) == ((3, 3),), "asked again, as after a crash, it is the same release"
    assert repository.current().number == 4
    assert release(some_head(5)) == ((3, 3),)
    assert repository.take_back(4).undone == ((3, 3), (5, 5))
    assert repository.take_back(1).undone == ((2, 6),)
    assert release(base_arrays(), base_schema()) == ((1, 7),), "the head that rounds began with is older than all"


def test_what_was_never_out_or_is_the_newest_is_not_taken_back_and_the_first_release_is(repository):
    first = repository.publish(some_head(1), SCHEMA, base=BASE)
    kept = {path: path.read_bytes() for path in repository.keys.glob("targets-*.pem")}
    for path in kept:
        path.unlink()
    with pytest.raises(SettingsError):
        repository.publish(some_head(2), SCHEMA, base=BASE)
    for path, data in kept.items():
        path.write_bytes(data)
        path.chmod(0o600)
    with pytest.raises(ReleaseError, match="no release 2"):
        repository.take_back(2)
    with pytest.raises(ReleaseError, match="already"):
        repository.take_back(1)
    assert repository.current() == first
    back = repository.take_back(0)
    assert (back.number, back.undone) == (2, ((1, 1),))
    schema, arrays = repository.head(back)
    assert schema == base_schema()
    np.testing.assert_array_equal(arrays["up"], base_arrays()["up"])
    with pytest.raises(ReleaseError, match="already"):
        repository.take_back(0)


def test_an_older_copy_that_was_put_back_releases_again_once_its_numbers_were_lifted(repository, device_of, tmp_path):
    def restored():
        return Repository(tmp_path / "copy" / "releases", repository.keys, clock=repository.clock)

    for seed in (1, 2):
        repository.publish(some_head(seed), SCHEMA, base=BASE)
    shutil.copytree(repository.folder, tmp_path / "copy" / "releases")
    for seed in (3, 4, 5):
        repository.publish(some_head(seed), SCHEMA, base=BASE)
    assert device_of(repository).number == 5
    restored().publish(some_head(6), SCHEMA, base=BASE)
    with pytest.raises(ReleaseError, match="version"):
        device_of(restored())
    lifted = restored().lift()
    assert lifted.number > 5
    assert lifted.undoes(5), "whoever has what was lost goes back without a wait"
    assert device_of(restored()) == lifted
    assert lifted.head_sha256 == sha256_hex(dump_head(SCHEMA, some_head(6)))
    after = restored().publish(some_head(7), SCHEMA, base=BASE)
    assert device_of(restored()) == after


def test_before_any_release_only_versions_are_lifted(repository, device_of):
    assert repository.lift() is None
    assert device_of(repository) is None
    assert device_of(repository) is None
    assert repository.publish(some_head(1), SCHEMA, base=BASE).number == 1
    assert device_of(repository).number == 1


def test_only_keys_that_are_due_are_asked_for_and_the_rest_is_renewed(repository):
    for path in repository.keys.glob("root-*.pem"):
        path.unlink()
    before = repository.ends
    repository.clock.shift_s = 10 * DAY_S
    assert repository.renew() == []
    assert repository.ends > before
    repository.clock.shift_s = 190 * DAY_S
    assert repository.renew() == ["root"]
    (repository.keys / "targets-1.pem").unlink()
    (repository.keys / "targets-2.pem").unlink()
    assert repository.renew() == ["root", "targets"]


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_server_key_that_is_lost_ends_releases_soon_and_that_is_said(repository, role):
    repository.publish(some_head(1), SCHEMA, base=BASE)
    far = repository.ends
    (repository.keys / f"{role}-1.pem").unlink()
    assert repository.ends < far
    with pytest.raises(SettingsError, match=f"0 of the 1 {role} keys") as caught:
        repository.renew()
    assert f"after {repository.ends:%Y-%m-%d %H:%M UTC}" in caught.value.hint
    told = []
    files = ReleasedFiles(repository, told.append)
    repository.clock.shift_s = 5 * DAY_S
    for _ in range(3):
        assert files.fetch(Wanted(b"metadata/timestamp.json", 0)).is_there
    assert len(told) == 1
    assert f"{role} keys" in told[0]


@pytest.mark.parametrize("name", ["metadata/timestamp.json", "metadata/1.snapshot.json", "../keys/timestamp-1.pem"])
@pytest.mark.parametrize("rubbish", [b"", b"{}", b"\xff"])
def test_a_damaged_file_is_named(repository, name, rubbish):
    (repository.folder / name).write_bytes(rubbish)
    with pytest.raises(StoreError, match=name.rpartition("/")[2]) as caught:
        repository.renew()
    assert "backup" in caught.value.hint


@pytest.mark.parametrize("step", range(6))
def test_publishing_cut_short_at_any_file_leaves_the_release_before(repository, device_of, monkeypatch, step):
    repository.publish(some_head(1), SCHEMA, base=BASE)
    real, left = signing.write_atomic, [step]

    def cut(path, data):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, data)

    for module in (publish, signing):
        monkeypatch.setattr(module, "write_atomic", cut)
    with pytest.raises(KeyboardInterrupt):
        repository.publish(some_head(2), SCHEMA, base=BASE)
    monkeypatch.undo()
    assert device_of(repository).number == 1
    again = Repository(repository.folder, repository.keys, clock=repository.clock).publish(some_head(2), SCHEMA, base=BASE)
    assert (again.number, again.undone) == (2, ())
    assert device_of(repository).number == 2


@pytest.fixture
def device_of(tmp_path):
    """A device that fetches from a repository's files, without a network."""
    device = Device(tmp_path / "device")

    def fetch_from(repository):
        pin = bytes.fromhex(sha256_hex((repository.folder / "root.json").read_bytes()))
        return fetch_release(device.home, pin, ask=ReleasedFiles(repository).fetch, clock=device.clock)

    fetch_from.device = device
    return fetch_from


def test_root_and_targets_are_renewed_before_they_end(repository, device_of):
    repository.publish(some_head(1), SCHEMA, base=BASE)
    assert device_of(repository).number == 1
    before = repository.ends
    repository.clock.shift_s = 10 * DAY_S
    repository.renew()
    assert repository.ends > before
    assert repository._roles.newest(Root).signed.version == 1, "devices read each root there ever was"
    repository.clock.shift_s = 190 * DAY_S
    repository.renew()
    assert repository._roles.newest(Root).signed.version == 2
    device_of.device.shift_s = 190 * DAY_S
    assert device_of(repository).number == 1
