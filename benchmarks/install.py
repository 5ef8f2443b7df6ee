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
from typing import Any

from benchmarks.harness import RESULTS, ROOT, parser, print_table, write_results

INSTALLATIONS = {"without extras": "", "all": "[all]"}

LIST = """
import json, os, re
from importlib.metadata import distributions

found = {}
for one in distributions():
    size = sum(os.path.getsize(path) for path in map(one.locate_file, one.files or []) if os.path.isfile(path))
    found[one.name] = {"version": one.version, "bytes": size, "requires": one.requires or []}
print(json.dumps(found))
"""


def timed(*command: str | Path, folder: Path = ROOT) -> float:
    """Seconds of a command that must succeed."""
    begin = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - begin


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
        "seconds": seconds,
        "seconds_to_first_prediction": sum(seconds.values()) - seconds["second_prediction"],
        "disk_bytes": disk_bytes(environment) - empty,
        "packages": dict(sorted(packages.items(), key=lambda item: -item[1]["bytes"])),
    }


def options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--wheelhouse", type=Path, help="folder of wheels; default: temporary")
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
        for name, extras in INSTALLATIONS.items():
            if not given.offline:
                timed(sys.executable, "-m", "pip", "wheel", "--wheel-dir", wheelhouse, f"{wheel}{extras}")
            with tempfile.TemporaryDirectory() as scratch:
                results[name] = installation(f"{wheel}{extras}", wheelhouse, Path(scratch))
        size = wheel.stat().st_size
    write_results(given.output, {"wheel_bytes": size, "installed": results})
    print_table(
        ("installation", "packages", "MB", "install (s)", "to the first prediction (s)"),
        [
            (
                name,
                str(len(one["packages"])),
                f"{one['disk_bytes'] / 1e6:,.0f}",
                f"{one['seconds']['install']:.0f}",
                f"{one['seconds_to_first_prediction']:.0f}",
            )
            for name, one in results.items()
        ],
    )


if __name__ == "__main__":
    main()
