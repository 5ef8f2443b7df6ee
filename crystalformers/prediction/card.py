"""What predictions read from the card of a model. A card may come from anyone, so its types are checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt, TypeAdapter, ValidationError

from crystalformers.errors import CheckpointError
from crystalformers.periodic import NUMBER_OF


def _symbol(text: str) -> str:
    if text not in NUMBER_OF:
        raise ValueError(f"'{text[:20]}' is not the symbol of an element")
    return text


ElementCounts = dict[Annotated[str, AfterValidator(_symbol)], NonNegativeInt]
"""The entry `element_counts`: training crystals that hold each element, by symbol."""


def read_card(card: Mapping[str, Any], name: str, kind: Any) -> Any:
    """An entry of a card, None where there is none.

    Args:
        card: of a weight file.
        name: of the entry.
        kind: type that it must have, as pydantic takes it; it may be None.

    Raises:
        CheckpointError: naming the entry, the place in it and what is wrong.
    """
    try:
        return _adapter(kind).validate_python(card.get(name))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (name, *first["loc"]))
        raise CheckpointError(f"the card of the model cannot be used ({place}: {first['msg']})") from None


@lru_cache(maxsize=16)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
