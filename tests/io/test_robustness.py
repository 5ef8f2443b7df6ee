"""Structure files of other projects: each ends in the right structure or in an error that names what is wrong.

`robustness_outcomes.json` holds, for each structure (`file`, or `file#block` where a file holds several), formula and
number of atoms, or the phrase its error must contain. The structures were compared with gemmi and ASE, the errors
read one by one. After a deliberate change `python tests/test_robustness.py FOLDER` writes the table again for review.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from crystalformers.crystal import Crystal
from crystalformers.io import Rejected, formula, read_structures

OUTCOMES = Path(__file__).parent / "robustness_outcomes.json"
PHRASES = (
    "names no elements (VASP 4 format)",
    "is partially occupied",
    "is shared by several species",
    "Å apart",
    "the cell has no volume",
    "neither a pymatgen Structure",
    "no structure file beside the table",
)


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """What `read_structures` makes of every file of a folder."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for item in read_structures([path]):
            block = item.name.removeprefix(str(path)) if item.name.startswith(str(path)) else f"#{item.name}"
            found[path.relative_to(folder).as_posix() + block] = outcome(item, path)
    return found


def outcome(item: Crystal | Rejected, path: Path) -> dict[str, Any]:
    if isinstance(item, Rejected):
        assert item.reason.startswith(str(path)), item.reason
        assert item.reason.endswith("."), item.reason
        return {"error": next((phrase for phrase in PHRASES if phrase in item.reason), item.reason)}
    return {"formula": formula(item), "n_atoms": len(item)}


@pytest.mark.shared
def test_robustness_files(shared: Path) -> None:
    folder = shared / "data" / "robustness"
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = outcomes(folder)
    assert time.monotonic() - start < 60
    assert found == json.loads(OUTCOMES.read_text(encoding="utf-8"))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {name.split("#")[0] for name in found} == files
    assert len(files) == 194


@pytest.mark.shared
def test_cifs_agree_with_gemmi(shared: Path) -> None:
    gemmi = pytest.importorskip("gemmi")
    compared = 0
    for path in sorted((shared / "data" / "robustness").rglob("*.cif")):
        blocks = [block for block in gemmi.cif.read(str(path)) if block.find_loop("_atom_site_fract_x")]
        crystals = list(read_structures([path]))
        if len(blocks) != len(crystals):
            continue
        for block, crystal in zip(blocks, crystals, strict=True):
            if isinstance(crystal, Rejected) or "." in block.find_loop("_atom_site_fract_z"):
                continue  # gemmi does not know that 0 is the default of a coordinate
            structure = gemmi.make_small_structure_from_block(block)
            numbers = sorted(site.element.atomic_number for site in structure.get_all_unit_cell_sites())
            assert numbers == sorted(crystal.numbers), path
            assert crystal.volume == pytest.approx(structure.cell.volume, rel=1e-5), path
            compared += 1
    assert compared > 60


if __name__ == "__main__":
    table = outcomes(Path(sys.argv[1]))
    lines = [f"  {json.dumps(name)}: {json.dumps(entry, ensure_ascii=False)}" for name, entry in table.items()]
    OUTCOMES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
