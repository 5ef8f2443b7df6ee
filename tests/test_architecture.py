"""The layout of the package: which way imports point, what stays light, and what is never called.

Source files are parsed, not run, so that imports inside functions count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "crystalformers"

LEVELS = (
    ("errors", "extras", "files", "html", "periodic", "signals"),
    ("crystal", "plots", "target"),
    ("csrc",),
    ("images",),
    ("attention",),
    ("models",),
    ("checkpoint", "io"),
    ("paper_checkpoints", "data"),
    ("prediction",),
    ("elements", "testing", "explain", "calculator", "screening", "search"),
    ("training", "survey"),
    ("benchmark", "reproduction", "serve"),
    ("cli", "estimators"),
)
"""From the lowest up; a module imports from the levels below its own, and from its own without a cycle."""

LEVEL = {module: level for level, modules in enumerate(LEVELS) for module in modules}

NUMERICAL = ("errors", "periodic", "crystal", "target", "csrc", "images", "attention", "models")
"""Modules that know nothing of files or training."""

HEAVY = {"pymatgen", "lightning_fabric", "pandas", "pyarrow", "ase", "matplotlib", "plotly", "spglib", "sklearn"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """`attention` for crystalformers/attention/geometry.py; the package itself has the empty name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0].removeprefix("__init__")


def type_checking_only(tree: ast.Module) -> set[ast.AST]:
    """Nodes under `if TYPE_CHECKING:`, which never run."""
    guarded = (n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    return {node for guard in guarded for statement in guard.body for node in ast.walk(statement)}


def imports(path: Path, *, when_run: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full name of everything a file imports, at the top, inside a function or for type checkers.

    With `when_run` those for type checkers are left out.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unused = type_checking_only(tree) if when_run else set()
    package = ("crystalformers", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if node in unused:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def modules_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Our own modules that a file imports from."""
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "crystalformers" and len(parts) > 1:
            yield line, parts[1]


def import_graph(files: Iterable[Path]) -> dict[str, set[str]]:
    """The modules that each module imports, by their dotted names; a package stands for its `__init__.py`."""
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in files}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        names = [name for _, name in imports(path)]
        targets = {name if name in modules else name.rpartition(".")[0] for name in names}
        graph[module] = targets & modules.keys() - {module}
    return graph


def cycle(graph: dict[str, set[str]]) -> str:
    """One cycle of a graph as `a -> b -> a`; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return " -> ".join(reversed(error.args[1]))
    return ""


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(PACKAGE.parent)}:{line}"


def test_every_module_has_its_level() -> None:
    unknown = sorted({module_of(path) for path in sources()} - LEVEL.keys() - {""})
    assert unknown == [], f"say in LEVELS where these belong: {unknown}"


def test_imports_point_down() -> None:
    violations = [
        f"{where(path, line)}: {module_of(path)} imports {target}, which lies above"
        for path in sources()
        if module_of(path)
        for line, target in modules_imported(path)
        if LEVEL.get(target, 0) > LEVEL[module_of(path)]
    ]
    assert violations == [], "\n" + "\n".join(violations)


def test_parts_of_one_level_do_not_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {name: set() for name in LEVEL}
    for path in sources():
        if module_of(path):
            graph[module_of(path)] |= {target for _, target in modules_imported(path) if target in LEVEL} - {
                module_of(path)
            }
    assert not cycle(graph)


def test_single_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = import_graph(sources())
    assert sum(map(len, graph.values())) > 300, "the imports are not found"
    assert not cycle(graph)


def test_nothing_imports_from_the_command_line() -> None:
    violations = [
        where(path, line)
        for path in sources()
        if module_of(path) != "cli"
        for line, target in modules_imported(path)
        if target == "cli"
    ]
    assert violations == [], violations


@pytest.mark.parametrize("name", NUMERICAL)
def test_the_numerical_modules_stay_light(name: str) -> None:
    violations = [
        f"{where(path, line)}: {imported}"
        for path in sources()
        if module_of(path) == name
        for line, imported in imports(path, when_run=True)
        if imported.split(".")[0] in HEAVY
    ]
    assert violations == [], violations


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package to write files into, in place of ours."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "crystalformers")
    (tmp_path / "crystalformers" / "attention").mkdir(parents=True)
    return tmp_path / "crystalformers"


def test_a_violation_would_be_found(package: Path) -> None:
    """The parser sees imports of every form, and tells those for type checkers from those that run."""
    fake = package / "attention" / "fake.py"
    fake.write_text(
        "from __future__ import annotations\nimport crystalformers.models\nfrom crystalformers import io\n"
        "from ..cli import main\nfrom . import geometry\nif TYPE_CHECKING:\n    from crystalformers.data import x\n"
        "def f():\n    from crystalformers.training import fit\n    import pymatgen.core\n"
    )
    found = {target for _, target in modules_imported(fake)}
    assert found == {"models", "io", "cli", "attention", "training", "data"}
    assert "pymatgen.core" in {name for _, name in imports(fake)}
    assert "crystalformers.data.x" in {name for _, name in imports(fake)}
    assert "crystalformers.data.x" not in {name for _, name in imports(fake, when_run=True)}


@pytest.mark.parametrize(
    "back",
    [
        "import crystalformers.attention.a",
        "from crystalformers.attention.a import x",
        "from crystalformers.attention import a",
        "from . import a",
        "if TYPE_CHECKING:\n    from .a import x",
        "def f():\n    from crystalformers.attention.a import x",
    ],
)
def test_a_cycle_between_modules_would_be_found(package: Path, back: str) -> None:
    def write(name: str, source: str) -> Path:
        (package / name).write_text(source)
        return package / name

    files = [
        write("attention/__init__.py", "from crystalformers.attention.a import x"),
        write("attention/a.py", "from crystalformers.attention.b import y\nimport torch"),
        write("attention/b.py", ""),
    ]
    assert cycle(import_graph(files)) == ""
    write("attention/b.py", back)
    a, b = "crystalformers.attention.a", "crystalformers.attention.b"
    assert cycle(import_graph(files)) in (f"{a} -> {b} -> {a}", f"{b} -> {a} -> {b}")
    write("attention/b.py", "from crystalformers.attention import x")
    assert cycle(import_graph(files)).count("->") == 3, "through the package itself"


def test_the_package_and_the_help_page_import_nothing_heavy() -> None:
    script = (
        "import sys; import crystalformers\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pymatgen', 'lightning_fabric', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def calls(path: Path) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func), node


def test_no_file_is_ever_unpickled() -> None:
    violations = []
    for path in sources():
        for line, name, call in calls(path):
            safe = any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in call.keywords)
            if (name == "torch.load" and not safe) or name.split(".")[0] in ("pickle", "joblib", "dill"):
                violations.append(f"{where(path, line)}: {name}")
            if name in ("np.load", "numpy.load") and any(k.arg == "allow_pickle" for k in call.keywords):
                violations.append(f"{where(path, line)}: {name}")
    assert violations == [], violations


def test_no_bare_except() -> None:
    violations = [
        where(path, node.lineno)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert violations == [], violations
