"""Which orbits are held out of training: by a hash of the id, so that the choice is stable while a set grows."""

import hashlib
from collections.abc import Iterable

META, HELD_OUT_META = "svd_meta.jsonl", "svd_meta_held_out.jsonl"  # as every command that makes orbits names them


def held_out_of(ids: Iterable[str], amount: float | None) -> set[str]:
    """Choose among ids: a share of them (0 < amount < 1), a number of them (a whole amount from 1), or none (None).

    Of more ids, a share keeps its choice. A number may give one up for a new id, but takes none that it had passed over.
    """
    if amount is None:
        return set()
    if amount < 1:
        return {name for name in ids if _place(name) < amount}
    return set(sorted(ids, key=_place)[: int(amount)])


def _place(object_id: str) -> float:
    """Return a number in [0, 1) that is as good as random, and the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"held out/{object_id}".encode()).digest()[:6], "big") / 2**48
