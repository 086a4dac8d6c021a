"""``from_pretrained`` and ``save_pretrained`` of Hugging Face transformers (5 and later).

Importing this module registers the method ``tersor``::

    import tersor.integrations.transformers as tersor_hf

    config = tersor_hf.TersorConfig(target_ratio=8)
    model = AutoModel.from_pretrained("folder", quantization_config=config)
    model.save_pretrained("small")
    model = AutoModel.from_pretrained("small")

The folder has one or more ``.safetensors`` files, in which a layer's blob (``fc.weight_blob``)
stands in the place of its weight, and a ``config.json`` whose ``quantization_config`` names the
method. Transformers itself knows nothing of it: a program that loads such a folder imports this
module first.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tersor._names import joined
from tersor.calibration.inputs import ForwardFunction
from tersor.codec.blob import SUFFIX
from tersor.config import Config
from tersor.io.checkpoint import model_metadata
from tersor.io.content import Content, read_blobs
from tersor.io.load import run_from_blobs
from tersor.nn.compression import OBSERVERS, compression_of, remember
from tersor.nn.matrices import matrices_of
from tersor.nn.weight import CompressedWeight
from tersor.pipeline.compress import compress_, decompress_
from tersor.training.compressor import Compressor

METHOD = "tersor"
"""The name of the method in ``config.json``."""

# What transformers asks of each weight before it initializes one: a blob always has its values.
CompressedWeight._is_hf_initialized = True  # type: ignore[attr-defined]


@register_quantization_config(METHOD)
class TersorConfig(QuantizationConfigMixin):
    """Settings of :class:`tersor.Config` as transformers takes and stores them.

    Args:
        config: the settings; or they are given by name, as ``target_ratio=8`` or, as
            ``config.json`` has them, ``linear={"codebook_size": 31}``.
        modules_to_not_convert: names or patterns of layers that stay dense.
        data: inputs for calibration, as :func:`tersor.compress_` takes them; they are not stored.
        forward_fn: how the model is run on a batch of them.

    Raises:
        ValueError: a setting is unknown or wrong.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        modules_to_not_convert: Iterable[str] = (),
        data: Iterable[Any] | None = None,
        forward_fn: ForwardFunction | None = None,
        **settings: Any,
    ) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]  # of another library's list
        method = settings.pop("quant_method", METHOD)
        if method != METHOD:
            raise ValueError(f"quant_method '{method}' is not '{METHOD}'")
        if config is not None and settings:
            raise ValueError(f"give either a config or settings by name, not both: {[*settings]}")
        given = Config.from_json(_as_json(settings)) if config is None else config
        self.modules_to_not_convert = list(modules_to_not_convert)
        self.settings = given
        self.data = data
        self.forward_fn = forward_fn

    def to_dict(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        kept = self.modules_to_not_convert
        named = {"modules_to_not_convert": kept} if kept else {}
        return {"quant_method": METHOD, **named, **self.settings.to_json()}

    def to_diff_dict(self) -> dict[str, Any]:
        """The same: settings that have their defaults are left out anyway."""
        return self.to_dict()

    @property
    def with_dense(self) -> Config:
        """The settings, with the layers that stay dense among the overrides."""
        dense = tuple((name, None) for name in self.modules_to_not_convert)
        overrides = (*dense, *self.settings.named_overrides)
        return dataclasses.replace(self.settings, overrides=overrides)


@register_quantizer(METHOD)
class TersorQuantizer(HfQuantizer):
    """What ``from_pretrained`` and ``save_pretrained`` call.

    A dense model is compressed once it is loaded: targets and tied weights need all of it. Of a
    compressed one the layers are made from the blobs before transformers fills in the rest, so that
    no dense weight of them is ever there.
    """

    quantization_config: TersorConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Refuses what compressed layers cannot do, before anything is loaded.

        Raises:
            ValueError: a device other than the CPU is asked for.
        """
        device_map = kwargs.get("device_map")
        places = device_map.values() if isinstance(device_map, Mapping) else [device_map]
        for place in places:
            if place not in (None, "cpu", "auto", torch.device("cpu")):
                raise ValueError(
                    f"compressed layers run on the CPU, and device_map asks for {place}: leave it "
                    "out, or decompress the model and move that"
                )

    def update_device_map(self, device_map: Any) -> Any:
        """Everything is on the CPU."""
        return {"": "cpu"} if device_map is not None else None

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: list[str] | None = None, **_: Any
    ) -> PreTrainedModel:
        """Puts the layers that run from the blobs of the files into the model."""
        if not self.pre_quantized:
            return model
        if not checkpoint_files:
            raise ValueError(
                "a compressed model is loaded from its files; from_pretrained(state_dict=...) has "
                "none: decompress the model that the state is of, and save that"
            )
        content = _named_as_in(model, read_blobs(checkpoint_files))
        left = run_from_blobs(model, content)
        if left:
            reasons = "; ".join(f"{name}: {why}" for name, why in sorted(left.items()))
            raise ValueError(
                f"{checkpoint_files[0]}: {reasons}. These are stored compressed and the model has "
                "no layer that runs them: load the folder with the class that saved it, or "
                "decompress it with `tersor decompress`"
            )
        remember(model, content.config, {}, freeze=True, folded=content.folded)
        self._hold_ties(model)
        return model

    def _hold_ties(self, model: PreTrainedModel) -> None:
        """Hides tied blobs from transformers, which takes tied weights for parameters."""
        self._ties = {
            target: source
            for target, source in model.all_tied_weights_keys.items()
            if target.endswith(SUFFIX)
        }
        for target in self._ties:
            del model.all_tied_weights_keys[target]
        model._keys_to_ignore_on_load_missing = [
            *(model._keys_to_ignore_on_load_missing or []),
            *map(re.escape, self._ties),
        ]

    def _tie(self, model: PreTrainedModel) -> None:
        """Ties the blobs that were loaded."""
        for target, source in self._ties.items():
            owner, _, leaf = target.rpartition(".")
            setattr(model.get_submodule(owner), leaf, model.get_parameter_or_buffer(source))
        model.__dict__.pop("_keys_to_ignore_on_load_missing")
        _name_ties(model)

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **_: Any
    ) -> PreTrainedModel:
        """Compresses what was loaded dense; ties what was loaded compressed."""
        config = self.quantization_config
        if self.pre_quantized:
            self._tie(model)
        else:
            compress_(model, config.with_dense, data=config.data, forward_fn=config.forward_fn)
            config.data = config.forward_fn = None
        return model

    def get_state_dict_and_metadata(
        self, model: PreTrainedModel
    ) -> tuple[dict[str, torch.Tensor] | None, dict[str, str]]:
        """What the files hold beside the state: precision, activation and dtype of each layer."""
        return None, model_metadata(model)

    def is_serializable(self, **_: Any) -> bool:
        """Blobs are tensors as all others."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Biases, norms and codebooks are."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Layers are operators that ``torch.compile`` knows."""
        return True

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> Any:
        """The dense model again."""
        dense = decompress_(model)
        return dense if dtype is None else dense.to(dtype)


class CompressorCallback(TrainerCallback):
    """Lets a :class:`tersor.training.Compressor` follow a ``Trainer``, and its checkpoints.

    ::

        compressor = Compressor(model, Schedule(density=0.2, prune_end=2000, share_at=3000))
        Trainer(model, arguments, ..., callbacks=[CompressorCallback(compressor)]).train()
        compressor.finish().save_pretrained("small")

    Checkpoints of the trainer hold its state in ``compressor.pt``.
    """

    FILE = "compressor.pt"

    def __init__(self, compressor: Compressor) -> None:
        self.compressor = compressor

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any
    ) -> None:
        """Attaches to the trainer's optimizer, at the step where that stands."""
        if state.global_step:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.compressor.load_state_dict(torch.load(folder / self.FILE, weights_only=True))
        # accelerate wraps optimizers; the steps are those of the one inside.
        self.compressor.attach(getattr(optimizer, "optimizer", optimizer))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Writes the state beside the trainer's."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            torch.save(self.compressor.state_dict(), folder / self.FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leaves the optimizer."""
        self.compressor.detach()


def _follow(model: nn.Module) -> None:
    """Lets what ``save_pretrained`` writes say whether a model is compressed.

    Without the method's name in ``config.json``, ``from_pretrained`` would not look for blobs and
    initialize their layers anew.
    """
    compression = compression_of(model)
    for part in _outermost(model):
        if compression is not None:
            _mark(part, compression.config)
            continue
        quantizer = getattr(part, "hf_quantizer", None)
        if isinstance(quantizer, TersorQuantizer):
            quantizer.remove_quantization_config(part)
            _name_ties(part)


OBSERVERS.append(_follow)


def _outermost(model: nn.Module) -> Iterator[PreTrainedModel]:
    """The models of transformers in a model that are in no other one."""
    if isinstance(model, PreTrainedModel):
        yield model
        return
    for child in model.children():
        yield from _outermost(child)


def _mark(model: Any, settings: Config | None) -> None:
    """Makes a model one that was loaded compressed."""
    if not getattr(model, "is_quantized", False):
        quantizer = TersorQuantizer(TersorConfig(settings), pre_quantized=True)
        model.hf_quantizer = quantizer
        model.is_quantized = True
        model.quantization_method = METHOD
        model.config.quantization_config = quantizer.quantization_config
    _name_ties(model)


def _name_ties(model: PreTrainedModel) -> None:
    """Names what ``tie_weights`` ties as the state does: blobs where layers are compressed."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    for part in parts:
        part.__dict__.pop("_tied_weights_keys", None)
        tied = part.get_expanded_tied_weights_keys(all_submodels=False)
        stored = {_stored_name(part, a): _stored_name(part, b) for a, b in tied.items()}
        if stored != tied:
            part._tied_weights_keys = stored
    for part in parts:
        part.all_tied_weights_keys = part.get_expanded_tied_weights_keys(all_submodels=True)


def _as_json(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings by name, those of layers as JSON has them."""
    return {
        name: value.to_json() if hasattr(value, "to_json") else value
        for name, value in settings.items()
    }


def _named_as_in(model: PreTrainedModel, content: Content) -> Content:
    """The content under the names of the model, which transformers maps those of files to."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    state = model.state_dict()
    named = {
        name: rename_source_key(name, renamings, [], model.base_model_prefix, state)[0]
        for name in content.blobs
    }
    for name, known in named.items():
        if known not in state:  # of a head that this class has not: transformers reports it
            del content.blobs[name]
    content = content.renamed(named)
    # Of tied weights the files hold one, and the model ties them after loading.
    for pair in model.all_tied_weights_keys.items():
        for there, missing in (pair, pair[::-1]):
            if there in content.blobs:
                content.blobs.setdefault(missing, content.blobs[there])
    return content


def _stored_name(model: PreTrainedModel, name: str) -> str:
    """The name of a weight in the state: that of its blob where it is compressed."""
    owner, _, leaf = name.rpartition(".")
    return joined(owner, leaf + SUFFIX) if leaf in matrices_of(model.get_submodule(owner)) else name
