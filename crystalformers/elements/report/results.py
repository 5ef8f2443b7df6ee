"""The numbers of a report as JSON, without NaN and in a fixed order."""

from __future__ import annotations

import math
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from crystalformers.elements.analysis.clusters import Labels
from crystalformers.elements.analysis.ensembles import Ensemble
from crystalformers.elements.analysis.published import PublishedFamilies
from crystalformers.elements.analysis.spaces import explained
from crystalformers.elements.analysis.study import Groups, ProbeResult, Study
from crystalformers.elements.similarity import nearest, substitutes
from crystalformers.elements.table import ElementTable
from crystalformers.periodic import ELEMENTS

KIND = "report on tables of elements"
NEIGHBOURS = 8
SUBSTITUTES = 5


def results(study: Study) -> dict[str, Any]:
    """All numbers of a study, as `json.dump` takes them."""
    found = study.correlations
    content = {
        "kind": KIND,
        "version": version("crystalformers"),
        "seed": study.seed,
        "draws": study.draws,
        "tables": [_ensemble(ensemble) for ensemble in study.ensembles],
        "elements": list(study.symbols),
        "elements_in_all_tables": [ELEMENTS[z - 1] for z in study.shared],
        "training_crystals": study.subject.counts_by_symbol,
        "families": _groups(study.groups, study.symbols),
        "published_families": _published(study.published, study.symbols),
        "probes": [_probe(result) for result in study.probes],
        "likeness": [{"tables": list(pair), **asdict(like)} for pair, like in study.likeness.items()],
        "alignment_of_seeds": [{"tables": list(pair), **asdict(like)} for pair, like in study.alignment.items()],
        "correlations": {
            "columns": list(study.correlated),
            "rows": [f"PC {k + 1}" for k in range(len(found.rho))],
            "spearman": found.rho.tolist(),
            "threshold": found.threshold,
        },
        "nearest": {
            s: [[n.symbol, n.cosine] for n in nearest(study.subject, s, NEIGHBOURS)] for s in study.subject.symbols
        },
        "substitutes": {
            s: [[n.symbol, n.cosine] for n in substitutes(study.subject, s, count=SUBSTITUTES)]
            for s in study.subject.symbols
        },
    }
    rounded: dict[str, Any] = _plain(content)
    return rounded


def _ensemble(ensemble: Ensemble) -> dict[str, Any]:
    first = ensemble.tables[0]
    tables = [{"name": t.name, "elements": len(t), "metadata": _about(t)} for t in ensemble.tables]
    return {"name": ensemble.name, "dim": first.dim, "tables": tables}


def _about(table: ElementTable) -> dict[str, Any]:
    """The metadata of a table without its recipe, which is long and may name files on the machine of the training."""
    return {key: value for key, value in table.metadata.items() if key != "recipe"}


def _groups(groups: Groups, symbols: list[str]) -> dict[str, Any]:
    separation, labels = groups.separation, groups.labels
    members = _members(labels, symbols)
    return {
        "space": {
            "components": groups.points.shape[1],
            "explained": explained(groups.components)[: groups.points.shape[1]].tolist(),
        },
        "number": len(members),
        "number_by_silhouette": separation.by_silhouette,
        "number_by_gap": separation.by_gap,
        "members": members,
        "hdbscan": _members(groups.density, symbols),
        "jaccard": groups.stability.jaccard.tolist(),
        "ari_of_subsets": float(groups.stability.ari.mean()),
        "silhouette": dict(zip(map(str, separation.ks), separation.silhouette.tolist(), strict=True)),
        "silhouette_p": {null: separation.p_value(null) for null in separation.chance},
        "gap": dict(zip(map(str, separation.ks), separation.gap.tolist(), strict=True)),
        "agreement": {name: {"ari": like.value, "p": like.p} for name, like in groups.agreement.items()},
        "seeds": [{"tables": list(pair), "ari": like.value, "p": like.p} for pair, like in groups.seeds.items()],
    }


def _published(found: PublishedFamilies | None, symbols: list[str]) -> dict[str, Any] | None:
    if found is None:
        return None
    curves = {"squares": found.squares.mean(axis=0), "silhouette": found.silhouette.mean(axis=0)}
    return {
        "members": _members(found.labels, symbols),
        "elbow": found.elbow,
        "number_by_silhouette": found.by_silhouette,
        **{name: dict(zip(map(str, found.ks), means.tolist(), strict=True)) for name, means in curves.items()},
        "ari_of_seeds": found.seeds.tolist(),
        "ours": {"ari": found.ours.value, "p": found.ours.p},
    }


def _members(labels: Labels, symbols: list[str]) -> list[list[str]]:
    return [[symbols[i] for i in np.flatnonzero(labels == c)] for c in range(labels.max() + 1)]


def _probe(result: ProbeResult) -> dict[str, Any]:
    return {
        "tables": result.ensemble,
        "property": result.quantity.name,
        "unit": result.quantity.unit,
        "left_out": result.split,
        "elements": len(result.runs[0].values),
        "r2": result.r2,
        "r2_low": result.low,
        "r2_high": result.high,
        "p": result.p,
        "r2_of_seeds": [run.r2 for run in result.runs],
        "mae": float(np.mean([run.mae for run in result.runs])),
        "holds_the_property": result.given,
    }


def _plain(value: Any) -> Any:
    """Floats with 6 digits, and None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
