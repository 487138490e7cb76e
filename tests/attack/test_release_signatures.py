"""A server, or whoever stands between, that hands out what was not released: refused, and the model in force keeps working.

The cases are those of python-tuf's own client tests, and a few of our own, against our client. Each lie is told after an honest
release 1 is in force, and offers a release 2. The control takes the checks away: the same lie is then believed.
"""

import json
import shutil
from copy import deepcopy

import pytest
from securesystemslib.signer import CryptoSigner
from tests.support.homes import old_database
from tests.support.releases import DAY, Device, Repository
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from earmark_client.federation import releases
from earmark_client.model import active
from earmark_shared.errors import EarmarkError, ModelError, NetworkError, ReleaseError
from earmark_shared.head import HeadSchema
from earmark_shared.release import HEAD_BYTES_MOST, RELEASE_NAME, SCHEMA_NAME, load_head, sha256_hex
from earmark_shared.releasing import Piece


def stranger():
    return CryptoSigner.generate_ed25519()


def new_root(repo, **how):
    """Root 2, with release 2 under it."""
    repo.root.version = 2
    repo.publish()
    repo.put_root(**how)


def root_unsigned(repo):
    new_root(repo, signers=[])


def root_signed_by_one_of_two(repo):
    new_root(repo, signers=repo.signers["root"][:1])


def root_signed_by_strangers(repo):
    new_root(repo, signers=[stranger(), stranger()])


def root_signed_twice_by_one_key(repo):
    new_root(repo, signers=repo.signers["root"][:1])
    data = repo.files["metadata/2.root.json"]
    start, end = data.index(b'"signatures":[') + 14, data.index(b"]", data.index(b'"signatures":['))
    repo.files["metadata/2.root.json"] = data[:end] + b"," + data[start:end] + data[end:]


def rotate_root_keys(repo):
    old = repo.signers["root"]
    repo.signers["root"] = [stranger() for _ in old]
    for before, after in zip(old, repo.signers["root"], strict=True):
        repo.root.revoke_key(before.public_key.keyid, "root")
        repo.root.add_key(after.public_key, "root")
    return old


def root_signed_only_by_its_own_new_keys(repo):
    rotate_root_keys(repo)
    new_root(repo)


def root_signed_only_by_the_old_keys(repo):
    old = rotate_root_keys(repo)
    new_root(repo, signers=old)


def root_that_skips_a_version(repo):
    repo.root.version = 3
    repo.publish()
    repo.put_root(name=2)


def root_of_the_same_version(repo):
    repo.publish()
    repo.put_root(name=2)


def root_expired(repo):
    repo.root.expires = repo.now - DAY
    new_root(repo)


def root_that_is_not_json(repo):
    repo.publish()
    repo.files["metadata/2.root.json"] = b"\x80\x04not json"


def root_that_is_too_long(repo):
    new_root(repo)
    repo.files["metadata/2.root.json"] += b" " * 600_000


def root_rotated_too_often(repo):
    """More roots than are followed, of which only the last knows the key that signs timestamps: followed to no end, they had none."""
    last = releases.LIMITS.max_root_rotations + 2
    for version in range(2, last + 1):
        repo.root.version = version
        if version == last:
            old, repo.signers["timestamp"] = repo.signers["timestamp"], [stranger()]
            repo.root.revoke_key(old[0].public_key.keyid, "timestamp")
            repo.root.add_key(repo.signers["timestamp"][0].public_key, "timestamp")
        repo.put_root()
    repo.publish()


def timestamp_unsigned(repo):
    repo.publish()
    repo.put_timestamp(signers=[])


def timestamp_signed_by_a_stranger(repo):
    repo.publish()
    repo.put_timestamp(signers=[stranger()])


def timestamp_signed_by_the_snapshot_key(repo):
    repo.publish()
    repo.put_timestamp(signers=repo.signers["snapshot"])


def timestamp_altered(repo):
    repo.publish()
    data = repo.files["metadata/timestamp.json"]
    repo.files["metadata/timestamp.json"] = data.replace(str(repo.now.year).encode(), str(repo.now.year + 1).encode())


def timestamp_expired(repo):
    repo.timestamp.expires = repo.now - DAY
    repo.publish()


def timestamp_rolled_back(repo):
    repo.timestamp.version = 0
    repo.publish()


def timestamp_with_a_rolled_back_snapshot(repo):
    repo.publish()
    repo.snapshot.version = 1
    repo.put_snapshot()
    repo.timestamp.snapshot_meta = MetaFile(1)
    repo.put_timestamp()


def timestamp_that_is_too_long(repo):
    repo.publish()
    repo.files["metadata/timestamp.json"] += b" " * 20_000


def timestamp_missing(repo):
    repo.publish()
    del repo.files["metadata/timestamp.json"]


def timestamp_of_another_kind(repo):
    repo.publish()
    repo.files["metadata/timestamp.json"] = repo.files[f"metadata/{repo.snapshot.version}.snapshot.json"]


def snapshot_unsigned(repo):
    repo.publish()
    repo.put_snapshot(signers=[])


def snapshot_signed_by_a_stranger(repo):
    repo.publish()
    repo.put_snapshot(signers=[stranger()])


def snapshot_expired(repo):
    repo.snapshot.expires = repo.now - DAY
    repo.publish()


def snapshot_of_another_version(repo):
    repo.publish()
    name, repo.snapshot.version = repo.snapshot.version, repo.snapshot.version + 5
    repo.put_snapshot(name=name)


def snapshot_with_other_bytes_than_the_timestamp_names(repo):
    repo.publish()
    repo.timestamp.snapshot_meta = MetaFile(repo.snapshot.version, length=10_000, hashes={"sha256": "0" * 64})
    repo.put_timestamp()


def snapshot_with_rolled_back_targets(repo):
    repo.add()
    repo.bump()
    repo.targets.version = 1
    repo.snapshot.meta["targets.json"] = MetaFile(1)
    repo.put()


def snapshot_without_targets(repo):
    repo.publish()
    repo.snapshot.meta = {"other.json": MetaFile(1)}
    repo.put_snapshot()


def targets_unsigned(repo):
    repo.publish()
    repo.put_targets(signers=[])


def targets_signed_by_one_of_two(repo):
    repo.publish()
    repo.put_targets(signers=repo.signers["targets"][:1])


def targets_signed_by_the_online_keys(repo):
    """What a server can do that was broken into."""
    repo.publish()
    repo.put_targets(signers=[*repo.signers["snapshot"], *repo.signers["timestamp"]])


def targets_expired(repo):
    repo.targets.expires = repo.now - DAY
    repo.publish()


def targets_of_another_version(repo):
    """Mix and match: the newest snapshot, and targets of another time."""
    repo.publish()
    name, repo.targets.version = repo.targets.version, repo.targets.version + 3
    repo.put_targets(name=name)


def targets_missing(repo):
    repo.publish()
    del repo.files[f"metadata/{repo.targets.version}.targets.json"]


def head_altered(repo):
    repo.publish()
    repo.files[repo.head_path] = repo.files[repo.head_path][:-4] + b"\0\0\0\x3f"


def head_truncated(repo):
    repo.publish()
    repo.files[repo.head_path] = repo.files[repo.head_path][:-40]


def head_with_something_behind_it(repo):
    repo.publish()
    repo.files[repo.head_path] += b"\0" * 8


def head_missing(repo):
    repo.publish()
    del repo.files[repo.head_path]


def head_that_is_not_among_the_signed_files(repo):
    """Mix and match of targets: a release that names a head of another one."""
    repo.publish()
    repo.targets.targets.pop(repo.release.head_name)
    repo.bump()
    repo.put()


def schema_missing_from_the_signed_files(repo):
    repo.publish(leave_out=(SCHEMA_NAME,))


def release_text_altered(repo):
    repo.publish()
    path = repo.target_path(RELEASE_NAME, repo.release.to_json())
    repo.files[path] = repo.release.to_json().replace(b'"number":2', b'"number":3')


def release_with_a_lower_number(repo):
    """Properly signed, but numbers never go down: a head is taken back by a new release."""
    repo.publish(number=5)
    assert repo.device.fetch(repo).number == 5
    repo.publish(number=2)


BELIEVED = (
    root_unsigned, root_signed_by_one_of_two, root_signed_by_strangers, root_signed_only_by_its_own_new_keys,
    root_signed_only_by_the_old_keys, root_expired, timestamp_unsigned,
    timestamp_signed_by_a_stranger, timestamp_signed_by_the_snapshot_key, timestamp_altered, timestamp_expired,
    timestamp_rolled_back, timestamp_with_a_rolled_back_snapshot, snapshot_unsigned, snapshot_signed_by_a_stranger,
    snapshot_expired, snapshot_of_another_version, snapshot_with_other_bytes_than_the_timestamp_names,
    snapshot_with_rolled_back_targets, targets_unsigned, targets_signed_by_one_of_two, targets_signed_by_the_online_keys,
    targets_expired, targets_of_another_version, head_altered, release_text_altered, release_with_a_lower_number,
)  # fmt: skip
"""A client without checks falls for these."""
USELESS = (
    root_signed_twice_by_one_key, root_that_skips_a_version, root_of_the_same_version, root_that_is_not_json, root_that_is_too_long, root_rotated_too_often,
    timestamp_that_is_too_long, timestamp_missing, timestamp_of_another_kind, snapshot_without_targets, targets_missing,
    head_truncated, head_with_something_behind_it, head_missing, head_that_is_not_among_the_signed_files,
    schema_missing_from_the_signed_files,
)  # fmt: skip
"""These are refused for what they are, or can't be used by anybody."""
OLD_FLOOR = ("pin", "clock_s", "number", "root", "timestamp", "snapshot", "targets")
"""What a floor held at first."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A repository and the folder of a device on which its release 1 is in force, to copy."""
    repository, folder = Repository(), tmp_path_factory.mktemp("begun") / "home"
    device = Device(folder)
    device.put_in_force(device.fetch(_published(repository)))
    device.database.close()
    return repository, folder


@pytest.fixture
def repo(begun, tmp_path):
    """A repository whose release 1 is in force on a device."""
    repository = deepcopy(begun[0])
    shutil.copytree(begun[1], tmp_path / "home")
    repository.device = Device(tmp_path / "home", open_database=old_database)
    return repository


def _published(repository):
    repository.publish()
    return repository


def named(cases):
    return pytest.mark.parametrize("lie", cases, ids=lambda case: case.__name__)


@named((*BELIEVED, *USELESS))
def test_a_lie_is_refused_and_the_model_in_force_stays(repo, lie):
    before = repo.device.in_force()
    lie(repo)
    with pytest.raises((ReleaseError, ModelError)) as refusal:
        repo.device.fetch(repo)
    assert refusal.value.exit_code in {41, 46}
    assert repo.device.in_force() == before


@named(BELIEVED)
def test_without_the_checks_the_same_lie_is_believed(repo, lie, no_checks):
    lie(repo)
    assert repo.device.fetch(repo).number > 1


def test_the_list_is_as_long_as_it_must_be():
    assert len(BELIEVED) + len(USELESS) + 8 >= 25


def test_after_a_lie_an_honest_release_is_taken(repo):
    repo.publish()
    honest = dict(repo.files)
    repo.put_targets(signers=[])
    with pytest.raises(ReleaseError):
        repo.device.fetch(repo)
    repo.files = honest
    assert repo.device.fetch(repo).number == 2


@pytest.fixture
def no_checks(monkeypatch):
    """A client that parses what it gets and believes it."""

    def believe(kind):
        def update(self, data, *rest, **_how):
            signed = Metadata[kind].from_bytes(data).signed
            self._add(kind.type, signed, Root.type)
            return signed

        return update

    for kind, method in ((Root, "update_root"), (Timestamp, "update_timestamp"), (Snapshot, "update_snapshot")):
        monkeypatch.setattr(TrustedMetadataSet, method, believe(kind))
    monkeypatch.setattr(TrustedMetadataSet, "update_delegated_targets", believe(Targets))
    monkeypatch.setattr(releases.Updater, "_load_local_metadata", _nothing_here)
    monkeypatch.setattr(Signed, "is_expired", lambda *_: False)
    monkeypatch.setattr(TargetFile, "verify_length_and_hashes", lambda *_: None)
    monkeypatch.setattr(releases.Floor, "check", lambda *_: None)
    monkeypatch.setattr(active, "open_release", lambda _, schema, head: load_head(HeadSchema.from_json(schema.decode()), head))


def _nothing_here(self, role):
    raise OSError(role)


# What comes over the wire, the clock, and the cache.


def test_a_frozen_repository_is_noticed_when_its_timestamp_ends(repo):
    repo.device.shift_s = 31 * 86_400
    with pytest.raises(ReleaseError, match="expired"):
        repo.device.fetch(repo)


def test_a_frozen_repository_is_believed_without_the_check(repo, monkeypatch):
    repo.device.shift_s = 31 * 86_400
    monkeypatch.setattr(Signed, "is_expired", lambda *_: False)
    assert repo.device.fetch(repo).number == 1


def test_a_clock_that_went_back_is_refused(repo):
    repo.publish()
    repo.device.shift_s = -3600
    with pytest.raises(ReleaseError, match="clock"):
        repo.device.fetch(repo)
    repo.device.shift_s = 0
    assert repo.device.fetch(repo).number == 2


def older_world(repo):
    """Everything as it was, properly signed, after the device has seen more; and its cache is gone."""
    old = dict(repo.files)
    repo.publish()
    repo.device.fetch(repo)
    repo.files = old
    for path in (repo.device.home.folder / "models").glob("tuf-*/*.json"):
        path.unlink()


def test_a_deleted_cache_does_not_make_an_old_release_new(repo):
    older_world(repo)
    with pytest.raises(ReleaseError, match="older"):
        repo.device.fetch(repo)


def test_without_the_floor_a_deleted_cache_does(repo, monkeypatch):
    older_world(repo)
    monkeypatch.setattr(releases.Floor, "check", lambda *_: None)
    assert repo.device.fetch(repo).number == 1


def older_world_after_another(repo):
    """The same, to a device that left for another federation meanwhile and came back."""
    other = Repository()
    other.publish()
    older_world(repo)
    assert repo.device.fetch(other).number == 1


def test_leaving_and_joining_again_does_not_make_an_old_release_new(repo):
    older_world_after_another(repo)
    with pytest.raises(ReleaseError, match="older"):
        repo.device.fetch(repo)


def test_control_with_one_floor_for_all_repositories_it_does(repo):
    older_world_after_another(repo)
    with repo.device.database.transaction():
        repo.device.database.set_federation_value(f"{releases.FLOOR}.{repo.pin.hex()}", None)
    assert repo.device.fetch(repo).number == 1


def test_what_was_stored_while_there_was_one_floor_holds(repo):
    older_world(repo)
    database, name = repo.device.database, f"{releases.FLOOR}.{repo.pin.hex()}"
    stored = json.loads(database.federation_value(name))
    with database.transaction():
        database.set_federation_value(releases.FLOOR, json.dumps({key: stored[key] for key in OLD_FLOOR}).encode())
        database.set_federation_value(name, None)
    with pytest.raises(ReleaseError, match="older"):
        repo.device.fetch(repo)


def test_a_root_that_is_not_the_invitations_is_refused(repo, tmp_path):
    fresh, other = Device(tmp_path / "fresh"), Repository()
    other.publish()
    with pytest.raises(ReleaseError, match="first root"):
        fresh.fetch(repo, ask=other.ask)
    assert fresh.fetch(other).number == 1  # whoever was invited there


def test_a_device_that_knows_no_root_is_told_to_join_again(repo):
    with pytest.raises(ReleaseError, match="joined"):
        releases.fetch_release(repo.device.home, b"", ask=repo.ask, clock=repo.device.clock)


def drip(repo):
    """A byte at a time: each call in time, the file never there."""

    def ask(wanted):
        piece = repo.ask(wanted)
        return Piece(is_there=piece.is_there, size=piece.size, data=piece.data[:1])

    return ask


def grow(repo):
    """Always some more to come."""

    def ask(wanted):
        piece = repo.ask(wanted)
        return Piece(is_there=piece.is_there, size=piece.size + wanted.start + 1, data=piece.data)

    return ask


def never_end(repo):
    """Full pieces without an end: stopped at the signed length."""
    asked = []

    def ask(wanted):
        asked.append(wanted)
        assert len(asked) < 100
        return Piece(is_there=True, size=2**40, data=bytes(releases.PIECE_SIZE))

    return ask


def repeat(repo):
    """Pieces of nothing."""
    return lambda _wanted: Piece(is_there=True, size=100, data=b"")


@pytest.mark.parametrize("trick", [drip, grow, never_end, repeat], ids=lambda trick: trick.__name__)
def test_a_server_that_plays_for_time_is_left(repo, trick):
    before = repo.device.in_force()
    repo.publish()
    with pytest.raises(ReleaseError):
        repo.device.fetch(repo, ask=trick(repo))
    assert repo.device.in_force() == before
    assert repo.device.fetch(repo).number == 2


def dawdle(repo):
    """Each piece just before a call would be given up."""

    def ask(wanted):
        repo.device.shift_s += 15
        return repo.ask(wanted)

    return ask


def test_a_server_that_dawdles_does_not_hold_the_library_for_long(repo):
    began, before = repo.device.shift_s, repo.device.in_force()
    repo.publish()
    with pytest.raises(NetworkError, match="too long"):
        repo.device.fetch(repo, ask=dawdle(repo))
    assert repo.device.shift_s - began <= releases.NEWS_S + 15
    assert repo.device.in_force() == before
    assert repo.device.fetch(repo).number == 2


def test_control_without_the_limit_it_does(repo, monkeypatch):
    began = repo.device.shift_s
    monkeypatch.setattr(releases, "NEWS_S", 3600)
    repo.publish()
    assert repo.device.fetch(repo, ask=dawdle(repo)).number == 2
    assert repo.device.shift_s - began > 75


@pytest.mark.parametrize("after", range(6))
def test_a_server_that_goes_away_at_any_file_costs_nothing(repo, after):
    before = repo.device.in_force()
    repo.publish()
    calls = []

    def ask(wanted):
        calls.append(wanted)
        if len(calls) > after:
            raise NetworkError
        return repo.ask(wanted)

    with pytest.raises(NetworkError):
        repo.device.fetch(repo, ask=ask)
    assert repo.device.in_force() == before
    assert repo.device.fetch(repo).number == 2


def test_rotated_keys_are_followed_and_a_new_root_starts_versions_again(repo):
    """Recovery: root's owners replace keys that were stolen, and with them versions that a thief had counted up."""
    old = repo.signers["timestamp"]
    repo.signers["timestamp"] = [stranger()]
    repo.root.revoke_key(old[0].public_key.keyid, "timestamp")
    repo.root.add_key(repo.signers["timestamp"][0].public_key, "timestamp")
    new_root(repo)
    assert repo.device.fetch(repo).number == 2


def replace_targets_keys(repo, count):
    """A new root, in which so many of the three keys are others."""
    fresh = [stranger() for _ in range(count)]
    for old, new in zip(repo.signers["targets"], fresh, strict=False):
        repo.root.revoke_key(old.public_key.keyid, "targets")
        repo.root.add_key(new.public_key, "targets")
    repo.signers["targets"][:count] = fresh
    repo.root.version += 1
    repo.put_root()


LAST = 2**63 - 1


def recovered(repo, count=3):
    """Two stolen keys release the highest number there is; so many are then replaced, and the next release is the second again."""
    repo.publish(number=LAST)
    assert repo.device.fetch(repo).number == LAST
    replace_targets_keys(repo, count)
    repo.publish(number=2)
    return repo.device.fetch(repo).number


@pytest.mark.parametrize("count", [2, 3])
def test_once_stolen_keys_are_replaced_numbers_begin_again_and_then_only_grow(repo, count):
    assert recovered(repo, count) == 2
    repo.publish(number=3)
    assert repo.device.fetch(repo).number == 3
    repo.publish(number=2)
    with pytest.raises(ReleaseError, match="older"):
        repo.device.fetch(repo)


def test_control_without_that_the_device_is_frozen_for_good(repo, monkeypatch):
    monkeypatch.setattr(releases.Floor, "are_replaced", lambda *_: False)
    with pytest.raises(ReleaseError, match="older"):
        recovered(repo)


def test_numbers_begin_again_though_nothing_was_released_at_first(repo):
    repo.publish(number=LAST)
    repo.device.fetch(repo)
    replace_targets_keys(repo, 3)
    repo.targets.targets = {}
    repo.bump()
    repo.put()
    assert repo.device.fetch(repo) is None
    repo.publish(number=2)
    assert repo.device.fetch(repo).number == 2


def test_keys_that_are_replaced_one_after_the_other_are_replaced(repo):
    repo.publish(number=LAST)
    repo.device.fetch(repo)
    for number in (2, 3):
        with pytest.raises(ReleaseError, match="older"):
            repo.device.fetch(publish_again(repo, number))
        repo.signers["targets"].reverse()
        replace_targets_keys(repo, 1)
    assert repo.device.fetch(publish_again(repo, 4)).number == 4


def publish_again(repo, number):
    repo.publish(number=number)
    return repo


def older_release_under_one_new_key(repo):
    """A key of three was lost and is replaced. A server, whose online keys are its own, hands out what the two others signed before."""
    old = repo.targets.version
    files = dict(repo.files)
    repo.publish()
    assert repo.device.fetch(repo).number == 2
    replace_targets_keys(repo, 1)
    repo.files |= {name: data for name, data in files.items() if name.endswith(f"/{old}.targets.json")}
    repo.snapshot = Snapshot(1, expires=repo.snapshot.expires)
    repo.timestamp = Timestamp(1, expires=repo.timestamp.expires)
    repo.snapshot.meta["targets.json"] = MetaFile(old)
    for role in ("snapshot", "timestamp"):
        repo.root.revoke_key(repo.signers[role][0].public_key.keyid, role)
        repo.signers[role] = [stranger()]
        repo.root.add_key(repo.signers[role][0].public_key, role)
    repo.root.version += 1
    repo.put_root()
    repo.put_snapshot()
    repo.put_timestamp()
    return repo.device.fetch(repo)


def test_where_the_old_keys_can_still_sign_numbers_go_on(repo):
    with pytest.raises(ReleaseError, match="older"):
        older_release_under_one_new_key(repo)


def test_control_if_any_other_key_let_them_begin_again_an_old_release_is_believed(repo, monkeypatch):
    monkeypatch.setattr(releases.Floor, "are_replaced", lambda floor, keys, _threshold: floor.keys != keys)
    assert older_release_under_one_new_key(repo).number == 1


def test_a_floor_that_knows_no_keys_holds_under_any(repo):
    database, name = repo.device.database, f"{releases.FLOOR}.{repo.pin.hex()}"
    repo.publish()
    repo.device.fetch(repo)
    stored = json.loads(database.federation_value(name))
    with database.transaction():
        database.set_federation_value(name, json.dumps({key: stored[key] for key in OLD_FLOOR}).encode())
    replace_targets_keys(repo, 3)
    repo.publish(number=1)
    with pytest.raises(ReleaseError, match="older"):
        repo.device.fetch(repo)
    repo.publish(number=3)
    assert repo.device.fetch(repo).number == 3


def stolen_after_years(repo):
    """Targets keys that were stolen are replaced in the 36th root; the thief releases with the old ones. What the device takes."""
    thief = repo.signers["targets"]
    for version in range(repo.root.version + 1, 41):
        repo.root.version = version
        if version == 36:
            repo.signers["targets"] = [stranger() for _ in range(3)]
            for signer in thief:
                repo.root.revoke_key(signer.public_key.keyid, "targets")
            for signer in repo.signers["targets"]:
                repo.root.add_key(signer.public_key, "targets")
        repo.put_root()
    honest, repo.signers["targets"] = repo.signers["targets"], thief
    repo.publish(seed=666)
    try:
        return repo.device.fetch(repo)
    finally:
        repo.signers["targets"] = honest


def test_every_root_there_ever_was_is_followed(repo):
    with pytest.raises(ReleaseError):
        stolen_after_years(repo)
    repo.publish()
    assert repo.device.fetch(repo) == repo.release


def test_control_a_device_that_stops_at_the_32nd_believes_the_thief(repo, monkeypatch):
    monkeypatch.setattr(releases.LIMITS, "max_root_rotations", 32)
    assert stolen_after_years(repo) == repo.release


def test_a_refusal_says_nothing_that_a_server_could_have_written_to_the_screen(repo):
    repo.publish()
    repo.files["metadata/timestamp.json"] = b'{"signatures":[],"signed":{"_type":"\x1b[2J\n","x":1}}'
    with pytest.raises(EarmarkError) as refusal:
        repo.device.fetch(repo)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


def test_the_head_a_server_may_send_is_bounded():
    assert HEAD_BYTES_MOST <= 256 << 20
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
