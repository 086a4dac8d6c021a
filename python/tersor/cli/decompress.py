"""``tersor decompress``: back to ordinary safetensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tersor.cli.errors import naming_file
from tersor.io import container


def decompress(source: Path, output: Path) -> int:
    """Writes the dense fp32 tensors of a compressed file as ordinary safetensors; their number.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    from tersor.codec.blob import SUFFIX, decode_blob
    from tersor.codec.encode import decompress_weight

    tensors: dict[str, container.Tensor] = {}
    with naming_file(source), container.open(source) as file:
        file.verify()
        for name, tensor in file.tensors.items():
            if tensor.compressed:
                dense = np.ascontiguousarray(
                    decompress_weight(decode_blob(tensor.bytes())), np.float32
                )
                tensors[name.removesuffix(SUFFIX)] = container.Tensor(
                    "F32", dense.shape, dense.tobytes()
                )
            else:
                tensors[name] = container.Tensor(
                    tensor.dtype, tuple(tensor.shape), tensor.bytes().tobytes()
                )
        metadata = file.metadata
    container.write_file(output, tensors, metadata, plain=True)
    return len(tensors)
