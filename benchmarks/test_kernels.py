"""The kernels of sparse products one by one, by pytest-benchmark: part of ``make bench-spmm``.

Each runs alone on a matrix packed for its level, whatever its error class, after its answer was
held against float64: one vector where it is for vectors, 64 where it is for batches.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from benchmarks.bench_spmm import Answer
from benchmarks.spmm_layers import EIE, Shape, make_inputs, make_layer
from tersor.kernels import isa, spmm

SHAPES = [shape for shape in EIE if shape.name in ("Alex-7", "Alex-8", "NT-We")]
KERNELS = spmm.kernels()
BATCHES = {"vector": 1, "batch": 64}

# Of the whole product: one digit each leaves 0.05 where the inputs are normal.
LARGEST_ERROR = 0.1


@functools.cache
def packed_for(shape: Shape, level: str) -> spmm.PackedMatrix:
    with isa.use(level):
        return spmm.pack_blob(
            make_layer((shape.outputs, shape.inputs), shape.density, shape.values, 1)[0]
        )


@functools.cache
def problem(shape: Shape, batch: int) -> tuple[np.ndarray, Answer]:
    """Activations and the true product."""
    _, weight = make_layer((shape.outputs, shape.inputs), shape.density, shape.values, 1)
    x = make_inputs(shape, batch, 2)
    return x, Answer(weight, x)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: f"{kernel.isa}:{kernel.name}")
def test_kernel(benchmark: Any, kernel: spmm.Kernel, shape: Shape) -> None:
    packed = packed_for(shape, kernel.isa)
    x, answer = problem(shape, BATCHES[kernel.layout_hint])
    out = kernel.run(packed, x)
    answer.check_peer(kernel.name, out, LARGEST_ERROR)
    benchmark.extra_info["batch"] = len(x)
    benchmark(kernel.run, packed, x, out)
