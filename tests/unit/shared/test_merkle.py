"""The enrolment log's tree: RFC 6962's own numbers, and every proof for every small tree."""

import hashlib

import pytest

from earmark_shared.crypto import merkle
from earmark_shared.crypto.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from earmark_shared.errors import LogError

# The entries and roots of the test data that Certificate Transparency's implementations share.
ENTRIES = [bytes.fromhex(entry) for entry in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def leaves(count, salt=b""):
    return [leaf_hash(salt + bytes([number])) for number in range(count)]


@pytest.mark.parametrize(("count", "root"), ROOTS.items())
def test_roots_are_those_of_certificate_transparency(count, root):
    assert tree_root([leaf_hash(entry) for entry in ENTRIES[:count]]).hex() == root


def test_no_entries_have_the_hash_of_nothing():
    assert tree_root([]) == hashlib.sha256().digest()


def test_every_entry_of_every_small_tree_can_be_proved_and_no_other():
    for count in range(1, 18):
        tree = leaves(count)
        root = tree_root(tree)
        for index in range(count):
            proof = inclusion_proof(tree, index)
            verify_inclusion(tree[index], index, count, proof, root)
            wrong = [
                (leaf_hash(b"other"), index, count, proof),
                (tree[index], index, count, [*proof, bytes(32)]),
                (tree[index], index + 1 if count > 1 else 1, count, proof),
                (tree[index], index, count, proof[:-1] or [bytes(32)]),
            ]
            for case in wrong:
                with pytest.raises(LogError):
                    verify_inclusion(*case, root)


def test_every_growth_of_every_small_tree_can_be_proved():
    for count in range(18):
        tree = leaves(count)
        for old in range(count + 1):
            verify_consistency(old, tree_root(tree[:old]), count, tree_root(tree), consistency_proof(tree, old))


def test_a_log_whose_past_was_changed_has_no_proof():
    for count in range(2, 18):
        tree = leaves(count)
        for old in range(1, count + 1):
            forged = [leaf_hash(b"forged"), *tree[1:]]
            for proof in (consistency_proof(forged, old), consistency_proof(tree, old)):
                with pytest.raises(LogError):
                    verify_consistency(old, tree_root(tree[:old]), count, tree_root(forged), proof)


def test_a_shorter_log_a_padded_proof_and_a_made_up_beginning_are_refused():
    tree = leaves(9)
    root, proof = tree_root(tree), consistency_proof(tree, 4)
    for old, old_root, size, new_root, given in [
        (9, root, 8, tree_root(tree[:8]), []),
        (4, tree_root(tree[:4]), 9, root, [*proof, bytes(32)]),
        (4, tree_root(tree[:4]), 9, root, [bytes(32), *proof]),
        (4, tree_root(tree[:4]), 9, root, proof[:-1]),
        (0, bytes(32), 9, root, []),
        (9, root, 9, root, [bytes(32)]),
    ]:
        with pytest.raises(LogError):
            verify_consistency(old, old_root, size, new_root, given)


def test_without_the_comparison_the_forgery_would_pass(monkeypatch):
    """The control: the same forged log, on a build whose consistency check looks at nothing."""
    tree = leaves(9)
    forged = [leaf_hash(b"forged"), *tree[1:]]
    monkeypatch.setattr(merkle, "_rebuild", lambda old, size, proof, known: (proof.clear(), (OLD, NEW))[1])
    OLD, NEW = tree_root(tree[:4]), tree_root(forged)
    verify_consistency(4, OLD, 9, NEW, consistency_proof(forged, 4))
