"""Names of a package that are imported when they are first asked for.

``import tersor`` needs numpy alone; what needs torch is loaded on first use, and says so where
torch is missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_exports(package: str, exports: Mapping[str, str]) -> Callable[[str], Any]:
    """The function ``__getattr__`` of a package.

    Args:
        package: its name.
        exports: by name, ``"module:attribute"``, or ``"module"`` for the module itself.

    Raises (on access):
        AttributeError: there is no such name.
        ImportError: torch is needed and not installed; the message says how to install it.
    """

    def get(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, _, attribute = exports[name].partition(":")
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(
                f"{package}.{name} needs torch: pip install 'tersor[torch]'"
            ) from error
        return getattr(loaded, attribute) if attribute else loaded

    return get
