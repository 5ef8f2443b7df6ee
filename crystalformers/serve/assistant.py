"""The models as tools of an AI assistant, by the Model Context Protocol.

A structure is the text of a file. Errors are the sentences of the library, which an assistant can act on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, ParamSpec

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from crystalformers import __version__
from crystalformers.errors import CrystalformersError
from crystalformers.serve import elements
from crystalformers.serve.reading import Allowance
from crystalformers.serve.schemas import StructureText
from crystalformers.serve.service import Service, the_only
from crystalformers.serve.work import Explain, Predict, Result, Search, Work

INSTRUCTIONS = """Predictions of properties of crystals by trained Transformer models.

Give structures as text: CIF, POSCAR, extended XYZ, or JSON of pymatgen or ASE. Report every value with its unit and its
interval (`low` to `high`). A `flag` says why a crystal is unlike the training data; such predictions, and their
intervals, cannot be relied on. `list_models` gives the measured errors."""

P = ParamSpec("P")
Text = Annotated[
    str, Field(description="Text of one structure file: CIF, POSCAR, extended XYZ, JSON.", max_length=4_000_000)
]
FileName = Annotated[
    str,
    Field(description="File name, by whose ending the format is known; without one it is guessed.", max_length=1000),
]
Table = Annotated[str, Field(description="Bundled table of element vectors.")]
Count = Annotated[int, Field(ge=1, le=100, description="How many to list.")]


def create_server(service: Service) -> MCPServer:
    """The server with its tools.

    Args:
        service: the models.
    """
    server = MCPServer("crystalformers", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING")

    def results(structure: str, name: str, work: Work, *, single: bool = False) -> list[Result]:
        given = StructureText(name=name, text=structure, base64=None, atoms=None)
        [structures] = service.read([given], Allowance(service.limits))
        if single:
            the_only(structures)
        return service.submit(work, structures).result(service.limits.seconds)

    @_tool(server)
    def list_models() -> dict[str, Any]:
        """List the models: predicted properties with units, training data, known elements, errors on test crystals."""
        return {"models": service.about_models()}

    @_tool(server)
    def predict(structure: Text, name: FileName = "") -> dict[str, Any]:
        """Predict the properties of a crystal. `units` has the unit of each value; energies per atom are in eV/atom.

        Each row has `values`, and, where known, the 90 % interval from `low` to `high`, `distance_percentile` (how many
        percent of held-out crystals are nearer to the training crystals) and `flag` (why it is unlike them).
        """
        rows = results(structure, name, Predict(service.models, service.settings(None)))
        return {**service.about_predictions(None), "rows": rows}

    @_tool(server)
    def interval(
        structure: Text,
        coverage: Annotated[float, Field(gt=0, lt=1, description="Share of crystals whose interval holds the truth.")],
        name: FileName = "",
    ) -> dict[str, Any]:
        """Predict with intervals of another coverage than 90 %. Units as of predict."""
        rows = results(structure, name, Predict(service.models, service.settings(coverage)))
        return {**service.about_predictions(coverage), "rows": rows}

    @_tool(server)
    def explain(
        structure: Text,
        atom: Annotated[int, Field(ge=0, description="Atom of the structure, counted from 0.")],
        block: Annotated[int | None, Field(ge=0, description="Block of the model, from 0; all by default.")] = None,
        threshold: Annotated[float, Field(gt=0, le=1, description="Smallest weight that is listed.")] = 0.05,
        model: Annotated[str | None, Field(description="Model; the first by default.")] = None,
        name: FileName = "",
    ) -> dict[str, Any]:
        """List the periodic images that an atom attends to: weights by block and head, distances and vectors in Å.

        The weights of an atom, block and head add up to 1. They show what a model attends to, not how it uses it.
        """
        work = Explain(service.model(model), atom, block, threshold, service.limits.explained_images)
        [found] = results(structure, name, work, single=True)
        return found

    @_tool(server)
    def nearest_elements(
        element: Annotated[str, Field(description="Chemical symbol.", max_length=3)],
        count: Count = 10,
        table: Table = elements.DEFAULT,
    ) -> dict[str, Any]:
        """List the elements most similar to one by learned vectors (`cosine`, -1 to 1), and possible substitutes.

        `substitutes` share a common oxidation state with the element.
        """
        return elements.neighbours(element, elements.bundled(table), count)

    @_tool(server)
    def substitutions(
        formula: Annotated[str, Field(description="Such as LiFePO4.", max_length=100)],
        count: Count = 10,
        table: Table = elements.DEFAULT,
    ) -> dict[str, Any]:
        """List formulas with one element replaced by a similar one in the same oxidation state, most similar first."""
        return elements.substituted(formula, elements.bundled(table), count)

    if (index := service.index) is not None:

        @_tool(server)
        def nearest_crystals(structure: Text, name: FileName = "", count: Count = 10) -> dict[str, Any]:
            """List the known crystals most like a structure, nearest first, with what the model predicts for them.

            `distance` is between the vectors of the model and has no unit. Units of the properties as of predict.
            """
            [found] = results(structure, name, Search(index, count), single=True)
            return {"nearest": found["nearest"]}

    return server


def _tool(server: MCPServer) -> Callable[[Callable[P, dict[str, Any]]], Callable[P, dict[str, Any]]]:
    """Register a function as a tool; errors that a user can act on, also of a single structure, become its answer."""

    def register(function: Callable[P, dict[str, Any]]) -> Callable[P, dict[str, Any]]:
        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
            try:
                found = function(*args, **kwargs)
            except CrystalformersError as error:
                raise ToolError(str(error)) from None
            except TimeoutError:
                raise ToolError("The computation took too long; give a smaller structure.") from None
            rows = found.get("rows", [found])
            if len(rows) == 1 and "error" in rows[0]:
                raise ToolError(rows[0]["error"])
            return found

        server.add_tool(called)
        return called

    return register
