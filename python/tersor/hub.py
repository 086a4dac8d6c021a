"""Compressed models on the Hugging Face hub, and in folders as it has them.

Source: ``PyTorchModelHubMixin`` of huggingface_hub, whose files these are: ``model.safetensors``,
``config.json`` with the arguments of the model's constructor, and a model card.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData, PyTorchModelHubMixin, hf_hub_download

from tersor.io.checkpoint import save
from tersor.io.load import load_model
from tersor.reporting.model_report import LayerReport, ModelReport, report

if TYPE_CHECKING:
    from typing_extensions import Self

_FILE = "model.safetensors"

_CARD = """\
---
{{ card_data }}
---

# {{ title }}

Compressed with tersor: {{ size }}.
{{ accuracy }}
```python
{{ usage }}
```

{{ table }}
"""


class TersorModel(PyTorchModelHubMixin, library_name="tersor", tags=["tersor", "quantized"]):
    """Saves, loads and pushes a compressed model; a base class beside ``nn.Module``.

    ::

        class MyNetwork(nn.Module, TersorModel):
            def __init__(self, width: int = 64): ...

        model = tersor.compress_(MyNetwork(width=32))
        model.save_pretrained("small", model_card_kwargs={"base_model": "me/my-network"})
        model = MyNetwork.from_pretrained("small")  # or push_to_hub(), and "me/small"

    ``config.json`` holds the arguments that the model was made with. The card says which bytes went
    where; ``model_card_kwargs`` adds what only its author knows: ``base_model`` (the dense model's
    name on the hub), ``accuracy`` (a mapping from a metric's name to its value, or pairs of dense
    and compressed ones), ``title``.
    """

    def _save_pretrained(self, save_directory: Path) -> None:
        save(self, Path(save_directory) / _FILE, metadata={"format": "pt"})  # type: ignore[arg-type]

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,
        **model_kwargs: Any,
    ) -> Self:
        """The model of a folder or of a repository; a file of dense weights makes a dense one.

        Raises:
            ValueError: another device than the CPU is asked for, or the file does not fit.
        """
        if str(map_location) != "cpu":
            raise ValueError(
                f"compressed layers run on the CPU; map_location is {map_location}: leave it out, "
                "or decompress the model and move that"
            )
        path: str | Path = Path(model_id) / _FILE
        if not Path(model_id).is_dir():
            path = hf_hub_download(
                repo_id=model_id,
                filename=_FILE,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
        model: Any = cls(**model_kwargs)
        loaded: Self = load_model(path, model, strict=strict).eval()  # type: ignore[assignment]
        return loaded

    def generate_model_card(
        self,
        *_: Any,
        base_model: str | None = None,
        accuracy: Mapping[str, Any] | None = None,
        title: str | None = None,
        **card: Any,
    ) -> ModelCard:
        """The card, from the layers as they are.

        Args:
            base_model: the name of the dense model on the hub.
            accuracy: by metric, its value, or the pair of the dense and the compressed model's.
            title: of the page; the name of the class by default.
            card: further fields of the card's head, as ``license`` or ``language``.
        """
        found = report(self)  # type: ignore[arg-type]
        known = self._hub_mixin_info.model_card_data.to_dict()
        data = ModelCardData(**{**known, **card})
        if base_model is not None:
            data.base_model = base_model
            data.base_model_relation = "quantized"  # type: ignore[attr-defined]
        name = type(self).__name__
        made: ModelCard = ModelCard.from_template(
            data,
            template_str=_CARD,
            title=title or name,
            size=_size(found),
            accuracy=_accuracy(accuracy or {}),
            usage=f'model = {name}.from_pretrained("FOLDER_OR_REPOSITORY")',
            table=_table(found),
        )
        return made


def _size(found: ModelReport) -> str:
    return f"{found.dense_bytes:,} → {found.stored_bytes:,} bytes ({found.ratio:.1f}×)"


def _accuracy(values: Mapping[str, Any]) -> str:
    """Lines of a list; none where nothing is known."""
    lines = [""] if values else []
    for name, value in values.items():
        pair = isinstance(value, (tuple, list))
        shown = f"{value[0]} dense, {value[1]} compressed" if pair else str(value)
        lines.append(f"- {name}: {shown}")
    return "\n".join([*lines, ""]) if lines else ""


def _table(found: ModelReport) -> str:
    """Layer by layer, as Markdown."""
    rows = [
        "| layer | type | weights | kept | bits a weight | bytes | ratio |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(_row(layer) for layer in found.layers),
    ]
    return "\n".join(rows)


def _row(layer: LayerReport) -> str:
    kept = "" if layer.density is None else f"{layer.density:.0%}"
    bits = "" if layer.bits is None else f"{layer.bits:.2f}"
    ratio = "" if layer.ratio is None else f"{layer.ratio:.1f}×"
    cells = (layer.name or "(model)", layer.kind, f"{layer.weights:,}", kept, bits)
    return f"| {' | '.join(cells)} | {layer.stored_bytes:,} | {ratio} |"
