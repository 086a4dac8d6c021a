"""What is read is never overwritten, and other files only with --force."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import Fails, Run, f32

from tersor.io import container
from tersor.io.container import INDEX


def test_a_file_is_never_written_over_itself(dense: Path, small: Path, fails: Fails) -> None:
    for command, source in (("compress", dense), ("decompress", small)):
        before = source.read_bytes()
        hard, soft = source.with_name("hard.safetensors"), source.with_name("soft.safetensors")
        hard.hardlink_to(source)
        soft.symlink_to(source.name)
        around = source.parent / "x" / ".." / source.name
        around.parent.parent.mkdir(exist_ok=True)
        for output in (source, hard, soft, around):
            for given in (source, soft):
                line = fails(command, given, "-o", output, "--force")
                assert "is the input" in line
        assert source.read_bytes() == before
        assert hard.samefile(source)
        hard.unlink()
        soft.unlink()


def test_an_existing_output_needs_force(dense: Path, small: Path, fails: Fails, works: Run) -> None:
    out = dense.with_name("out.safetensors")
    for command, source in (("compress", dense), ("decompress", small)):
        out.write_text("precious")
        assert "--force" in fails(command, source, "-o", out)
        assert out.read_text() == "precious"
        works(command, source, "-o", out, "--force")
        assert container.open(out).tensors
    out.unlink()
    out.symlink_to("nowhere")
    assert "--force" in fails("compress", dense, "-o", out)


def test_an_output_that_is_a_folder_is_refused_for_a_file(dense: Path, fails: Fails) -> None:
    assert "is a folder" in fails("compress", dense, "-o", dense.parent)


# ---- Folders


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A folder as the Hugging Face cache has them: links to blobs beside it."""
    folder, blobs = tmp_path / "hub", tmp_path / "blobs"
    folder.mkdir()
    blobs.mkdir()
    rng = np.random.default_rng(0)
    files = {"config.json": "{}", "tokenizer.model": "t", "merges.txt": "m", "README.md": "r"}
    for name, text in files.items():
        (blobs / name).write_text(text)
        (folder / name).symlink_to(blobs / name)
    for name in ("tf_model.h5", "pytorch_model.bin.index.json", ".gitattributes"):
        (folder / name).write_text("x")
    (folder / "onnx").mkdir()
    tensors = {"fc.weight": f32(rng.normal(size=(40, 30)))}
    container.write_file(blobs / "weights", tensors, {"format": "pt"}, plain=True)
    (folder / "model.safetensors").symlink_to(blobs / "weights")
    return folder


COMPANIONS = {"config.json", "tokenizer.model", "merges.txt", "README.md"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_folder_with_one_model_becomes_one(hub: Path, works: Run, fails: Fails) -> None:
    out, back = hub.with_name("out"), hub.with_name("back")
    done = works("compress", hub, "-o", out)
    assert "copied   config.json" in done.stdout
    assert names(out) == {"model.safetensors", *COMPANIONS}
    assert not (out / "config.json").is_symlink()
    works("decompress", out, "-o", back)
    assert names(back) == {"model.safetensors", *COMPANIONS}
    assert container.open(back).metadata == {"format": "pt"}
    assert "--force" in fails("compress", hub, "-o", out)
    (out / "config.json").write_text("mine")
    works("compress", hub, "-o", out, "--force")
    assert (out / "config.json").read_text() == "{}"


def test_a_companion_that_exists_is_kept_without_force(hub: Path, works: Run) -> None:
    out = hub.with_name("out")
    out.mkdir()
    (out / "config.json").write_text("mine")
    assert "kept     config.json" in works("compress", hub, "-o", out).stdout
    assert (out / "config.json").read_text() == "mine"


def test_a_folder_can_become_a_file(hub: Path, works: Run) -> None:
    works("compress", hub, "-o", hub.with_name("m.safetensors"))
    assert container.open(hub.with_name("m.safetensors")).is_tersor
    assert {"hub", "blobs", "m.safetensors"} == names(hub.parent)


def test_the_folder_of_the_input_is_refused(hub: Path, fails: Fails) -> None:
    before = names(hub)
    linked = hub.with_name("linked")
    linked.symlink_to(hub)
    for output in (hub, linked, hub / "model.safetensors"):
        assert "the input" in fails("compress", hub, "-o", output, "--force")
    assert "is not a folder" in fails("compress", hub, "-o", hub / "config.json", "--force")
    assert names(hub) == before
    assert (hub / "model.safetensors").is_symlink()


def shard(folder: Path) -> Path:
    """A checkpoint of two files, and what belongs to it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    weight_map = {}
    for i in range(2):
        tensors = {f"{i}.weight": f32(rng.normal(size=(30, 40)))}
        container.write_file(folder / f"model-{i}.safetensors", tensors, plain=True)
        weight_map.update(dict.fromkeys(tensors, f"model-{i}.safetensors"))
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("by_index", [False, True])
def test_companions_of_several_files_are_copied(
    by_index: bool, tmp_path: Path, works: Run, fails: Fails
) -> None:
    folder, out, back = shard(tmp_path / "in"), tmp_path / "out", tmp_path / "back"
    source = folder / INDEX if by_index else folder
    works("compress", source, "-o", out)
    works("decompress", out, "-o", back)
    for made in (out, back):
        assert (made / "config.json").read_text() == "{}"
        assert sorted(container.open(made).shards) == sorted(
            p.name for p in made.glob("*.safetensors")
        )
    assert "--force" in fails("compress", source, "-o", out)
    works("compress", source, "-o", out, "--force")
    assert "folder of the input" in fails("compress", source, "-o", folder, "--force")


def test_two_models_never_share_a_folder(hub: Path, fails: Fails, works: Run) -> None:
    sharded, out = shard(hub.with_name("in")), hub.with_name("out")
    works("compress", hub, "-o", out)
    assert "another model" in fails("compress", sharded, "-o", out, "--force")
    works("compress", sharded, "-o", hub.with_name("out2"))
    assert "another model" in fails("compress", hub, "-o", hub.with_name("out2"), "--force")


def test_an_output_that_the_input_links_to_is_the_input(dense: Path, fails: Fails) -> None:
    linked = dense.with_name("linked.safetensors")
    os.symlink(dense, linked)
    assert "is the input" in fails("compress", linked, "-o", dense, "--force")
