"""Element vectors for matgl's MEGNet, M3GNet, CHGNet and TensorNet, which order elements in their own way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from crystalformers.elements.table import HEADER_KEY, ElementTable, Fill, read_header
from crystalformers.errors import ConfigError
from crystalformers.periodic import ELEMENTS, NUMBER_OF

KIND = "matgl node embedding"
WEIGHT = "embedding.layer_node_embedding.weight"
LEFT_OUT = frozenset("Po At Rn Fr Ra".split())
SYMBOLS = tuple(symbol for symbol in ELEMENTS[:94] if symbol not in LEFT_OUT)
"""Default elements of matgl's models, in the order of their rows."""

NUMBERS = tuple(NUMBER_OF[symbol] for symbol in SYMBOLS)

LAYERS = ("embedding.layer_node_embedding", "tensor_embedding.emb")
"""The layer with the element vectors: of MEGNet, M3GNet and CHGNet; of TensorNet."""


def write(table: ElementTable) -> bytes:
    """Content of a safetensors file with one tensor, named as in a matgl model; one row for each of `NUMBERS`."""
    from safetensors.numpy import save

    header = {"kind": KIND, "name": table.name, "metadata": table.metadata, "element_types": SYMBOLS}
    return save({WEIGHT: table.rows(NUMBERS)}, {HEADER_KEY: json.dumps(header, sort_keys=True)})


def read(path: Path) -> ElementTable:
    """The table of a file written by `write`, without the elements that were filled in."""
    from safetensors import safe_open

    header = read_header(path)
    with safe_open(path, "numpy") as file:
        vectors = dict(zip(header["element_types"], file.get_tensor(WEIGHT), strict=True))
    filled = set(header["metadata"].get("filled", ()))
    own = {symbol: vector for symbol, vector in vectors.items() if symbol not in filled}
    return ElementTable.of(header["name"], own, header["metadata"])


def into_matgl(model: Any, table: ElementTable, *, trainable: bool = True, fill: Fill = "raise") -> None:
    """Copy the vectors of a table into a matgl model, in the order of its `element_types`.

    Args:
        model: matgl's MEGNet, M3GNet, CHGNet or TensorNet.
        table: as wide as the model's node embedding (`table.reduced(16)` for a default MEGNet).
        trainable: whether training may change the vectors.
        fill: what to use for elements that the table lacks.

    Raises:
        ConfigError: if the model has no layer of element vectors or the widths differ.
        TableError: naming the missing elements, if `fill` is `raise`.
    """
    import torch

    layer = next((found for path in LAYERS if (found := _attribute(model, path)) is not None), None)
    if not isinstance(layer, torch.nn.Embedding):
        problem = f"{type(model).__name__} has none of the layers {', '.join(LAYERS)}"
        raise ConfigError(problem, remedy="pass a matgl model")
    if layer.embedding_dim != table.dim:
        width = layer.embedding_dim
        raise ConfigError(
            f"vectors of width {table.dim} do not fit the model's {width}",
            where=table.name,
            remedy=f"reduce the table (table.reduced({width})) or build the model {table.dim} wide",
        )
    numbers = [NUMBER_OF[symbol] for symbol in model.element_types]
    vectors = table.completed(numbers, fill).rows(numbers)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(vectors))
    layer.weight.requires_grad_(trainable)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
