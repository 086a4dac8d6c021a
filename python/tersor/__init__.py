"""tersor: prune, share, Huffman-code and run neural networks straight from the compressed form.

``import tersor`` needs numpy alone. What needs torch (``compress_``, ``save``, ``load``, ``nn``, …)
is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tersor import config, container, conv, csr, huffman, isa, kmeans, layer, methods, spmm
from tersor._core import FormatError
from tersor._core import version as _version
from tersor.config import Config, LayerConfig
from tersor.container import open
from tersor.isa import show_config

if TYPE_CHECKING:
    from tersor import budget, hessian, nn, obs, ops, prune, quantize, share, units
    from tersor.checkpoint import load, save
    from tersor.compress import compress_, decompress_, estimate
    from tersor.fuse import fuse_

__version__: str = _version()

__all__ = [
    "Config",
    "FormatError",
    "LayerConfig",
    "budget",
    "compress_",
    "config",
    "container",
    "conv",
    "csr",
    "decompress_",
    "estimate",
    "fuse_",
    "hessian",
    "huffman",
    "isa",
    "kmeans",
    "layer",
    "load",
    "methods",
    "nn",
    "obs",
    "open",
    "ops",
    "prune",
    "quantize",
    "save",
    "share",
    "show_config",
    "spmm",
    "units",
]

# Name -> (module, attribute or "" for the module itself): the torch side, imported on first use.
_LAZY = {
    "compress_": ("tersor.compress", "compress_"),
    "decompress_": ("tersor.compress", "decompress_"),
    "estimate": ("tersor.compress", "estimate"),
    "fuse_": ("tersor.fuse", "fuse_"),
    "load": ("tersor.checkpoint", "load"),
    "save": ("tersor.checkpoint", "save"),
    "budget": ("tersor.budget", ""),
    "hessian": ("tersor.hessian", ""),
    "obs": ("tersor.obs", ""),
    "nn": ("tersor.nn", ""),
    "units": ("tersor.units", ""),
    "ops": ("tersor.ops", ""),
    "prune": ("tersor.prune", ""),
    "quantize": ("tersor.quantize", ""),
    "share": ("tersor.share", ""),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tersor' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise ImportError(f"tersor.{name} needs torch: pip install 'tersor[torch]'") from error
        raise
    return getattr(loaded, attribute) if attribute else loaded
