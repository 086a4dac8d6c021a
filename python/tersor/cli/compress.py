"""``tersor compress``: a dense model file to a compressed one, tensor by tensor.

A selected tensor is read, compressed and released; what is left stays in the mapped file until it
is written. The torch side is imported only where a torch checkpoint is read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tersor.cli.errors import InputError, naming_file
from tersor.cli.output import Output, copy_companions, plan_output
from tersor.cli.pretrained import for_blobs, is_pretrained
from tersor.cli.progress import default_threads, progress_bar, say
from tersor.cli.read_model import SourceModel, SourceTensor, read_model, users_metadata
from tersor.cli.select import Choice, Selection, check_pattern, select
from tersor.codec.blob import SUFFIX
from tersor.io import aliases, container, layer_records, shards
from tersor.io.floats import FLOAT_READERS

if TYPE_CHECKING:
    from tersor.config import Config, Entropy, LayerConfig, Method
    from tersor.reporting.file_report import Report

Blob = npt.NDArray[np.uint8]
_TARGETS = ("target_bytes", "target_ratio", "target_bpw")


@dataclass(frozen=True)
class CompressOptions:
    """Settings of ``tersor compress``.

    Attributes:
        bits: code width of matrices, the zero counted in; None: as in :class:`tersor.LayerConfig`.
        conv_bits: the same of filters.
        density: share of the weights of each selected tensor to keep; None: no further pruning.
        method: one of those of :class:`tersor.LayerConfig`; None as there.
        target_bytes: bytes of the file, for which density and codes of each tensor are searched
            for; or
        target_ratio: the same as the ratio of all tensors' bytes to those of the file; or
        target_bpw: as bits of the file for each element of all tensors.
        config: settings by layer, which take the place of all above.
        entropy: coder of the codes, as in :class:`tersor.LayerConfig`.
        selection: which tensors.
        dry_run: report the size without writing.
        plain: leave what is not compressed as other safetensors readers expect it.
        force: overwrite an existing output.
        threads: how many tensors are compressed at once; None: as many as there are CPUs for this
            process.

    Raises:
        InputError: options contradict each other, or ``config`` holds what needs a model.
    """

    bits: int | None = None
    conv_bits: int | None = None
    density: float | None = None
    method: Method | None = None
    target_bytes: int | None = None
    target_ratio: float | None = None
    target_bpw: float | None = None
    config: Config | None = None
    entropy: Entropy = "huffman"
    selection: Selection = dataclasses.field(default_factory=Selection)
    dry_run: bool = False
    plain: bool = False
    force: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        from tersor.config import ENTROPIES, METHODS

        if self.method not in (None, *METHODS):
            raise InputError(f"--method '{self.method}' is none of {', '.join(METHODS)}")
        if self.entropy not in ENTROPIES:
            raise InputError(f"--entropy '{self.entropy}' is none of {', '.join(ENTROPIES)}")
        targets = (self.target_bytes, self.target_ratio, self.target_bpw)
        if sum(target is not None for target in targets) > 1:
            raise InputError("give one of --target-bytes, --target-ratio and --target-bpw")
        if self.config is None:
            return
        names = ("bits", "conv_bits", "density", "method", "entropy", *_TARGETS)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if given := [name for name in names if getattr(self, name) != defaults[name]]:
            option = given[0].replace("_", "-")
            raise InputError(f"--{option} cannot be combined with --config, which has the settings")
        needs_model = ("biases", "joint_codebook", "density", "max_drop")
        if found := [name for name in needs_model if getattr(self.config, name) is not None]:
            raise InputError(f"--config: {found[0]} needs the model: use tersor.compress_")

    @property
    def searches(self) -> bool:
        """Whether settings are searched for."""
        source = self.config or self
        targets = (source.target_bytes, source.target_ratio, self.target_bpw)
        return any(target is not None for target in targets)

    def most_bytes(self, model: SourceModel) -> int:
        """The most bytes of the file that are asked for."""
        source = self.config or self
        if source.target_bytes is not None:
            return source.target_bytes
        if source.target_ratio is not None:
            return int(model.dense_bytes // source.target_ratio)
        assert self.target_bpw is not None
        elements = sum(math.prod(tensor.shape) for tensor in model.tensors.values())
        return int(self.target_bpw * elements / 8)

    def settings(self, choice: Choice) -> LayerConfig | None:
        """Of a tensor that was chosen, or the limits of a search; None: leave it."""
        from tersor.config import LayerConfig

        if self.config is None and self.searches:
            return LayerConfig(entropy=self.entropy)
        layer = choice.name.removesuffix("weight").rstrip(".")
        own = "embedding" if choice.table else None
        return self.whole_config().for_layer(layer, len(choice.shape), own)

    def whole_config(self) -> Config:
        """The settings of the options for all layers, where there is no target."""
        from tersor.config import Config, LayerConfig

        if self.config is not None:
            return self.config
        linear, conv = (
            LayerConfig(
                codebook_size=None if width is None else 2**width - 1,
                density=self.density,
                method=self.method,
            )
            for width in (self.bits, self.conv_bits)
        )
        return Config(linear=linear, conv=conv, entropy=self.entropy)


def compress(source: Path, output: Path | None, options: CompressOptions) -> Report:
    """Compresses a dense model, printing a line for each tensor, and returns the table.

    Raises:
        InputError, OSError: the message names what is wrong with which file.
    """
    if output is None and not options.dry_run:
        raise InputError("missing -o/--output (or use --dry-run)")
    with naming_file(source):
        model = read_model(source)
        if model.shards is not None and (options.dry_run or options.searches):
            raise InputError(
                "a checkpoint of several files supports neither --dry-run nor a target"
            )
        plan = None
        if output is not None and not options.dry_run:
            sharded = model.shards is not None
            plan = plan_output(source, model.files, output, sharded=sharded, force=options.force)
            if any(map(is_pretrained, plan.companions)):  # whose loader knows plain tensors alone
                options = dataclasses.replace(options, plain=True)
        for note in model.notes:
            say(note)
        choices = _choose(model, options)
        for choice in choices.values():
            say(choice)
        if not any(choice.selected for choice in choices.values()):
            raise InputError(f"{source}: no tensor to compress (see --only)")
        job = _Job(model, options, choices)
        report = job.write_shards(plan) if plan and model.shards else job.write_file(plan)
    for line in copy_companions(plan, force=options.force, content=for_blobs) if plan else ():
        say(line)
    return report


def _choose(model: SourceModel, options: CompressOptions) -> dict[str, Choice]:
    """The choice for each tensor, by the selection and then by the configuration."""
    # A search would prune embeddings.
    selection = dataclasses.replace(options.selection, tables=not options.searches)
    choices = select(model.tensors.values(), selection, model.aliases)
    if options.config is None:
        return choices
    # A pattern of the configuration is one of layers, or of their weights.
    names = {n for name in choices for n in (name, name.rpartition(".")[0])}
    for pattern, _ in options.config.named_overrides:
        check_pattern("--config: overrides:", pattern, names)
    return {
        name: choice
        if not choice.selected or options.settings(choice) is not None
        else Choice(name, choice.shape, False, "--config leaves it")
        for name, choice in choices.items()
    }


def dense_weight(tensor: SourceTensor) -> npt.NDArray[np.float32]:
    """The numbers of a tensor, float32 of its shape.

    Raises:
        ValueError: they are not finite; the message names the tensor.
    """
    from tersor._validation import as_float32

    raw = FLOAT_READERS[tensor.dtype](tensor.stored().raw())
    return as_float32(raw.reshape(tensor.shape), tensor.name)


@dataclass(frozen=True)
class _Job:
    """A model, what is asked for, and which of its tensors are compressed."""

    model: SourceModel
    options: CompressOptions
    choices: Mapping[str, Choice]

    @property
    def _selected(self) -> dict[str, SourceTensor]:
        return {n: t for n, t in self.model.tensors.items() if self.choices[n].selected}

    def _settings(self) -> dict[str, LayerConfig]:
        """Of the selected tensors, by name: what is asked for, or the limits of a search."""
        asked = {name: self.options.settings(self.choices[name]) for name in self._selected}
        return {name: settings for name, settings in asked.items() if settings is not None}

    def _threads(self) -> int:
        return self.options.threads or default_threads()

    def _stored(self, tensor: SourceTensor, blob: Blob | None) -> dict[str, container.Tensor]:
        """What is written of a tensor: its blob, unless there is none or it would grow."""
        if blob is None or blob.nbytes >= tensor.nbytes:
            stored = tensor.stored()
            if self.options.plain or tensor.stored_name.endswith(SUFFIX):
                return {tensor.stored_name: stored}
            coded = stored.coded()
            name = tensor.name + SUFFIX
            taken = coded is stored or name in self.model.tensors
            return {tensor.stored_name: stored} if taken else {name: coded}
        return {tensor.name + SUFFIX: container.Tensor("U8", blob.shape, blob)}

    def _grown(self, tensors: Mapping[str, container.Tensor]) -> set[str]:
        """The selected tensors whose blobs would be no smaller, among those to write."""
        made = {name: tensors.get(name + SUFFIX) for name in self._selected}
        return {n for n, t in made.items() if t is None or t.is_lossless(n + SUFFIX)}

    def _encode(
        self, tensor: SourceTensor, settings: LayerConfig | None
    ) -> dict[str, container.Tensor]:
        from tersor.codec.blob import encode_blob
        from tersor.codec.encode import compress_weight

        if settings is None:
            return self._stored(tensor, None)
        weight = dense_weight(tensor)
        return self._stored(tensor, encode_blob(compress_weight(weight, settings, tensor.name)))

    def _metadata(self, metadata: Mapping[str, str], grown: Collection[str]) -> dict[str, str]:
        """The metadata of a file: what each blob was, and further names of tensors.

        Args:
            metadata: of the source.
            grown: selected tensors that became no blobs of layers.
        """
        blobs = [name for name in self._selected if name not in grown]
        settings = self._settings()
        records = {
            name: layer_records.LayerRecord(
                self.model.tensors[name].dtype, settings[name].precision
            )
            for name in blobs
        }
        return {
            **metadata,
            **layer_records.write_records(records),
            **aliases.write_aliases(self.model.aliases, set(blobs)),
        }

    def _print_grown(self, grown: Collection[str]) -> None:
        for name, tensor in self._selected.items():
            if name in grown:
                reason = "would grow: its blob is no smaller than its dense bytes"
                say(Choice(name, tensor.shape, False, reason))

    def write_file(self, plan: Output | None) -> Report:
        """Writes one file, or none where there is no plan."""
        from tersor.reporting.file_report import report_tensors

        settings = self._search() if self.options.searches else self._settings()
        with progress_bar("compress", self.model.dense_bytes) as advance:
            tensors = shards.encode_tensors(
                self.model.tensors.values(),
                lambda tensor: self._encode(tensor, settings.get(tensor.name)),
                threads=self._threads(),
                progress=lambda tensor: advance(tensor.nbytes),
            )
        grown = self._grown(tensors)
        self._print_grown(grown)
        metadata = self._metadata(self.model.metadata, grown)
        if plan is not None:
            plan.file.parent.mkdir(parents=True, exist_ok=True)
            container.write_file(plan.file, tensors, metadata, plain=self.options.plain)
        size = container.file_bytes(tensors, metadata, plain=self.options.plain)
        return report_tensors(tensors, metadata, size)

    def _search(self) -> dict[str, LayerConfig]:
        """Settings by name, within the size that is asked for, on bytes that are counted."""
        from tersor.search import rate_distortion

        items = {
            name: rate_distortion.Item(dense_weight(self.model.tensors[name]), settings)
            for name, settings in self._settings().items()
        }

        def measure(blobs: rate_distortion.Blobs) -> float:
            tensors = {}
            for name, tensor in self.model.tensors.items():
                tensors.update(self._stored(tensor, blobs.get(name)))
            metadata = self._metadata(self.model.metadata, self._grown(tensors))
            return container.file_bytes(tensors, metadata, plain=self.options.plain)

        limit = float(self.options.most_bytes(self.model))
        return rate_distortion.fit(items, measure, limit, size=True, progress=say)

    def write_shards(self, plan: Output) -> Report:
        """Writes a checkpoint shard by shard; no more than one shard is in memory at once."""
        from tersor import __version__
        from tersor.reporting.file_report import report

        checkpoint = self.model.shards
        assert checkpoint is not None
        by_stored = {tensor.stored_name: tensor for tensor in self.model.tensors.values()}
        # The shards have one table of records and names, so that any of them tells them all.
        extra = self._metadata({}, ())
        settings = self._settings()

        def encode(view: container.TensorView) -> Mapping[str, container.Tensor]:
            tensor = by_stored[view.name]
            return self._encode(tensor, settings.get(tensor.name))

        with progress_bar("compress", self.model.dense_bytes) as advance:
            index = shards.write_shards(
                checkpoint,
                plan.file.parent,
                encode,
                f"{__version__} {settings} {extra} {self.options.plain}",
                metadata=lambda shard: {**users_metadata(shard.metadata), **extra},
                plain=self.options.plain,
                threads=self._threads(),
                progress=lambda view: advance(view.nbytes),
            )
        with container.open(index) as file:
            self._print_grown(set(self._selected) & set(file.tensors))
            return report(file)
