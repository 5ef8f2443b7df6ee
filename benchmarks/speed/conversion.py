"""Time and memory of turning a file of the size of OQMD into a table: its true form and number of rows, other content.

    python -m benchmarks.speed.conversion [--scratch FOLDER]

The structures of some tables, repeated with a random strain each, are written in the form of OQMD's file, as many as
it has; a fresh process takes the file, converts it and draws the split, whose hash stands beside the published one: it
depends on nothing but the number of rows. Labels are random. Memory is the largest resident memory of that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import RESULTS, ROOT, parser, shared, write_results
from benchmarks.speed.screening import TABLES, strained
from crystalformers.data.sets import SETS
from crystalformers.periodic import SYMBOLS

NAME, MEMBER = "oqmd-2021", "all_oqmd.json"
COLUMNS = ["atomic_numbers", "lattice", "frac_coords"]

PROGRAM = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from benchmarks.harness import peak_memory
from crystalformers.data.sets import SETS, Store
from crystalformers.data.sets.entry import Request

folder, rows = Path(sys.argv[1]), int(sys.argv[2])
entry = replace(SETS["oqmd-2021"], rows=rows, splits=SETS["oqmd-2021"].splits[:1])
begin = time.perf_counter()
about = Store(folder / "sets").get(entry, Request(folder, given=(folder / "all_oqmd.json.zip",)))
seconds = time.perf_counter() - begin
print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory(), "rows": about["rows"], "splits": about["splits"]}))
"""


def write_source(path: Path, rows: int, seed: int) -> None:
    """Write so many rows in the form of OQMD's file."""
    sources = [pq.read_table(shared() / "data" / f"{name}.parquet", columns=COLUMNS) for name in TABLES]
    rng, done = np.random.default_rng(seed), 0
    table = pa.concat_tables([source.cast(sources[0].schema) for source in sources])
    table = table.take(pa.array(rng.permutation(len(table))))
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(MEMBER, "w", force_zip64=True) as file,
    ):
        while done < rows:
            part = strained(table, rng).slice(0, rows - done)
            for numbers, lattice, positions in zip(*(part[name].to_pylist() for name in COLUMNS), strict=True):
                atoms = {
                    "lattice_mat": np.reshape(lattice, (3, 3)).tolist(),
                    "coords": np.reshape(positions, (-1, 3)).tolist(),
                    "elements": [f"{SYMBOLS[z - 1]} " for z in numbers],
                    "cartesian": False,
                }
                energy, gap, hull = rng.normal(size=3).tolist()
                labels = {"_oqmd_delta_e": energy, "_oqmd_band_gap": abs(gap), "_oqmd_stability": hull}
                row = {"_oqmd_entry_id": done, **labels, "atoms": atoms}
                file.write(((",\n" if done else "[") + json.dumps(row)).encode())
                done += 1
        file.write(b"]")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=SETS[NAME].rows)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--scratch", type=Path, help="where a temporary folder is made")
    options.add_argument("--output", type=Path, default=RESULTS / "conversion.json")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        source = Path(name) / f"{MEMBER}.zip"
        write_source(source, given.rows, given.seed)
        content = {"form": NAME, "seed": given.seed, "source_bytes": source.stat().st_size}
        command = [sys.executable, "-c", PROGRAM, name, str(given.rows)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        content |= json.loads(done.stdout)
        content["table_bytes"] = (Path(name) / "sets" / NAME / "table.parquet").stat().st_size
    write_results(given.output, content, "pyarrow")
    print(f"{content['rows']} rows in {content['seconds']:.0f} s, at most {content['peak_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
