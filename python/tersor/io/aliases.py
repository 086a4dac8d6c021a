"""Tensors that a model holds under several names: stored once, the other names in the metadata.

The text stands under ``tersor.aliases``: a JSON object of further names by the one that is stored.
Of a compressed layer both names end as its blob's does.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from tersor._core import FormatError
from tersor.codec.blob import SUFFIX

KEY = "tersor.aliases"
"""The key of the file's metadata."""


def write_aliases(aliases: Mapping[str, str], blobs: Collection[str] = ()) -> dict[str, str]:
    """The entry of a file's metadata; empty where there are no aliases.

    Args:
        aliases: the stored name by the further one, both of dense tensors.
        blobs: dense names of the stored tensors that are blobs of layers.
    """
    if not aliases:
        return {}
    named = {
        alias + SUFFIX if target in blobs else alias: target + SUFFIX if target in blobs else target
        for alias, target in aliases.items()
    }
    return {KEY: json.dumps(named, sort_keys=True)}


def read_aliases(
    metadata: Mapping[str, str], stored: Mapping[str, bool], path: object
) -> dict[str, str]:
    """The stored name by the further one, both of dense tensors (no ``_blob``).

    Args:
        metadata: of the file.
        stored: by the name of each tensor in the file, whether it is a blob.
        path: for messages.

    Raises:
        FormatError: the entry is malformed, or names a tensor that is not there.
    """
    try:
        entries = json.loads(metadata.get(KEY, "{}"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: metadata '{KEY}': {error}") from None
    if not isinstance(entries, dict):
        raise FormatError(f"{path}: metadata '{KEY}' is not an object")
    dense = {name.removesuffix(SUFFIX) if blob else name for name, blob in stored.items()}
    aliases: dict[str, str] = {}
    for alias, target in entries.items():
        if not isinstance(target, str):
            raise FormatError(f"{path}: metadata '{KEY}': '{alias}' is not the name of a tensor")
        if stored.get(target):
            alias, target = alias.removesuffix(SUFFIX), target.removesuffix(SUFFIX)
        if target not in dense or alias in dense:
            raise FormatError(f"{path}: '{alias}' stands for '{target}', which is not there")
        aliases[alias] = target
    return aliases
