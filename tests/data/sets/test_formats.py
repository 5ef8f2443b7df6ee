"""Every published format, in miniature: fetched from a host of ours, converted, split, opened as a table."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fetching import fetched, rejected, same_crystals
from host import Host
from miniatures import (
    jarvis,
    matbench_gzip,
    megnet_rows,
    modulus_pickles,
    oqmd_rows,
    perovskite_zip,
    play,
    zipped_json,
)
from samples import many

from crystalformers import open_table
from crystalformers.data.sets import Store, find, resolve
from crystalformers.data.sets.axes import shortest_distance
from crystalformers.data.sets.entry import Request
from crystalformers.data.sets.splits import fingerprint, matbench_folds, shuffled
from crystalformers.errors import DataSetError, TableError


def test_jarvis(host: Host, store: Store) -> None:
    table = fetched(store, jarvis(host, 40))
    same_crystals(table, 40)
    assert table.ids[:2] == ["JVASP-0", "JVASP-1"]
    gap = table.labels("band_gap_mbj")
    np.testing.assert_array_equal(np.isnan(gap), np.arange(40) % 3 == 0)
    assert gap[4] == 5.5
    assert table.labels("total_energy_per_atom")[0] == -3.0
    assert table.labels("n_seebeck")[1] == -101.0
    assert "bulk_modulus" not in table.columns  # 'na' in every row
    assert table.split is not None
    parts = shuffled(40)
    for part, rows in parts.items():
        assert {table.split[row] for row in rows} == {part}
    assert table.split.count("unused") == 40 - sum(map(len, parts.values()))


def test_a_label_with_gaps_has_a_split_of_its_own(host: Host, store: Store) -> None:
    store.get(jarvis(host, 40))
    found = resolve("jarvis-dft3d-2021")
    assert found.splits == ("energy_above_hull", "band_gap_mbj")
    assert found.split_for(["band_gap_mbj"]) == "band_gap_mbj"
    assert found.split_for(["band_gap"]) == ""
    assert found.split_for(["band_gap_mbj", "band_gap"]) == ""
    assert found.labels["band_gap_mbj"].unit == "eV"
    assert found.labels["formation_energy_per_atom"].basis == "per_atom"
    table = open_table("jarvis-dft3d-2021", split="band_gap_mbj")
    assert table.split is not None
    labelled = np.flatnonzero(~np.isnan(table.labels("band_gap_mbj")))
    parts = {part: labelled[rows] for part, rows in shuffled(len(labelled)).items()}
    for part, rows in parts.items():
        assert [row for row, name in enumerate(table.split) if name == part] == sorted(rows)
    about = store.about("jarvis-dft3d-2021")
    assert about is not None
    test = about["splits"]["split_band_gap_mbj"]["test"]
    assert test["sha256"] == fingerprint(parts["test"])
    with pytest.raises(TableError, match="there is no column 'split_gap'"):
        _ = open_table("jarvis-dft3d-2021", split="gap").split


def test_megnet(host: Host, store: Store) -> None:
    dataset = play(host, "megnet-2018", [zipped_json("megnet.json", megnet_rows(30))], 30)
    table = fetched(store, dataset)
    same_crystals(table, 30)
    np.testing.assert_array_equal(table.labels("formation_energy_per_atom"), -0.5 - np.arange(30))
    assert table.labels("band_gap")[3] == pytest.approx(0.3)


def test_oqmd(host: Host, store: Store) -> None:
    table = fetched(store, play(host, "oqmd-2021", [zipped_json("all_oqmd.json", oqmd_rows(40))], 40))
    same_crystals(table, 40)
    np.testing.assert_array_equal(np.isnan(table.labels("band_gap")), np.isin(np.arange(40) % 10, (2, 5)))
    gap_split = open_table("oqmd-2021", split="band_gap").split
    assert gap_split is not None
    assert [gap_split[k] for k in (2, 5, 12)] == ["unused"] * 3


@pytest.mark.parametrize("kind", ["bulk", "shear"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_moduli(host: Host, store: Store, kind: str, protocol: int) -> None:
    table = fetched(store, play(host, f"megnet-{kind}", modulus_pickles(20, kind, protocol), 20))
    same_crystals(table, 20)
    np.testing.assert_allclose(table.labels(f"log10_{kind}_modulus"), 1 + 0.01 * np.arange(20))
    assert table.split == ["train"] * 12 + ["val"] * 4 + ["test"] * 4


def test_matbench(host: Host, store: Store) -> None:
    dataset = play(host, "matbench_phonons", [matbench_gzip("last phdos peak", 25)], 25)
    table = fetched(store, dataset)
    same_crystals(table, 25)
    assert table.ids[0] == "mb-phonons-0001"
    np.testing.assert_array_equal(table.labels("last_phdos_peak"), 100.0 + np.arange(25))
    folds = matbench_folds(25)
    assert table.split == open_table("matbench_phonons", split="fold_0").split
    for fold in range(5):
        split = open_table("matbench_phonons", split=f"fold_{fold}").split
        assert split is not None
        np.testing.assert_array_equal(np.array(split) == "test", folds == fold)
        assert split.count("val") == 2


def test_hybrid_perovskites(store: Store, tmp_path: Path) -> None:
    dataset = find("hybrid-perovskites")
    with pytest.raises(DataSetError, match=r"no address is known for this set.*pass with --from a zip"):
        store.get(dataset)
    given = perovskite_zip(tmp_path / "mine.zip")
    store.get(dataset, Request(store.folder(dataset.name), (given,)))
    table = open_table(dataset.name)
    assert table.ids == [f"h{k}" for k in range(20)]
    for found, made in zip(table, many(20), strict=True):
        assert found.symbols == made.symbols
        assert found.volume == pytest.approx(made.volume)
        assert shortest_distance(found) == pytest.approx(shortest_distance(made))
    np.testing.assert_array_equal(table.labels("formation_energy_per_atom"), -0.5 * np.arange(20))
    assert np.isnan(table.labels("band_gap")[4])
    problems = [row["problem"] for row in rejected(store, dataset.name)]
    assert problems[0].startswith("hybrid-perovskites row 20 (h20): h20: the CIF lists no atoms")
    assert "the archive holds no CIF file for it" in problems[1]
    assert store.verify(dataset.name) == []
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../id_prop.csv", "h0,1,2\n")
    with pytest.raises(DataSetError, match="a path that leads out of its folder"):
        store.get(dataset, Request(store.folder(dataset.name), (tmp_path / "out.zip",)), again=True)


@pytest.mark.slow
def test_conversion_takes_memory_that_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Ten times as many rows in OQMD's format: the peak memory of a fresh process stays where it was."""
    code = """
import json, random, resource, sys, zipfile
from dataclasses import replace
from pathlib import Path
sys.path[:0] = ["tests", "tests/data/sets"]
from miniatures import oqmd_rows, small
from crystalformers.data.sets import find
from crystalformers.data.sets import convert
convert.GROUP_ROWS = convert.BATCH_ROWS
rows = [json.dumps({**row, "other": [random.random() for _ in range(300)]}) for row in oqmd_rows(200)]
folder, count = Path(sys.argv[1]), int(sys.argv[2])
archive = folder / "all_oqmd.json.zip"
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out, out.open("all_oqmd.json", "w") as file:
    for k in range(count):
        file.write(("[" if k == 0 else ", ").encode() + rows[k % 200].replace("1000", str(k), 1).encode())
    file.write(b"]")
dataset = find("oqmd-2021")
dataset = replace(dataset, rows=count, splits=tuple(map(small, dataset.splits)))
done = convert.convert(dataset, [archive], folder, lambda _: None)
print(done["rows"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = {}
    for count in (2_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [sys.executable, "-c", code, str(folder), str(count)]
        root = Path(__file__).parents[3]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        rows, peaks[count] = map(int, result.stdout.split())
        assert rows == count
    assert peaks[20_000] - peaks[2_000] < 40, f"peak memory in MB by rows: {peaks}"
