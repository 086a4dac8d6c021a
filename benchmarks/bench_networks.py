"""Whole layers and networks against torch and onnxruntime, alternating in one process.

    python -m benchmarks.bench_networks [--cases lstm-512 gru-256 dense-4096] [--threads 1 2]

Each case is a compressed module and its peers on the same inputs. The answers are compared first: a
case whose compressed output is farther from the dense one with the same weights than its class
allows is not timed. Then the calls alternate, and the table has the median of each: microseconds,
and how many times as fast as torch in fp32 the compressed module is. JSON goes to
build/bench/networks.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tersor
from tersor.config import Method
from tersor.nn.linear import CompressedLinear
from tersor.nn.recurrent import CompressedGRU, CompressedLSTM

OUTPUT = Path("build/bench/networks.json")
ROUNDS = 15
REST = 0.02  # seconds: onnxruntime's threads go on spinning for a while, on the others' processors
# Of the largest output: what the classes' bounds come to in these networks.
ERRORS = {"high": 1e-4, "medium": 2e-3, "low": 0.1}


@dataclass(frozen=True)
class Timing:
    """One line of the table."""

    case: str
    threads: int
    name: str
    microseconds: float
    times_torch: float
    bytes_per_weight: float | None = None


Calls = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """A dense module with the weights of a compressed one, and the inputs."""

    name: str
    dense: nn.Module
    made: Any
    x: torch.Tensor

    def calls(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The compressed module in each class, and the peers."""
        for precision in ERRORS:
            made = copy.deepcopy(self.made)
            made.precision = precision
            yield precision, partial(made, self.x)
        yield "torch", lambda: self.dense(self.x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantize: Any = torch.ao.quantization.quantize_dynamic
            int8 = quantize(nn.Sequential(copy.deepcopy(self.dense)), {nn.Linear, nn.LSTM, nn.GRU})
        yield "torch int8", lambda: int8(self.x)
        if isinstance(self.dense, nn.Linear):
            yield from onnx_calls(self.made, self.x)

    @property
    def bytes_per_weight(self) -> float | None:
        """Of the packed form, where there is one matrix."""
        if not isinstance(self.made, CompressedLinear):
            return None
        return float(self.made.packed.nbytes) / int(np.prod(self.made.shape))


def onnx_calls(layer: CompressedLinear, x: torch.Tensor) -> Iterator[tuple[str, Callable[[], Any]]]:
    """onnxruntime's product of 4-bit weights, in blocks of 32, where it is installed."""
    try:
        import onnx
        import onnxruntime  # type: ignore[import-untyped]
        from onnx import TensorProto, helper
    except ImportError:
        return
    rows, cols = layer.shape
    generator = np.random.default_rng(0)
    # What they are does not change its time.
    packed = generator.integers(0, 256, (rows, cols // 32, 16), dtype=np.uint8)
    scales = np.full(rows * cols // 32, 0.01, np.float32)
    for level, name in ((0, "onnxruntime int4"), (4, "onnxruntime int4, int8 x")):
        node = helper.make_node(
            "MatMulNBits",
            ["x", "b", "scales"],
            ["y"],
            domain="com.microsoft",
            K=cols,
            N=rows,
            bits=4,
            block_size=32,
            accuracy_level=level,
        )
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*x.shape[:-1], rows])],
            [
                helper.make_tensor(
                    "b", TensorProto.UINT8, packed.shape, packed.tobytes(), raw=True
                ),
                helper.make_tensor("scales", TensorProto.FLOAT, scales.shape, scales),
            ],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)],
        )
        model.ir_version = min(model.ir_version, onnx.IR_VERSION, 9)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        yield name, partial(session.run, None, {"x": x.numpy()})


def cases() -> dict[str, Callable[[], Case]]:
    """All cases by name."""

    def recurrent(
        kind: Any, made: Any, size: int, layers: int, density: float, batch: int, steps: int
    ) -> Case:
        dense = kind(size, size, layers)
        settings = tersor.LayerConfig(density=density, codebook_size=15)
        compressed = made.from_dense(dense, settings)
        name = f"{kind.__name__.lower()}-{size}, batch {batch}"
        return Case(name, compressed.to_dense(), compressed, torch.randn(steps, batch, size))

    def dense_codes(
        rows: int, cols: int, values: int, method: Method = "uniform", batch: int = 1
    ) -> Case:
        settings = tersor.LayerConfig(codebook_size=values, method=method)
        compressed = CompressedLinear.from_dense(nn.Linear(cols, rows, bias=False), settings)
        kind = "integers" if method == "integer" else "values"
        name = f"{rows} x {cols}, all kept, {values} {kind}, batch {batch}"
        return Case(name, compressed.to_dense(), compressed, torch.randn(batch, cols))

    return {
        "lstm-512": lambda: recurrent(nn.LSTM, CompressedLSTM, 512, 2, 0.1, 1, 100),
        "gru-256": lambda: recurrent(nn.GRU, CompressedGRU, 256, 1, 0.2, 1, 50),
        "gru-256-batch": lambda: recurrent(nn.GRU, CompressedGRU, 256, 1, 0.2, 16, 50),
        "dense-4096": lambda: dense_codes(4096, 4096, 15),
        "dense-11008": lambda: dense_codes(11008, 4096, 15),
        "dense-2-bit": lambda: dense_codes(4096, 4096, 3),
        "integers-4096": lambda: dense_codes(4096, 4096, 127, "integer"),
        "integers-1024": lambda: dense_codes(1024, 1024, 127, "integer"),
        "integers-1536": lambda: dense_codes(1536, 384, 127, "integer"),
        "integers-batch": lambda: dense_codes(1536, 384, 127, "integer", 16),
    }


def first_tensor(result: Any) -> torch.Tensor:
    """The output of a layer, without its state."""
    while not isinstance(result, torch.Tensor):
        result = result[0]
    return result


@torch.inference_mode()
def measure(case: Case, threads: int) -> list[Timing]:
    """Checks a case, then times it."""
    calls: Calls = dict(case.calls())
    expected = first_tensor(calls["torch"]())
    for precision, limit in ERRORS.items():
        found = first_tensor(calls[precision]())
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error <= limit:
            raise SystemExit(f"{case.name}, {precision}: error {error:.1e}, expected {limit:.1e}")
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            if threads > 1:
                time.sleep(REST)
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    middle = {name: 1e6 * statistics.median(times) for name, times in taken.items()}
    return [
        Timing(
            case.name,
            threads,
            name,
            round(value, 1),
            round(middle["torch"] / value, 2),
            case.bytes_per_weight if name in ERRORS else None,
        )
        for name, value in middle.items()
    ]


def main(arguments: list[str]) -> None:
    """Runs the cases and prints their table."""
    known = cases()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=known, default=list(known))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args(arguments)
    timings: list[Timing] = []
    for name in options.cases:
        torch.manual_seed(0)
        case = known[name]()
        for threads in options.threads:
            torch.set_num_threads(threads)
            for timing in measure(case, threads):
                timings.append(timing)
                size = timing.bytes_per_weight
                print(
                    f"{timing.case:48} {timing.threads} {timing.name:26}"
                    f"{timing.microseconds:12,.1f} µs {timing.times_torch:7.2f} x"
                    f"{'' if size is None else f'  {size:.3f} B/weight'}",
                    flush=True,
                )
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps([asdict(timing) for timing in timings], indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
