"""Files into models of every state: fresh, on the meta device, uninitialized, compressed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import WIDTH, LanguageModel, Net, bytes_of, net, two_linears, vectors, words
from torch import nn
from torch.nn.utils import parametrizations, prune

import tersor
from tersor import Config, LayerConfig
from tersor.codec.blob import encode_blob
from tersor.codec.encode import compress_weight
from tersor.io import container, state_dict
from tersor.io.aliases import KEY
from tersor.io.content import read_blobs
from tersor.io.load import run_from_blobs
from tersor.nn import Compressed, CompressedLinear

ROOT = Path(__file__).resolve().parents[3]
Build = Callable[[], nn.Module]


def saved(model: nn.Module, path: Path) -> Path:
    """The path, after the model was saved there."""
    tersor.save(model, path / "model.safetensors")
    return path / "model.safetensors"


def on_meta(build: Build) -> nn.Module:
    with torch.device("meta"):
        return build()


def skipping_init() -> nn.Module:
    layers = [nn.utils.skip_init(nn.Linear, WIDTH, WIDTH) for _ in range(2)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def full_of_nan() -> nn.Module:
    model = two_linears()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    return model


TARGETS: dict[str, Build] = {
    "fresh": lambda: two_linears(),
    "meta": lambda: on_meta(two_linears),
    "to_empty": lambda: on_meta(two_linears).to_empty(device="cpu"),
    "skip_init": skipping_init,
    "nan": full_of_nan,
    "tied": lambda: two_linears(tied=True),
    "meta tied": lambda: on_meta(lambda: two_linears(tied=True)),
    "compressed": lambda: tersor.compress_(two_linears()),
    "compressed tied": lambda: tersor.compress_(two_linears(tied=True)),
    "compressed on meta": lambda: tersor.compress_(two_linears()).to("meta"),
    "fused": lambda: tersor.fuse_(tersor.compress_(two_linears())),
    "parametrized": lambda: _changed(parametrizations.weight_norm),
    "pruned": lambda: _changed(lambda m: prune.l1_unstructured(m, "weight", 0.5)),
    "pruned bias": lambda: _changed(lambda m: prune.l1_unstructured(m, "bias", 0.5)),
    "DataParallel": lambda: nn.DataParallel(two_linears()),
}


def _changed(change: Callable[[nn.Module], Any]) -> nn.Module:
    model = two_linears()
    change(model[0])
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_a_file_loads_into_a_model_of_any_state(target: str, tied: bool, tmp_path: Path) -> None:
    model = tersor.compress_(two_linears(tied=tied))
    path = saved(model, tmp_path)
    loaded = tersor.load_model(path, TARGETS[target]())
    assert torch.equal(loaded(vectors()), model(vectors()))
    layers = [m for m in loaded.modules() if isinstance(m, Compressed)]
    assert len(layers) == 2
    assert (layers[0].weight_blob is layers[1].weight_blob) == tied
    assert not any(p.requires_grad or p.is_meta for p in loaded.parameters())
    # Saved again, and as a copy, it takes the same bytes.
    before = path.read_bytes()
    saved(copy.deepcopy(loaded), tmp_path)
    assert target == "fused" or path.read_bytes() == before


def test_a_lazy_layer_gets_a_dense_weight_with_a_warning(tmp_path: Path) -> None:
    model = tersor.compress_(two_linears())
    path = saved(model, tmp_path)
    target = nn.Sequential(nn.LazyLinear(WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)).eval()
    with pytest.warns(UserWarning, match="0: stored compressed, runs dense .*not initialized"):
        loaded = tersor.load_model(path, target)
    assert torch.allclose(loaded(vectors()), model(vectors()), atol=1e-6)


# ---- A load that fails changes nothing


def _second_layer_is_corrupt(path: Path) -> None:
    with container.open(path) as file:
        blob = file.tensors["2.weight_blob"].bytes().tobytes()
    whole = bytearray(path.read_bytes())
    whole[whole.index(blob) + len(blob) - 30] ^= 1
    path.write_bytes(whole)


class _Functional(nn.Module):
    """The layers of the two Linears without the ReLU between them as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module("0", nn.Linear(WIDTH, WIDTH))
        self.add_module("2", nn.Linear(WIDTH, WIDTH))


def _gelu() -> nn.Module:
    model = tersor.compress_(two_linears())
    model[1] = nn.GELU()
    return tersor.fuse_(model)


FAILURES: dict[str, tuple[Build, str]] = {
    "a wrong shape": (
        lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 7)),
        r"2\.weight_blob: has shape \(64, 64\), the model \(7, 64\)",
    ),
    "a missing layer": (
        lambda: nn.Sequential(*two_linears(), nn.Linear(WIDTH, WIDTH)),
        "missing 3.bias, 3.weight$",
    ),
    "an unexpected layer": (
        lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()),
        "unexpected 2.bias, 2.weight_blob$",
    ),
    "no activation to fuse": (_Functional, "0.weight: relu is fused into the layer in the file"),
    "another activation": (_gelu, "0.weight: relu is fused in the file, gelu in the model"),
}


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("failure", [*FAILURES, "a corrupt file"])
def test_a_load_that_fails_changes_nothing(failure: str, meta: bool, tmp_path: Path) -> None:
    path = saved(tersor.fuse_(tersor.compress_(two_linears())), tmp_path)
    build, message = FAILURES.get(failure, (two_linears, "checksum"))
    if failure == "a corrupt file":
        _second_layer_is_corrupt(path)
    target = build().to("meta") if meta else build()
    modules = dict(target.named_modules())
    tensors = {name: id(t) for name, t in [*target.named_parameters(), *target.named_buffers()]}
    before = None if meta else bytes_of(target)
    with pytest.raises((ValueError, tersor.FormatError), match=message):
        tersor.load_model(path, target)
    assert dict(target.named_modules()) == modules
    after = [*target.named_parameters(), *target.named_buffers()]
    assert {name: id(t) for name, t in after} == tensors
    assert meta or bytes_of(target) == before
    assert all(p.requires_grad for p in target.parameters() if failure != "another activation")


def test_a_dense_weight_for_a_compressed_layer_says_what_to_do(tmp_path: Path) -> None:
    path = saved(tersor.compress_(two_linears(), Config(overrides={"2": None})), tmp_path)
    target = tersor.compress_(two_linears())
    with pytest.raises(ValueError, match=r"2\.weight is dense in the file .*decompress_"):
        tersor.load_model(path, target)
    loaded: Any = tersor.load_model(path, tersor.decompress_(target))
    assert type(loaded[2]) is nn.Linear


def test_not_strict_loads_what_fits(tmp_path: Path) -> None:
    path = saved(tersor.compress_(two_linears()), tmp_path)
    target: Any = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    target.append(nn.LayerNorm(WIDTH))
    wrong = nn.Sequential(nn.Linear(WIDTH, 7))
    with pytest.raises(ValueError, match="has shape"):
        tersor.load_model(path, wrong, strict=False)
    target = nn.ModuleDict({"0": nn.Linear(WIDTH, WIDTH), "norm": nn.LayerNorm(WIDTH)})
    loaded: Any = tersor.load_model(path, target, strict=False)
    assert isinstance(loaded["0"], CompressedLinear)
    assert (loaded["norm"].weight == 1).all()


def test_what_is_missing_on_the_meta_device_is_named(tmp_path: Path) -> None:
    path = saved(tersor.compress_(two_linears()), tmp_path)
    target = on_meta(lambda: nn.Sequential(*two_linears(), nn.LayerNorm(WIDTH)))
    with pytest.warns(UserWarning, match=r"3\.weight, 3\.bias: not in the file, .* meta") as found:
        tersor.load_model(path, target, strict=False)
    with pytest.warns(UserWarning, match="meta") as also:
        tersor.load(
            path, on_meta(lambda: nn.Sequential(*two_linears(), nn.LayerNorm(9))), strict=False
        )
    assert {w.filename for w in [*found, *also]} == {__file__}


# ---- Layers that cannot run compressed


class Doubled(nn.Linear):
    """A Linear with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


UNSUPPORTED: dict[str, tuple[Build, str, torch.Tensor]] = {
    "LayerNorm": (lambda: nn.LayerNorm((16, 32)), "LayerNorm", torch.randn(2, 16, 32)),
    "Embedding": (lambda: nn.Embedding(100, 32, max_norm=1e9), "max_norm", torch.arange(7)),
    "subclass": (lambda: Doubled(WIDTH, WIDTH), "Doubled overrides the forward", vectors()),
}


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_cannot_run_compressed_is_decoded(
    kind: str, dtype: torch.dtype, meta: bool, tmp_path: Path
) -> None:
    build, reason, x = UNSUPPORTED[kind]

    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(build()).to(dtype)

    dense: Any = model()
    layer = compress_weight(dense[0].weight, LayerConfig(codebook_size=15))
    with torch.no_grad():
        dense[0].weight.copy_(torch.from_numpy(tersor.codec.encode.decompress_weight(layer)))
    blob = encode_blob(layer)
    tensors = {"0.weight_blob": container.Tensor("U8", blob.shape, blob)}
    if "bias" in dict(dense[0].named_parameters()):
        tensors["0.bias"] = state_dict.to_file_tensor(dense[0].bias, "0.bias")
    container.write_file(tmp_path / "f", tensors)
    target = on_meta(model) if meta else model()
    with pytest.warns(UserWarning, match=f"0: stored compressed, runs dense .*{reason}") as found:
        loaded: Any = tersor.load_model(tmp_path / "f", target)
    assert [w.filename for w in found] == [__file__]
    assert type(loaded[0]) is type(dense[0])
    assert loaded[0].weight.dtype == dtype
    x = x.to(dtype) if x.is_floating_point() else x
    assert torch.equal(loaded(x), dense(x))
    assert reason in str(tersor.report(loaded).layers[0].reason)


def test_a_blob_that_an_embedding_shares_is_decoded_once_for_all(tmp_path: Path) -> None:
    model = LanguageModel()
    blob = encode_blob(compress_weight(model.head.weight, LayerConfig(codebook_size=15)))
    tensors = {"head.weight_blob": container.Tensor("U8", blob.shape, blob)}
    for name in ("fc.weight", "fc.bias"):
        tensors[name] = state_dict.to_file_tensor(model.get_parameter(name), name)
    aliases = {KEY: '{"embedding.weight_blob": "head.weight_blob"}'}
    for metadata in (aliases, {}):  # a file may have one of the names alone
        container.write_file(tmp_path / "f", tensors, metadata)
        for target in (LanguageModel(), on_meta(LanguageModel)):
            target.embedding.max_norm = 1e9
            with pytest.warns(UserWarning, match=r"stored compressed, runs dense \(embedding: max"):
                loaded: Any = tersor.load_model(tmp_path / "f", target)
            assert loaded.head.weight is loaded.embedding.weight
            assert loaded.head.weight.unique().numel() <= 16
            assert type(loaded.head) is nn.Linear
            assert loaded(words()).isfinite().all()


# ---- Ties


def test_a_tied_language_model_keeps_its_tie_through_a_file(tmp_path: Path) -> None:
    tersor.save(LanguageModel(), tmp_path / "dense.safetensors")
    model: Any = tersor.compress_(LanguageModel())
    path = saved(model, tmp_path)
    assert path.stat().st_size < (tmp_path / "dense.safetensors").stat().st_size
    for target in (LanguageModel(), on_meta(LanguageModel)):
        loaded: Any = tersor.load_model(path, target)
        assert loaded.head.weight_blob is loaded.embedding.weight_blob
        assert torch.equal(loaded(words()), model(words()))


@pytest.mark.parametrize("meta", [False, True])
def test_a_dense_file_with_a_tie_does_not_tie_a_model_that_has_none(
    meta: bool, tmp_path: Path
) -> None:
    path = saved(two_linears(tied=True, bias=False), tmp_path)
    target: Any = on_meta(two_linears_without_bias) if meta else two_linears_without_bias()
    loaded: Any = tersor.load_model(path, target, trainable=True)
    assert torch.equal(loaded[0].weight, loaded[2].weight)
    with torch.no_grad():
        loaded[0].weight.zero_()
    assert loaded[2].weight.any()


def two_linears_without_bias() -> nn.Module:
    return two_linears(bias=False)


def test_a_tied_model_takes_a_file_of_one_name_or_of_two_weights(tmp_path: Path) -> None:
    untied = tersor.compress_(two_linears())
    path = saved(untied, tmp_path)
    loaded: Any = tersor.load_model(path, two_linears(tied=True))
    assert torch.equal(loaded(vectors()), untied(vectors()))
    tied = tersor.compress_(two_linears(tied=True, bias=False))
    blob = tied[0].weight_blob.numpy()
    container.write_file(path, {"2.weight_blob": container.Tensor("U8", blob.shape, blob)})
    for target in (
        two_linears(tied=True, bias=False),
        tersor.compress_(two_linears(tied=True, bias=False)),
    ):
        loaded = tersor.load_model(path, target)
        assert torch.equal(loaded(vectors()), tied(vectors()))
        assert loaded[0].weight_blob is loaded[2].weight_blob


# ---- Settings that belong to a layer


@pytest.mark.parametrize("precision", ["highest", "high", "medium", "low"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("into", ["fresh", "meta", "compressed", "fused"])
def test_precision_and_activations_come_back(
    precision: Any, fused: bool, into: str, tmp_path: Path
) -> None:
    config = Config(overrides={"0": LayerConfig(precision=precision)})
    model = tersor.compress_(two_linears(), config)
    if fused:
        tersor.fuse_(model)
    loaded: Any = tersor.load_model(saved(model, tmp_path), TARGETS[into]())
    assert (loaded[0].precision, loaded[2].precision) == (precision, "high")
    assert loaded[0].activation == ("relu" if fused or into == "fused" else "none")
    expected = model(vectors())
    if fused or into != "fused":
        assert torch.equal(loaded(vectors()), expected)
    else:
        assert torch.allclose(loaded(vectors()), expected, atol=1e-5)
    overridden: Any = tersor.load(tmp_path / "model.safetensors", two_linears(), precision="medium")
    assert {overridden[i].precision for i in (0, 2)} == {"medium"}


def test_a_layer_of_several_names_keeps_its_precision(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self, first: str, second: str) -> None:
            super().__init__()
            setattr(self, first, nn.Linear(WIDTH, WIDTH))
            setattr(self, second, getattr(self, first))
            self.others = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    for names in (("a", "b"), ("b", "a")):
        config = Config(overrides={names[0]: LayerConfig(precision="low")})
        model = tersor.compress_(Named(*names), config)
        loaded: Any = tersor.load_model(saved(model, tmp_path), Named(*names))
        assert loaded.a is loaded.b
        assert (loaded.a.precision, loaded.others[0].precision) == ("low", "high")


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    path = saved(tersor.compress_(two_linears()), tmp_path)
    with pytest.raises(ValueError, match="precision 'lowest' is none of highest, high"):
        tersor.load_model(path, two_linears(), precision="lowest")  # type: ignore[arg-type]


def test_a_trained_codebook_takes_the_values_of_a_file(tmp_path: Path) -> None:
    path = saved(tersor.compress_(two_linears()), tmp_path)
    target: Any = tersor.compress_(two_linears())
    values = target[0].train_values()
    with torch.no_grad():
        values.mul_(3)
    loaded: Any = tersor.load_model(path, target)
    assert loaded[0].values is values
    assert torch.equal(values, tersor.compress_(two_linears())[0].train_values())


# ---- Copies, and files of older versions


def test_each_blob_is_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tersor.compress_(two_linears(bias=False)), tmp_path)
    copied: list[int] = []
    real = np.array

    def counting(value: Any, *arguments: Any, **keywords: Any) -> Any:
        made = real(value, *arguments, **keywords)
        copied.append(made.ctypes.data)
        return made

    monkeypatch.setattr(state_dict.np, "array", counting)
    for target in (two_linears_without_bias(), on_meta(two_linears_without_bias)):
        copied.clear()
        loaded: Any = tersor.load_model(path, target)
        assert [loaded[i].weight_blob.data_ptr() for i in (0, 2)] == copied


OLD_FILES = sorted(
    [*ROOT.glob("examples/*/compressed/*-0.safetensors"), *ROOT.glob("tests/data/golden/*/*.s*")]
)


@pytest.mark.parametrize("path", OLD_FILES, ids=lambda path: path.stem)
def test_files_without_records_still_load(path: Path) -> None:
    content = tersor.load_file(path)
    assert content.layers or content.tensors
    assert content.config is None


def test_a_file_of_an_older_version_loads_into_its_network() -> None:
    path = ROOT / "examples" / "mnist" / "compressed" / "lenet-300-100-best-0.safetensors"
    content = tersor.load_file(path)
    shapes = {name.removesuffix(".weight"): layer.shape for name, layer in content.layers.items()}
    build = lambda: nn.ModuleDict(  # noqa: E731
        {name: nn.Linear(shape[1], shape[0]) for name, shape in shapes.items()}
    )
    for target in (build(), on_meta(build)):
        loaded: Any = tersor.load_model(path, target)
        assert all(isinstance(layer, CompressedLinear) for layer in loaded.values())
        assert {layer.precision for layer in loaded.values()} == {"high"}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_that_older_versions_saved_are_taken_off(prefix: str, tmp_path: Path) -> None:
    model = tersor.compress_(two_linears())
    state = {prefix + name: value for name, value in model.state_dict().items()}
    container.write_file(tmp_path / "f", *state_dict.file_tensors(state))
    loaded = tersor.load_model(tmp_path / "f", two_linears())
    assert torch.equal(loaded(vectors()), model(vectors()))


def test_arguments_of_a_model_need_one(tmp_path: Path) -> None:
    path = saved(two_linears(), tmp_path)
    with pytest.raises(TypeError, match="loading into a model"):
        tersor.load(path, precision="low")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="must be a torch.nn.Module, not dict"):
        tersor.load_model(path, {})  # type: ignore[arg-type]


def test_a_loaded_model_is_frozen_unless_it_is_to_be_trained(tmp_path: Path) -> None:
    path = saved(tersor.compress_(net()), tmp_path)
    loaded = tersor.load_model(path, Net())
    assert not any(p.requires_grad for p in loaded.parameters())
    back = tersor.decompress_(tersor.load_model(path, loaded))
    assert all(p.requires_grad for p in back.parameters())
    assert all(p.requires_grad for p in tersor.load(path, Net(), trainable=True).parameters())


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("supported", [False, True])
def test_a_model_that_is_loaded_in_inference_mode_can_be_trained(
    meta: bool, supported: bool, tmp_path: Path
) -> None:
    path = saved(tersor.compress_(two_linears(tied=True)), tmp_path)

    def build() -> nn.Module:
        other = nn.Linear(WIDTH, WIDTH) if supported else Doubled(WIDTH, WIDTH)
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), other)

    target = on_meta(build) if meta else build()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = tersor.load_model(path, target)
    loaded.requires_grad_(True)
    loaded(vectors()).sum().backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_loading_warns_of_nothing_else(tmp_path: Path) -> None:
    path = saved(tersor.compress_(net()), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tersor.load_model(path, on_meta(Net))


def test_a_blob_whose_module_has_no_weight_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    path = saved(tersor.compress_(model), tmp_path)
    other = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    with pytest.raises(ValueError, match=r"unexpected 1\.bias, 1\.weight_blob"):
        tersor.load_model(path, other)
    with pytest.warns(UserWarning, match=r"^1\.weight: in the file, and the model has no such"):
        tersor.load_model(path, other, strict=False)
    assert type(other[1]) is nn.ReLU


class Listed(nn.Module):
    """Reads its weights from a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.weights = [self.fc.weight, {"other": self.other.weight}]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first: Any = self.weights[0]
        second: Any = self.weights[1]["other"]  # type: ignore[call-overload, index]
        return F.linear(F.linear(x, first), second)


@pytest.mark.parametrize("meta", [False, True])
def test_weights_that_a_list_holds_are_those_of_the_file(meta: bool, tmp_path: Path) -> None:
    model = tersor.compress_(Listed().requires_grad_(False))
    expected = model(vectors())
    path = saved(model, tmp_path)
    loaded = tersor.load_model(path, on_meta(Listed) if meta else Listed())
    assert torch.allclose(loaded(vectors()), expected, atol=1e-5)
    dense: Any = tersor.decompress_(loaded)
    assert dense.weights[0] is dense.fc.weight
    assert torch.allclose(dense(vectors()), expected, atol=1e-5)


def test_how_layers_run_is_chosen_when_a_model_is_loaded(tmp_path: Path) -> None:
    path = saved(tersor.compress_(two_linears()), tmp_path)
    loaded: Any = tersor.load_model(path, two_linears(), execution="dense")
    assert [loaded[0].execution, loaded[2].execution] == ["dense", "dense"]
    again: Any = tersor.load(path, two_linears())
    assert "execution" not in again[0].__dict__
    with pytest.raises(ValueError, match="execution 'fast' is none of auto, compressed, dense"):
        tersor.load_model(path, two_linears(), execution="fast")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="are those of loading into a model"):
        tersor.load(path, execution="dense")  # type: ignore[call-overload]


def test_a_model_that_cannot_run_a_blob_keeps_its_norms(tmp_path: Path) -> None:
    class Own(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    def network(last: type[nn.Linear]) -> nn.Sequential:
        norm = nn.BatchNorm2d(4)
        return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Flatten(), last(144, 64)).eval()

    small = tersor.compress_(network(nn.Linear), tersor.Config(fold_norms=True))
    tersor.save(small, tmp_path / "small.safetensors")
    model = network(Own)
    left = run_from_blobs(model, read_blobs([tmp_path / "small.safetensors"]))
    assert list(left) == ["3"]
    assert isinstance(model[1], nn.BatchNorm2d)
    assert type(model[0]) is nn.Conv2d
