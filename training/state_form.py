"""Whether the state in a checkpoint has the form of the optimizer that it is given to.

torch and DeepSpeed do not look: with a moment that is smaller than its parameter, a step writes over other memory.

What is expected is a tree of dicts, lists, tensors and plain values, as an optimizer's `state_dict()` is. What is read must
have its types, keys, lengths and plain values, and of its tensors all but their numbers. Four classes say where that differs.
"""

import re
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from utils.errors import UserError, cut, shown


@dataclass(frozen=True)
class OfType:
    """Expects a value of a type, whichever it is, since it is replaced once the state is loaded. A text may have a pattern."""

    kind: type
    pattern: str = ""

    def difference(self, found: object, place: str) -> str | None:
        fits = type(found) is self.kind and (not self.pattern or re.fullmatch(self.pattern, found))
        return None if fits else _other(place, found, self.pattern or self.kind.__name__)


@dataclass(frozen=True)
class Floats:
    """Expects a tensor of a shape in any floating type, since it is only copied from."""

    like: Tensor

    def difference(self, found: object, place: str) -> str | None:
        is_floating = isinstance(found, Tensor) and found.is_floating_point()
        return _tensor_difference(found, self.like.to(found.dtype) if is_floating else self.like, place)


@dataclass(frozen=True)
class Equal:
    """Expects a tensor with the same numbers, too."""

    tensor: Tensor

    def difference(self, found: object, place: str) -> str | None:
        why = _tensor_difference(found, self.tensor, place)
        if why is None and not torch.equal(found, self.tensor):
            why = f"{place} is {found.tolist()} in place of {self.tensor.tolist()}"
        return why


class AtLeast(dict):
    """Expects a dict that may have further keys, since nobody reads them."""


def require_form(found: object, expected: object, name: str) -> None:
    """Raise UserError, beginning with `name`, if what was read from there is not as expected."""
    if why := difference(found, expected, name):
        raise UserError(f"{why}: it does not fit this optimizer")


def difference(found: object, expected: object, place: str) -> str | None:
    """Return where and how what was read first differs from what is expected, or None. `place` is its name."""
    if isinstance(expected, OfType | Floats | Equal):
        return expected.difference(found, place)
    if isinstance(expected, Tensor):
        return _tensor_difference(found, expected, place)
    if type(found) is not (dict if isinstance(expected, AtLeast) else type(expected)):
        return _other(place, found, type(expected).__name__)
    wanted = _parts(expected)
    if wanted is None:
        return None if found == expected else _other(place, found, shown(expected))
    parts = _parts(found)
    missing = wanted.keys() - parts.keys()
    unknown = set() if isinstance(expected, AtLeast) else parts.keys() - wanted.keys()
    if missing or unknown:
        key = min(missing or unknown, key=repr)
        return f"{place}/{cut(str(key))} {'is missing' if missing else 'is none of the optimizer'}"
    differences = (difference(parts[key], part, f"{place}/{key}") for key, part in wanted.items())
    return next(filter(None, differences), None)


def _parts(value: object) -> dict | None:
    """Return what a dict, a list or an object of a class consists of; None for a plain value."""
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    attributes = getattr(value, "__dict__", None)
    if isinstance(value, dict):
        return {**value, **(attributes or {})}  # an OrderedDict of weights has its _metadata
    return None if isinstance(value, Enum) else attributes


def _tensor_difference(found: object, expected: Tensor, place: str) -> str | None:
    if type(found) not in (Tensor, nn.Parameter):
        return _other(place, found, "a tensor")
    if _form(found) != _form(expected):
        return f"{place} is {_describe(found)} in place of {_describe(expected)}"
    if found.device.type != "cpu" or found.is_conj() or found.is_neg():
        return f"{place} is no plain tensor"
    return None


def _form(tensor: Tensor) -> tuple:
    strides = tensor.stride() if tensor.layout == torch.strided else None
    return tensor.dtype, tensor.layout, tensor.shape, strides


def _describe(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = " x ".join(map(str, tensor.shape)) or "one number"
    if tensor.layout != torch.strided:
        return cut(f"{dtype} of {shape}, sparse")
    return cut(f"{dtype} of {shape}" + ("" if tensor.is_contiguous() else ", not contiguous"))


def _other(place: str, found: object, expected: str) -> str:
    what = f"a {type(found).__name__}" if isinstance(found, Tensor) or _parts(found) is not None else shown(found)
    return f"{place} is {what} in place of {expected}"
