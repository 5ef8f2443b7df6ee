"""Files that are written whole or not at all. What a kill does to them is tested with the weights of a model."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import patch

import pytest

from crystalformers.errors import InUseError
from crystalformers.files import locked, replacing


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


def failing(path: Path, missing_ok: bool = False) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_a_lock_keeps_others_out_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "table"
    with locked(path), pytest.raises(InUseError, match=f"process {os.getpid()} on "), locked(path):
        pass
    with locked(path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_is_released_where_its_file_cannot_be_deleted(tmp_path: Path) -> None:
    path, errors = tmp_path / "table", []  # an error that is held holds the frames that it passed
    try:
        with patch.object(Path, "unlink", failing), locked(path):
            pass
    except OSError as error:
        errors.append(error)
    assert [error.errno for error in errors] == [errno.EROFS]
    with locked(path):
        pass
