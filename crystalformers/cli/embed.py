"""`crystalformers embed`: structure files in, the vectors that a trained model computes for them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalformers.cli.options import Device, Files, Overwrite, Species, Tolerance, symbols
from crystalformers.cli.output import check_output, complain, write_parquet
from crystalformers.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from crystalformers.crystal import Crystal
    from crystalformers.io import Rejected
    from crystalformers.prediction.model import Model

    Vectors = NDArray[np.float32]


def embed_command(
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Bundled name, run folder or weight file. Default: the bundled model, if there is only one.",
            show_default=False,
        ),
    ] = None,
    per_atom: Annotated[bool, typer.Option("--per-atom", help="One row per atom, not one per crystal.")] = False,
    species: Species = "",
    device: Device = "cpu",
    tolerance: Tolerance = 1e-7,
    overwrite: Overwrite = False,
) -> None:
    """Write the vectors that a model computes for structures.

    They are taken before its property head, and are float32 numbers without unit: one row per crystal (id,
    formula, n_atoms, vector: the mean over its atoms), or with --per-atom one row per atom (id, atom, symbol,
    vector). Structures that cannot be used are left out and listed on stderr, and the exit code is 1.
    """
    check_output(output, [".parquet"], overwrite=overwrite)

    from crystalformers.prediction.loading import load_model

    loaded = load_model(model, device, tolerance)
    rejected: list[Rejected] = []
    schema = vector_schema(loaded, per_atom=per_atom)
    write_parquet(output, schema, _tables(loaded, files, symbols(species), schema, rejected))
    complain(rejected)


def vector_schema(model: Model, *, per_atom: bool) -> pa.Schema:
    """Columns of the file, with the model in the metadata."""
    import pyarrow as pa

    fields = (
        [("id", pa.string()), ("atom", pa.int64()), ("symbol", pa.string())]
        if per_atom
        else [("id", pa.string()), ("formula", pa.string()), ("n_atoms", pa.int64())]
    )
    metadata = {"model": model.name, "sha256": model.fingerprint, "tolerance": str(model.tolerance)}
    return pa.schema([*fields, ("vector", pa.list_(pa.float32(), model.dim))], metadata=metadata)


def _tables(
    model: Model, files: Sequence[Path], species: Sequence[str], schema: pa.Schema, rejected: list[Rejected]
) -> Iterator[pa.Table]:
    """The rows of one window after the other; structures that cannot be used are added to `rejected`."""
    from crystalformers.crystal import Crystal
    from crystalformers.io import count_structures, read_structures
    from crystalformers.prediction.batching import windows
    from crystalformers.prediction.model import WINDOW

    rows = _crystal_rows if "formula" in schema.names else _atom_rows
    with progress("embedding", count_structures(files)) as advance:
        for window in windows(read_structures(files, species), WINDOW):
            crystals = [row for row in window if isinstance(row, Crystal)]
            rejected.extend(row for row in window if not isinstance(row, Crystal))
            advance(len(window) - len(crystals))
            if crystals:
                yield rows(crystals, model.atom_vectors(crystals, advance), schema)


def _crystal_rows(crystals: Sequence[Crystal], vectors: Sequence[Vectors], schema: pa.Schema) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from crystalformers.io import formula

    columns = [
        pa.array([crystal.name for crystal in crystals]),
        pa.array([formula(crystal) for crystal in crystals]),
        pa.array([len(crystal) for crystal in crystals]),
        _vector_column(np.stack([atoms.mean(axis=0) for atoms in vectors])),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _atom_rows(crystals: Sequence[Crystal], vectors: Sequence[Vectors], schema: pa.Schema) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    columns = [
        pa.array([crystal.name for crystal in crystals for _ in crystal.numbers]),
        pa.array([atom for crystal in crystals for atom in range(len(crystal))]),
        pa.array([symbol for crystal in crystals for symbol in crystal.symbols]),
        _vector_column(np.concatenate(vectors)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _vector_column(vectors: Vectors) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
