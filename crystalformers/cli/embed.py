"""`crystalformers embed`: structure files in, the vectors that a trained model computes for them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalformers.cli.options import Device, Files, OneModel, Overwrite, Species, Threads, Tolerance, set_up, symbols
from crystalformers.cli.output import check_output, complain, write_parquet
from crystalformers.cli.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from crystalformers.crystal import Crystal
    from crystalformers.io import Rejected
    from crystalformers.prediction.model import Model


def embed_command(
    files: Files,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write.")],
    model: OneModel = None,
    per_atom: Annotated[bool, typer.Option("--per-atom", help="One row per atom, not one per crystal.")] = False,
    species: Species = "",
    device: Device = None,
    threads: Threads = None,
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

    loaded = load_model(model, set_up(device, threads), tolerance)
    rejected: list[Rejected] = []
    schema = _schema(loaded, per_atom=per_atom)
    write_parquet(output, schema, _tables(loaded, files, symbols(species), schema, rejected))
    complain(rejected)


def _schema(model: Model, *, per_atom: bool) -> pa.Schema:
    """Columns of the file, with the model in the metadata."""
    import pyarrow as pa

    atom = {"atom": pa.int64(), "symbol": pa.string()}
    crystal = {"formula": pa.string(), "n_atoms": pa.int64()}
    fields = {"id": pa.string(), **(atom if per_atom else crystal), "vector": pa.list_(pa.float32(), model.dim)}
    metadata = {"model": model.name, "sha256": model.fingerprint, "tolerance": str(model.tolerance)}
    return pa.schema(fields, metadata=metadata)


def _tables(
    model: Model, files: Sequence[Path], species: Sequence[str], schema: pa.Schema, rejected: list[Rejected]
) -> Iterator[pa.Table]:
    """The rows of one window after the other; structures that cannot be used are added to `rejected`."""
    from crystalformers.crystal import Crystal
    from crystalformers.io import count_structures, read_structures
    from crystalformers.prediction.batching import windows
    from crystalformers.prediction.predictor import WINDOW

    with progress("embedding", count_structures(files)) as advance:
        for window in windows(read_structures(files, species), WINDOW):
            crystals = [row for row in window if isinstance(row, Crystal)]
            rejected.extend(row for row in window if not isinstance(row, Crystal))
            advance(len(window) - len(crystals))
            if crystals:
                yield _rows(crystals, model.atom_vectors(crystals, advance), schema)


def _rows(crystals: Sequence[Crystal], vectors: Sequence[NDArray[np.float32]], schema: pa.Schema) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from crystalformers.io import formula

    columns: dict[str, Any]
    if "atom" in schema.names:
        columns = {
            "id": [crystal.name for crystal in crystals for _ in crystal.numbers],
            "atom": [atom for crystal in crystals for atom in range(len(crystal))],
            "symbol": [symbol for crystal in crystals for symbol in crystal.symbols],
        }
        rows = np.concatenate(vectors)
    else:
        columns = {
            "id": [crystal.name for crystal in crystals],
            "formula": [formula(crystal) for crystal in crystals],
            "n_atoms": [len(crystal) for crystal in crystals],
        }
        rows = np.stack([atoms.mean(axis=0) for atoms in vectors])
    columns["vector"] = pa.FixedSizeListArray.from_arrays(rows.reshape(-1), rows.shape[1])
    return pa.table(columns, schema=schema)
