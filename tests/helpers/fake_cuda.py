"""A GPU that is not there: tensors with a device and a type and no data, and a watch over what is computed with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

CUDA = torch.device("cuda")


class Watch(TorchDispatchMode):
    """Notes every result that a GPU run should not have: fp64 on the GPU, and whatever a module makes on the CPU."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self.dtypes: set[torch.dtype] = set()  # of what modules compute on the GPU
        self.depth = 0  # in modules that call each other

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, torch.Tensor):
                self._look_at(value, func)
        return out

    def _look_at(self, value: torch.Tensor, func) -> None:
        if value.device.type == "cuda" and value.dtype == torch.float64:
            self.found.append(f"fp64 from {func}")
        if value.device.type == "cpu" and self.depth:
            self.found.append(f"a CPU tensor from {func}")
        if value.device.type == "cuda" and self.depth and value.is_floating_point():
            self.dtypes.add(value.dtype)


@contextmanager
def watched() -> Iterator[Watch]:
    """Fake tensors within, which raise where devices differ, under a watch."""
    watch = Watch()

    def enter(*_) -> None:
        watch.depth += 1

    def leave(*_) -> None:
        watch.depth -= 1

    hooks = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True))
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(), watch:
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # needs a driver
        # A fake tensor has no value to decide by. What the sampler asks is whether there is guidance.
        patch.setattr(FakeTensor, "__bool__", lambda tensor: True, raising=False)
        try:
            yield watch
        finally:
            for hook in hooks:
                hook.remove()


def on_fake_cuda(module: nn.Module, dtype: torch.dtype) -> None:
    """Make a module's weights again on the fake GPU, in `dtype`.

    A device context does not reach those made by `torch.Tensor([x])`, and `Module.to` cannot exchange fake tensors.
    """
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            remade = torch.empty(weight.shape, dtype=dtype, device=CUDA)
            setattr(part, name, nn.Parameter(remade, requires_grad=False))
        for name, buffer in list(part.named_buffers(recurse=False)):
            kept = dtype if buffer.is_floating_point() else buffer.dtype
            part.register_buffer(name, torch.empty(buffer.shape, dtype=kept, device=CUDA))
