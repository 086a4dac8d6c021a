"""Names of torch that are not public, in one place, each with what stands in where it is missing.

Most tell a module whether it may call its kernel past torch's dispatcher. Where torch has no such
name any more, the answer is the cautious one: through the dispatcher, which is slower and right.
"""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad


def _find(path: str, fallback: Callable[[], Any]) -> Callable[[], Any]:
    """The function at a path below ``torch``, or the fallback."""
    found: Any = torch
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if callable(found) else fallback


# Looked up once: each takes a percent of a small layer's time to find.
is_any_autocast_enabled = _find("_C._is_any_autocast_enabled", lambda: True)
is_tracing = _find("_C._is_tracing", lambda: True)
dispatch_modes = _find("_C._len_torch_dispatch_stack", lambda: 1)
function_transform = _find("_C._functorch.peek_interpreter_stack", lambda: True)
# Without it profiles show no compressed layers; they are computed all the same.
profiling = _find("_C._autograd._profiler_enabled", lambda: False)


# A scope in which subclasses of tensors do not see functions, only operators.
without_torch_function = _find("_C.DisableTorchFunctionSubclass", contextlib.nullcontext)
has_function_scope = without_torch_function is not contextlib.nullcontext

_onednn_conv2d: Any = getattr(torch, "mkldnn_convolution", None)


def fastest_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> torch.Tensor:
    """``F.conv2d`` without gradients, for one image with 1 x 1 kernels by oneDNN.

    Torch takes its own way there, which takes twice as long. Arguments as of ``F.conv2d``.
    """
    pointwise = x.shape[0] == 1 and weight.shape[2:] == (1, 1) and x.dtype is torch.float32
    if pointwise and _onednn_conv2d is not None and torch.backends.mkldnn.is_available():
        made: torch.Tensor = _onednn_conv2d(x, weight, bias, padding, stride, dilation, groups)
        return made
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def forward_mode() -> bool:
    """Whether a forward-mode derivative may be under way."""
    return bool(getattr(forward_ad, "_current_level", 0) >= 0)


def share_data(target: torch.Tensor, source: torch.Tensor) -> bool:
    """Gives a tensor the data of another and keeps its identity; False where torch cannot."""
    compatible = getattr(torch, "_has_compatible_shallow_copy_type", lambda *_: False)
    if not compatible(target, source):
        return False
    target.data = source
    return True


_unknown_versions = itertools.count(1)


def version_of(tensor: torch.Tensor) -> int:
    """How often a tensor was changed in place; a new number at each call where that is not known.

    Tensors made in inference mode count no versions: 0.
    """
    try:
        return tensor._version
    except AttributeError:
        return next(_unknown_versions)
    except RuntimeError:
        return 0


def stand_in(
    kind: type[torch.Tensor], shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Any:
    """A tensor of a subclass, of a shape that it has no memory for."""
    make = getattr(torch.Tensor, "_make_wrapper_subclass", None)
    if make is not None:
        return make(kind, shape, dtype=dtype, device=device)
    return torch.zeros((), dtype=dtype, device=device).expand(shape).as_subclass(kind)


def is_mutable(operator: Any) -> bool:
    """Whether an operator changes one of its arguments in place."""
    schema = getattr(operator, "_schema", None)
    if schema is not None:
        return bool(schema.is_mutable)
    name, _, overload = str(operator).removeprefix("aten.").partition(".")
    return (name.endswith("_") and not name.endswith("__")) or overload.endswith("out")


def own_load_hooks(module: nn.Module) -> None:
    """Makes a module the one that the hooks get which run before its state is loaded.

    Torch wraps those with a reference to the module that they were registered on, which is another
    one where they were moved.
    """
    for hook in getattr(module, "_load_state_dict_pre_hooks", {}).values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(module)
