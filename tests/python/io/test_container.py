"""Files: stock readers and writers, damage, atomic writes."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tersor
from tersor.codec import csr
from tersor.codec.blob import CompressedTensor, encode_blob
from tersor.io import container
from tersor.io.container import Tensor


def _write(path: Path) -> None:
    codes = np.eye(5, 9, dtype=np.uint8)
    layer = CompressedTensor((5, 9), "shared_fp32", csr.encode(codes, 2), np.ones(1, np.float32))
    blob = encode_blob(layer)
    container.write_file(
        path,
        {
            "a.weight_blob": Tensor("U8", blob.shape, blob),
            "a.bias": Tensor("F32", (3,), np.arange(3, dtype=np.float32)),
            "large": Tensor("F16", (3, 1000), np.arange(3000, dtype=np.float16)),
            "empty": Tensor("F16", (0, 4), b""),
        },
        {"made by": 'a "test"\n'},
    )


def test_the_stock_library_reads_it(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    stock = load_file(tmp_path / "f")
    assert stock.keys() == {"tersor", "large"}  # what is small stands together in one tensor
    with container.open(tmp_path / "f") as file:
        file.verify()
        assert file.is_tersor
        assert file.metadata["made by"] == 'a "test"\n'
        assert list(file.tensors) == ["a.bias", "a.weight_blob", "empty", "large"]
        assert [n for n, view in file.tensors.items() if view.compressed] == ["a.weight_blob"]
        assert file.tensors["a.bias"].bytes().tobytes() == np.arange(3, dtype="<f4").tobytes()
        for name in ("a.weight_blob", "a.bias"):
            assert file.tensors[name].bytes().tobytes() in stock["tersor"].tobytes()
        assert file.tensors["large"].bytes().tobytes() == stock["large"].tobytes()
        assert file.tensors["empty"].shape == (0, 4)


def test_max_bytes_bounds_the_list_of_tensors(tmp_path: Path) -> None:
    tensors = {f"tensor {i}": Tensor("U8", (0,), b"") for i in range(20_000)}
    for plain in (False, True):
        container.write_file(tmp_path / "f", tensors, plain=plain)
        assert len(container.open(tmp_path / "f").tensors) == 20_000
        with pytest.raises(tersor.FormatError, match=r"larger than allowed \(at byte \d+\)"):
            container.open(tmp_path / "f", max_bytes=2_000_000)


def test_a_plain_file_is_a_stock_one(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6.0), "y": np.arange(3, dtype=np.int8)}
    tensors = {
        "x": Tensor("F64", (6,), arrays["x"]),
        "y": Tensor("I8", (3,), arrays["y"]),
    }
    container.write_file(tmp_path / "f", tensors, {"k": "v"}, plain=True)
    save_file(arrays, tmp_path / "stock", metadata={"k": "v"})
    assert (tmp_path / "f").read_bytes() == (tmp_path / "stock").read_bytes()


def test_blobs_in_a_file_of_the_stock_library_are_found(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    blob = container.open(tmp_path / "f").tensors["a.weight_blob"].bytes()
    save_file({"a.weight_blob": blob}, tmp_path / "stock")
    file = container.open(tmp_path / "stock")
    assert not file.is_tersor
    assert file.tensors["a.weight_blob"].compressed
    file.verify()
    damaged = bytearray((tmp_path / "stock").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "stock").write_bytes(damaged)
    with pytest.raises(tersor.FormatError, match="checksum"):
        container.open(tmp_path / "stock").verify()


def test_it_reads_stock_files(tmp_path: Path) -> None:
    tensors = {"x": np.arange(6.0).reshape(2, 3), "y": np.array([True, False])}
    save_file(tensors, tmp_path / "f", metadata={"k": "ü"})
    with container.open(tmp_path / "f") as file:
        file.verify()
        assert not file.is_tersor
        assert file.metadata == {"k": "ü"}
        assert file.tensors["x"].shape == (2, 3)
        assert file.tensors["x"].bytes().tobytes() == tensors["x"].tobytes()


def test_writing_is_deterministic(tmp_path: Path) -> None:
    _write(tmp_path / "a")
    _write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_truncation_at_every_length_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(tersor.FormatError):
            container.open(tmp_path / "cut")


@pytest.mark.slow
def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    whole = (tmp_path / "f").read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        (tmp_path / "d").write_bytes(damaged)
        with pytest.raises(tersor.FormatError):
            container.open(tmp_path / "d").verify()


def _file(path: Path, header: str, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data)
    return path


def _entry(begin: int, end: int, shape: object = None, dtype: str = "U8") -> str:
    shape = [end - begin] if shape is None else shape
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]})


MALFORMED = {
    "holes": ('{"a":' + _entry(1, 4) + "}", 4, "overlap or leave holes"),
    "overlap": ('{"a":' + _entry(0, 3) + ',"b":' + _entry(2, 4) + "}", 4, "overlap"),
    "bytes after the last tensor": ('{"a":' + _entry(0, 3) + "}", 4, "unexpected bytes"),
    "past the end": ('{"a":' + _entry(0, 5) + "}", 4, "truncated"),
    "duplicate keys": ('{"a":' + _entry(0, 4) + ',"a":' + _entry(0, 4) + "}", 4, "occurs twice"),
    "unknown dtype": ('{"a":' + _entry(0, 4, dtype="I4") + "}", 4, "does not allow"),
    "overflowing shape": ('{"a":' + _entry(0, 4, [2**40, 2**40]) + "}", 4, "larger than allowed"),
    "size of another shape": ('{"a":' + _entry(0, 4, [5]) + "}", 4, "contradict"),
    "deep nesting": ('{"a":' + "[" * 100 + "]" * 100 + "}", 0, "JSON"),
    "not JSON": ("{'a': 1}", 0, "JSON"),
    "no header": ("hello", 0, "signature"),
    "an index that is none": ('{"tersor":' + _entry(0, 4) + "}", 4, "signature"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_headers_are_refused(tmp_path: Path, name: str) -> None:
    header, size, message = MALFORMED[name]
    with pytest.raises(tersor.FormatError, match=message):
        container.open(_file(tmp_path / "f", header, bytes(size)))


def test_an_announced_header_of_any_length_is_only_believed_when_it_is_there(
    tmp_path: Path,
) -> None:
    for length in (2**63, 10**9, 1000):
        (tmp_path / "f").write_bytes(struct.pack("<Q", length) + b"{}")
        with pytest.raises(tersor.FormatError):
            container.open(tmp_path / "f")


def test_the_writer_refuses_what_no_reader_would_open(tmp_path: Path) -> None:
    one = Tensor("U8", (1,), b"1")
    with pytest.raises(ValueError, match="taken"):
        container.write_file(tmp_path / "f", {"tersor": one})
    with pytest.raises(ValueError, match="taken"):
        container.write_file(tmp_path / "f", {"__metadata__": one})
    with pytest.raises(ValueError, match="surrogates not allowed"):
        container.write_file(tmp_path / "f", {"\ud800": one})
    assert not (tmp_path / "f").exists()


def test_a_failed_write_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    before = (tmp_path / "f").read_bytes()
    with pytest.raises(ValueError, match="'a'"):
        container.write_file(tmp_path / "f", {"a": Tensor("F32", (2,), b"123")})
    with pytest.raises(OSError, match="missing"):
        container.write_file(tmp_path / "missing" / "f", {})
    assert (tmp_path / "f").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


# A write past the limit on a file's size ends the process on the spot, as a kill does.
_SAVE_UNTIL = """
import resource, signal, sys
import numpy as np
from tersor.io import container
content = np.full(1 << 20, 2, np.uint8)
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python's own choice is to ignore it
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
container.write_file(sys.argv[1], {"x": container.Tensor("U8", content.shape, content)})
"""


def _save_until(target: Path, limit: int) -> bool:
    """Saves in a process that is killed when a file is to grow past ``limit`` bytes.

    Returns whether it was.
    """
    done = subprocess.run([sys.executable, "-c", _SAVE_UNTIL, target, str(limit)])
    assert done.returncode in (0, -signal.SIGXFSZ)
    return done.returncode != 0


def test_a_kill_at_any_byte_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target, new = tmp_path / "f", tmp_path / "new"
    content = np.full(1 << 20, 1, np.uint8)
    container.write_file(target, {"x": Tensor("U8", content.shape, content)})
    old = target.read_bytes()
    assert not _save_until(new, 1 << 30)
    size = new.stat().st_size
    for limit in (0, 1, 100, size // 2, size - 1, size):
        killed = _save_until(target, limit)
        assert killed == (limit < size)
        assert target.read_bytes() == (old if killed else new.read_bytes())
    container.open(target).verify()


def test_what_a_killed_save_leaves_goes_with_the_next(tmp_path: Path) -> None:
    target = tmp_path / "f"
    assert _save_until(target, 5000)
    (left,) = tmp_path.iterdir()
    assert left.name != "f"
    assert left.stat().st_size == 5000
    _write(target)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


_SAVE_OFTEN = """
import sys
import numpy as np
from tersor.io import container
for i in range(40):
    data = np.full(1 << 16, int(sys.argv[2]), np.uint8)
    container.write_file(sys.argv[1], {"x": container.Tensor("U8", (1 << 16,), data)})
"""


def test_saves_to_one_path_at_once_leave_one_of_them_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    savers = [
        subprocess.Popen([sys.executable, "-c", _SAVE_OFTEN, target, str(i)]) for i in range(3)
    ]
    assert [saver.wait() for saver in savers] == [0, 0, 0]
    file = container.open(target)
    file.verify()
    assert len(set(file.tensors["x"].bytes())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


# ---- What the system refuses, and folders


def test_what_the_system_refuses_is_an_os_error_with_the_path(tmp_path: Path) -> None:
    _write(tmp_path / "f")
    (tmp_path / "f").chmod(0)
    user = os.geteuid()
    folders = [tmp_path, *tmp_path.parents[:2]] if user == 0 else []
    modes = [folder.stat().st_mode for folder in folders]
    for folder in folders:
        folder.chmod(0o755)
    if user == 0:
        os.seteuid(65534)  # the superuser is refused nothing
    try:
        with pytest.raises(PermissionError) as refused:
            container.open(tmp_path / "f")
    finally:
        os.seteuid(user)
        for folder, mode in zip(folders, modes, strict=True):
            folder.chmod(mode)
    assert refused.value.filename == str(tmp_path / "f")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none", FileNotFoundError),
        ("loop", OSError),
        ("f/x", NotADirectoryError),
        ("n" * 300, OSError),
    ],
)
def test_other_refusals_have_the_path_too(tmp_path: Path, name: str, kind: type[OSError]) -> None:
    _write(tmp_path / "f")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(kind, match=name[:9]):
        container.open(tmp_path / name)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        container.open(tmp_path / "pipe")


@pytest.mark.parametrize("others", [[], ["other.safetensors"]])
def test_a_folder_with_a_model_is_that_model(tmp_path: Path, others: list[str]) -> None:
    for name in ("model.safetensors", *others):
        _write(tmp_path / name)
    assert container.open(tmp_path).path == tmp_path / "model.safetensors"


def test_a_folder_with_one_file_is_that_file_and_with_several_names_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.safetensors"):
        container.open(tmp_path)
    _write(tmp_path / "lora.safetensors")
    assert list(container.open(tmp_path).tensors) == ["a.bias", "a.weight_blob", "empty", "large"]
    _write(tmp_path / "another.safetensors")
    with pytest.raises(FileNotFoundError, match=r"2 models \(another\.safetensors, lora"):
        container.open(tmp_path)
