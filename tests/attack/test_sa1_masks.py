"""S4: mask keys are 32 whole bytes of a real cipher. S5: what leaves a device looks like noise, whatever is in it."""

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2
from tests.support.fleet import NOW_S, Fleet, Stream, run_to, swift_verification
from tests.support.plunder import words_of

from earmark_shared.crypto import keystream as keystream_module
from earmark_shared.crypto.keystream import keystream
from earmark_shared.errors import ProtocolError
from earmark_shared.round import Phase
from earmark_shared.secagg import device
from earmark_shared.secagg.attempt import NoisyUpdate

SHARED = Path(__file__).resolve().parents[2] / "shared" / "earmark_shared"
CLIENT = Path(__file__).resolve().parents[2] / "client" / "earmark_client"
RANDOM = {"random", "secrets", "numpy.random", "np.random", "torch"}


def test_keystream_is_rfc_8439():
    """Appendix A.1, test vectors 1 and 2 (the two first blocks of the zero key)."""
    first = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    second = "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    assert keystream(bytes(32), 32).tobytes().hex() == first + second


def test_keystream_goes_on_across_blocks():
    long = keystream(b"k" * 32, 100_001)
    assert np.array_equal(long[:40_000], keystream(b"k" * 32, 40_000))
    assert len(np.unique(long)) > 99_000


@pytest.mark.parametrize("size", [0, 4, 16, 31, 33, 64])
def test_a_seed_is_32_bytes(size):
    with pytest.raises(ProtocolError):
        keystream(bytes(size), 4)


def streams_of_one_bit_seeds():
    return {keystream((1 << bit).to_bytes(32, "big"), 8).tobytes() for bit in range(256)}


def test_every_bit_of_a_seed_matters(monkeypatch):
    """No folding: one bit anywhere in the 256 makes another stream. A build that folds, as Flower's does, is told apart."""
    assert len(streams_of_one_bit_seeds() | {keystream(bytes(32), 8).tobytes()}) == 257
    whole = keystream_module.algorithms.ChaCha20

    def folded(key, nonce):
        words = np.frombuffer(key, dtype="<u4")
        return whole(int(np.bitwise_xor.reduce(words)).to_bytes(32, "little"), nonce)

    monkeypatch.setattr(keystream_module.algorithms, "ChaCha20", folded)
    assert len(streams_of_one_bit_seeds()) == 32


def random_imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in RANDOM)
        elif isinstance(node, ast.ImportFrom) and node.module in RANDOM:
            yield node.module
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and f"{node.value.id}.{node.attr}" in RANDOM:
            yield f"{node.value.id}.{node.attr}"


def test_no_other_randomness_where_secrets_are():
    """Entropy is passed in: nothing of protocol, privacy, training and store can even reach a generator of another kind."""
    folders = (SHARED / "secagg", SHARED / "crypto", SHARED / "privacy", CLIENT / "learn", CLIENT / "store")
    sources = [SHARED / "round.py", *(path for folder in folders for path in sorted(folder.glob("*.py")))]
    assert len(sources) > 40
    found = {path.name: set(random_imports(ast.parse(path.read_text()))) for path in sources}
    # Training needs torch; that it draws nothing from it, unit/test_finetune.py watches while it runs. A home's keys are the system's.
    allowed = {"correction.py": {"torch"}, "finetune.py": {"torch"}, "home.py": {"secrets"}, "keys.py": {"secrets"}}
    assert {name: names for name, names in found.items() if names - allowed.get(name, set())} == {}
    control = "import random\nfrom numpy.random import default_rng\nimport numpy as np\nnp.random.rand()"
    assert len(list(random_imports(ast.parse(control)))) == 3


# ---- S5 ----------------------------------------------------------------------------------------------------------------------------
def byte_p_value(words):
    counts = np.bincount(words.view(np.uint8), minlength=256)
    mean = counts.sum() / 256
    return chi2.sf(((counts - mean) ** 2 / mean).sum(), 255)


def uploads(run, constant, d=2000):
    fleet = Fleet(5, d=d, seed=f"uniform {run}")
    steps = np.full(d, constant, dtype=np.int32)
    shard, by_id = fleet.shard([fleet.device(place, update=NoisyUpdate(fleet.plan, steps, None)) for place in range(5)])
    outgoing = run_to(shard, by_id, Phase.MASKED)
    return [words_of(by_id[device_id].step(message, NOW_S)) for device_id, message in outgoing.items()]


def test_uploads_of_constants_look_uniform():
    """50 uploads of vectors that are all zeros or all the same, and two equal updates share nothing."""
    with swift_verification():
        all_uploads = [words for run in range(10) for words in uploads(run, constant=run % 2 * 300)]
    values = [byte_p_value(words) for words in all_uploads]
    assert len(values) == 50
    assert min(values) > 1e-4
    assert max(values) < 1 - 1e-4
    one, other = all_uploads[:2]
    assert np.mean(one == other) < 0.01
    assert byte_p_value(one - other) > 1e-4


def test_uploads_without_masks_do_not(monkeypatch):
    monkeypatch.setattr(device, "mask", lambda noisy, seeds: np.concatenate([[1], noisy]).astype("<u4"))
    assert byte_p_value(uploads(0, constant=300)[0]) < 1e-4


def test_every_round_has_its_own_masks():
    with swift_verification():
        one, other = uploads("a", 0)[0], uploads("b", 0)[0]
    assert np.mean(one == other) < 0.01
    assert Stream("a")(32) != Stream("b")(32)
