"""What a screen of a billion structures would take, extrapolated from measured parts.

`measure` screens a few thousand structures of a table and measures what does not come from `speed/screening.py`: bytes
read and written, and the time of all that one process does for every part. `table` computes docs/billion.md from both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, parser, shared, write_results
from benchmarks.pages import ComputedTable

STRUCTURES = 1_000_000_000
TABLE = ComputedTable("billion.md", "a billion structures", "billion.py")

CORES_OF_A_MACHINE = 64
MACHINES = 10
HOURS_BETWEEN_FAILURES = 10_000
PRICE = 0.04
"""Assumptions: machines rented, mean time between failures of one of them, and price of a core-hour."""

SMALL_PART = 8
"""Structures of a part where the cost of a part is measured."""


def measure(table: Path, structures: int) -> dict[str, Any]:
    """Screen some structures of a table; bytes, and CPU seconds of one process, which other work does not change."""
    import pyarrow.parquet as pq

    from crystalformers.screening import PART_SIZE, Resources, screen
    from crystalformers.screening.addresses import sha256
    from crystalformers.screening.engines import unfinished
    from crystalformers.screening.manifest import open_manifest, plan, read_manifest
    from crystalformers.screening.parts import check_files, done_path, read_done

    def seconds(task: Any, times: int = 1) -> float:
        begin = time.process_time()
        for _ in range(times):
            task()
        return (time.process_time() - begin) / times

    with tempfile.TemporaryDirectory() as scratch:
        folder, source = Path(scratch), Path(scratch) / "some.parquet"
        pq.write_table(pq.read_table(table)[:structures], source)
        found = screen([source], folder / "all", ["materials-project"], resources=Resources(workers=1))
        done = sorted((folder / "all" / "done").glob("*.json"))
        hashing = seconds(lambda: sha256(str(source)), 20)
        about = read_manifest(folder / "all").about
        fine = open_manifest(folder / "fine", about, [str(source)], SMALL_PART)
        parts = len(fine.parts)
        coarse_bytes = (folder / "all" / "manifest.json").stat().st_size
        fine_bytes = (folder / "fine" / "manifest.json").stat().st_size
        for index in range(parts):
            path = done_path(folder / "fine", index)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(done[0].read_bytes().replace(_identity(done[0]), fine.identity.encode()))
        manifest, one = read_manifest(folder / "all"), done_path(folder / "all", 0)
        rows = sum(path.stat().st_size for path in (folder / "all" / "predictions").glob("*.parquet"))
        return {
            "structures": found.structures,
            "part_size": PART_SIZE,
            "input_bytes": source.stat().st_size,
            "prediction_bytes": rows,
            "done_bytes": one.stat().st_size,
            "manifest_bytes_of_a_part": (fine_bytes - coarse_bytes) / (parts - len(manifest.parts)),
            "hashed_bytes_per_second": source.stat().st_size / hashing,
            "seconds_to_plan_a_part": seconds(lambda: plan(about, [str(source)], SMALL_PART)) / parts,
            "seconds_to_read_the_manifest_of_a_part": seconds(lambda: read_manifest(folder / "fine")) / parts,
            "seconds_to_look_at_a_part": seconds(lambda: unfinished(folder / "fine", range(parts)), 5) / parts,
            "seconds_to_read_what_is_done": seconds(
                lambda: [read_done(folder / "fine", index, fine) for index in range(parts)]
            )
            / parts,
            "seconds_to_check_a_part": seconds(
                lambda: check_files(folder / "all", read_done(folder / "all", 0, manifest)), 20
            ),
        }


def _identity(path: Path) -> bytes:
    return str(json.loads(path.read_bytes())["identity"]).encode()


def lines(measured: dict[str, Any], screening: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Quantity, value and how it follows, for `STRUCTURES`."""
    (run,) = [run for run in screening["runs"] if run["run"] == "2 at once"]
    rate = run["structures_per_second"] / run["workers"]
    core_hours = STRUCTURES / rate / 3600
    cores = MACHINES * CORES_OF_A_MACHINE
    hours = core_hours / cores
    parts = -(-STRUCTURES // measured["part_size"])
    share = STRUCTURES / measured["structures"]
    planning = share * measured["input_bytes"] / measured["hashed_bytes_per_second"] / 3600
    failures = MACHINES * hours / HOURS_BETWEEN_FAILURES
    lost = CORES_OF_A_MACHINE * measured["part_size"] / rate / 2 / 3600
    checking = parts * measured["seconds_to_check_a_part"] / 3600
    return [
        (
            "structures per second and core",
            f"{rate:.0f}",
            f"{screening['atoms'] / screening['structures']:.0f} atoms each on average",
        ),
        ("core-hours", f"{core_hours:,.0f}", "structures / rate"),
        (f"hours on {MACHINES} machines of {CORES_OF_A_MACHINE} cores", f"{hours:.1f}", "if all are busy to the end"),
        ("cost", f"{PRICE * core_hours:,.0f}", f"core-hours × {PRICE} per core-hour, an assumption"),
        ("bytes read", _bytes(share * measured["input_bytes"]), "twice: for the hash, and for the structures"),
        (
            "bytes written, all rows",
            _bytes(share * measured["prediction_bytes"]),
            "a condition that one row in a thousand fulfils leaves a thousandth",
        ),
        ("parts", f"{parts:,}", f"of {measured['part_size']:,} structures"),
        ("files written", f"{2 * parts:,}", "predictions and done, one of each for a part"),
        ("manifest", _bytes(parts * measured["manifest_bytes_of_a_part"]), "read by every process"),
        ("CPU hours to plan", f"{planning:.2g}", "one process hashes every input"),
        (
            "CPU seconds to read the manifest",
            f"{parts * measured['seconds_to_read_the_manifest_of_a_part']:.1f}",
            "in every process, at its start",
        ),
        (
            "CPU seconds to look what is done",
            f"{parts * measured['seconds_to_look_at_a_part']:.1f}",
            "on a local disk; asked for every second",
        ),
        ("CPU hours to check all files at the end", f"{checking:.2g}", "one process hashes all predictions"),
        (
            "failures of machines expected",
            f"{failures:.2g}",
            f"machine-hours / {HOURS_BETWEEN_FAILURES:,}, an assumption",
        ),
        ("core-hours lost by each failure", f"{lost:.2g}", "half a part on every core of the machine"),
    ]


def _bytes(number: float) -> str:
    return (
        f"{number / 1e12:.2f} TB"
        if number >= 1e12
        else f"{number / 1e9:.1f} GB"
        if number >= 1e9
        else f"{number / 1e6:.0f} MB"
    )


def table(results: Path = RESULTS) -> str:
    """The table of the page."""
    measured, screening = (
        json.loads((results / name).read_text(encoding="utf-8")) for name in ("billion.json", "screening-quiet.json")
    )
    rows = [("", "a billion structures", "how"), ("---",) * 3, *lines(measured, screening)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("task", choices=("measure", "table"))
    made.add_argument("--table", type=Path, default=shared() / "data" / "mp2025_structures_20k.parquet")
    made.add_argument("--structures", type=int, default=2048, help="first ones of the table")
    made.add_argument("--output", type=Path, default=RESULTS / "billion.json")
    return made.parse_args()


def main() -> None:
    given = options()
    if given.task == "measure":
        write_results(given.output, {"table": given.table.name, **measure(given.table, given.structures)}, "pyarrow")
    else:
        TABLE.write(table())


if __name__ == "__main__":
    main()
