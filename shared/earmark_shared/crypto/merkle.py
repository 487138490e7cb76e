"""A log that can only grow, as a Merkle tree: hashes and proofs of RFC 6962, section 2.1.

    head = tree_root(leaves)
    verify_inclusion(leaf_hash(entry), index, len(leaves), inclusion_proof(leaves, index), head)
    verify_consistency(4, old, 9, head, consistency_proof(leaves, 4))

`leaves` are leaf hashes. Whoever knows an old root and checks a consistency proof knows that nothing below it was changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from earmark_shared.errors import LogError

EMPTY_ROOT = hashlib.sha256().digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry, 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Return the hash of the whole tree, 32 bytes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    left = _split(len(leaves))
    return _node(tree_root(leaves[:left]), tree_root(leaves[left:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes that lead from leaf `index` to the root. Requires: 0 <= index < len(leaves)."""
    if len(leaves) < 2:
        return []
    left = _split(len(leaves))
    if index < left:
        return [*inclusion_proof(leaves[:left], index), tree_root(leaves[left:])]
    return [*inclusion_proof(leaves[left:], index - left), tree_root(leaves[:left])]


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """Return the hashes that show the first `old` leaves to be the whole tree of then. Requires: 0 <= old <= len(leaves)."""
    return _subproof(leaves, old, is_whole=True) if 0 < old < len(leaves) else []


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` is the hash of entry `index` in the tree of `size` entries under `root`.

    Raises:
        LogError: it is not, or the proof has not the length it must have.
    """
    if not 0 <= index < size or _climb(leaf, index, size, list(proof)) != root:
        raise LogError("the enrolment log does not hold this entry")


def verify_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `size` entries under `root` begins with the tree of `old` entries under `old_root`.

    Raises:
        LogError: it does not: the log was changed, cut or forked.
    """
    if old > size or (old == size and (old_root != root or proof)) or (old == 0 and (proof or old_root != EMPTY_ROOT)):
        raise LogError
    if 0 < old < size:
        rest = list(proof)
        before, after = _rebuild(old, size, rest, old_root if old & (old - 1) == 0 else None)
        if rest or before != old_root or after != root:
            raise LogError


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _subproof(leaves: Sequence[bytes], old: int, *, is_whole: bool) -> list[bytes]:
    if old == len(leaves):
        return [] if is_whole else [tree_root(leaves)]
    left = _split(len(leaves))
    if old <= left:
        return [*_subproof(leaves[:left], old, is_whole=is_whole), tree_root(leaves[left:])]
    return [*_subproof(leaves[left:], old - left, is_whole=False), tree_root(leaves[:left])]


def _climb(leaf: bytes, index: int, size: int, proof: list[bytes]) -> bytes | None:
    if size == 1:
        return leaf if not proof else None
    if not proof:
        return None
    left, sibling = _split(size), proof.pop()
    if index < left:
        below = _climb(leaf, index, left, proof)
        return _node(below, sibling) if below else None
    below = _climb(leaf, index - left, size - left, proof)
    return _node(sibling, below) if below else None


def _rebuild(old: int, size: int, proof: list[bytes], known: bytes | None) -> tuple[bytes | None, bytes | None]:
    """Return (old root, new root) of a subtree; `known` is its old root when that is the whole of it and so not in the proof."""
    if old == size:
        if known is not None:
            return known, known
        both = proof.pop() if proof else None
        return both, both
    if not proof:
        return None, None
    left, sibling = _split(size), proof.pop()
    if old <= left:
        before, after = _rebuild(old, left, proof, known)
        return before, _node(after, sibling) if after else None
    before, after = _rebuild(old - left, size - left, proof, None)
    return (_node(sibling, before), _node(sibling, after)) if before and after else (None, None)
