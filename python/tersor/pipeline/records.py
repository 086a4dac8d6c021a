"""What the stages of the pipeline work on: a record for each weight that is compressed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tersor._names import joined
from tersor.calibration.rates import Scaled
from tersor.codec.blob import BlobInfo, CompressedTensor
from tersor.config import LayerConfig
from tersor.io.state_dict import storage_key
from tersor.nn.registry import LayerHandler, handler_of


@dataclass(eq=False)
class WeightRecord:
    """A weight on its way through the stages; layers that share a parameter are one record.

    Attributes:
        layer: name of the layer; of tied ones, the first.
        weight_name: of the weight in its layer (``weight``).
        parameter: the dense weight.
        places: all layers that use the parameter, with their names.
        handler: of the first of these layers.
        settings: of the layer; stages before quantization refine them.
        importance: of each entry, as the weight; None = all alike.
        saved: parameters of these layers with the memory that they had before a stage changed them
            in place.
        scaled: the weight as few values times factors, set by calibration.
        quantized: set by the quantize stage.
        blob: uint8 ``[n]``, set by the encode stage.
        info: where its bytes go.
        relative_error: Frobenius norm of the error over that of the weight, set by the quantize
            stage.
        is_named: whether the settings are of an override that names the layer.
    """

    layer: str
    weight_name: str
    parameter: nn.Parameter
    places: dict[str, nn.Module]
    handler: LayerHandler
    settings: LayerConfig
    importance: npt.NDArray[np.float32] | None = None
    saved: list[tuple[nn.Parameter, torch.Tensor]] = field(default_factory=list)
    scaled: Scaled | None = None
    quantized: CompressedTensor | None = None
    blob: npt.NDArray[np.uint8] | None = None
    info: BlobInfo | None = None
    relative_error: float | None = None
    is_named: bool = False

    @property
    def name(self) -> str:
        """The name of the weight in the model: ``fc.weight``."""
        return joined(self.layer, self.weight_name)

    @property
    def label(self) -> str:
        """What messages call the layer: its name, or its type where it is the model itself."""
        return self.layer or type(self.module).__name__

    @property
    def module(self) -> nn.Module:
        """The first of the layers."""
        return next(iter(self.places.values()))

    @property
    def is_table(self) -> bool:
        """Whether rows of the weight are looked up by any layer.

        Its errors are those of single rows: it is not pruned, nor given a codebook, together with
        weights that are multiplied.
        """
        handlers = [handler_of(module) for module in self.places.values()]
        return any(handler is not None and handler.settings == "embedding" for handler in handlers)

    @property
    def original(self) -> torch.Tensor:
        """The dense weight as it was before any stage."""
        return next((v for p, v in self.saved if p is self.parameter), self.parameter.detach())

    def keep(self) -> None:
        """Gives the parameters of the layers memory of their own, until :meth:`restore`.

        What else of the model lies in the same memory (a buffer, a transposed or a sliced weight)
        is not changed with them; parameters of these layers that are one stay one.
        """
        if self.saved:
            return
        modules = self.places.values()
        parameters = {id(p): p for m in modules for p in m.parameters(recurse=False)}.values()
        self.saved = [(parameter, parameter.data) for parameter in parameters]
        own: dict[Hashable, torch.Tensor] = {}
        for parameter, memory in self.saved:
            parameter.data = own.setdefault(storage_key(memory), memory.clone())

    def keep_too(self, parameter: nn.Parameter) -> None:
        """As :meth:`keep`, for a parameter of another layer, which no record has kept."""
        self.saved.append((parameter, parameter.data))
        parameter.data = parameter.data.clone()

    def restore(self) -> None:
        """Gives the parameters the memory back that they had, where a stage changed them.

        Of records whose layers share a bias, the last that kept it is the first to restore it.
        """
        for parameter, memory in self.saved:
            parameter.data = memory
        self.saved = []
        self.scaled = None

    @property
    def dense_bytes(self) -> int:
        """Bytes of the dense weight."""
        return self.parameter.numel() * self.parameter.element_size()

    @property
    def grows(self) -> bool:
        """Whether the blob is not smaller than the dense weight, which then stays as it is."""
        assert self.blob is not None
        return len(self.blob) >= self.dense_bytes


@dataclass(eq=False)
class Selection:
    """What the select stage found.

    Attributes:
        records: the weights to compress, in the order of the model.
        left: by name of a layer, why it stays dense.
        plain: copies of the layers whose weight is computed before each forward, with that weight
            as an ordinary parameter, by these layers.
    """

    records: list[WeightRecord]
    left: dict[str, str]
    plain: dict[nn.Module, nn.Module] = field(default_factory=dict)
