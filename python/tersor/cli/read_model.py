"""Reading dense models: safetensors files, checkpoints of several, folders, torch pickles.

Files are told apart by their content. Tensors stay in the mapped file until they are asked for.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tersor._names import without_wrappers
from tersor.cli.errors import InputError, import_torch
from tersor.codec.blob import SUFFIX, inspect_blob
from tersor.io import aliases as alias_table
from tersor.io import container

# Under which a training checkpoint holds the state_dict of its model, the likeliest first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params")
_EXTRA_STATE = "_extra_state"  # what get_extra_state() of a module gives, tensor or not
_WRAPPERS = ("module.", "_orig_mod.")  # of DataParallel and DDP, and of torch.compile


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of a dense model, not read yet.

    Attributes:
        name: of the dense tensor.
        dtype: as safetensors names it.
        shape: of the dense tensor.
        nbytes: of the dense tensor.
        stored_name: its name in the file, which of a coded vector ends in ``_blob``.
        stored: the tensor as the file holds it, read when this is called.
        free: releases the memory of what was read.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    stored_name: str
    stored: Callable[[], container.Tensor]
    free: Callable[[], None] = lambda: None

    def release(self) -> None:
        """Releases the memory of what was read."""
        self.free()


@dataclass(frozen=True)
class SourceModel:
    """A dense model whose tensors are read one by one.

    Attributes:
        files: what is read: one file, or the index of a checkpoint and its shards.
        tensors: by the names of dense tensors.
        metadata: of the file, without what tersor keeps there.
        aliases: of tensors with several names the one in ``tensors``, by the further ones.
        notes: lines that tell what was done to the names.
        shards: the checkpoint, where it is one of several files.
    """

    files: tuple[Path, ...]
    tensors: Mapping[str, SourceTensor]
    metadata: Mapping[str, str]
    aliases: Mapping[str, str]
    notes: tuple[str, ...] = ()
    shards: container.Sharded | None = None

    @property
    def dense_bytes(self) -> int:
        """Of all tensors in their own types."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def read_model(path: Path) -> SourceModel:
    """Opens a dense model.

    Raises:
        InputError: it is no model, or compressed already.
        FormatError: a safetensors file is malformed.
        OSError: the system refuses.
    """
    path = _find(path)
    container.check_readable(path)
    if path.suffix == ".json":
        return _read_safetensors(path)
    kind = _kind_of(path)
    if kind == "unknown":
        raise InputError(f"{path}: is neither a safetensors file nor one of torch.save")
    return _stripped(_read_safetensors(path) if kind == "safetensors" else _read_torch(path))


def _find(path: Path) -> Path:
    """The file that holds the model of a folder."""
    if not path.is_dir():
        return path
    try:
        return container.find_model(path)
    except FileNotFoundError:
        found = sorted(path.glob("pytorch_model*.bin"))
        if len(found) > 1:
            raise InputError(
                f"{path}: holds a torch checkpoint of {len(found)} files; convert it to "
                "safetensors first (save_pretrained of transformers does)"
            ) from None
        if not found:
            raise
        return found[0]


def _kind_of(path: Path) -> str:
    """``safetensors``, ``torch`` or ``unknown``, by the first bytes."""
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(257)
        tar = file.read(5) == b"ustar"
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < 1 << 32:  # a longer header is none
        return "safetensors"
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return "torch" if tar or pickled or start[:4] == b"PK\3\4" else "unknown"


def is_safetensors(path: Path) -> bool:
    """Whether a file starts like one of safetensors."""
    return _kind_of(path) == "safetensors"


# ---- safetensors


def users_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file without what tersor keeps there."""
    return {key: text for key, text in metadata.items() if not key.startswith("tersor.")}


def _read_safetensors(path: Path) -> SourceModel:
    file = container.open(path)
    tensors = {t.name: t for t in (_from_view(view, path) for view in file.tensors.values())}
    stored = {name: view.compressed for name, view in file.tensors.items()}
    shards = file if isinstance(file, container.Sharded) else None
    return SourceModel(
        files=file.paths,
        tensors=tensors,
        metadata=users_metadata(file.metadata),
        aliases=alias_table.read_aliases(file.metadata, stored, path),
        shards=shards,
    )


def _from_view(view: container.TensorView, path: Path) -> SourceTensor:
    name, dtype, shape, nbytes = view.name, view.dtype, view.shape, view.dense_bytes
    if view.compressed:
        info = inspect_blob(view.bytes())
        name = name.removesuffix(SUFFIX)
        if not info.is_vector:
            raise InputError(
                f"{path}: already compressed: {name} is stored as a blob "
                "(tersor decompress makes it dense)"
            )
        # A coded vector of tersor.save stays as it is, and stands for 32-bit floats.
        dtype, shape, nbytes = "F32", info.shape, 4 * math.prod(info.shape)

    def stored() -> container.Tensor:
        return container.Tensor(view.dtype, view.shape, view.bytes())

    return SourceTensor(name, dtype, shape, nbytes, view.name, stored, view.release)


# ---- torch


def _read_torch(path: Path) -> SourceModel:
    torch = import_torch()
    notes: list[str] = []
    state = _state_of(_unpickle(torch, path), path, notes)
    from tersor.io.state_dict import DTYPES, check_storable, storage_key, to_file_tensor

    tensors: dict[str, SourceTensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[object, ...], str] = {}
    for name, value in sorted(state.items()):
        try:
            check_storable(value, name)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
        if value.numel() and (stored := first.setdefault(storage_key(value), name)) != name:
            aliases[name] = stored
            continue

        def read(value: Any = value, name: str = name) -> container.Tensor:
            return to_file_tensor(value, name)

        nbytes = value.numel() * value.element_size()
        dtype = DTYPES[value.dtype]
        tensors[name] = SourceTensor(name, dtype, tuple(value.shape), nbytes, name, read)
    return SourceModel((path,), tensors, {"format": "pt"}, aliases, tuple(notes))


def _unpickle(torch: Any, path: Path) -> Any:
    """What torch.save wrote; loaded with ``weights_only``, so that no code of it runs."""
    try:
        with path.open("rb") as file:
            archive = file.read(4) == b"PK\3\4"
            file.seek(0)
            # Only archives can be mapped, by their path; torch goes by one of this name itself.
            mapped = archive and path.suffix != ".safetensors"
            given = path if mapped else file
            return torch.load(given, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever the broken part raises
        text = str(error).strip()
        if found := re.search(r"GLOBAL (\S+)", text):
            reason = (
                f"it holds an object of {found[1]}, and loading that would run code: "
                "save model.state_dict() alone"
            )
        else:
            reason = (text.splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a state_dict that torch can load: {reason}") from error


def _is_state(value: Any) -> bool:
    """Whether a mapping goes from names to tensors, extra state of modules aside."""
    torch = import_torch()
    return (
        isinstance(value, Mapping)
        and any(isinstance(v, torch.Tensor) for v in value.values())
        and all(
            isinstance(k, str) and (isinstance(v, torch.Tensor) or k.endswith(_EXTRA_STATE))
            for k, v in value.items()
        )
    )


def _state_of(content: Any, path: Path, notes: list[str]) -> Mapping[str, Any]:
    """The state_dict in what was loaded, which may be a training checkpoint."""
    keys: list[str] = []
    while not _is_state(content):
        if not isinstance(content, Mapping):
            raise InputError(f"{path}: holds a {type(content).__name__} and no state_dict")
        inner = {k: v for k, v in content.items() if isinstance(v, Mapping) and _holds_state(v)}
        key = next((k for k in _STATE_KEYS if k in inner), None)
        if key is None and len(inner) == 1:
            key = next(iter(inner))
        if key is None:
            names = ", ".join(map(str, list(content)[:8])) or "nothing"
            several = f" ({len(inner)} of them could be)" if inner else ""
            raise InputError(f"{path}: holds no single state_dict{several}; it has: {names}")
        keys.append(str(key))
        left = ", ".join(str(k) for k in content if k != key)
        notes.append(f"read the state_dict under '{'.'.join(keys)}'")
        if left:
            notes[-1] += f"; left out: {left}"
        content = content[key]
    state: Mapping[str, Any] = content
    return state


def _holds_state(value: Any) -> bool:
    """Whether a state_dict stands here or, under one of its usual names, deeper."""
    if _is_state(value):
        return True
    return isinstance(value, Mapping) and any(_holds_state(value.get(k)) for k in _STATE_KEYS)


# ---- Names


def _wrappers_of(name: str) -> Iterator[str]:
    """The prefixes of a name that wrappers put there."""
    while prefix := next((p for p in _WRAPPERS if name.startswith(p)), None):
        yield prefix
        name = name.removeprefix(prefix)


def _stripped(model: SourceModel) -> SourceModel:
    """The model without the prefixes that DataParallel, DDP and torch.compile give all names."""
    names = [*model.tensors, *model.aliases]
    common: list[str] = []
    for prefixes in zip(*map(_wrappers_of, names), strict=False):
        if len(set(prefixes)) > 1:
            break
        common.append(prefixes[0])
    prefix = "".join(common)
    bare = {name: without_wrappers(name, prefix) for name in names}
    if all(new == old for old, new in bare.items()) or len(set(bare.values())) < len(names):
        return model
    what = f"'{prefix}'" if prefix else "'_orig_mod.'"
    return dataclasses.replace(
        model,
        tensors={
            bare[name]: dataclasses.replace(
                tensor,
                name=bare[name],
                stored_name=without_wrappers(tensor.stored_name, prefix),
            )
            for name, tensor in model.tensors.items()
        },
        aliases={bare[alias]: bare[target] for alias, target in model.aliases.items()},
        notes=(*model.notes, f"stripped {what} from the names of tensors"),
    )
