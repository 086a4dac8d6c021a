"""tersor: prune, share, Huffman-code and run neural networks straight from the compressed form.

``import tersor`` needs numpy alone. What needs torch (``compress_``, ``save``, ``load``, ``nn``, …)
is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tersor import _renamed
from tersor._core import FormatError
from tersor._core import version as _version
from tersor._lazy import lazy_exports
from tersor.config import Config, LayerConfig
from tersor.io.container import open
from tersor.kernels.isa import show_config

if TYPE_CHECKING:
    from tersor import calibration, nn, ops, pipeline, pruning, search, training
    from tersor.io.checkpoint import save
    from tersor.io.load import load, load_file, load_model
    from tersor.io.safe_open import patch_safetensors, safe_open
    from tersor.nn.fuse import fuse_
    from tersor.nn.registry import register_layer
    from tersor.pipeline.compress import compress_, decompress_, estimate
    from tersor.pipeline.precision import calibrate_precision
    from tersor.reporting.model_report import report
    from tersor.reporting.profile import profile

__version__: str = _version()

__all__ = [
    "Config",
    "FormatError",
    "LayerConfig",
    "calibrate_precision",
    "calibration",
    "codec",
    "compress_",
    "config",
    "decompress_",
    "estimate",
    "fuse_",
    "io",
    "kernels",
    "load",
    "load_file",
    "load_model",
    "nn",
    "open",
    "ops",
    "patch_safetensors",
    "pipeline",
    "profile",
    "pruning",
    "quantizers",
    "register_layer",
    "report",
    "reporting",
    "safe_open",
    "save",
    "search",
    "show_config",
    "training",
]

__getattr__ = lazy_exports(
    "tersor",
    {
        "calibrate_precision": "tersor.pipeline.precision:calibrate_precision",
        "compress_": "tersor.pipeline.compress:compress_",
        "decompress_": "tersor.pipeline.compress:decompress_",
        "estimate": "tersor.pipeline.compress:estimate",
        "fuse_": "tersor.nn.fuse:fuse_",
        "load": "tersor.io.load:load",
        "load_file": "tersor.io.load:load_file",
        "load_model": "tersor.io.load:load_model",
        "profile": "tersor.reporting.profile:profile",
        "register_layer": "tersor.nn.registry:register_layer",
        "report": "tersor.reporting.model_report:report",
        "patch_safetensors": "tersor.io.safe_open:patch_safetensors",
        "safe_open": "tersor.io.safe_open:safe_open",
        "save": "tersor.io.checkpoint:save",
        "calibration": "tersor.calibration",
        "codec": "tersor.codec",
        "kernels": "tersor.kernels",
        "nn": "tersor.nn",
        "ops": "tersor.ops",
        "pipeline": "tersor.pipeline",
        "pruning": "tersor.pruning",
        "quantizers": "tersor.quantizers",
        "reporting": "tersor.reporting",
        "search": "tersor.search",
        "training": "tersor.training",
        **{old: f"tersor.{old}" for old in _renamed.MODULES if "." not in old},
    },
)
_renamed.install()


def __dir__() -> list[str]:
    return list(__all__)
