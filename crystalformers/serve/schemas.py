"""Bodies of the requests of the HTTP service, as its OpenAPI description shows them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Vector = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class Body(BaseModel):
    """A body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Atoms(Body):
    """A crystal as atoms and lattice."""

    symbols: list[str] = Field(min_length=1, description="Chemical symbol of each atom.")
    frac_coords: list[Vector] = Field(description="Fractional coordinates of each atom.")
    lattice: tuple[Vector, Vector, Vector] = Field(description="Lattice vectors as rows, Å.")


class StructureText(Body):
    """A structure: exactly one of text, base64 and atoms."""

    name: str = Field(
        "",
        max_length=1000,
        description="File name, by whose ending the format is known (.cif, POSCAR, .extxyz, .json, .gz...). Without "
        "one the format is guessed from the text.",
    )
    text: str | None = Field(None, description="Content of a structure file or table.")
    base64: str | None = Field(None, description="Bytes of a file, for those that are not text.")
    atoms: Atoms | None = Field(None, description="Atoms and lattice instead of a file.")

    @model_validator(mode="after")
    def _exactly_one(self) -> StructureText:
        if sum(given is not None for given in (self.text, self.base64, self.atoms)) != 1:
            raise ValueError("give exactly one of text, base64 and atoms")
        return self


EXAMPLE: dict[str, Any] = {
    "name": "CsCl.poscar",
    "text": "CsCl\n4.123\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n",
}
Structures = Annotated[list[StructureText], Field(min_length=1, description="One or more.", examples=[[EXAMPLE]])]


class PredictBody(Body):
    """What to predict."""

    structures: Structures
    coverage: float | None = Field(
        None, gt=0, lt=1, description="Share of crystals whose interval shall hold the true value. Default: 0.9."
    )
    atoms: bool = Field(False, description="Whether to give atoms and lattice of each structure as well.")


class EmbedBody(Body):
    """What to compute vectors of."""

    structures: Structures
    model: str | None = Field(None, description="One of those that /api/models lists. Default: the first.")
    per_atom: bool = Field(False, description="One vector per atom instead of one per crystal.")


class ExplainBody(Body):
    """Whose attention to show."""

    structure: StructureText = Field(examples=[EXAMPLE])
    model: str | None = Field(None, description="One of those that /api/models lists. Default: the first.")
    atom: int | None = Field(0, description="Atom, from 0; null for all.")
    block: int | None = Field(None, description="Block of the model, from 0; null for all.")
    threshold: float = Field(0.005, ge=1e-4, le=1, description="Smallest weight of an image that is listed.")


class SearchBody(Body):
    """Whose known neighbours to find."""

    structures: Structures
    count: int = Field(10, ge=1, le=100, description="Known crystals for each structure.")
