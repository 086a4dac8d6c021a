"""Models as users have them: told apart by content, nested, wrapped, in folders."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Fails, Run, bf16, f32

from tersor.io import container

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402


def _state(prefix: str = "") -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9)).bfloat16()
    return {prefix + name: value for name, value in model.state_dict().items()}


def _optimizer() -> dict[str, Any]:
    model = nn.Linear(3, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def _names(path: Path) -> set[str]:
    return {name.removesuffix("_blob") for name in container.open(path).tensors}


# ---- By content


@pytest.mark.parametrize("name", ["m.pt", "m.bin", "m.ckpt", "m.tar", "m", "m.safetensors"])
@pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
def test_files_are_told_apart_by_content(name: str, kind: str, tmp_path: Path, works: Run) -> None:
    source, out = tmp_path / name, tmp_path / "out.safetensors"
    if kind == "safetensors":
        weight = np.random.default_rng(0).normal(size=(9, 12))
        container.write_file(source, {"0.weight": bf16(weight), "0.bias": f32(np.ones(9))})
    else:
        torch.save(_state(), source, _use_new_zipfile_serialization=kind == "zip")
    works("compress", source, "-o", out, "--bits", 2)
    with container.open(out) as file:
        assert file.tensors["0.weight_blob"].compressed
        assert "0.bias" in file.tensors


def test_a_header_of_640_bytes_is_no_pickle(tmp_path: Path, works: Run) -> None:
    # Its length begins as a pickle of protocol 2 does: 80 02.
    tensors = {f"{i}.weight": f32(np.eye(8)) for i in range(8)}
    source = tmp_path / "m.safetensors"
    for pad in range(640):
        container.write_file(source, tensors, {"pad": "x" * pad}, plain=True)
        if source.read_bytes()[:2] == b"\x80\x02":
            break
    assert source.read_bytes()[:2] == b"\x80\x02"
    works("compress", source, "-o", tmp_path / "out.safetensors", "--bits", 1)


def test_a_state_dict_of_torch_keeps_types_and_scalars(tmp_path: Path, works: Run) -> None:
    torch.save(_state(), tmp_path / "m.pt")
    works("compress", tmp_path / "m.pt", "-o", tmp_path / "m.safetensors", "--bits", 8)
    with container.open(tmp_path / "m.safetensors") as file:
        assert file.tensors["0.bias"].dtype == "BF16"
        assert file.tensors["1.num_batches_tracked"].shape == ()
        assert file.metadata["format"] == "pt"


# ---- Training checkpoints


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": _optimizer()},
        lambda s: {"model": s, "optimizer": _optimizer(), "args": {"lr": 0.1}},
        lambda s: {"module": s, "ds_config": {"a": 1}},
        lambda s: {"epoch": 1, "model_state_dict": s, "loss": 0.5},
        lambda s: {"model": {"state_dict": s, "arch": "resnet"}, "rng": torch.zeros(3)},
        lambda s: {"generator": s, "step": 7},
        lambda s: {"state_dict": s, "ema": s},
    ],
)
def test_nested_checkpoints_are_found_and_said(wrap: Any, tmp_path: Path, works: Run) -> None:
    torch.save(wrap(_state()), tmp_path / "m.ckpt")
    done = works("compress", tmp_path / "m.ckpt", "-o", tmp_path / "out.safetensors")
    assert _names(tmp_path / "out.safetensors") == set(_state())
    assert "read the state_dict under '" in done.stdout.splitlines()[0]
    if "epoch" in wrap({}):
        assert "left out: " in done.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list and no state_dict"),
        ({"epoch": 3, "loss": 0.5}, "holds no single state_dict; it has: epoch, loss"),
        ({"generator": {"w": torch.ones(2)}, "critic": {"w": torch.ones(2)}}, "2 of them could be"),
        (argparse.Namespace(a=1), "argparse.Namespace, and loading that would run code"),
        (
            {"state_dict": {"w": torch.ones(2)}, "args": argparse.Namespace(a=1)},
            "model.state_dict()",
        ),
        ({"w": torch.ones(2, 2), "f._extra_state": {"a": 1}}, "f._extra_state"),
        ({"w": torch.ones(2, 2).to_sparse()}, "w: a tensor of torch.float32 in torch.sparse_coo"),
        ({}, "holds no single state_dict; it has: nothing"),
    ],
)
def test_what_is_no_state_dict_is_refused_with_the_reason(
    content: object, words: str, tmp_path: Path, fails: Fails
) -> None:
    source, out = tmp_path / "m.pt", tmp_path / "out.safetensors"
    torch.save(content, source)
    line = fails("compress", source, "-o", out)
    assert str(source) in line
    assert words in line
    assert not out.exists()


def test_code_in_a_pickle_does_not_run(tmp_path: Path, fails: Fails) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"w": torch.ones(2, 2), "x": Touch()}, tmp_path / "m.pt")
    fails("compress", tmp_path / "m.pt", "-o", tmp_path / "out.safetensors")
    assert not (tmp_path / "ran").exists()


# ---- Names


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_prefixes_of_wrappers_are_stripped_and_said(
    prefix: str, kind: str, tmp_path: Path, works: Run
) -> None:
    source, out = tmp_path / "m", tmp_path / "out.safetensors"
    state = _state(prefix)
    if kind == "torch":
        torch.save(state, source)
    else:
        from tersor.io.state_dict import file_tensors

        container.write_file(source, *file_tensors(state))
    done = works("compress", source, "-o", out, "--only", "0.weight")
    assert f"stripped '{prefix}'" in done.stdout
    assert _names(out) == set(_state())


def test_parts_that_were_compiled_lose_their_prefix(tmp_path: Path, works: Run) -> None:
    state = {f"encoder._orig_mod.{name}": value for name, value in _state().items()}
    torch.save({**state, "head.bias": torch.ones(3)}, tmp_path / "m.pt")
    done = works("compress", tmp_path / "m.pt", "-o", tmp_path / "out.safetensors")
    assert "stripped '_orig_mod.'" in done.stdout
    assert "encoder.0.weight" in _names(tmp_path / "out.safetensors")


def test_a_module_that_has_such_a_name_is_left(tmp_path: Path, works: Run) -> None:
    state = {**_state("module."), "head.weight": torch.ones(3, 3)}
    torch.save(state, tmp_path / "m.pt")
    done = works("compress", tmp_path / "m.pt", "-o", tmp_path / "out.safetensors")
    assert "stripped" not in done.stdout
    assert _names(tmp_path / "out.safetensors") == set(state)


def test_tensors_that_are_one_in_a_pickle_stay_one(tmp_path: Path, works: Run) -> None:
    weight = torch.randn(40, 40)
    state = {"a.weight": weight, "b.weight": weight, "c.weight": weight.clone()}
    torch.save(state, tmp_path / "m.pt")
    works("compress", tmp_path / "m.pt", "-o", tmp_path / "out.safetensors")
    assert _names(tmp_path / "out.safetensors") == {"a.weight", "c.weight"}
    works("decompress", tmp_path / "out.safetensors", "-o", tmp_path / "back.safetensors")
    assert _names(tmp_path / "back.safetensors") == set(state)


# ---- Folders


def test_folders_with_a_torch_checkpoint(tmp_path: Path, works: Run, fails: Fails) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    assert "no .safetensors" in fails("compress", folder, "--dry-run")
    torch.save(_state(), folder / "pytorch_model.bin")
    works("compress", folder, "-o", tmp_path / "out")
    assert _names(tmp_path / "out" / "model.safetensors") == set(_state())
    torch.save(_state(), folder / "pytorch_model-2.bin")
    assert "2 files; convert it to safetensors" in fails("compress", folder, "--dry-run")
