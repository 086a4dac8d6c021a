"""Folders of transformers: ``config.json`` tells ``from_pretrained`` whether to look for blobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILE = "config.json"
_METHOD = {"quant_method": "tersor"}


def is_pretrained(path: Path) -> bool:
    """Whether a file is the configuration of a model of transformers."""
    return _read(path) is not None


def for_blobs(path: Path) -> bytes:
    """The content of a small file beside a model that is compressed."""
    config = _read(path)
    return (
        path.read_bytes() if config is None else _write(config | {"quantization_config": _METHOD})
    )


def for_dense(path: Path) -> bytes:
    """The same beside one that is dense again."""
    config = _read(path)
    if config is None or config.get("quantization_config", {}).get("quant_method") != "tersor":
        return path.read_bytes()
    del config["quantization_config"]
    return _write(config)


def _read(path: Path) -> dict[str, Any] | None:
    if path.name != _FILE:
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    return content if isinstance(content, dict) and "model_type" in content else None


def _write(config: dict[str, Any]) -> bytes:
    return (json.dumps(config, indent=2) + "\n").encode()
