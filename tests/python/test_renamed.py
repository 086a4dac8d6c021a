"""Every public name of version 0.1 still leads to what it meant, and warns."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

import tersor
from tersor import _renamed, config
from tersor.quantizers.kmeans import quantize_kmeans

# Module -> its public functions, classes and constants in version 0.1. Without what was inside the
# pipeline and the layers (compress.Taken, HANDLERS and Saved, state.state_bytes, obs.whole_errors,
# nn.compressed.refuse_forward_mode), the command line and the demo.
OLD = {
    "budget": "Blobs Item Layer Compensated Step fit search",
    "checkpoint": "Checkpoint save load",
    "checks": "check_finite",
    "compress": (
        "FilterFunction swap_modules tensor_bytes fit compress_ decompress_ Estimate estimate"
    ),
    "container": "INDEX Tensor TensorView File read_index Sharded open write_file",
    "conv": "convolve",
    "csr": "RelativeCsr EntryCount encode decode validate count_entries filler_count",
    "ecsq": "Floats Doubles Bytes Quantiser entropy_of Problem",
    "fuse": "fuse_",
    "hessian": "hessian_diagonal hutchinson_diagonal adam_importance",
    "huffman": "StreamInfo histogram entropy code_lengths encode inspect decode decode_range",
    "isa": "compiled available in_use use BuildInfo show_config",
    "kmeans": "Clustering cluster",
    "layer": (
        "SUFFIX Layer LayerInfo encode_layer decode_layer decode_rows "
        "inspect_layer is_layer pack_layer"
    ),
    "methods": (
        "MAX_VALUES Floats Bytes Arrays Masks Solver Sharing code_entropy check "
        "share_kmeans share_uniform share_ecsq"
    ),
    "moments": "MAX_INPUTS Moments blocks_of input_moments",
    "nn.compressed": "BLOB ACTIVATIONS autocast Compressed",
    "obs": (
        "inverse_root sweep Piece prune_sweep importance_of rate_sweeps "
        "compensate pieces_of compensate_layer_ compensate_"
    ),
    "prune": (
        "threshold_mask density_masks CubicSchedule RoundSchedule Retraining Masks "
        "masks_from_torch_prune"
    ),
    "quantize": (
        "as_float32 kept_weights kept_by values_of bits_of share_weight share_by "
        "encode_shared compress_weight decompress_layer"
    ),
    "share": "SharedWeights MovingCodes",
    "shards": "Encode write_shards",
    "spmm": "pack pack_values multiply Kernel kernels operand address",
    "state": "ALIASES DTYPES to_file_tensor to_torch file_tensors",
    "units": "remove_dead_units_ sort_units_",
}


def test_every_old_module_is_covered() -> None:
    assert OLD.keys() == _renamed.MODULES.keys()


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in OLD for name in OLD[module].split()]
)
def test_an_old_name_gives_the_new_one_and_warns(module: str, name: str) -> None:
    old = importlib.import_module(f"tersor.{module}")
    with pytest.warns(DeprecationWarning, match=rf"tersor\.{module}\.{name} is now tersor") as w:
        found = getattr(old, name)
    assert w[0].filename == __file__
    new, _, symbol = str(w[0].message).split(" is now ")[1].split(";")[0].rpartition(".")
    assert getattr(importlib.import_module(new), symbol) is found


@pytest.mark.slow
def test_imports_as_they_were_written() -> None:
    lines = [
        "from tersor.layer import Layer",
        "import tersor.spmm; tersor.spmm.multiply",
        "from tersor import quantize; quantize.compress_weight",
        "import tersor; tersor.csr.encode",
        "from tersor.nn.compressed import Compressed",
    ]
    code = "\n".join(lines)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for number in range(1, len(lines) + 1):
        assert f"<string>:{number}: DeprecationWarning" in done.stderr


@pytest.mark.parametrize("module", OLD)
def test_what_was_never_there_is_missing(module: str) -> None:
    old = importlib.import_module(f"tersor.{module}")
    with pytest.raises(AttributeError, match=f"'tersor.{module}' has no attribute 'absent'"):
        old.absent  # noqa: B018


def test_modules_that_never_were_are_not_found() -> None:
    for name in ("tersor.absent", "tersor.nn.absent", "tersor.compressed"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_constants_of_a_module_that_stayed() -> None:
    with pytest.warns(DeprecationWarning, match="config.MODES is now tersor.config.ALGORITHMS"):
        assert config.MODES == config.ALGORITHMS
    with pytest.raises(AttributeError, match="'tersor.config' has no attribute 'absent'"):
        config.absent  # noqa: B018


def test_old_names_are_not_offered() -> None:
    assert not set(OLD) & set(dir(tersor))


def test_arguments_as_they_were_named() -> None:
    weights = {"a": np.linspace(-1, 1, 50, dtype=np.float32)}
    for old, new in [
        ({"values": 7, "together": True, "mode": "lloyd"},
         {"codebook_size": 7, "joint": True, "algorithm": "lloyd"}),
        ({"values": 7, "mode": "exact"}, {"codebook_size": 7, "algorithm": "exact"}),
    ]:  # fmt: skip
        with pytest.warns(DeprecationWarning, match="is now") as w:
            found = quantize_kmeans(weights, **old)
        assert len(w) == len(old)
        assert {line.filename for line in w} == {__file__}
        np.testing.assert_array_equal(
            found["a"].dense(), quantize_kmeans(weights, **new)["a"].dense()
        )
    with pytest.raises(TypeError, match="value"):
        quantize_kmeans(weights, value=7)
