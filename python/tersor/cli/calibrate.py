"""``tersor compress --calibration``: a model that is run on inputs while it is compressed.

The file holds a state_dict; which network it is of, a function tells that builds it. The inputs are
a file of arrays, whose names are those of the arguments of ``forward``; an only array is its first.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tersor.cli.compress import CompressOptions
from tersor.cli.errors import InputError, import_torch, naming_file
from tersor.cli.output import copy_companions, plan_output
from tersor.cli.pretrained import for_blobs, is_pretrained
from tersor.cli.progress import say
from tersor.cli.read_model import SourceModel, read_model
from tersor.cli.select import Selection
from tersor.io import container

if TYPE_CHECKING:
    from tersor.config import Config
    from tersor.reporting.file_report import Report

_TOGETHER = 8  # samples of a batch


def compress_calibrated(
    source: Path,
    output: Path | None,
    options: CompressOptions,
    calibration: Path,
    factory: str | None,
    checkpoint_dir: Path | None = None,
) -> Report:
    """Compresses a dense model with calibration inputs, printing a line for each step.

    Args:
        source: file of the dense model.
        output: file to write.
        options: settings.
        calibration: ``.safetensors`` or ``.npz`` of inputs, each ``[samples, ...]``.
        factory: ``module:function``, which returns the model; modules are also looked for in the
            current folder.
        checkpoint_dir: for results of an interrupted run.

    Raises:
        InputError, OSError: the message names what is wrong with which file or option.
    """
    if output is None or options.dry_run:
        raise InputError("--calibration needs -o/--output, and supports no --dry-run")
    if factory is None:
        raise InputError("--calibration needs --model module:function, which builds the network")
    if options.selection != Selection() or options.threads is not None or options.plain:
        raise InputError(
            "--only, --skip, --min-size, --threads and --plain are not for --calibration: leave "
            "layers out by the overrides of --config"
        )
    import_torch()
    from tersor.io.checkpoint import save
    from tersor.pipeline.compress import compress_
    from tersor.reporting.file_report import report

    with naming_file(calibration):
        batches = read_inputs(calibration)
    with naming_file(source):
        given = read_model(source)
        plan = plan_output(source, given.files, output, sharded=False, force=options.force)
        model = _load(_build(factory), given)
        compress_(
            model,
            _config(options, given),
            data=batches,
            checkpoint_dir=checkpoint_dir,
            progress=say,
        )
    plan.file.parent.mkdir(parents=True, exist_ok=True)
    save(model, plan.file, plain=any(map(is_pretrained, plan.companions)))
    for line in copy_companions(plan, force=options.force, content=for_blobs):
        say(line)
    with container.open(plan.file) as file:
        return report(file)


def read_inputs(path: Path) -> list[Any]:
    """Batches from a file of arrays: mappings by name, or tensors where there is one array.

    Raises:
        OSError: it cannot be read.
        ValueError: the arrays are not of as many samples each, or there are none.
    """
    torch = import_torch()
    arrays: dict[str, Any]
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    else:
        from tersor.io.state_dict import to_torch

        with container.open(path) as file:
            arrays = {name: to_torch(view) for name, view in file.tensors.items()}
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or counts == {0}:
        raise ValueError("needs arrays of as many samples each, [samples, ...], at least one")
    pieces = {name: array.split(_TOGETHER) for name, array in arrays.items()}
    if len(pieces) == 1:
        return list(next(iter(pieces.values())))
    return [dict(zip(pieces, parts, strict=True)) for parts in zip(*pieces.values(), strict=True)]


def _build(factory: str) -> Any:
    """The network that a function, named as ``module:function``, returns.

    Raises:
        InputError: there is no such function, or it returns something else.
    """
    torch = import_torch()
    name, colon, function = factory.partition(":")
    if not colon or not name or not function:
        raise InputError(f"--model '{factory}' is not of the form module:function")
    try:
        found: Any = _import(name)
        for part in function.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--model {factory}: {error}") from error
    model = found()
    if not isinstance(model, torch.nn.Module):
        raise InputError(f"--model {factory}: returns {type(model).__name__}, not a torch module")
    return model.eval()


def _import(name: str) -> Any:
    """A module by its name, also of the current folder."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        found = importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])
        if found is None or found.loader is None:
            raise
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module


def _load(model: Any, given: SourceModel) -> Any:
    """The model with the weights of the file."""
    torch = import_torch()
    from tersor.io.state_dict import DTYPES

    dtypes = {name: dtype for dtype, name in DTYPES.items()}
    state = {}
    for name, tensor in given.tensors.items():
        stored = tensor.stored()
        raw = torch.from_numpy(stored.raw().copy())
        state[name] = raw.view(dtypes[stored.dtype]).view(stored.shape)
    state.update({alias: state[name] for alias, name in given.aliases.items() if name in state})
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"does not fit the network of --model: {error}") from None
    return model


def _config(options: CompressOptions, model: SourceModel) -> Config:
    """The settings of the options, for the whole model."""
    from tersor.config import Config

    if options.config is None and options.target_bpw is not None:
        return Config(target_bytes=options.most_bytes(model), entropy=options.entropy)
    if options.config is None and options.searches:
        return Config(
            target_bytes=options.target_bytes,
            target_ratio=options.target_ratio,
            entropy=options.entropy,
        )
    return options.whole_config()
