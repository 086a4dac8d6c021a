"""What a file says of each compressed tensor beside its blob: dtype, precision, activation.

The text stands in the metadata under ``tersor.layers``: a JSON object by tensor name (that of the
dense tensor), whose members are the fields of :class:`LayerRecord` that differ from their defaults.
The name ``*`` holds the fields of all tensors that do not have their own.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tersor._core import FormatError
from tersor.config import PRECISIONS

KEY = "tersor.layers"
"""The key of the file's metadata."""

_ALL = "*"

ACTIVATIONS = ("none", "relu", "relu6", "gelu", "silu")
"""That can be fused into a layer."""


@dataclass(frozen=True)
class LayerRecord:
    """What is known of a compressed tensor beside its blob.

    Attributes:
        dtype: of the dense tensor, as safetensors names it.
        precision: class of arithmetic: ``highest``, ``high``, ``medium`` or ``low``.
        activation: fused into the layer: ``none``, ``relu``, ``relu6``, ``gelu`` or ``silu``.
    """

    dtype: str = "F32"
    precision: str = "high"
    activation: str = "none"


_FIELDS = [field.name for field in dataclasses.fields(LayerRecord)]
_DEFAULT = LayerRecord()


def write_records(records: Mapping[str, LayerRecord]) -> dict[str, str]:
    """The entry of a file's metadata; empty where all records have default values."""
    if not records:
        return {}
    shared = {
        field: Counter(getattr(record, field) for record in records.values()).most_common(1)[0][0]
        for field in _FIELDS
    }
    common = LayerRecord(**shared)

    def differences(record: LayerRecord, base: LayerRecord) -> dict[str, str]:
        return {
            field: getattr(record, field)
            for field in _FIELDS
            if getattr(record, field) != getattr(base, field)
        }

    entries = {name: differences(record, common) for name, record in sorted(records.items())}
    entries = {name: entry for name, entry in entries.items() if entry}
    if for_all := differences(common, _DEFAULT):
        entries = {_ALL: for_all, **entries}
    return {KEY: json.dumps(entries, separators=(",", ":"))} if entries else {}


def read_records(metadata: Mapping[str, str], path: object) -> RecordTable:
    """The records of a file, from its metadata.

    Raises:
        FormatError: the entry is malformed; the message has the path.
    """
    try:
        entries = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: metadata '{KEY}': {error}") from None
    if not isinstance(entries, dict):
        raise FormatError(f"{path}: metadata '{KEY}' is not an object")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not all(isinstance(v, str) for v in entry.values()):
            raise FormatError(f"{path}: metadata '{KEY}': the record of '{name}' is malformed")
        for field, allowed in (("precision", PRECISIONS), ("activation", ACTIVATIONS)):
            if (value := entry.get(field)) is not None and value not in allowed:
                raise FormatError(
                    f"{path}: metadata '{KEY}': {field} '{value}' of '{name}' is none of "
                    f"{', '.join(allowed)}: the file may be of a newer version"
                )
    return RecordTable(entries)


@dataclass(frozen=True)
class RecordTable:
    """The records of a file by tensor name."""

    entries: Mapping[str, Mapping[str, str]]

    def of(self, name: str) -> LayerRecord:
        """The record of a tensor (its dense name); unknown fields are left out."""
        known = {**self.entries.get(_ALL, {}), **self.entries.get(name, {})}
        return LayerRecord(**{field: known[field] for field in _FIELDS if field in known})

    def renamed(self, names: Mapping[str, str]) -> RecordTable:
        """The same with other names of tensors; those that do not occur stay."""
        return RecordTable({names.get(name, name): entry for name, entry in self.entries.items()})
