"""Tables and plots of the benchmark of sparse products."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

from benchmarks.spmm_layers import EIE, SHAPES

matplotlib.use("Agg")

Row = dict[str, Any]
PRECISIONS = ["highest", "high", "medium", "low"]
LAYERS = [shape.name for shape in SHAPES]
NINE = [shape.name for shape in EIE]
MARKS = ("<!-- bench-spmm: begin -->", "<!-- bench-spmm: end -->")


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def mean_of(ratios: list[float]) -> str:
    """The geometric mean of all nine layers, as text."""
    if len(ratios) != len(NINE):
        return "–"
    return f"{math.exp(statistics.mean(map(math.log, ratios))):.1f}"


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table."""
    all_lines = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in all_lines)


def ratios_table(rows: list[Row], batch: int) -> str:
    """Speed-ups over dense of each layer at a batch."""
    columns = [("kernel", p, "hot") for p in PRECISIONS]
    columns += [("module", p, "hot") for p in PRECISIONS]
    if select(rows, batch=batch, temperature="cold"):
        columns += [("kernel", p, "cold") for p in PRECISIONS[1:]]
    header = [f"batch {batch}", "dense µs"]
    header += [
        {"module": "`forward` "}.get(w, "") + ("cold " if t == "cold" else "") + p
        for w, p, t in columns
    ]
    lines, means = [], {c: [] for c in columns}
    for name in LAYERS:
        mine = select(rows, layer=name, batch=batch)
        if not mine:
            continue
        line = [name, f"{select(mine, temperature='hot')[0]['dense_us']:.0f}"]
        for way, precision, temperature in columns:
            found = select(mine, through=way, precision=precision, temperature=temperature)
            ratio = found[0]["ratio_dense"]
            line.append(f"{ratio:.1f}")
            if name in NINE:
                means[way, precision, temperature].append(ratio)
        lines.append(line)
    if not lines:
        return ""
    lines.append(["mean of nine", "", *(mean_of(means[c]) for c in columns)])
    return markdown(header, lines)


def peers_table(rows: list[Row], batch: int) -> str:
    """How often each peer takes as long as ours: `high`, then `low`."""
    hot = select(rows, batch=batch, temperature="hot", through="kernel")
    names = list(dict.fromkeys(name for row in hot for name in row["peers"]))
    if not names:
        return ""
    lines = []
    for name in LAYERS:
        high, low = (select(hot, layer=name, precision=p) for p in ("high", "low"))
        if high and low:
            line = [name]
            for peer in names:
                us = high[0]["peers"][peer]
                line.append(f"{us / high[0]['ours_us']:.1f} / {us / low[0]['ours_us']:.1f}")
            lines.append(line)
    return markdown([f"batch {batch}: peer over ours, high / low", *names], lines)


def avx2_table(rows: list[Row]) -> str:
    """Means of the nine layers on the AVX2 level."""
    cells = []
    for precision in PRECISIONS:
        found = select(rows, isa="avx2", precision=precision)
        cells.append(mean_of([row["ratio_dense"] for row in found]))
    if cells == ["–"] * len(cells):
        return ""
    return markdown(["AVX2 level, batch 1", *PRECISIONS], [["mean of nine", *cells]])


def crossover_table(rows: list[Row]) -> str:
    """`high` over dense at high densities."""
    mine = select(rows, layer="4096x4096", precision="high")
    densities = list(dict.fromkeys(row["density"] for row in mine))
    lines = []
    for batch in (1, 64):
        found = select(mine, batch=batch)
        if found:
            lines.append([f"batch {batch}", *(f"{row['ratio_dense']:.2f}" for row in found)])
    header = ["4096 → 4096, high, density", *(f"{d:.0%}" for d in densities)]
    return markdown(header, lines) if lines else ""


def codebooks_table(found: list[dict[str, Any]]) -> str:
    """Microseconds by the size of the codebook."""
    sizes = list(dict.fromkeys(f["values"] for f in found))
    lines = []
    for batch in (1, 64):
        for precision in PRECISIONS:
            us = [f["ours_us"] for f in found if (f["batch"], f["precision"]) == (batch, precision)]
            lines.append([f"batch {batch}, {precision}", *(f"{u:.0f}" for u in us)])
    return markdown(["4096 → 4096, 9 %, µs; values", *map(str, sizes)], lines)


def packing_table(found: list[dict[str, Any]]) -> str:
    """Nanoseconds per non-zero: of Python's arrays, which are copied first, and of blobs."""
    lines = [
        [
            f["layer"],
            *(
                f"{f[f'{name}_{threads}_us'] * 1e3 / f['nonzeros']:.2f}"
                for name in ("pack", "blob")
                for threads in (1, 2)
            ),
        ]
        for f in found
    ]
    return markdown(
        ["packing, ns per non-zero; threads", "arrays, copied first: 1", "2", "blob: 1", "2"], lines
    )


def facts_text(facts: dict[str, Any]) -> str:
    """Threads, loading and the machine in sentences."""
    said = []
    if "threads" in facts:
        t = facts["threads"]
        said.append(
            f"Two threads over one, {t['layer']}, batch 1, `high`: {t['one_us']:.0f} → "
            f"{t['two_us']:.0f} µs ({t['one_us'] / t['two_us']:.2f}×)."
        )
    if "loading" in facts:
        f = facts["loading"]
        decode = f["read_and_decode_us"] - f["read_us"]
        pack = f["ours_us"] - f["read_and_decode_us"]
        said.append(
            f"Loading AlexNet's shapes from a warm page cache: {f['ours_us'] / 1e3:.0f} ms into "
            f"packed layers ({f['ours_bytes'] / 1e6:.1f} MB; reading and verifying take "
            f"{f['read_us'] / 1e3:.1f}, decoding into arrays would take {decode / 1e3:.1f}, "
            f"packing while decoding takes {pack / 1e3:.1f} more), "
            f"`torch.load(mmap=False)` of the dense checkpoint {f['dense_us'] / 1e3:.0f} ms "
            f"({f['dense_bytes'] / 1e6:.0f} MB): {f['ours_us'] / f['dense_us']:.2f} of its time."
        )
    if "machine" in facts:
        m = facts["machine"]
        said.append(
            f"The machine: dense fp32 {m['peak_gflops']:.0f} GFLOP/s, reading memory "
            f"{m['read_gb_per_s']:.0f} GB/s."
        )
    return " ".join(said)


def plot_speedups(rows: list[Row], path: Path) -> None:
    """Bars: each class and each peer over dense, by layer, at batches 1 and 64."""
    figure, axes = plt.subplots(2, 1, figsize=(14, 9))
    for axis, batch in zip(axes, (1, 64), strict=True):
        hot = select(rows, batch=batch, temperature="hot", through="kernel")
        names = [n for n in LAYERS if select(hot, layer=n, precision="high")]
        series = {f"tersor {p}": [] for p in PRECISIONS}
        for name in names:
            for p in PRECISIONS:
                row = select(hot, layer=name, precision=p)[0]
                series[f"tersor {p}"].append(row["ratio_dense"])
            for peer, us in row["peers"].items():
                series.setdefault(peer, []).append(row["dense_us"] / us)
        width = 0.9 / max(1, len(series))
        for i, (label, heights) in enumerate(series.items()):
            axis.bar([n + i * width for n in range(len(heights))], heights, width, label=label)
        axis.set_xticks([n + 0.4 for n in range(len(names))], names)
        axis.set_yscale("log")
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_ylabel(f"speed-up over dense fp32, batch {batch}")
    axes[0].legend(ncol=6, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_roofline(rows: list[Row], machine: dict[str, float], path: Path) -> None:
    """Useful operations a second over useful operations a byte of the packed matrix."""
    figure, axis = plt.subplots(figsize=(9, 6))
    sizes = {shape.name: shape.inputs * shape.outputs for shape in SHAPES}
    for precision, marker in zip(PRECISIONS, "sodv", strict=True):
        for temperature, fill in (("hot", "full"), ("cold", "none")):
            xs, ys = [], []
            mine = select(rows, precision=precision, temperature=temperature, through="kernel")
            for row in mine:
                if row["layer"] in sizes and row["isa"] != "avx2":
                    nonzeros = sizes[row["layer"]] * row["density"]
                    xs.append(2 * row["batch"] / row["bytes_per_nonzero"])
                    ys.append(2 * nonzeros * row["batch"] / row["ours_us"] / 1e3)
            label = f"{precision}, {temperature}"
            axis.plot(xs, ys, marker, fillstyle=fill, linestyle="", label=label)
    peak, reading = machine["peak_gflops"], machine["read_gb_per_s"]
    corners = [0.5, peak / reading, 500.0]
    roof = [min(peak, reading * x) for x in corners]
    axis.plot(corners, roof, "k-", label="memory, dense fp32")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("useful operations per byte of the packed matrix")
    axis.set_ylabel("useful GFLOP/s")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(rows: list[Row], facts: dict[str, Any], folder: Path, docs: Path | None) -> None:
    """Prints the tables, draws the plots, and puts the tables into a page between its marks."""
    best = [row for row in rows if row["isa"] != "avx2" and row["layer"] in LAYERS]
    batches = sorted({row["batch"] for row in best})
    tables = [ratios_table(best, batch) for batch in batches]
    tables += [peers_table(best, batch) for batch in batches]
    tables += [avx2_table(rows), crossover_table(rows)]
    if "codebooks" in facts:
        tables.append(codebooks_table(facts["codebooks"]))
    if "packing" in facts:
        tables.append(packing_table(facts["packing"]))
    memory = [
        f"{row['layer']} {row['bytes_per_nonzero']:.2f}"
        for row in select(best, batch=1, precision="high", temperature="hot", through="kernel")
    ]
    prose = [
        "Bytes per non-zero, one layout: " + ", ".join(memory) + "." if memory else "",
        facts_text(facts),
    ]
    tables += [textwrap.fill(text, 100, break_on_hyphens=False) for text in prose]
    text = "\n\n".join(table for table in tables if table)
    print(text)
    if best:
        plot_speedups(best, folder / "spmm_speedups.png")
    if best and "machine" in facts:
        plot_roofline(best, facts["machine"], folder / "spmm_roofline.png")
    if docs is not None:
        page = docs.read_text()
        before, _, rest = page.partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        if not after:
            raise SystemExit(f"{docs}: the marks {MARKS[0]} and {MARKS[1]} are missing")
        docs.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}")
