"""Files that are written whole or not at all. What a kill does to them is tested with the weights of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from crystalformers.files import replacing


def test_parts_appear_together_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old", encoding="utf-8")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for part in ("one", "two"):
            file.write(part)
            file.flush()
            assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "onetwo"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("a bad row"), KeyboardInterrupt()])
def test_an_error_between_two_parts_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old", encoding="utf-8")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
