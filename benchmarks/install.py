"""A fresh installation from a folder of wheels: seconds until the first prediction, megabytes, packages.

A wheel of this checkout is built, and what it needs is downloaded, unmeasured, unless a folder has it already.
Then each installation gets a virtual environment of its own without access to the network.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import RESULTS, ROOT, parser, print_table, write_results

INSTALLATIONS = {"without extras": "", "all": "[all]"}

STEPS = ("environment", "install", "first_prediction")

LIST = """
import json, os, re
from importlib.metadata import distributions

found = {}
for one in distributions():
    size = sum(os.path.getsize(path) for path in map(one.locate_file, one.files or []) if os.path.isfile(path))
    found[one.name] = {"version": one.version, "bytes": size, "requires": one.requires or []}
print(json.dumps(found))
"""


class Seconds(NamedTuple):
    """Of a command: by the clock, and of all cores that it used, which other work does not change."""

    clock: float
    cpu: float


def timed(*command: str | Path, folder: Path = ROOT) -> Seconds:
    """Seconds of a command that must succeed."""
    begin, before = time.perf_counter(), os.times()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Seconds(time.perf_counter() - begin, cpu)


def disk_bytes(folder: Path) -> int:
    """Disk space of a folder, as `du` counts it: whole blocks, compiled bytecode included."""
    return sum(512 * path.lstat().st_blocks for path in folder.rglob("*"))


def installation(requirement: str, wheelhouse: Path, scratch: Path) -> dict[str, Any]:
    """Install into a new environment and predict."""
    environment = scratch / "environment"
    seconds = {"environment": timed(sys.executable, "-m", "venv", environment)}
    python = environment / "bin" / "python"
    empty = disk_bytes(environment)
    install = (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--find-links", wheelhouse)
    seconds["install"] = timed(*install, requirement)
    command = (environment / "bin" / "crystalformers", "predict", ROOT / "examples" / "NaCl.cif")
    seconds["first_prediction"] = timed(*command, folder=scratch)
    seconds["second_prediction"] = timed(*command, folder=scratch)
    listed = subprocess.run([python, "-c", LIST], capture_output=True, text=True, check=True)
    packages = {name: one for name, one in json.loads(listed.stdout).items() if name not in ("pip", "setuptools")}
    return {
        **{
            f"{kind}_seconds": {step: getattr(took, kind) for step, took in seconds.items()} for kind in Seconds._fields
        },
        "disk_bytes": disk_bytes(environment) - empty,
        "packages": dict(sorted(packages.items(), key=lambda item: -item[1]["bytes"])),
    }


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--wheelhouse", type=Path, help="folder of wheels; default: temporary")
    made.add_argument("--installation", action="append", choices=INSTALLATIONS, help="repeatable; default: each")
    made.add_argument("--offline", action="store_true", help="the folder of wheels has all that is needed")
    made.add_argument("--wheel", type=Path, help="of this library; default: built here")
    made.add_argument("--output", type=Path, default=RESULTS / "install.json")
    return made.parse_args()


def main() -> None:
    given, results = options(), {}
    with tempfile.TemporaryDirectory() as temporary:
        wheelhouse = given.wheelhouse or Path(temporary) / "wheels"
        wheelhouse.mkdir(exist_ok=True)
        if given.wheel is None:
            timed(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", temporary, ROOT)
        wheel = given.wheel or next(Path(temporary).glob("*.whl"))
        for name in given.installation or INSTALLATIONS:
            extras = INSTALLATIONS[name]
            if not given.offline:
                timed(sys.executable, "-m", "pip", "wheel", "--wheel-dir", wheelhouse, f"{wheel}{extras}")
            with tempfile.TemporaryDirectory() as scratch:
                results[name] = installation(f"{wheel}{extras}", wheelhouse, Path(scratch))
        size = wheel.stat().st_size
    write_results(given.output, {"wheel_bytes": size, "installed": results})
    print_table(
        ("installation", "packages", "MB", "to the first prediction (s)", "of CPU (s)"),
        [
            (
                name,
                str(len(one["packages"])),
                f"{one['disk_bytes'] / 1e6:,.0f}",
                *(f"{sum(one[f'{kind}_seconds'][step] for step in STEPS):.0f}" for kind in Seconds._fields),
            )
            for name, one in results.items()
        ],
    )


if __name__ == "__main__":
    main()
