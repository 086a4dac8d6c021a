"""Other ways to compute the product of a layer, each on one thread."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

os.environ.setdefault("MKL_NUM_THREADS", "1")


Call = Callable[[], Any]


@dataclass(frozen=True)
class Peer:
    """Another library's product: ``prepare(x)`` gives the call that returns it, [batch, rows]."""

    name: str
    prepare: Callable[[np.ndarray], Call]
    error: float = 1e-5  # relative, that its arithmetic may have


def torch_peers(weight: np.ndarray) -> Iterator[Peer]:
    """What torch offers besides dense float32."""
    rows, cols = weight.shape
    dense = nn.Linear(cols, rows, bias=False)
    dense.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        matrix = torch.from_numpy(weight).to_sparse_csr()
        int8 = torch.ao.quantization.quantize_dynamic(nn.Sequential(dense), {nn.Linear})
    half = dense.weight.to(torch.bfloat16)

    def csr(x: np.ndarray) -> Call:
        columns = torch.from_numpy(x).t().contiguous()
        return lambda: (matrix @ columns).t()

    def quantised(x: np.ndarray) -> Call:
        source = torch.from_numpy(x)
        return lambda: int8(source)

    def bfloat16(x: np.ndarray) -> Call:
        source = torch.from_numpy(x).to(torch.bfloat16)
        return lambda: nn.functional.linear(source, half)

    yield Peer("torch_csr", csr)
    yield Peer("torch_int8_dynamic", quantised, 0.05)
    yield Peer("torch_bf16", bfloat16, 0.02)


def sparse_peers(weight: np.ndarray) -> Iterator[Peer]:
    """scipy's CSR, and the inspector-executor of MKL on the same arrays."""
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(weight)

    def scipy(x: np.ndarray) -> Call:
        columns = np.ascontiguousarray(x.T)
        return lambda: (matrix @ columns).T

    yield Peer("scipy_csr", scipy)
    found = sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*"))
    if found:
        mkl = ctypes.CDLL(str(found[-1]))
        yield Peer("mkl_inspector_executor", lambda x: mkl_call(mkl, matrix, x))


class _Description(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("mode", ctypes.c_int), ("diag", ctypes.c_int)]


def mkl_call(mkl: ctypes.CDLL, matrix: Any, x: np.ndarray) -> Call:
    """The product by MKL's sparse BLAS after its analysis."""
    columns = np.ascontiguousarray(x.T)
    rows, cols = matrix.shape
    batch = columns.shape[1]
    data, indices, starts = matrix.data, matrix.indices, matrix.indptr
    handle = ctypes.c_void_p()
    pointer = ctypes.c_void_p

    def at(array: np.ndarray, first: int = 0) -> ctypes.c_void_p:
        return pointer(array.ctypes.data + first * array.itemsize)

    def checked(status: int) -> None:
        if status != 0:
            raise RuntimeError(f"MKL failed with status {status}")

    plain, general = 10, _Description(20, 0, 0)
    checked(
        mkl.mkl_sparse_s_create_csr(
            ctypes.byref(handle), 0, rows, cols, at(starts), at(starts, 1), at(indices), at(data)
        )
    )
    row_major = 101
    if batch == 1:
        checked(mkl.mkl_sparse_set_mv_hint(handle, plain, general, 1000))
    else:
        checked(mkl.mkl_sparse_set_mm_hint(handle, plain, general, row_major, batch, 1000))
    checked(mkl.mkl_sparse_optimize(handle))
    out = np.empty((rows, batch), np.float32)
    one, zero = ctypes.c_float(1), ctypes.c_float(0)

    def call() -> np.ndarray:
        if batch == 1:
            mkl.mkl_sparse_s_mv(plain, one, handle, general, at(columns), zero, at(out))
        else:
            mkl.mkl_sparse_s_mm(
                plain,
                one,
                handle,
                general,
                row_major,
                at(columns),
                batch,
                batch,
                zero,
                at(out),
                batch,
            )
        return out.T

    call.keeps = (data, indices, starts, columns)  # type: ignore[attr-defined]
    return call


def onnx_peers(weight: np.ndarray) -> Iterator[Peer]:
    """onnxruntime in float32, and with weights of 4 bits in blocks of 32."""
    from onnx import helper

    rows, cols = weight.shape
    block = 32
    blocks = -(-cols // block)
    padded = np.zeros((rows, blocks, block), np.float32)
    padded.reshape(rows, -1)[:, :cols] = weight
    scales = np.abs(padded).max(2) / 7
    padded /= np.where(scales > 0, scales, 1)[..., None]
    nibbles = (np.rint(padded) + 8).astype(np.uint8)
    packed = nibbles[..., 0::2] | nibbles[..., 1::2] << 4

    dense = helper.make_node("MatMul", ["x", "w"], ["y"])
    yield Peer("onnxruntime_fp32", session(dense, {"w": np.ascontiguousarray(weight.T)}))
    four_bits = helper.make_node(
        "MatMulNBits",
        ["x", "w", "scales"],
        ["y"],
        domain="com.microsoft",
        K=cols,
        N=rows,
        bits=4,
        block_size=block,
        accuracy_level=4,  # activations in 8 bits, the fastest
    )
    arrays = {"w": packed, "scales": scales.reshape(-1)}
    yield Peer("onnxruntime_int4", session(four_bits, arrays), 0.2)


def session(node: Any, arrays: dict[str, np.ndarray]) -> Callable[[np.ndarray], Call]:
    """onnxruntime with one node and its weights."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "inputs"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "outputs"])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = 8
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    ready = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: lambda: ready.run(None, {"x": x})[0]


def peers(weight: np.ndarray) -> list[Peer]:
    """All that are installed; what is missing is named on the error stream."""
    found = list(torch_peers(weight))
    for family in (sparse_peers, onnx_peers):
        try:
            found += family(weight)
        except ImportError as error:
            print(f"without {error.name}: no {family.__name__}", file=sys.stderr)
    return found
