"""Fixtures of the tests of public data sets: a host on this machine, an empty store, little patience."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from host import Host, playing_host

from crystalformers.data.sets import Store, network
from crystalformers.data.sets.network import OFFLINE_VARIABLE, Patience
from crystalformers.data.sets.store import ROOT_VARIABLE


@pytest.fixture
def host() -> Iterator[Host]:
    """A server that plays every host."""
    with playing_host() as playing:
        yield playing


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty folder of data sets, which the command line uses too."""
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "sets"))
    monkeypatch.delenv(OFFLINE_VARIABLE, raising=False)
    patience = Patience(connect=2, silence=2, slowest=1000, window=0.3, tries=2, pause=0.01)
    monkeypatch.setattr(network, "PATIENCE", patience)
    return Store()
