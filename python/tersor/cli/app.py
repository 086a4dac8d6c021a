"""The commands and options of ``tersor``, for typer, which is imported with this module alone."""

# No postponed annotations here: typer evaluates them.

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Annotated, cast

import typer

from tersor import __version__
from tersor.cli.bench import BenchOptions, bench
from tersor.cli.bench import show as show_times
from tersor.cli.calibrate import compress_calibrated
from tersor.cli.compress import CompressOptions, compress
from tersor.cli.decompress import DecompressOptions, decompress
from tersor.cli.diff import diff
from tersor.cli.errors import InputError
from tersor.cli.inspect import inspect_command, show, show_json
from tersor.cli.lossless import Part, compress_lossless
from tersor.cli.progress import quietly, say
from tersor.cli.report import report_page
from tersor.cli.select import Selection
from tersor.cli.verify import verify
from tersor.config import Config, Entropy, Method
from tersor.kernels import isa

app = typer.Typer(
    name="tersor",
    help="Prune, quantize and Huffman-code networks, and run them from the compressed form.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="tersor COMMAND --help shows the options of a command, and examples.",
)


def _examples(*commands: str) -> str:
    """What ends the help of a command; lines stand apart where empty ones are between them."""
    return "\n\n".join(["Examples:", *(f"tersor {command}" for command in commands)])


class FloatType(str, Enum):
    """What ``decompress`` can write."""

    F16 = "F16"
    BF16 = "BF16"
    F32 = "F32"
    F64 = "F64"


class Preset(str, Enum):
    """Settings by name."""

    BALANCED = "balanced"
    LOSSLESS_CODES = "lossless-codes"

    def config(self) -> Config:
        """The settings."""
        return Config.balanced() if self is Preset.BALANCED else Config.lossless_codes()


class Precision(str, Enum):
    """The classes of arithmetic."""

    HIGHEST = "highest"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


_PATTERNS = "names that match a shell pattern; may be given more than once"

Bits = Annotated[int | None, typer.Option(min=1, max=8, help="code width of matrices")]
ConvBits = Annotated[int | None, typer.Option(min=1, max=8, help="code width of filters")]
Density = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help="share of the weights to keep")
]
EntropyName = Annotated[
    str, typer.Option(help="coder: huffman, or smallest: fewer bytes, slower to load")
]
MethodName = Annotated[str | None, typer.Option(help="quantizer: kmeans, uniform, integer or ecsq")]
TargetBytes = Annotated[
    int | None, typer.Option(min=1, help="search per-layer settings for this file size")
]
TargetRatio = Annotated[
    float | None, typer.Option(help="the same as a ratio: dense bytes / file bytes")
]
TargetBpw = Annotated[
    float | None, typer.Option(min=0.01, help="the same in bits for each element of all tensors")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="settings by layer: a tersor.Config as JSON, instead"
    ),
]
PresetName = Annotated[
    Preset | None, typer.Option(help="instead of settings: balanced is small at hardly any loss")
]
Only = Annotated[list[str] | None, typer.Option(help=f"select only {_PATTERNS}")]
Skip = Annotated[list[str] | None, typer.Option(help=f"leave {_PATTERNS}")]
MinSize = Annotated[int, typer.Option(min=0, help="skip tensors with fewer than N weights")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="report the size without writing")]
Plain = Annotated[
    bool, typer.Option("--plain", help="leave dense tensors readable for other libraries")
]
Lossless = Annotated[
    bool, typer.Option("--lossless", help="keep every bit: code the exponents of all tensors")
]
PartText = Annotated[
    str | None,
    typer.Option("--part", metavar="K/N", help="with --lossless: take the K-th of N parts"),
]
BasePath = Annotated[
    Path | None,
    typer.Option("--base", metavar="OTHER", help="with --lossless: what differs from OTHER"),
]
Force = Annotated[bool, typer.Option("--force", help="overwrite an existing output")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print nothing but errors")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="tensors at once; default: the CPUs of this process")
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="inputs, .safetensors or .npz: errors are compensated; needs --model"
    ),
]
Factory = Annotated[
    str | None,
    typer.Option(metavar="MODULE:FUNCTION", help="builds the network of IN, to run it on inputs"),
]
CheckpointDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="an interrupted calibration continues from here")
]
_MODEL_HELP = ".safetensors, torch checkpoint, or a folder or index of a checkpoint"
_OUTPUT = typer.Option("-o", "--output", metavar="OUT", help="file, or folder for a folder")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tersor {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="show the version and exit"
        ),
    ] = False,
) -> None:
    pass


_OF_LOSSLESS = {
    "source",
    "output",
    "force",
    "threads",
    "lossless",
    "part",
    "base",
    "quiet",
    "as_json",
}


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _compress_without_loss(
    context: typer.Context,
    source: Path,
    output: Path | None,
    part: str | None,
    base: Path | None,
) -> None:
    if output is None:
        raise InputError("missing -o/--output")
    given = [n for n in context.params if n not in _OF_LOSSLESS and _is_given(context, n)]
    if given:
        option = given[0].replace("_", "-")
        raise InputError(
            f"--{option} is not for --lossless, which keeps every value: leave one out"
        )
    force, threads = context.params["force"], context.params["threads"]
    report = compress_lossless(
        source, output, base=base, part=Part.parse(part), force=force, threads=threads
    )
    if context.params["as_json"]:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    else:
        say(report)


# typer reads the options of a command from the signature of its function.


@app.command(
    "compress",
    epilog=_examples(
        "compress model.safetensors -o small.safetensors --preset balanced",
        "compress model.safetensors -o small.safetensors --target-ratio 12",
        "compress --lossless checkpoint/ -o small/",
    ),
)
def _compress(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="IN", help=_MODEL_HELP)],
    output: Annotated[Path | None, _OUTPUT] = None,
    bits: Bits = CompressOptions.bits,
    conv_bits: ConvBits = CompressOptions.conv_bits,
    density: Density = None,
    method: MethodName = CompressOptions.method,
    entropy: EntropyName = CompressOptions.entropy,
    target_bytes: TargetBytes = None,
    target_ratio: TargetRatio = None,
    target_bpw: TargetBpw = None,
    config: ConfigFile = None,
    preset: PresetName = None,
    only: Only = None,
    skip: Skip = None,
    min_size: MinSize = 0,
    dry_run: DryRun = False,
    plain: Plain = False,
    force: Force = False,
    threads: Threads = None,
    calibration: CalibrationFile = None,
    model: Factory = None,
    checkpoint_dir: CheckpointDir = None,
    lossless: Lossless = False,
    part: PartText = None,
    base: BasePath = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compress a dense model; a line for each tensor tells whether it is compressed, and why."""
    if lossless:
        with quietly(quiet or as_json):
            _compress_without_loss(context, source, output, part, base)
        return
    if part is not None or base is not None:
        raise InputError("--part and --base are for --lossless")
    if preset is not None and config is not None:
        raise InputError("give either --preset or --config")
    chosen = preset.config() if preset else Config.from_file(config) if config else None
    options = CompressOptions(
        bits=bits,
        conv_bits=conv_bits,
        density=density,
        method=cast("Method | None", method),  # refused there if there is none of that name
        entropy=cast("Entropy", entropy),
        target_bytes=target_bytes,
        target_ratio=target_ratio,
        target_bpw=target_bpw,
        config=chosen,
        selection=Selection(only or (), skip or (), min_size),
        dry_run=dry_run,
        plain=plain,
        force=force,
        threads=threads,
    )
    if calibration is None and (model is not None or checkpoint_dir is not None):
        raise InputError("--model and --checkpoint-dir are for --calibration")
    with quietly(quiet or as_json):
        if calibration is None:
            report = compress(source, output, options)
        else:
            report = compress_calibrated(
                source, output, options, calibration, model, checkpoint_dir
            )
    if as_json:
        show_json(report)
    elif not quiet:
        print()
        show(report, str(output or "dry run"))


@app.command("inspect", add_help_option=False, context_settings={"ignore_unknown_options": True})
def _inspect(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Show what each layer of a compressed file costs, from its real bytes."""
    inspect_command(arguments or [])


@app.command("report", epilog=_examples("report small.safetensors --against model.safetensors"))
def _report(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="file, folder or index")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT")] = Path("report.html"),
    against: Annotated[
        Path | None, typer.Option(metavar="DENSE", help="the dense model: adds errors by layer")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="time the layers too")] = False,
    force: Force = False,
) -> None:
    """Write a page about a compressed file: where its bytes are, layer by layer."""
    report_page(source, output, against=against, profile=profile, force=force)
    print(f"written to {output}")


@app.command("diff", epilog=_examples("diff model.safetensors small.safetensors"))
def _diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="dense or compressed")],
    b: Annotated[Path, typer.Argument(metavar="B", help="dense or compressed")],
    all_tensors: Annotated[bool, typer.Option("--all", help="also those that are alike")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what differs between two files: bytes and errors by tensor. Status 1: they differ."""
    raise typer.Exit(int(diff(a, b, as_json=as_json, all_tensors=all_tensors)))


@app.command("verify", epilog=_examples("verify small.safetensors --decode"))
def _verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="files or folders")],
    decode: Annotated[bool, typer.Option("--decode", help="decode every layer too")] = False,
) -> None:
    """Check all checksums. Status 1: a file is damaged."""
    raise typer.Exit(int(verify(files, decode=decode) > 0))


@app.command("bench", epilog=_examples("bench small.safetensors --batch 8 --precision low"))
def _bench(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="file, folder or index")],
    batch: Annotated[int, typer.Option(min=1, help="vectors at once")] = BenchOptions.batch,
    threads: Annotated[int, typer.Option(min=1, help="of torch")] = BenchOptions.threads,
    precision: Annotated[Precision, typer.Option(help="class of arithmetic")] = Precision.HIGH,
    as_json: AsJson = False,
) -> None:
    """Time the matrices of a file as linear layers, compressed against dense."""
    options = BenchOptions(batch, threads, precision.value)
    show_times(*bench(source, options), options, as_json)


@app.command("decompress", epilog=_examples("decompress small.safetensors -o dense.safetensors"))
def _decompress(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="file, folder or index")],
    output: Annotated[Path, _OUTPUT],
    dtype: Annotated[
        FloatType | None,
        typer.Option(case_sensitive=False, help="of all floats; default: what each was"),
    ] = None,
    force: Force = False,
    threads: Threads = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="OTHER", help="the checkpoint that FILE holds the differences from"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the dense tensors of a compressed model as ordinary safetensors."""
    options = DecompressOptions(dtype.value if dtype else None, force, threads, base)
    with quietly(quiet):
        say(f"{decompress(source, output, options)} tensors written to {output}")


@app.command("env", epilog=_examples("env"))
def _env() -> None:
    """Show version, compiler, instruction sets and threads."""
    print(isa.show_config())
