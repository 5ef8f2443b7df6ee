"""The public data sets that are known by name: one entry each. `docs/data.md` shows how to add one.

Addresses, numbers of rows, hashes and fingerprints are those of the publishers. The units of a label are empty where
its source does not state them.
"""

from __future__ import annotations

import difflib

from crystalformers.data.sets import formats
from crystalformers.data.sets.entry import DataSet, Label, RemoteFile
from crystalformers.data.sets.sources import Files, GivenFile, HubParquet, MaterialsProject, Optimade
from crystalformers.data.sets.splits import MATBENCH_FOLDS, DividedSource, MatbenchFold, ShuffledSplit
from crystalformers.errors import DataSetError


def _figshare(number: int, name: str, form: str) -> RemoteFile:
    """A file of figshare; its second address answers where the first refuses scripts."""
    addresses = (
        f"https://ndownloader.figshare.com/files/{number}",
        f"https://api.figshare.com/v2/file/download/{number}",
    )
    return RemoteFile(name, addresses, form)


JARVIS = DataSet(
    "jarvis-dft3d-2021",
    "JARVIS-DFT, three-dimensional materials, release of August 2021",
    labels=(
        Label("formation_energy_per_atom", "eV/atom", "per_atom", "formation_energy_peratom"),
        Label("total_energy_per_atom", "eV/atom", "per_atom", "optb88vdw_total_energy"),
        Label("band_gap", "eV", column="optb88vdw_bandgap"),
        Label("band_gap_mbj", "eV", column="mbj_bandgap"),
        Label("energy_above_hull", "eV/atom", "per_atom", "ehull"),
        Label("bulk_modulus", "GPa", column="bulk_modulus_kv"),
        Label("shear_modulus", "GPa", column="shear_modulus_gv"),
        Label("exfoliation_energy", "meV/atom", "per_atom"),
        Label("slme", "%"),
        Label("spillage", "dimensionless"),
        *(Label(name, "dimensionless") for name in ("epsx", "epsy", "epsz", "mepsx", "mepsy", "mepsz")),
        *(Label(f"dfpt_piezo_max_{kind}", "") for kind in ("dielectric", "eij", "dij")),
        *(Label(name, "") for name in ("max_efg", "avg_elec_mass", "avg_hole_mass", "magmom_oszicar")),
        *(
            Label(f"{carrier}_{name.lower()}", "", column=f"{carrier}-{name}")
            for carrier in "np"
            for name in ("Seebeck", "powerfact")
        ),
    ),
    source=Files((_figshare(29204826, "jdft_3d-8-18-2021.json.zip", "zip"),)),
    read=formats.jarvis_zip("jdft_3d-8-18-2021.json", "jid"),
    rows=55_723,
    splits=(
        ShuffledSplit(
            published={
                "train": "94fea386f992e510c7fc0fd712ddd63099b464cc8a980aaf68a429cfe3c4a853",
                "val": "fc61c62e6b734893d10bae41e39fedaa4a7b1a030fa665ea7b8c9d5bca2c908b",
                "test": "c4224c9bee34a8cbd4ba8009e2a47012bfb3b42e84118090063770f28558c00a",
            }
        ),
        ShuffledSplit(
            name="energy_above_hull",
            published={
                "train": "432b42d169da3342cb59ea42e85eb80657e16bf5fd1466b6fd8574d7ffccd5cf",
                "val": "2f0d0217d7cf96e451c6ca0ae21608d774486ea011e3349185293e414ce88873",
                "test": "5fc0f2e3e1b17abfe6bd4135a17871a6873fe8c171a83caca3015de5d9ee362d",
            },
        ),
        ShuffledSplit(
            name="band_gap_mbj",
            published={
                "train": "32f6442317fd924ff9657da051ddb6da2d400403be6eb9cdb5f62838aa42af7e",
                "val": "7d2be5b2dbeab7fc7135239a37c4a621b80cec0b18918f2c8caa2d4eefd1fe14",
                "test": "d8ad45ae2935fb5d919d61e71b139d57e456b6aec79e5aff48d9ae0c8bc88f17",
            },
        ),
    ),
    notes="Missing labels are the text 'na' in the source and empty here.",
)

MEGNET = DataSet(
    "megnet-2018",
    "Materials Project as of 2018, in the form of MEGNet",
    labels=(
        Label("formation_energy_per_atom", "eV/atom", "per_atom", "e_form"),
        Label("band_gap", "eV", column="gap pbe"),
    ),
    source=Files((_figshare(26724977, "megnet.json.zip", "zip"),)),
    read=formats.jarvis_zip("megnet.json", "id"),
    rows=69_239,
    splits=(
        ShuffledSplit(
            sizes=(60_000, 5_000, 4_239),
            published={
                "train": "aa3f6cf477c360f496b4a9c2b63cb26787bb41ac6e485bbb11c83dc7507e3645",
                "val": "f3fab7ea3298d8acb4d183b699a4846b0496e6df4bf6c209fabc79204eddf40d",
                "test": "58788904d1994da1215f985a3db2043f7d6f34224e6843a2d54efce3cc1e0128",
            },
        ),
    ),
)

OQMD = DataSet(
    "oqmd-2021",
    "OQMD as published with jarvis-tools in 2021",
    labels=(
        Label("formation_energy_per_atom", "eV/atom", "per_atom", "_oqmd_delta_e"),
        Label("band_gap", "eV", column="_oqmd_band_gap"),
        Label("energy_above_hull", "eV/atom", "per_atom", "_oqmd_stability"),
    ),
    source=Files((_figshare(26790182, "all_oqmd.json.zip", "zip"),)),
    read=formats.jarvis_zip("all_oqmd.json", "_oqmd_entry_id"),
    rows=817_636,
    splits=(
        ShuffledSplit(
            published={
                "val": "59d1bc158a8a5b8d6fe6061600a657856b752a7e2c7beea4276c9adbfe50c82d",
                "test": "ed16637e1ad31aa8c8132cbc6cda907a2a8de9d39442cff30d1446c5b69b2e48",
            }
        ),
        ShuffledSplit(
            name="band_gap",
            published={
                "val": "f81c946ff8f9422d11a461b77a38f19bdd8cfe693d868bc99900e56f2b45b1c6",
                "test": "9dba4a89f1855eea382f352601a187b40f47a35d1642759d9aa61e01b496d076",
            },
        ),
    ),
    notes="energy_above_hull is OQMD's stability, negative for structures below the hull of all others.",
)


def _megnet_modulus(kind: str, numbers: tuple[int, int, int], sizes: tuple[int, int, int] | None) -> DataSet:
    parts = zip(("train", "val", "test"), numbers, strict=True)
    return DataSet(
        f"megnet-{kind}",
        f"{kind.capitalize()} moduli of the Materials Project as of 2018, as split by Matformer",
        labels=(Label(f"log10_{kind}_modulus", "log10(GPa)", column=f"{kind} modulus"),),
        source=Files(tuple(_figshare(n, f"{kind}_modulus_megnet_{part}.pkl", "pickle") for part, n in parts)),
        read=formats.divided_pickles("id"),
        rows=sum(sizes) if sizes else None,
        splits=(DividedSource(sizes),),
        notes="Published as pickles, which are read as data: nothing in them is run.",
    )


def _matbench(task: str, rows: int, sha256: str, title: str, label: Label) -> DataSet:
    name = f"matbench_{task}"
    address = f"https://ml.materialsproject.org/projects/{name}.json.gz"
    return DataSet(
        name,
        f"Matbench: {title}",
        labels=(label,),
        source=Files((RemoteFile(f"{name}.json.gz", (address,), "gzip", sha256),)),
        read=formats.matbench_gzip(f"mb-{task.replace('_', '-')}", len(str(rows))),
        rows=rows,
        splits=(MatbenchFold(0), *(MatbenchFold(fold, name=f"fold_{fold}") for fold in range(MATBENCH_FOLDS))),
        notes="The column split is that of fold 0; split_fold_0 to split_fold_4 are the five folds. In each, a tenth "
        "of the training rows, drawn here, is for validation. The hash is the one that matminer publishes; a published "
        "hash has once disagreed with the served file.",
    )


def _lemat(functional: str, suffix: str) -> DataSet:
    labels = (Label("energy", "eV", "per_cell"),)
    return DataSet(
        f"lemat-bulk{suffix}",
        f"LeMat-Bulk, calculations with {functional}",
        labels=labels,
        source=HubParquet("LeMaterial/LeMat-Bulk", f"compatible_{functional.lower()}"),
        read=formats.optimade_parquet("immutable_id", labels),
        licence="CC BY 4.0",
        notes="All functionals together are 6.7 million structures. The vectors of a lattice "
        "must be the rows of its matrix, which is tested on the shortest distances in each file. Rows with a cell too "
        "small, or two atoms on one spot, are left out and listed.",
    )


def optimade(name: str, source: Optimade, title: str = "", labels: tuple[Label, ...] = ()) -> DataSet:
    """The set of an OPTIMADE provider; without labels given, the fields of the source under their own names."""
    labels = labels or tuple(Label(field, "") for field in source.fields)
    return DataSet(
        name,
        title or f"Structures of {source.base_url}",
        labels=labels,
        source=source,
        read=formats.optimade_pages,
        notes="Grows; two downloads at different times need not be the same.",
    )


def _alexandria(functional: str) -> DataSet:
    labels = (
        Label("formation_energy_per_atom", "eV/atom", "per_atom", "_alexandria_formation_energy_per_atom"),
        Label("energy_above_hull", "eV/atom", "per_atom", "_alexandria_hull_distance"),
        Label("band_gap", "eV", column="_alexandria_band_gap"),
    )
    fields = tuple(label.source_column for label in labels)
    source = Optimade(f"https://alexandria.icams.rub.de/{functional.lower()}", fields)
    return optimade(f"alexandria-{functional.lower()}", source, f"Alexandria, calculations with {functional}", labels)


OQMD_CURRENT = optimade(
    "oqmd-optimade",
    Optimade("https://oqmd.org/optimade", tuple(label.source_column for label in OQMD.labels)),
    "OQMD as it is today",
    OQMD.labels,
)

MATERIALS_PROJECT = DataSet(
    "materials-project",
    "Materials Project as it is today",
    labels=(
        Label("formation_energy_per_atom", "eV/atom", "per_atom"),
        Label("band_gap", "eV"),
        Label("energy_above_hull", "eV/atom", "per_atom"),
    ),
    source=MaterialsProject(("formation_energy_per_atom", "band_gap", "energy_above_hull")),
    read=formats.materials_project_lines,
    notes="Needs the extra 'mp' and a key in MP_API_KEY. Grows; two downloads need not be the same.",
)

_HYBRID_LABELS = (Label("formation_energy_per_atom", "eV/atom", "per_atom"), Label("band_gap", "eV"))

HYBRID_PEROVSKITES = DataSet(
    "hybrid-perovskites",
    "Hybrid organic-inorganic perovskites, as used with CrystalTransformer",
    labels=_HYBRID_LABELS,
    source=GivenFile(
        "hybrid_perovskites.zip",
        "zip",
        "collect the structures (Kim et al., Scientific Data 2017, and Nakajima and Sawada 2017) and pass with --from "
        "a zip of a CIF file for each id and id_prop.csv with lines id,formation energy,band gap",
    ),
    read=formats.cif_zip(_HYBRID_LABELS),
    splits=(ShuffledSplit(),),
    notes="2,103 structures in the paper, merged from two publications; no common file is published. The split has the "
    "paper's shares, 8:1:1, drawn by the rule of jarvis-tools; the paper's own draw is not known.",
)

SETS: dict[str, DataSet] = {
    entry.name: entry
    for entry in (
        JARVIS,
        MEGNET,
        _megnet_modulus("bulk", (40258705, 40258675, 40258666), (4_664, 393, 393)),
        _megnet_modulus("shear", (40258681, 40258684, 40258678), None),
        OQMD,
        _matbench(
            "perovskites",
            18_928,
            "4641e2417f8ec8b50096d2230864468dfa08278dc9d257c327f65d0305278483",
            "formation energies of perovskites, per cell of five atoms",
            Label("formation_energy", "eV", "per_cell", "e_form"),
        ),
        _matbench(
            "phonons",
            1_265,
            "4db551f21ec5f577e6202725f10e34dfc509aa7df3a6bdaac497da7f6dbbb9b3",
            "highest optical phonon peak",
            Label("last_phdos_peak", "1/cm", column="last phdos peak"),
        ),
        _matbench(
            "dielectric",
            4_764,
            "83befa09bc2ec2f4b6143afc413157827a90e5e2e42c1eb507ccfa01bf26a1d6",
            "refractive index",
            Label("refractive_index", "dimensionless", column="n"),
        ),
        _matbench(
            "log_gvrh",
            10_987,
            "098af941f4c663270f1fe21abf20ffad6fb85ecbfcba5786ceac03983ac29da7",
            "shear moduli",
            Label("log10_shear_modulus", "log10(GPa)", column="log10(G_VRH)"),
        ),
        _matbench(
            "log_kvrh",
            10_987,
            "44b113ddb7e23aa18731a62c74afa7e5aa654199e0db5f951c8248a00955c9cd",
            "bulk moduli",
            Label("log10_bulk_modulus", "log10(GPa)", column="log10(K_VRH)"),
        ),
        _matbench(
            "jdft2d",
            636,
            "26057dc4524e193e32abffb296ce819b58b6e11d1278cae329a2f97817a4eddf",
            "exfoliation energies",
            Label("exfoliation_energy", "meV/atom", "per_atom", "exfoliation_en"),
        ),
        _matbench(
            "mp_gap",
            106_113,
            "58b65746bd88329986ed66031a2ac1369c7c522f7bc9f9081528e07097c2c057",
            "band gaps",
            Label("band_gap", "eV", column="gap pbe"),
        ),
        _matbench(
            "mp_e_form",
            132_752,
            "dedcb1d4ba2e3e50dbdd45ba5bc647a00e9c2bcf8f8bf556dc8e92caa39eb21f",
            "formation energies",
            Label("formation_energy_per_atom", "eV/atom", "per_atom", "e_form"),
        ),
        _lemat("PBE", ""),
        _lemat("PBEsol", "-pbesol"),
        _lemat("SCAN", "-scan"),
        _alexandria("PBE"),
        _alexandria("PBEsol"),
        OQMD_CURRENT,
        MATERIALS_PROJECT,
        HYBRID_PEROVSKITES,
    )
}
"""Every set by its name."""


def find(name: str) -> DataSet:
    """The set of a name; raises DataSetError, with the nearest name, if there is none such."""
    if name not in SETS:
        close = difflib.get_close_matches(name, SETS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "'crystalformers data list' shows all names"
        raise DataSetError(f"there is no data set '{name}'", remedy=hint)
    return SETS[name]
