"""What an installation without extras can do, and what it says of the rest.

Programs here run with every package hidden that pip would not install with the library alone.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from samples import many, write_table

from crystalformers.errors import ConfigError, StructureError
from crystalformers.extras import optional, require
from crystalformers.io.composition import reduced_formula
from crystalformers.periodic import SYMBOLS

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

HIDE = """
import json, sys

class Finder:
    # another finder, but for the packages that are hidden

    def __init__(self, other):
        self.other = other

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.other.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.other, name)

hidden = set(json.loads(sys.argv.pop(1)))
sys.meta_path[:] = map(Finder, sys.meta_path)
"""

COMMAND = HIDE + "from crystalformers.cli import main\nmain()"

FEATURES = {
    "from crystalformers import Recipe": "train",
    "from crystalformers.plots import loss_curves; loss_curves({}, 0, '')": "plots",
    "from crystalformers.plots import parity; parity([])": "plots",
    "from crystalformers.explain import draw; draw(None, 0, 'a.png')": "plots",
    "from crystalformers.explain import draw_gallery; draw_gallery(None, 0, 'a.png')": "plots",
    "from crystalformers.survey import write_survey; write_survey('t.parquet', 'p.html')": "train",
    "from crystalformers.prediction.rows import predictions_frame; predictions_frame([], {})": "pandas",
    "import crystalformers.calculator": "ase",
    "from crystalformers import read_crystal; read_crystal('a.xyz')": "ase",
    "import crystalformers.estimators": "sklearn",
    "import crystalformers.elements.pipeline": "elements",
    "from crystalformers.elements.similarity import oxidation_states; oxidation_states('Fe')": "elements",
    "from crystalformers.elements import load_elements; load_elements('magpie')": "elements",
    "from crystalformers.elements.sources import physical; physical()": "elements",
    "from crystalformers.elements.report import write_report; write_report([], 'out')": "elements",
    "from crystalformers.elements.analysis.published import check_umap; check_umap()": "umap",
    "from crystalformers.data.sets.network import open_answer; open_answer('http://x', {}).__enter__()": "data",
    "from crystalformers.screening.addresses import exists; exists('s3://bucket/x')": "remote",
    "from crystalformers.screening.engines import slurm; next(slurm(None, [], None, {}))": "slurm",
    "from crystalformers.screening.engines import ray; next(ray(None, [], None, {}))": "ray",
    "from crystalformers.cli.serve import serve_command; serve_command()": "serve",
    "from crystalformers.cli.serve import mcp_command; mcp_command()": "mcp",
}
"""What needs an extra, and the extra."""

ASK = (
    HIDE
    + """
from pathlib import Path
Path("a.xyz").write_text("1\\n\\nNa 0 0 0\\n")
said = {}
for code in json.loads(sys.argv[1]):
    try:
        exec(code, {})
    except Exception as error:
        said[code] = [type(error).__module__, str(error)]
print(json.dumps(said))
"""
)


def installed_with(requirements: list[str]) -> set[str]:
    """Names of the packages that pip installs for some requirements, as far as they are installed here."""
    found: set[str] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if (known := name in found) and not requirement.extras:
            continue
        try:
            texts = requires(name) or []
        except PackageNotFoundError:
            continue
        found.add(name)
        for wanted in (*(() if known else ("",)), *requirement.extras):
            waiting += [(Requirement(text), wanted) for text in texts]
    return found


@pytest.fixture(scope="module")
def hidden() -> str:
    """JSON of the modules that come with extras alone; fsspec too, which PyTorch happens to bring."""
    base = {*installed_with(PROJECT["dependencies"]), "crystalformers", "setuptools", "pip"} - {"fsspec"}
    modules = packages_distributions().items()
    names = sorted(module for module, owners in modules if not {canonicalize_name(owner) for owner in owners} & base)
    assert {"matplotlib", "pandas", "pymatgen", "lightning_fabric", "yaml", "fsspec"} <= set(names)
    assert not {"torch", "numpy", "sympy", "typer"} & set(names)
    return json.dumps(names)


def run(folder: Path, hidden: str, *arguments: str) -> str:
    """Standard output of the command line without extras."""
    command = [sys.executable, "-c", COMMAND, hidden, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_predictions_need_no_extra(hidden: str, tmp_path: Path) -> None:
    salt = str(ROOT / "examples" / "NaCl.cif")
    header, row = run(tmp_path, hidden, "predict", salt).splitlines()
    assert header.split()[0] == "structure"
    assert row.split()[1:3] == ["NaCl", "8"]
    table = str(write_table(tmp_path / "t.parquet", many(12)))
    for suffix in ("csv", "parquet", "json"):
        run(tmp_path, hidden, "predict", table, "-o", f"out.{suffix}")
    run(tmp_path, hidden, "embed", salt, "-o", "vectors.parquet")
    run(tmp_path, hidden, "explain", salt, "-o", "weights.json")
    run(tmp_path, hidden, "screen", table, "-o", "results", "--top", "3", "--by", "band_gap")
    run(tmp_path, hidden, "search", "build", table, "-o", "index")
    assert len(run(tmp_path, hidden, "search", "query", salt, "--index", "index", "-k", "4").splitlines()) == 5


def test_what_needs_an_extra_names_it(hidden: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK, hidden, json.dumps(list(FEATURES))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(FEATURES) - set(said) == set(), "these need nothing"
    wrong = [
        f"{code}: {text}"
        for code, extra in FEATURES.items()
        for module, text in [said[code]]
        if module != "crystalformers.errors" or not text.endswith(f"pip install 'crystalformers[{extra}]'.")
    ]
    assert wrong == []


def test_every_extra_that_is_named_exists() -> None:
    """And brings the packages that it is named for."""
    named = []
    for path in sorted((ROOT / "crystalformers").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("optional", "require"):
                named += [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
    assert len(named) > 25
    assert set(named) <= set(EXTRAS)


def test_all_of_it_is_installed_for_the_tests_of_the_library() -> None:
    """`dev` brings what the tests need, `all` what users may need."""
    not_for_users = {"all", "benchmarks", "dev", "docs", "gpu", "wheels"}
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"[\w-]+", everything.partition("[")[2])) == set(EXTRAS) - not_for_users


def test_the_error_of_a_missing_package() -> None:
    with (
        pytest.raises(StructureError, match=r"^a\.b: it needs the package no-such; pip install 'c.*\[ase\]'\.$"),
        optional("ase", "it", StructureError, "a.b"),
    ):
        import no_such.module
    with pytest.raises(ConfigError, match="it needs the package no-such"):
        require("ase", "it", "json", "no_such")
    with pytest.raises(ImportError, match="cannot import name"), optional("ase", "it"):
        from crystalformers.errors import no_such  # noqa: F401 - ours, and no package of others


def test_formulas_are_those_of_pymatgen() -> None:
    core = pytest.importorskip("pymatgen.core", reason="NOT TESTED: pymatgen is not installed")
    import numpy as np

    rng = np.random.default_rng(0)
    known = [symbol for symbol in SYMBOLS if symbol not in ("He", "Ne", "Ar")]
    anions = ["H", "C", "N", "O", "F", "P", "S", "Cl"]
    for _ in range(3000):
        symbols = rng.choice(known if rng.random() < 0.5 else [*anions, *known[:20]], rng.integers(1, 6))
        counts = {str(symbol): int(rng.choice([1, 2, 3, 4, 6, 8, 12])) for symbol in symbols}
        assert reduced_formula(counts) == core.Composition(counts).reduced_formula, counts
