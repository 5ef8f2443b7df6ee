"""The whole way of a published row on 20,000 real crystals: from a host to an error beside the published one.

    python -m benchmarks.accuracy.chain [--rows 20000] [--epochs 2]

JARVIS-DFT could not be fetched here. So the first rows of mp36k (Materials Project) are written in the form of its file
and served on this machine; from there on everything is what `crystalformers reproduce` does with the row
crystalformer/jarvis/formation-energy: download, conversion, the rule of the split, the recipe of the paper, with fewer
epochs and smaller batches. The data are not JARVIS's and the training is short: the error shows that the chain works,
not that the paper is reproduced.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from benchmarks.harness import RESULTS, parser, shared, write_results
from crystalformers import open_table
from crystalformers.cli.training_progress import terminal_observer
from crystalformers.data.sets import SETS, Store
from crystalformers.data.sets.entry import RemoteFile
from crystalformers.data.sets.sources import Files
from crystalformers.data.sets.splits import ShuffledSplit
from crystalformers.data.sets.store import ROOT_VARIABLE
from crystalformers.data.table import CrystalTable
from crystalformers.reproduction import find, plan, reproduce

ROW = "crystalformer/jarvis/formation-energy"
MEMBER = "jdft_3d-8-18-2021.json"


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--epochs", type=int, default=2)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--output", type=Path, default=RESULTS / "accuracy" / "chain.json")
    arguments = options.parse_args()
    table = open_table(shared() / "data" / "mp36k.parquet")
    changes = {"epochs": arguments.epochs, "average_epochs": 1, "batch_size": arguments.batch, "threads": 1}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ[ROOT_VARIABLE] = str(folder / "sets")
        write_jarvis(table, arguments.rows, folder / "served" / f"{MEMBER}.zip")
        with serving(folder / "served") as url:
            content = chain(url, arguments.rows, changes, folder / "runs")
    write_results(arguments.output, {"what": __doc__, **content})


def chain(url: str, rows: int, changes: dict[str, Any], output: Path) -> dict[str, Any]:
    """Fetch, convert, split, train, measure; what came out, and the seconds of each part."""
    row = find(ROW)
    entry = SETS[row.data]
    file = RemoteFile(f"{MEMBER}.zip", (f"{url}/{MEMBER}.zip",), "zip")
    SETS[row.data] = replace(entry, source=Files((file,)), rows=rows, splits=(ShuffledSplit(),))
    began = time.monotonic()
    about = Store().get(SETS[row.data])
    fetched = time.monotonic()
    result = reproduce(row, plan(row, 1, changes), output, observer=terminal_observer())
    seconds = {"fetch, convert and split": fetched - began, "train and test": time.monotonic() - fetched}
    facts = {name: value for name, value in asdict(result).items() if name != "environment"}
    return {
        **facts,
        "data": f"the first {rows} rows of mp36k.parquet in the form of {MEMBER}",
        "rows": {part: found["rows"] for part, found in about["splits"]["split"].items()},
        "split_sha256": {part: found["sha256"] for part, found in about["splits"]["split"].items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def write_jarvis(table: CrystalTable, rows: int, path: Path) -> None:
    """The first rows of a table as a zip of JARVIS's JSON array."""
    energy, gap = table.labels("formation_energy_per_atom"), table.labels("band_gap")
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(MEMBER, "w") as file:
        for k in range(rows):
            crystal = table[k]
            atoms = {
                "lattice_mat": crystal.lattice.tolist(),
                "coords": crystal.frac_coords.tolist(),
                "elements": crystal.symbols,
                "cartesian": False,
            }
            labels = {"formation_energy_peratom": float(energy[k]), "optb88vdw_bandgap": float(gap[k])}
            entry = {"jid": table.ids[k], **labels, "ehull": "na", "atoms": atoms}
            file.write(((",\n" if k else "[") + json.dumps(entry)).encode())
        file.write(b"]")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a folder while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
