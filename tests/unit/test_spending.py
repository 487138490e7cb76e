"""A home's ledger goes along when something else comes to open the home."""

import time

import pytest
from tests.attack import storekit
from tests.support.privacy import charge

from earmark_client.federation.spending import open_ledger
from earmark_client.store.home import change_secret, create_home, open_home
from earmark_client.store.keyrings import Keyring
from earmark_client.store.keys import KeyFile
from earmark_shared.errors import LedgerRollbackError


def ledger_of(home, secret):
    return open_ledger(home, secret, clock=time.time)


@pytest.fixture
def spent(tmp_path):
    """A home opened by a key file, with a round in its ledger; its folder and what opens it."""
    folder, secret = tmp_path / "home", KeyFile(tmp_path / "key")
    create_home(folder, secret)
    with open_home(folder, secret, write=True) as home:
        ledger = ledger_of(home, secret)
        ledger.reserve(charge(1))
        ledger.commit(charge(1))
    return folder, secret


def test_a_ledger_goes_along_to_a_keyring_and_back(spent):
    folder, secret = spent
    ring = Keyring(storekit.FakeKeyring())
    change_secret(folder, secret, ring)
    with open_home(folder, ring, write=True) as home:
        assert ledger_of(home, ring).spent().rounds == 1
        assert ledger_of(home, ring).has_anchor
    change_secret(folder, ring, secret)
    with open_home(folder, secret, write=True) as home:
        assert ledger_of(home, secret).spent().rounds == 1


def test_once_the_keyring_has_remembered_it_may_not_forget(spent):
    folder, secret = spent
    ring = Keyring(storekit.FakeKeyring())
    change_secret(folder, secret, ring)
    with open_home(folder, ring, write=True) as home:
        ledger_of(home, ring)
        (entry,) = [each for each in ring.backend.entries if each[1].endswith("/ledger")]
        del ring.backend.entries[entry]
        with pytest.raises(LedgerRollbackError):
            ledger_of(home, ring)
