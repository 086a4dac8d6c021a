"""Recurrent layers and cells from compressed weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from tersor.codec.blob import encode_blob
from tersor.codec.encode import compress_weight
from tersor.config import LayerConfig
from tersor.nn.base import BLOB, autocast, blob_tensor
from tersor.nn.matrices import CompressedGroup
from tersor.nn.recomputed import plain_copy
from tersor.ops.packed import packed_of
from tersor.ops.recurrent import run_recurrent

Sizes = list[int] | torch.Tensor
State = tuple[torch.Tensor, torch.Tensor | None]

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


class _Recurrent(CompressedGroup):
    """What the layers and the cells share."""

    @property
    def cell(self) -> str:
        """``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``."""
        kind = self._dense_type.__mro__
        if any(base in kind for base in (nn.LSTM, nn.LSTMCell)):
            return "lstm"
        if any(base in kind for base in (nn.GRU, nn.GRUCell)):
            return "gru"
        return f"rnn_{self.__dict__['nonlinearity']}"

    @classmethod
    def from_dense(
        cls, module: Any, settings: LayerConfig, name: str = "recurrent", importance: Any = None
    ) -> Any:
        """Compresses a dense layer; the dense one is left as it was, and nothing is shared with it.

        ``importance`` has a value for each entry, by name of the weight.

        Raises:
            ValueError: a weight holds NaN or infinity; the message names it.
        """
        plain = plain_copy(module) or module
        made = cls.empty_like(plain)
        for leaf, matrix in made.matrices.items():
            own = None if importance is None else importance.get(leaf)
            weight = plain._parameters[leaf]
            layer = compress_weight(weight, settings, f"{name}.{leaf}", own)
            matrix.set_blob(blob_tensor(encode_blob(layer)))
        made.precision = settings.precision
        with torch.inference_mode(False):
            for leaf, bias in list(made._parameters.items()):
                if bias is not None:
                    copied = nn.Parameter(bias.detach().clone(), bias.requires_grad)
                    made._parameters[leaf] = copied
        return made

    @classmethod
    def empty_like(cls, module: Any) -> Any:
        """A layer of the same geometry without weights; none is read or allocated."""
        return cls(module, weight_shapes(module))

    def _names(self, suffix: str) -> tuple[str, str, str, str, str]:
        """The tensors of a layer and direction: input, state, projection, and the two biases."""
        return (
            f"weight_ih{suffix}",
            f"weight_hh{suffix}",
            f"weight_hr{suffix}",
            f"bias_ih{suffix}",
            f"bias_hh{suffix}",
        )

    def _flat(self, suffixes: list[str]) -> list[torch.Tensor]:
        """The tensors of layers and directions as torch's functions take them, weights decoded."""
        flat: list[torch.Tensor] = []
        for suffix in suffixes:
            *weights, input_bias, state_bias = self._names(suffix)
            flat += [self._decoded(name) for name in weights[:2]]
            biases = (self._parameters.get(input_bias), self._parameters.get(state_bias))
            flat += [bias for bias in biases if bias is not None]
            if self.matrix(weights[2]) is not None:
                flat.append(self._decoded(weights[2]))
        return flat

    def _decoded(self, name: str) -> torch.Tensor:
        matrix = self.matrix(name)
        assert matrix is not None
        decoded: torch.Tensor = torch.ops.tersor.decode(
            matrix.weight_blob, matrix.values, list(matrix.shape), matrix.dtype
        )
        return decoded

    def _one_direction(
        self,
        suffix: str,
        x: torch.Tensor,
        sizes: Sizes,
        state: State,
        y: torch.Tensor | None,
        column: int,
        *,
        reversed: bool,
    ) -> tuple[torch.Tensor, State]:
        """Runs a layer in a direction: into columns of ``y``, or by the operator without."""
        names = self._names(suffix)
        weights = [self.matrix(name) for name in names[:3]]
        biases = [self._parameters.get(name) for name in names[3:]]
        if y is not None and not isinstance(sizes, torch.Tensor):
            packed = [
                None if w is None else packed_of(w._buffers[BLOB], w._parameters["values"])  # type: ignore[arg-type]
                for w in weights
            ]
            h, c = run_recurrent(
                self.cell,
                packed,
                biases,
                sizes,
                x,
                *state,
                y,
                column,
                self.precision,
                reversed=reversed,
            )
            return y, (h, c)
        blobs = [None if w is None else w._buffers[BLOB] for w in weights]
        values = [None if w is None else w._parameters["values"] for w in weights]
        if not isinstance(sizes, torch.Tensor):
            sizes = torch.tensor(sizes)
        out, h, c = torch.ops.tersor.recurrent(
            x, *state, sizes, *blobs, *values, *biases, self.cell, reversed, self.precision
        )
        return out, (h, c if state[1] is not None else None)


def weight_shapes(module: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the weights of a recurrent layer or cell, from its attributes alone."""
    if isinstance(module, (nn.LSTM, nn.GRU, nn.RNN)):
        mode = module.mode.lower()
        gates = _GATES[mode] * module.hidden_size
        out = module.proj_size or module.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for suffix, width in _widths(module, out):
            shapes[f"weight_ih{suffix}"] = (gates, width)
            shapes[f"weight_hh{suffix}"] = (gates, out)
            if module.proj_size:
                shapes[f"weight_hr{suffix}"] = (out, module.hidden_size)
        return shapes
    gates = 4 if isinstance(module, nn.LSTMCell) else 3 if isinstance(module, nn.GRUCell) else 1
    rows = gates * module.hidden_size
    return {
        "weight_ih": (rows, module.input_size),
        "weight_hh": (rows, module.hidden_size),
    }


def _widths(module: Any, out: int) -> list[tuple[str, int]]:
    """The suffix of each layer and direction, and the width of its inputs."""
    directions = ("", "_reverse") if module.bidirectional else ("",)
    return [
        (f"_l{n}{direction}", module.input_size if n == 0 else out * len(directions))
        for n in range(module.num_layers)
        for direction in directions
    ]


class _CompressedLayer(_Recurrent):
    """The layers: over whole sequences."""

    attributes: ClassVar[tuple[str, ...]] = (
        "mode",
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
        "_all_weights",
        "_flat_weights_names",
    )
    left_behind: ClassVar[tuple[str, ...]] = ("_flat_weights", "_flat_weight_refs")

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    mode: str

    def __init__(self, module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(module, shapes)
        if "nonlinearity" in module.__dict__:
            self.__dict__["nonlinearity"] = module.__dict__["nonlinearity"]

    @property
    def cell(self) -> str:
        """``lstm``, ``gru``, ``rnn_tanh`` or ``rnn_relu``."""
        return self.mode.lower()

    def _parameter_order(self) -> list[str]:
        names = [name for names in self.__dict__["_all_weights"] for name in names]
        return [name for name in names if self.matrix(name) or name in self._parameters]

    def to_dense(self) -> nn.Module:
        """The dense layer with the same weights, dtype, hooks and mode."""
        dense: Any = super().to_dense()
        dense._init_flat_weights()
        made: nn.Module = dense
        return made

    def flatten_parameters(self) -> None:
        """Does nothing: it is there for code that calls it on torch's layers."""

    @property
    def _suffixes(self) -> list[str]:
        return [suffix for suffix, _ in _widths(self, self.proj_size or self.hidden_size)]

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As torch's layer: ``(output, state)`` for a sequence, a batch, or packed sequences."""
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(
                f"{self._dense_type.__name__}: expected input to be 2D or 3D, got {input.dim()}D"
            )
        x = autocast(input)
        unbatched = x.dim() == 2
        if unbatched:
            x = x.unsqueeze(1)
            hx = _each(hx, lambda state: state.unsqueeze(1))
        elif self.batch_first:
            x = x.transpose(0, 1)
        steps, batch = x.shape[:2]
        states = self._states(hx, x, batch)
        sizes = [batch] * steps if isinstance(batch, int) else torch.full((steps,), batch)
        y, states = self._run(x.reshape(steps * batch, x.shape[2]), sizes, states)
        y = y.reshape(steps, batch, y.shape[1])
        if unbatched:
            return y.squeeze(1), _each(self._given_back(states), lambda state: state.squeeze(1))
        return (y.transpose(0, 1) if self.batch_first else y), self._given_back(states)

    def _forward_packed(self, input: PackedSequence, hx: Any) -> Any:
        x, sizes, order, back = input
        x = autocast(x)
        if hx is not None and order is not None:
            hx = _each(hx, lambda state: state.index_select(1, order))
        states = self._states(hx, x, int(sizes[0]))
        y, states = self._run(x, sizes, states)
        given = self._given_back(states)
        if back is not None:
            given = _each(given, lambda state: state.index_select(1, back))
        return PackedSequence(y, sizes, order, back), given

    def _states(self, hx: Any, x: torch.Tensor, batch: int) -> State:
        """The states before, as given or zero.

        Raises:
            RuntimeError: they, or the input, have other sizes than the layer.
        """
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                f"{x.shape[-1]}"
            )
        count = self.num_layers * (2 if self.bidirectional else 1)
        shape = (count, batch, self.proj_size or self.hidden_size)
        wide = (count, batch, self.hidden_size)
        is_lstm = self.cell == "lstm"
        if hx is None:
            return x.new_zeros(shape), x.new_zeros(wide) if is_lstm else None
        h, c = hx if is_lstm else (hx, None)
        for state, expected in ((h, shape), (c, wide)):
            if state is not None and tuple(state.shape) != expected:
                raise RuntimeError(
                    f"Expected hidden state of size {expected}, got {list(state.shape)}"
                )
        return h, c

    def _given_back(self, states: State) -> Any:
        return states if self.cell == "lstm" else states[0]

    def _run(self, x: torch.Tensor, sizes: Sizes, states: State) -> tuple[torch.Tensor, State]:
        """All layers and directions on packed data ``[sum of the sizes, inputs]``."""
        biases = self._parameters.values()
        if self._needs_gradients((x, *states)) and not x.is_meta:
            return self._run_dense(x, sizes, states)
        eager = self._runs_eagerly(x, *states, *biases)
        if eager and isinstance(sizes, torch.Tensor):
            sizes = sizes.tolist()
        out = self.proj_size or self.hidden_size
        directions = 2 if self.bidirectional else 1
        dtype = x.dtype
        after: list[State] = []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = F.dropout(x, self.dropout)
            y = torch.empty(len(x), out * directions) if eager else None
            parts = []
            for direction in range(directions):
                number = layer * directions + direction
                own = states[0][number], None if states[1] is None else states[1][number]
                part, state = self._one_direction(
                    self._suffixes[number],
                    x,
                    sizes,
                    own,
                    y,
                    direction * out,
                    reversed=direction == 1,
                )
                parts.append(part)
                after.append(state)
            x = y if y is not None else torch.cat(parts, 1)
        h = torch.stack([state[0] for state in after]).to(dtype)
        c = torch.stack([s[1] for s in after]).to(dtype) if states[1] is not None else None  # type: ignore[misc]
        return x.to(dtype), (h, c)

    def _run_dense(
        self, x: torch.Tensor, sizes: Sizes, states: State
    ) -> tuple[torch.Tensor, State]:
        """The same by torch, which has the gradients, with weights that are decoded."""
        if not isinstance(sizes, torch.Tensor):
            sizes = torch.tensor(sizes)
        flat = [tensor.to(x.dtype) for tensor in self._flat(self._suffixes)]
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        if self.cell == "lstm":
            lstm: Any = torch.lstm
            y, h, c = lstm(x, sizes, states, flat, *options)
            return y, (h, c)
        run: Any = {"gru": torch.gru, "rnn_tanh": torch.rnn_tanh, "rnn_relu": torch.rnn_relu}
        y, h = run[self.cell](x, sizes, states[0], flat, *options)
        return y, (h, None)

    def extra_repr(self) -> str:
        """Sizes and options, as torch's layer has them."""
        said = f"{self.input_size}, {self.hidden_size}"
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name, usual in defaults.items():
            if getattr(self, name) != usual:
                said += f", {name}={getattr(self, name)}"
        return said


class CompressedLSTM(_CompressedLayer):
    """``nn.LSTM`` with compressed weights; every option of torch's."""


class CompressedGRU(_CompressedLayer):
    """``nn.GRU`` with compressed weights; every option of torch's."""


class CompressedRNN(_CompressedLayer):
    """``nn.RNN`` with compressed weights; every option of torch's."""


class _CompressedCell(_Recurrent):
    """The cells: one step."""

    attributes: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "bias")

    input_size: int
    hidden_size: int
    bias: bool

    def __init__(self, module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(module, shapes)
        if "nonlinearity" in module.__dict__:
            self.__dict__["nonlinearity"] = module.__dict__["nonlinearity"]

    def _parameter_order(self) -> list[str]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [name for name in names if self.matrix(name) or name in self._parameters]

    def forward(self, input: torch.Tensor, hx: Any = None) -> Any:
        """The next state (of an LSTM: both) for ``[batch, input_size]`` or ``[input_size]``."""
        if input.dim() not in (1, 2) or input.shape[-1] != self.input_size:
            raise RuntimeError(
                f"{self._dense_type.__name__}: expected input [batch, {self.input_size}], got "
                f"{list(input.shape)}"
            )
        x = autocast(input)
        single = x.dim() == 1
        is_lstm = self.cell == "lstm"
        if single:
            x = x.unsqueeze(0)
            hx = _each(hx, lambda state: state.unsqueeze(0))
        if hx is None:
            zeros = x.new_zeros(len(x), self.hidden_size)
            hx = (zeros, zeros) if is_lstm else zeros
        h, c = hx if is_lstm else (hx, None)
        for state in (h, c):
            if state is not None and state.shape != (len(x), self.hidden_size):
                raise RuntimeError(
                    f"{self._dense_type.__name__}: expected a state of shape "
                    f"{[len(x), self.hidden_size]}, got {list(state.shape)}"
                )
        h, c = self._step(x, h, c)
        if single:
            h, c = h.squeeze(0), None if c is None else c.squeeze(0)
        return (h, c) if is_lstm else h

    def _step(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor | None) -> State:
        if self._needs_gradients((x, h, c)) and not x.is_meta:
            flat = [tensor.to(x.dtype) for tensor in self._flat([""])]
            if c is not None:
                both: State = torch.lstm_cell(x, (h, c), *flat)
                return both
            run: Any = {
                "gru": torch.gru_cell,
                "rnn_tanh": torch.rnn_tanh_cell,
                "rnn_relu": torch.rnn_relu_cell,
            }
            return run[self.cell](x, h, *flat), None
        eager = self._runs_eagerly(x, h, c, *self._parameters.values())
        y = torch.empty(len(x), self.hidden_size) if eager else None
        _, (state, cells) = self._one_direction("", x, [len(x)], (h, c), y, 0, reversed=False)
        return state.to(x.dtype), None if cells is None else cells.to(x.dtype)

    def extra_repr(self) -> str:
        """Sizes and options, as torch's cell has them."""
        said = f"{self.input_size}, {self.hidden_size}"
        return said if self.bias else f"{said}, bias=False"


class CompressedLSTMCell(_CompressedCell):
    """``nn.LSTMCell`` with compressed weights."""


class CompressedGRUCell(_CompressedCell):
    """``nn.GRUCell`` with compressed weights."""


class CompressedRNNCell(_CompressedCell):
    """``nn.RNNCell`` with compressed weights."""


def _each(states: Any, change: Any) -> Any:
    """A state, or both of an LSTM, changed."""
    if states is None:
        return None
    return tuple(map(change, states)) if isinstance(states, tuple) else change(states)


LAYERS: dict[type[nn.Module], type[_Recurrent]] = {
    nn.LSTM: CompressedLSTM,
    nn.GRU: CompressedGRU,
    nn.RNN: CompressedRNN,
    nn.LSTMCell: CompressedLSTMCell,
    nn.GRUCell: CompressedGRUCell,
    nn.RNNCell: CompressedRNNCell,
}
"""The compressed layer of each type."""
