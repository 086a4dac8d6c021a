"""Running a part of a model from stop to stop.

A *stop* is a module inside the part: a layer, or a block. A run returns what is known of the
outputs of stops already and ends at the first stop that is wanted, with the arguments that it
would be called with: the same code as a normal forward, with nothing computed twice beside what
lies between the stops. Hooks on stops are called as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from tersor.calibration.inputs import copied
from tersor.calibration.trace import Arguments

_MISSING = object()


class _Reached(BaseException):
    """Ends a run at a stop; not an Exception, which a model may catch."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments


class Stops:
    """The stops of a part, and what the run of the moment does at each."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.original = {module: module.forward for module in modules}
        self.known: Mapping[nn.Module, Any] = {}
        self.wanted: Collection[nn.Module] = ()
        self.observe: Callable[[nn.Module, Arguments], None] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The stops are stops within the ``with`` statement."""
        with self.replaced(self._stop):
            yield

    @contextmanager
    def replaced(self, function: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
        """A function of the module and its arguments is called in the place of its forward."""
        with ExitStack() as stack:
            for module, original in self.original.items():
                own = module.__dict__.get("forward", _MISSING)
                module.__dict__["forward"] = _standing_in(module, original, function)
                stack.callback(_restore, module, own)
            yield

    def run(
        self,
        call: Callable[[], Any],
        known: Mapping[nn.Module, Any],
        wanted: Collection[nn.Module] = (),
        observe: Callable[[nn.Module, Arguments], None] | None = None,
    ) -> tuple[Arguments | None, Any]:
        """Runs a part, to the first stop that is wanted or to its end.

        Args:
            call: runs the part.
            known: outputs by stop.
            wanted: stops that end the run.
            observe: called with each other stop whose output is not known, and its arguments.

        Returns:
            The arguments of the stop, or None, and what the part returned.
        """
        self.known, self.wanted, self.observe = known, wanted, observe
        try:
            return None, call()
        except _Reached as reached:
            return reached.arguments, None
        finally:
            self.known, self.wanted, self.observe = {}, (), None

    def _stop(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if module in self.known:
            return copied(self.known[module])  # what follows may change it in place
        if module in self.wanted:
            raise _Reached((args, kwargs))
        if self.observe is not None:
            self.observe(module, (args, kwargs))
        return self.original[module](*args, **kwargs)


def _standing_in(
    module: nn.Module, original: Callable[..., Any], function: Callable[..., Any]
) -> Callable[..., Any]:
    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return function(module, args, kwargs)

    return forward


def _restore(module: nn.Module, own: Any) -> None:
    if own is _MISSING:
        del module.__dict__["forward"]
    else:
        module.__dict__["forward"] = own
