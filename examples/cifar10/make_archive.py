"""Makes the archive that the examples read from the official CIFAR-10 for Python.

    python -m examples.cifar10.make_archive cifar-10-python.tar.gz -o cifar10.npz

The official archive holds pickles: five of training images and one of test images, each a dict
with ``data`` (uint8 ``[n, 3072]``: red, green, blue by rows) and ``labels``. Images are written as
PNG, so that pixels stay what they are.
"""

from __future__ import annotations

import argparse
import io
import pickle
import tarfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_TRAINING = [f"data_batch_{i}" for i in range(1, 6)]
_TEST = "test_batch"


class _Arrays(pickle.Unpickler):
    """Unpickles arrays, texts and lists, and nothing that could run code."""

    _ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar"})

    def find_class(self, module: str, name: str) -> Any:
        """The classes that numpy's arrays are made of."""
        if module.partition(".")[0] == "numpy" and name in self._ALLOWED:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of CIFAR-10")


def read_batch(stream: IO[bytes]) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Images ``[n, 3, 32, 32]`` and labels of one pickle.

    Raises:
        ValueError: it holds something else.
    """
    content = _Arrays(stream, encoding="latin1").load()
    if not isinstance(content, dict) or not {"data", "labels"} <= content.keys():
        raise ValueError("not a batch of CIFAR-10: it has no data and labels")
    images = np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32)
    if len(images) != len(content["labels"]):
        raise ValueError(f"{len(images)} images and {len(content['labels'])} labels")
    return images, list(content["labels"])


def _as_png(image: npt.NDArray[np.uint8]) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(made, "png")
    return made.getvalue()


def make_archive(source: Path, output: Path) -> int:
    """Writes the archive; the number of its images.

    Args:
        source: the official archive.
        output: the ``.npz``.

    Raises:
        ValueError: a batch is missing or malformed.
    """
    files: list[bytes] = []
    labels: list[int] = []
    train: list[bool] = []
    with tarfile.open(source) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers()}
        for name in (*_TRAINING, _TEST):
            stream = archive.extractfile(members[name]) if name in members else None
            if stream is None:
                raise ValueError(f"{source}: has no {name}: is it CIFAR-10 for Python?")
            images, own = read_batch(stream)
            files += [_as_png(image) for image in images]
            labels += own
            train += [name != _TEST] * len(own)
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int64)
    np.savez(
        output,
        data=np.frombuffer(b"".join(files), np.uint8),
        off=offsets,
        y=np.array(labels, np.int64),
        train=np.array(train),
    )
    return len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("cifar10.npz"))
    options = parser.parse_args()
    print(f"{make_archive(options.source, options.output):,} images written to {options.output}")


if __name__ == "__main__":
    main()
