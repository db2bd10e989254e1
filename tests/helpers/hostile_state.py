"""Optimizer states that do not fit, generated with a fixed seed."""

import copy
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.helpers.hostile import ODD_VALUES, places

ODD_TENSORS = {
    "one dimension": lambda t: t.flatten() if t.ndim != 1 else t[None],
    "one number less": lambda t: t.flatten()[:-1].clone(),
    "one number more": lambda t: torch.cat([t.flatten(), t.flatten()[:1]]),
    "a row": lambda t: t.reshape(-1)[:1].clone(),
    "nothing": lambda t: torch.zeros(0),
    "a number": lambda t: torch.zeros(()) if t.ndim else torch.zeros(1),
    "larger": lambda t: torch.zeros(2, *t.shape),
    "one number everywhere": lambda t: torch.zeros(1).expand(t.shape if t.ndim else (3,)),
    "huge": lambda t: torch.zeros(1).expand(10**12),
    "other strides": lambda t: t.new_zeros(2, *t.shape)[..., None].transpose(0, -1)[0].transpose(0, -1),
    "every other number": lambda t: torch.stack([t, t], dim=-1)[..., 0] if t.numel() > 1 else torch.zeros(2),
    "another step": lambda t: t + 1 if t.ndim == 0 else torch.zeros(()),
    "sparse": lambda t: t.to_sparse() if t.ndim else torch.zeros(2).to_sparse(),
    "meta": lambda t: t.to("meta"),
    "negative view": torch._neg_view,
} | {
    str(dtype): lambda t, dtype=dtype: t.to(dtype if t.dtype != dtype else torch.float16)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.complex64)
}  # fmt: skip


def mutated_state(tree: object, count: int, seed: int) -> Iterator[tuple[str, object]]:
    """A state with one place taken away, renamed, doubled, exchanged with another, or given another value; and what was done."""
    dice = random.Random(seed)
    everywhere = list(places(tree))
    for _ in range(count):
        where = dice.choice(everywhere)
        value = _at(tree, where)
        kind = dice.choice(("value", "value", "value", "remove", "rename", "double", "exchange"))
        mutant = _with_copies(tree, where[:-1])
        parent = _at(mutant, where[:-1])
        name = kind
        if kind == "remove":
            del parent[where[-1]]
        elif kind == "rename" and isinstance(parent, dict):
            others = [other for other in ("x", 10**6, -1, None, "step") if other != where[-1]]
            parent[dice.choice(others)] = parent.pop(where[-1])
        elif kind == "double" and isinstance(parent, list):
            parent.insert(where[-1], value)
        elif kind == "exchange":
            other = dice.choice(everywhere)
            name = f"exchange with {other}"
            parent[where[-1]] = _at(tree, other)
        elif isinstance(value, Tensor):
            name = dice.choice(list(ODD_TENSORS))
            parent[where[-1]] = ODD_TENSORS[name](value)
        else:
            odd = dice.choice([odd for odd in ODD_VALUES if type(odd) is not type(value) or odd != value])
            name = f"{odd!r:.40}"
            parent[where[-1]] = odd
        yield f"{where}: {name}", mutant


def _at(tree: object, where: tuple) -> object:
    for key in where:
        tree = tree[key]
    return tree


def _with_copies(tree: object, where: tuple) -> object:
    """The tree, in which what lies on the way to `where` is copied and the rest is shared."""
    top = copy.copy(tree)
    parent = top
    for key in where:
        parent[key] = copy.copy(parent[key])
        parent = parent[key]
    return top
