"""Put a finished run into the package as a bundled model, with the name and licence of its data on its card.

python -m benchmarks.accuracy.bundle runs/longer materials-project --data "mp36k" --licence "CC BY 4.0"
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import parser
from crystalformers.checkpoint import load_checkpoint, save_model
from crystalformers.prediction.bundled import FOLDER, WEIGHTS


def bundle(run: Path, name: str, data: dict[str, str], *, half: bool = False) -> Path:
    """Copy the weights of a run into the package.

    Args:
        run: the finished run folder.
        name: that the bundled model will have.
        data: what the card is to say of the data, beside what it says: `name` and `licence`.
        half: round the weights to 16 bits, which halves the file.

    Returns:
        The file in the package.
    """
    found = load_checkpoint(run / WEIGHTS)
    card = {**found.card, "data": {**found.card["data"], **data}}
    path = FOLDER / f"{name}.safetensors"
    save_model(path, found.model.half() if half else found.model, found.targets, card, found.arrays)
    return path


def main() -> None:
    """Read the command line."""
    options = parser(__doc__)
    options.add_argument("run", type=Path)
    options.add_argument("name")
    options.add_argument("--data", required=True, help="name of the data")
    options.add_argument("--licence", required=True, help="of the data")
    options.add_argument("--half", action="store_true", help="round the weights to 16 bits")
    given = options.parse_args()
    path = bundle(given.run, given.name, {"name": given.data, "licence": given.licence}, half=given.half)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
