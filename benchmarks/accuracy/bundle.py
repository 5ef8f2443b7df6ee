"""Put a finished run into the package as a bundled model, with the name and licence of its data on its card.

python -m benchmarks.accuracy.bundle runs/longer materials-project --data "mp36k" --licence "CC BY 4.0"
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import parser
from crystalformers import load_model, open_table
from crystalformers.checkpoint import Checkpoint, load_checkpoint, save_model
from crystalformers.prediction.bundled import FOLDER, WEIGHTS
from crystalformers.training import calibration
from crystalformers.training.joining import dataset_of


def bundle(
    run: Path,
    name: str,
    data: dict[str, str],
    *,
    half: bool = False,
    table: Path | None = None,
    most: int | None = None,
    member: int | None = None,
) -> Path:
    """Put the weights of a run into the package.

    Args:
        run: the finished run folder.
        name: that the bundled model will have.
        data: what the card is to say of the data, beside what it says: `name` and `licence`.
        half: round the weights to 16 bits, which halves the file.
        table: that the run was trained on; needed with `most`.
        most: store no more reference crystals than these, of all members together, for a smaller file; intervals and
            flags are learned anew.
        member: of an ensemble, the only member with reference crystals, from 0; default: all have some.

    Returns:
        The file in the package.
    """
    found = load_checkpoint(run / WEIGHTS)
    if most is not None:
        assert table is not None, "reference crystals are chosen from the table"
        found = with_fewer_references(found, run, table, most, member)
    card = {**found.card, "data": {**found.card["data"], **data}}
    path = FOLDER / f"{name}.safetensors"
    save_model(path, found.model.half() if half else found.model, found.targets, card, found.arrays)
    return path


def with_fewer_references(found: Checkpoint, run: Path, table: Path, most: int, member: int | None) -> Checkpoint:
    """The same weights with other reference crystals, and the intervals and flags that follow from them."""
    model, ids = load_model(run), json.loads((run / "splits.json").read_text(encoding="utf-8"))
    dataset = dataset_of(open_table(table), model.targets, ids)
    calibration.learn_doubt(model, dataset, found.card["recipe"]["seed"], most, None if member is None else [member])
    measured = calibration.measured_coverage(model, dataset, dataset.splits["test"])
    card = model.card | calibration.card_of(model, measured, found.card["calibrated_on"])
    others = {name: array for name, array in found.arrays.items() if not name.startswith("reference.")}
    return replace(found, card=card, arrays=others | calibration.arrays_of(model))


def main() -> None:
    """Read the command line."""
    options = parser(__doc__)
    options.add_argument("run", type=Path)
    options.add_argument("name")
    options.add_argument("--data", required=True, help="name of the data")
    options.add_argument("--licence", required=True, help="of the data")
    options.add_argument("--half", action="store_true", help="round the weights to 16 bits")
    options.add_argument("--reference", type=int, metavar="N", help="N reference crystals; needs --table")
    options.add_argument("--table", type=Path, help="that the run was trained on")
    options.add_argument("--reference-member", type=int, metavar="K", help="the only member with reference crystals")
    given = options.parse_args()
    data = {"name": given.data, "licence": given.licence}
    path = bundle(
        given.run,
        given.name,
        data,
        half=given.half,
        table=given.table,
        most=given.reference,
        member=given.reference_member,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
