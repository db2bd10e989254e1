"""Hostile input, generated with a fixed seed."""

import random
from collections.abc import Iterator

ODD_VALUES = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, -0.0, 0.5, 1e308, float("nan"), float("inf"),
    "", " ", "a", "\0", "\ud800", "\x1b[2J", "../x", "/etc/passwd", "nan", "1", "é" * 300, "x" * 100_000,
    [], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1] * 1_000,
)  # fmt: skip


def mutated_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield `data` with bits flipped, or with bytes replaced, cut off, cut out or repeated."""
    dice = random.Random(seed)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            place = dice.randrange(len(mutant) or 1)
            kind = dice.choice(("flip", "byte", "head", "cut", "remove", "repeat"))
            if kind == "flip" and mutant:
                mutant[place] ^= 1 << dice.randrange(8)
            elif kind == "byte" and mutant:
                mutant[place] = dice.choice((0, 1, 127, 128, 255))
            elif kind == "head" and mutant:
                mutant[place % min(64, len(mutant))] = dice.randrange(256)
            elif kind == "cut":
                del mutant[place:]
            elif kind == "remove":
                del mutant[place : place + dice.randint(1, 16)]
            else:
                mutant[place:place] = mutant[place : place + dice.randint(1, 64)]
        yield bytes(mutant)


def mutated_tree(tree: object, count: int, seed: int) -> Iterator[object]:
    """Yield a tree of dicts and lists with one of its values removed, or replaced by an odd one."""
    dice = random.Random(seed)
    everywhere = list(places(tree))
    for _ in range(count):
        where = dice.choice(everywhere)
        yield _with(tree, where, dice.choice(ODD_VALUES), remove=dice.random() < 0.2)


def places(tree: object, where: tuple = ()) -> Iterator[tuple]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*where, key)
        yield from places(value, (*where, key))


def _with(tree: object, where: tuple, value: object, remove: bool) -> object:
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    key = where[0]
    if len(where) > 1:
        copy[key] = _with(copy[key], where[1:], value, remove)
    elif remove:
        del copy[key]
    else:
        copy[key] = value
    return copy
