"""`crystalformers data` as a user types it, and names where tables may stand."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import invoke
from fetching import optimade_pages
from host import Host, Page, visible
from miniatures import jarvis, oqmd_rows, play, pymatgen_dict, zipped_json
from samples import many, write_table

from crystalformers import Target, load_model, open_table
from crystalformers.data.sets import SETS, DataSet, Store, locate, resolve
from crystalformers.data.sets.entry import RemoteFile
from crystalformers.data.sets.sources import Files
from crystalformers.data.table import CrystalTable
from crystalformers.errors import DataSetError, TableError

JARVIS = "jarvis-dft3d-2021"

Fitted = list[tuple[CrystalTable, list[Target]]]


@pytest.fixture
def offered(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> DataSet:
    """JARVIS-DFT of 40 rows, which the command line finds under its name."""
    dataset = jarvis(host)
    monkeypatch.setitem(SETS, JARVIS, dataset)
    return dataset


def test_list_tells_all_sets(store: Store) -> None:
    result = invoke("data", "list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == len(SETS) + 2
    for name, line in zip(SETS, lines[1:], strict=False):
        assert line.startswith(f"{name} ")
        assert line.rstrip().endswith("no")
    assert "817,636" in lines[1 + list(SETS).index("oqmd-2021")]
    assert "CC BY 4.0" in lines[1 + list(SETS).index("lemat-bulk")]
    assert f"folder: {store.root}" in lines[-1]


def test_list_tells_all_about_a_set(store: Store) -> None:
    result = invoke("data", "list", JARVIS)
    assert "rows: 55,723" in result.stdout
    assert "https://ndownloader.figshare.com/files/29204826" in result.stdout
    assert "band_gap_mbj (eV): 'mbj_bandgap' in the source" in result.stdout
    assert "max_efg (unit not stated)" in result.stdout
    result = invoke("data", "list", "jarvis-dft3d-2022")
    assert result.exit_code == 2
    assert f"did you mean '{JARVIS}'?" in result.stderr


def test_get_verify_remove(offered: DataSet, store: Store, host: Host) -> None:
    result = invoke("data", "get", JARVIS)
    assert result.exit_code == 0, result.stderr
    assert "rows: 40 of 40" in result.stdout
    assert "split_band_gap_mbj" in result.stdout
    assert "labels without a single value in the source: bulk_modulus" in result.stdout
    listed = next(line for line in invoke("data", "list").stdout.splitlines() if line.startswith(JARVIS))
    assert listed.rstrip().endswith("yes")
    assert "rows: 40 of 40" in invoke("data", "list", JARVIS).stdout
    assert invoke("data", "verify").stdout == f"{JARVIS}: as it was written\n"
    again = invoke("data", "get", JARVIS)
    assert "is here; fetch it again with --again" in again.stderr
    assert len(host.asked) == 1
    assert invoke("data", "get", JARVIS, "--again").exit_code == 0
    assert len(host.asked) == 2
    store.table(JARVIS).write_bytes(b"x")
    result = invoke("data", "verify", JARVIS)
    assert result.exit_code == 1
    assert f"{JARVIS}: damaged" in result.stdout
    assert "table.parquet is not as it was written; run 'crystalformers data get" in result.stderr
    result = invoke("data", "remove", JARVIS, "--hashes")
    assert result.exit_code == 0
    assert "MB freed" in result.stdout
    assert visible(store.root) == []
    for command in ("remove", "verify"):
        result = invoke("data", command, JARVIS)
        assert result.exit_code == 2
        assert "it is not here" in result.stderr


def test_a_split_that_is_not_the_published_one_is_said(
    offered: DataSet, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = offered.splits
    monkeypatch.setitem(SETS, JARVIS, replace(offered, splits=(replace(first, published={"test": "0" * 64}), *others)))
    result = invoke("data", "get", JARVIS)
    assert result.exit_code == 1
    assert "DIFFERENT" in result.stdout
    assert "A split is not the published one" in result.stderr
    about = store.about(JARVIS)
    assert about is not None
    sha256 = {part: facts["sha256"] for part, facts in about["splits"]["split"].items()}
    monkeypatch.setitem(SETS, JARVIS, replace(offered, splits=(replace(first, published=sha256), *others)))
    result = invoke("data", "get", JARVIS, "--again")
    assert result.exit_code == 0
    assert result.stdout.count("the same") == 3


def test_get_from_a_file(offered: DataSet, store: Store, host: Host, tmp_path: Path) -> None:
    (content,) = [page.content for page in host.pages.values()]
    given = tmp_path / "29204826"
    given.write_bytes(content)
    host.pages.clear()
    result = invoke("data", "get", JARVIS)
    assert result.exit_code == 2
    assert "pass it with --from FILE" in result.stderr
    result = invoke("data", "get", JARVIS, "--from", given)
    assert result.exit_code == 0, result.stderr
    assert len(open_table(JARVIS)) == 40


def test_a_hash_that_the_user_vouches_for(
    offered: DataSet, store: Store, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(offered.source, Files)
    (file,) = offered.source.files
    wrong = replace(offered, source=Files((replace(file, sha256="0" * 64),)))
    monkeypatch.setitem(SETS, JARVIS, wrong)
    (content,) = [page.content for page in host.pages.values()]
    digest = hashlib.sha256(content).hexdigest()
    result = invoke("data", "get", JARVIS)
    assert result.exit_code == 2
    assert f"--sha256 {digest}" in result.stderr
    assert invoke("data", "get", JARVIS, "--sha256", digest.upper()).exit_code == 0


def test_get_from_an_optimade_provider(store: Store, host: Host) -> None:
    optimade_pages(host, 25, 10)
    url = f"{host.url}/pbe"
    result = invoke("data", "get", url)
    assert result.exit_code == 2
    assert "with --name" in result.stderr
    assert invoke("data", "get", JARVIS, "--limit", 3).exit_code == 2
    result = invoke("data", "get", url, "--name", "oxides", "--field", "_x_gap", "--limit", 15, "--filter", "nsites<9")
    assert result.exit_code == 0, result.stderr
    assert len(open_table("oxides")) == 15
    listed = invoke("data", "list").stdout.splitlines()
    assert any(line.startswith("oxides ") and "_x_gap" in line for line in listed)
    assert "rows: 15 of 15" in invoke("data", "list", "oxides").stdout
    assert invoke("data", "remove", "oxides").exit_code == 0


def test_rejected_rows_are_counted(store: Store, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = oqmd_rows(20)
    rows[4]["atoms"]["elements"] = []
    monkeypatch.setitem(SETS, "oqmd-2021", play(host, "oqmd-2021", [zipped_json("all_oqmd.json", rows)], 20))
    result = invoke("data", "get", "oqmd-2021")
    assert result.exit_code == 0
    assert "rows: 19 of 20" in result.stdout
    assert "1 rows could not be used, see" in result.stdout


# Names where tables may stand


def test_a_name_where_a_table_may_stand(
    offered: DataSet, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataSetError, match=f"this data set is not here; run 'crystalformers data get {JARVIS}'"):
        open_table(JARVIS)
    with pytest.raises(DataSetError, match=f"did you mean '{JARVIS}'"):
        open_table("jarvis-dft3d")
    with pytest.raises(TableError, match="no such file"):
        open_table("something.parquet")
    with pytest.raises(TableError, match="no such file"):
        open_table(tmp_path / JARVIS)
    store.get(offered)
    assert locate(JARVIS) == locate(Path(JARVIS)) == store.table(JARVIS)
    assert len(open_table(JARVIS)) == 40
    monkeypatch.chdir(tmp_path)
    write_table(Path(JARVIS), many(3))  # a file comes first
    assert locate(JARVIS) == Path(JARVIS)


def test_units_come_with_a_set_and_with_no_other_table(offered: DataSet, store: Store, tmp_path: Path) -> None:
    store.get(offered)
    labels = resolve(JARVIS).labels
    assert (labels["total_energy_per_atom"].unit, labels["total_energy_per_atom"].basis) == ("eV/atom", "per_atom")
    assert labels["n_seebeck"].unit == ""
    assert resolve(store.table(JARVIS)) == resolve(JARVIS)
    plain = resolve(write_table(tmp_path / "a.parquet", many(3), gap=[1.0, 2.0, 3.0]))
    assert (plain.labels, plain.splits) == ({}, ())
    (tmp_path / "a.csv").write_text("x,1\n")
    assert resolve(tmp_path / "a.csv").labels == {}


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fitted:
    """Tables and targets that a command would train on."""
    calls: Fitted = []
    monkeypatch.setattr("crystalformers.training.fit", lambda *a, **_: calls.append(a[:2]) or tmp_path / "weights")
    return calls


def test_a_set_trains(offered: DataSet, store: Store, tmp_path: Path) -> None:
    """From the host to weights, by name."""
    assert invoke("data", "get", JARVIS).exit_code == 0
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {dim: 8, heads: 2, blocks: 1, feedforward: 16, radial_functions: 8}\n")
    options = ("--target", "formation_energy_per_atom", "--epochs", 1, "--config", recipe)
    result = invoke("train", JARVIS, *options, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "run" / "splits.json").is_file()
    (target,) = load_model(tmp_path / "run").targets
    assert (target.unit, target.basis) == ("eV/atom", "per_atom")


def test_options_come_before_what_a_set_states(offered: DataSet, store: Store, tmp_path: Path, fitted: Fitted) -> None:
    store.get(offered)
    targets = ("--target", "band_gap", "--target", "total_energy_per_atom")
    given = ("--unit", "meV", "--unit", "Ha", "--basis", "per_cell", "--basis", "intensive")
    for options in ((), given):
        assert invoke("train", JARVIS, *targets, *options, "-o", tmp_path / "run").exit_code == 0
    assert [[(target.unit, target.basis) for target in targets] for _, targets in fitted] == [
        [("eV", "intensive"), ("eV/atom", "per_atom")],
        [("meV", "per_cell"), ("Ha", "intensive")],
    ]


def test_the_split_of_a_training(offered: DataSet, store: Store, tmp_path: Path, fitted: Fitted) -> None:
    store.get(offered)
    train = ("train", JARVIS, "-o", tmp_path / "run", "--target")
    assert "'split_band_gap_mbj', published for this target" in invoke(*train, "band_gap_mbj").stderr
    assert invoke(*train, "band_gap").stderr == ""
    assert invoke(*train, "band_gap", "--split", "band_gap_mbj").stderr == ""
    expected = [open_table(JARVIS, split=name) for name in ("band_gap_mbj", "", "band_gap_mbj")]
    assert [table.split for table, _ in fitted] == [table.split for table in expected]
    assert expected[0].split != expected[1].split
    assert expected[0].fingerprint == expected[2].fingerprint != expected[1].fingerprint  # a run resumes on its own


def test_what_a_set_does_not_state_is_asked_for(offered: DataSet, store: Store, tmp_path: Path) -> None:
    def refusal(table: object, *options: str) -> str:
        result = invoke("train", table, *options, "-o", tmp_path / "run")
        assert result.exit_code == 2
        assert not (tmp_path / "run").exists()
        return str(result.stderr)

    assert "run 'crystalformers data get" in refusal(JARVIS, "--target", "band_gap")
    store.get(offered)
    assert "the unit of 'n_seebeck' is not stated" in refusal(JARVIS, "--target", "n_seebeck")
    assert "give one --unit per --target" in refusal(JARVIS, "--target", "bandgap")
    assert "no column 'split_fold_0'" in refusal(JARVIS, "--target", "band_gap", "--split", "fold_0")
    plain = write_table(tmp_path / "plain.parquet", many(20), gap=[float(k) for k in range(20)])
    assert "1 --target but 0 --unit; give one --unit per --target" in refusal(plain, "--target", "gap")


def test_the_example_of_the_documentation(host: Host, store: Store) -> None:
    """The entry that docs/data.md adds, run as it is printed there, with its file on our host."""
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    example = page.split("```python")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    dataset = names["GLASSES"]
    rows = [
        {"name": f"g{k}", "gap_meV": 100.0 * k, "structure": pymatgen_dict(crystal)}
        for k, crystal in enumerate(many(20))
    ]
    content = zipped_json("glasses.json", rows)
    (file,) = dataset.source.files
    host.pages["/glasses.zip"] = Page(content)
    file = replace(file, addresses=(f"{host.url}/glasses.zip",), sha256=hashlib.sha256(content).hexdigest())
    store.get(replace(dataset, source=Files((file,)), rows=20))
    table = open_table(dataset.name)
    assert table.ids[3] == "g3"
    assert table.labels("band_gap")[3] == 300.0
    assert resolve(dataset.name).labels["band_gap"].unit == "meV"
    assert table.split is not None
    assert table.split.count("test") == 2


@pytest.mark.parametrize("entry", SETS.values(), ids=lambda entry: entry.name)
def test_every_entry_is_well_formed(entry: DataSet) -> None:
    names = [label.name for label in entry.labels]
    assert len(set(names)) == len(names)
    assert names
    assert len({split.name for split in entry.splits}) == len(entry.splits)
    files: tuple[RemoteFile, ...] = getattr(entry.source, "files", ())
    for file in files:
        assert all(address.startswith("https://") for address in file.addresses)
        assert file.sha256 is None or len(file.sha256) == 64
    assert entry.source.host
