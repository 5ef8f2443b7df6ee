"""What installing builds: libraries that the package finds, in wheels for every Python of a platform."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools
from setuptools.dist import Distribution

from crystalformers.csrc.kernels import INSTRUCTION_SETS, SUFFIX

ROOT = Path(__file__).parents[1]
VARIABLE = "CRYSTALFORMERS_PLATFORM"


def setup(monkeypatch: pytest.MonkeyPatch, platform: str | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What setup.py tells setuptools, and its names."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: told.update(given))
    monkeypatch.delenv(VARIABLE, raising=False)
    if platform is not None:
        monkeypatch.setenv(VARIABLE, platform)
    return told, runpy.run_path(str(ROOT / "setup.py"))


def libraries(told: dict[str, Any]) -> list[str]:
    command = told["cmdclass"]["build_ext"](Distribution())
    return [Path(command.get_ext_filename(extension.name)).name for extension in told["ext_modules"]]


def test_what_is_built_is_what_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installing builds the library in a process of its own, which cannot import the package."""
    told, names = setup(monkeypatch, "manylinux_2_17_x86_64")
    assert libraries(told) == [f"_kernels_{name}.so" for name in reversed(INSTRUCTION_SETS)]
    assert names["this_machine"]().suffix == SUFFIX


def test_every_source_and_header_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told, _ = setup(monkeypatch)
    for extension in told["ext_modules"]:
        files = {ROOT / name for name in (*extension.sources, *extension.depends)}
        assert files == set((ROOT / "crystalformers" / "csrc").glob("*.[ch]"))


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("manylinux_2_17_aarch64", ["_kernels_default.so"]),
        ("macosx_11_0_arm64", ["_kernels_default.dylib"]),
        ("win_amd64", ["_kernels_default.dll", "_kernels_avx2.dll", "_kernels_avx512.dll"]),
    ],
)
def test_a_wheel_serves_every_python_of_its_platform(
    platform: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told, _ = setup(monkeypatch, platform)
    assert libraries(told) == expected
    assert not any(extension.optional for extension in told["ext_modules"])
    assert told["cmdclass"]["bdist_wheel"](Distribution()).get_tag() == ("py3", "none", platform)


def test_an_unknown_platform_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"CRYSTALFORMERS_PLATFORM=amiga is not one of manylinux.*win_amd64"):
        setup(monkeypatch, "amiga")


def test_every_platform_is_built_and_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = ast.parse((ROOT / "tools" / "wheels.py").read_text(encoding="utf-8"))
    (table,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and "PLATFORMS" in ast.unparse(node))
    assert set(ast.literal_eval(table)) == set(setup(monkeypatch)[1]["PLATFORMS"])
