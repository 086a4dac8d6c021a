"""``tersor verify``: whether files are as they were written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tersor._core import FormatError
from tersor.codec.blob import decode_blob
from tersor.io import container


def verify(files: Sequence[Path], *, decode: bool = False) -> int:
    """Checks files, and prints a line for each.

    Args:
        files: models: files, folders or indices.
        decode: decode every blob besides, which finds what no checksum can: a blob that a faulty
            writer made.

    Returns:
        How many are damaged or cannot be read.
    """
    bad = 0
    for path in files:
        try:
            with container.open(path) as file:
                file.verify()
                blobs = [view for view in file.tensors.values() if view.compressed or view.lossless]
                if decode:
                    for view in blobs:
                        _decode(view)
                covered = "every byte" if file.is_tersor else f"{len(blobs)} blobs alone"
                print(f"{path}: OK ({len(file.tensors)} tensors; checksums of {covered})")
        except (FormatError, OSError) as error:
            bad += 1
            message = str(error)
            named = message if str(path) in message else f"{path}: {message}"
            print(f"tersor: {named}", file=sys.stderr)
    return bad


def _decode(view: container.TensorView) -> None:
    content = view.bytes()  # of what is stored without loss, decoded
    if view.compressed:
        decode_blob(content)
