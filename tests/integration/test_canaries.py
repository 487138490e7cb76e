"""One device in twenty searches with a release first; all train from it at once, and the others search with it a day later."""

import json
import os
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from tuf.api.metadata import Root

from earmark_client import updating
from earmark_client.federation import device, enrol
from earmark_client.federation.releases import fetch_newest
from earmark_client.library import Library
from earmark_client.model.active import LINE, ActiveState
from earmark_client.store.keys import KeyFile
from earmark_server import signing
from earmark_server.publish import Repository, create_repository
from earmark_shared.base_head import FIRST_VERSION, base_arrays, base_schema, base_version
from earmark_shared.errors import ModelError
from earmark_shared.head import arrays_sha256
from earmark_shared.release import Release, dump_head, is_canary, make_release
from tests.soundmaker import tone, write_sound
from tests.support.federation import Federation
from tests.support.homes import open_library

DAY_S = 86_400


def head(step):
    arrays = base_arrays()
    return arrays | {"up": arrays["up"] + np.float32(step)}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled")
    with Library.create(folder / "home", unlock=KeyFile(folder / "key")) as library:
        library.add([write_sound(folder, "hum", tone(2, 220))])
    return folder


class Enrolled:
    """A library in a federation whose server serves releases."""

    def __init__(self, server, library):
        self.server, self.library = server, library
        server.join(library.home.database, as_lab=server.authority.settings.is_lab)
        self.device = device.RoundDevice(library.home, library._model, None, server.clock)

    def release(self, step):
        return self.server.repository.publish(head(step), base_schema(), base=base_version())

    def ask(self, *, later_s=0):
        """What the device holds for a round that begins so much later; it asks for news and releases first."""
        self.server.clock.shift_s += later_s
        return self.device.member(int(self.server.clock())).model

    @property
    def state(self):
        return updating.read_state(self.library.home.database)

    @property
    def in_force(self):
        active = self.state.active
        return active.number if active else 0


@contextmanager
def federation_of(library, folder, *, is_lab=False):
    server = Federation(folder, is_lab=is_lab)
    places = server.authority.places
    server.repository = create_repository(places.tuf_root.parent, places.release_keys, clock=server.clock)
    with server.serving():
        yield Enrolled(server, library)
    server.close()


@pytest.fixture
def enrolled(tmp_path, library, monkeypatch):
    """A device that is no canary."""
    monkeypatch.setattr(device, "is_canary", lambda _alias: False)
    with federation_of(library, tmp_path / "srv") as made:
        yield made


def test_a_round_is_about_a_release_at_once_and_searches_use_it_a_day_later(enrolled):
    enrolled.release(0.01)
    held = enrolled.ask()
    assert (held.version, held.model_sha256) == (1, arrays_sha256(base_schema(), head(0.01)))
    assert (enrolled.in_force, enrolled.library.status().waiting_release) == (0, 1)
    assert enrolled.library.status().model == base_version()
    assert enrolled.ask(later_s=DAY_S - 60).version == 1
    assert enrolled.in_force == 0
    assert enrolled.ask(later_s=60).version == 1
    assert (enrolled.in_force, enrolled.library.status().waiting_release) == (1, 0)
    assert enrolled.library.status().model.startswith(f"{base_version()}+")


def test_a_canary_searches_with_it_at_once(enrolled, monkeypatch):
    monkeypatch.setattr(device, "is_canary", lambda _alias: True)
    enrolled.release(0.01)
    assert enrolled.ask().version == enrolled.in_force == 1


def test_a_lab_does_not_wait(tmp_path, library, monkeypatch):
    monkeypatch.setattr(device, "is_canary", lambda _alias: False)
    with federation_of(library, tmp_path / "srv", is_lab=True) as enrolled:
        enrolled.release(0.01)
        assert enrolled.ask().version == enrolled.in_force == 1


def bad_release_taken_back(enrolled, *, seen_late=False):
    """What is in force from ask to ask while a second release, a bad one, is out for half a day; and the newest at the end."""
    enrolled.release(0.01)
    enrolled.ask()
    enrolled.ask(later_s=DAY_S)
    seen = [enrolled.in_force]
    enrolled.release(1.0)
    assert enrolled.ask().version == 2
    seen.append(enrolled.in_force)
    enrolled.server.clock.shift_s += DAY_S // 2
    enrolled.server.repository.take_back(1)
    if seen_late:
        enrolled.release(0.02)
    newest = enrolled.ask(later_s=DAY_S if seen_late else 0).version
    return [*seen, enrolled.in_force, newest]


def test_what_an_operator_takes_back_within_the_day_no_other_device_ever_searches_with(enrolled):
    assert bad_release_taken_back(enrolled) == [1, 1, 3, 3]


def test_nor_one_that_was_away_when_it_was_taken_back_and_what_is_new_by_then_waits_its_day(enrolled):
    assert bad_release_taken_back(enrolled, seen_late=True) == [1, 1, 1, 4]
    assert enrolled.library.status().waiting_release == 4
    assert enrolled.ask(later_s=DAY_S - 60).version == 4
    assert enrolled.in_force == 1
    enrolled.ask(later_s=60)
    assert enrolled.in_force == 4


def test_who_searches_with_what_was_taken_back_takes_the_newest_at_once(enrolled):
    enrolled.release(0.01)
    enrolled.release(1.0)
    enrolled.ask()
    enrolled.library.update(enrolled.state.waiting)
    assert enrolled.in_force == 2
    enrolled.server.repository.take_back(1)
    enrolled.release(0.02)
    assert enrolled.ask().version == enrolled.in_force == 4


def test_who_joins_after_a_take_back_waits_like_everybody(enrolled):
    enrolled.release(0.01)
    enrolled.release(1.0)
    enrolled.server.repository.take_back(1)
    enrolled.release(0.02)
    assert enrolled.ask().version == 4
    assert enrolled.in_force == 0
    assert enrolled.ask(later_s=DAY_S).version == enrolled.in_force == 4


def test_control_a_device_that_was_away_and_is_not_told_takes_the_bad_one(enrolled, monkeypatch):
    monkeypatch.setattr(Repository, "_undone_by", lambda *_: ())
    assert bad_release_taken_back(enrolled, seen_late=True) == [1, 1, 2, 4]


def test_control_without_the_wait_everybody_searches_with_it(enrolled, monkeypatch):
    monkeypatch.setattr(device, "is_canary", lambda _alias: True)
    assert bad_release_taken_back(enrolled) == [1, 2, 3, 3]


@pytest.mark.parametrize("every_s", [DAY_S, DAY_S // 3])
def test_where_new_ones_come_before_the_day_is_over_each_device_still_moves_on(enrolled, every_s):
    in_force = []
    for step in range(1, 5):
        enrolled.release(step / 100)
        assert enrolled.ask(later_s=every_s).version == step
        in_force.append(enrolled.in_force)
    assert in_force == ([0, 1, 2, 3] if every_s == DAY_S else [0, 0, 0, 1])
    assert enrolled.library.status().waiting_release > in_force[-1]
    files = {path.name for path in (enrolled.library.home.folder / "models").glob("head-*")}
    kept = {release.head_name for release in enrolled.state.kept}
    assert kept <= files
    assert len(files - kept) <= 1, "of those in between at most the last, until the next change"


def test_who_asks_for_it_gets_it_at_once_and_who_went_back_is_not_asked_again(enrolled):
    release = enrolled.release(0.01)
    enrolled.ask()
    enrolled.library.update(release)
    assert (enrolled.in_force, enrolled.library.status().waiting_release) == (1, 0)
    enrolled.library.roll_back()
    assert enrolled.ask(later_s=2 * DAY_S).version == enrolled.in_force == 0


def test_a_release_that_waits_outlives_a_rollback_and_its_files_are_kept(enrolled):
    enrolled.release(0.01)
    enrolled.ask()
    enrolled.library.update(enrolled.state.waiting)
    enrolled.release(0.02)
    assert enrolled.ask().version == 2
    enrolled.library.roll_back()
    assert (enrolled.in_force, enrolled.library.status().waiting_release) == (0, 2)
    assert enrolled.device.head().version == 2
    assert enrolled.ask(later_s=DAY_S).version == enrolled.in_force == 2


def gone_back_to_what_was_taken_back(enrolled, monkeypatch):
    """A canary has a bad release, takes the one that undoes it, and its person then goes back from that."""
    monkeypatch.setattr(device, "is_canary", lambda _alias: True)
    for step in (0.01, 1.0):
        enrolled.release(step)
        enrolled.ask()
    enrolled.server.repository.take_back(1)
    enrolled.ask()
    assert enrolled.in_force == 3
    enrolled.library.roll_back()
    monkeypatch.setattr(device, "is_canary", lambda _alias: False)


def test_going_back_skips_what_was_taken_back(enrolled, monkeypatch):
    gone_back_to_what_was_taken_back(enrolled, monkeypatch)
    assert enrolled.in_force == 0
    assert enrolled.library.status().model == base_version()
    enrolled.ask(later_s=2 * DAY_S)
    assert enrolled.in_force == 0, "nobody is asked again who went back"


def test_control_unskipped_it_is_in_force(enrolled, monkeypatch):
    monkeypatch.setattr(ActiveState, "before", property(lambda state: state.previous))
    gone_back_to_what_was_taken_back(enrolled, monkeypatch)
    assert enrolled.in_force == 2


def test_who_went_back_to_it_before_it_was_skipped_takes_the_newest(enrolled, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(ActiveState, "before", property(lambda state: state.previous))
        gone_back_to_what_was_taken_back(enrolled, patched)
    with monkeypatch.context() as patched:
        patched.setattr(Release, "undoes", lambda *_: False)
        enrolled.ask(later_s=2 * DAY_S)
        assert enrolled.in_force == 2, "control: nobody asked whether it was taken back"
    enrolled.ask()
    assert enrolled.in_force == 3


@pytest.fixture(scope="module")
def left(filled, tmp_path_factory):
    """The folder of somebody who searched with release 5 of a federation, went back from it, and left."""
    place = tmp_path_factory.mktemp("left")
    shutil.copytree(filled, place / "copy")
    with pytest.MonkeyPatch.context() as patched, open_library(place / "copy") as library:
        patched.setattr(device, "is_canary", lambda _alias: False)
        with federation_of(library, place / "srv") as enrolled:
            for step in range(1, 6):
                library.update(fetched(enrolled, step / 100))
            library.roll_back()
            assert (enrolled.in_force, enrolled.state.taken_back) == (4, 5)
            enrol.leave(library.home.database, enrolled.server.world)
    return place / "copy"


@pytest.fixture
def moved(left, tmp_path, monkeypatch):
    """The same one in another federation, which released nothing yet; no canary."""
    monkeypatch.setattr(device, "is_canary", lambda _alias: False)
    shutil.copytree(left, tmp_path / "left")
    with open_library(tmp_path / "left") as library, federation_of(library, tmp_path / "other") as other:
        yield other


def fetched(enrolled, step):
    release = enrolled.release(step)
    enrolled.ask()
    return release


def test_another_federation_begins_with_the_base_model_and_its_releases_arrive(moved):
    assert moved.ask().version == FIRST_VERSION
    assert (moved.in_force, moved.library.status().model) == (0, base_version())
    assert {name for (name,) in moved.library.home.database.execute("SELECT DISTINCT model_version FROM clip_labels")} == {
        base_version()
    }
    moved.release(0.5)
    held = moved.ask()
    assert (held.version, held.model_sha256) == (1, arrays_sha256(base_schema(), head(0.5)))
    assert moved.in_force == 0
    assert moved.ask(later_s=DAY_S).version == moved.in_force == 1
    moved.release(0.6)
    moved.server.repository.take_back(1)
    assert moved.ask().version == moved.in_force == 3


def test_control_by_numbers_alone_nothing_of_it_ever_arrives(moved, monkeypatch):
    monkeypatch.setattr(updating, "enter", lambda *_: False)
    moved.release(0.5)
    assert moved.ask(later_s=3 * DAY_S).version == moved.in_force == 4


def test_one_that_was_fetched_there_is_put_in_force_where_its_person_asks(moved):
    moved.release(0.5)
    moved.library.update(fetch_newest(moved.library.home, clock=moved.server.clock))
    assert (moved.in_force, moved.state.before) == (1, None)
    moved.library.roll_back()
    assert moved.library.status().model == base_version()


def test_a_library_of_before_lines_had_names_begins_anew_too(moved):
    """It is stuck already: the other federation is the one that was asked last."""
    forget_line(moved.library.home.database)
    moved.release(0.5)
    assert moved.ask().version == 1
    assert moved.in_force == 0


def test_and_in_its_own_federation_keeps_what_it_has(enrolled):
    enrolled.library.update(fetched(enrolled, 0.01))
    before = enrolled.state
    forget_line(enrolled.library.home.database)
    assert enrolled.ask().version == enrolled.in_force == 1
    assert enrolled.state == before
    assert before.line


def forget_line(database):
    state = json.loads(database.get_meta(updating.STATE))
    del state["line"]
    with database.transaction():
        database.set_meta(updating.STATE, json.dumps(state))
        database.set_federation_value(LINE, None)


def test_leaving_and_joining_the_same_federation_again_forgets_nothing(enrolled):
    enrolled.library.update(fetched(enrolled, 0.01))
    enrolled.library.roll_back()
    before = enrolled.state
    enrol.leave(enrolled.library.home.database, enrolled.server.world)
    enrolled.server.join(enrolled.library.home.database)
    enrolled.ask(later_s=2 * DAY_S)
    assert enrolled.state == before
    assert before.taken_back == 1


def thief_replaced(enrolled, monkeypatch):
    """A canary took what a thief released under the highest number there is; then the operator's new keys release the second."""
    monkeypatch.setattr(device, "is_canary", lambda _alias: True)
    repository = enrolled.server.repository
    enrolled.release(0.01)
    repository.publish(head(1.0), base_schema(), base=base_version(), number=2**63 - 1)
    assert enrolled.ask().version == enrolled.in_force == 2**63 - 1
    roles = repository._roles
    root = roles.newest(Root)
    for keyid in list(root.signed.roles["targets"].keyids):
        root.signed.revoke_key(keyid, "targets")
    for path in enrolled.server.authority.places.release_keys.glob("targets-*.pem"):
        root.signed.add_key(signing._new_key(path), "targets")
    roles._renew(root, 1)
    roles._write(root, f"{root.signed.version}.root.json")
    monkeypatch.setattr(device, "is_canary", lambda _alias: False)
    data = dump_head(base_schema(), head(0.02))
    repository._release(make_release(2, base_version(), base_schema(), data), base_schema().to_json().encode(), data)


def test_what_a_thief_released_is_in_force_no_longer_once_numbers_begin_again(enrolled, monkeypatch):
    thief_replaced(enrolled, monkeypatch)
    assert enrolled.ask().version == 2
    assert (enrolled.in_force, enrolled.library.status().waiting_release) == (0, 2)
    assert enrolled.ask(later_s=DAY_S).version == enrolled.in_force == 2


def test_control_where_they_begin_again_unnoticed_it_stays_for_good(enrolled, monkeypatch):
    thief_replaced(enrolled, monkeypatch)
    monkeypatch.setattr(updating, "enter", lambda *_: False)
    assert enrolled.ask(later_s=3 * DAY_S).version == enrolled.in_force == 2**63 - 1


def test_one_for_another_base_model_is_refused_and_does_not_wait(enrolled):
    waiting = make_release(1, "other-0123456789ab", base_schema(), b"")
    with pytest.raises(ModelError, match="another base"):
        updating.receive(enrolled.library.home, enrolled.library._model, waiting, tries_first=False, now_s=0)
    assert enrolled.library.status().waiting_release == 0


def test_one_device_in_twenty_is_a_canary_and_stays_one():
    aliases = [os.urandom(16) for _ in range(20_000)]
    chosen = [is_canary(alias) for alias in aliases]
    assert 0.04 < np.mean(chosen) < 0.06
    assert chosen == [is_canary(alias) for alias in aliases]


def test_what_was_stored_before_releases_waited_can_be_read():
    stored = json.loads(ActiveState(taken_back=3).to_json())
    del stored["waiting"], stored["waiting_since_s"], stored["latest"]
    assert ActiveState.from_json(json.dumps(stored)) == ActiveState(taken_back=3)
