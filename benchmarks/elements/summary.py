"""Summary of the experiment on element vectors: mean errors, and changes against one table, paired by seed."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

REFERENCE = "one-hot"
"""The table to compare with by default: frozen, so that the layer behind it is a learned embedding."""

Place = tuple[str, int | None, str]
Front = tuple[str, str]


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean with the 95 % interval of Student's t; without an interval for a single value."""
    from scipy.stats import t

    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "low": None, "high": None, "n": len(values)}
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def summarise(lines: Iterable[Mapping[str, Any]], against: str = REFERENCE) -> dict[str, Any]:
    """Errors of every task, size, back-end, table and mode, and pooled over all tasks.

    `change` is the natural logarithm of the error divided by that of the table `against` (frozen) with the same seed:
    -0.05 is 5 % less. With three seeds the interval of a single task is wide; claims about a table rest on the pooled
    changes (`overall`), whose interval includes the differences between tasks.
    """
    errors: dict[Place, dict[Front, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    units: dict[str, str] = {}
    unseen: dict[tuple[str, int | None], list[float]] = defaultdict(list)
    for line in lines:
        unseen[line["task"], line["size"]].append(line["unseen"])
        place = (line["task"], line["size"], line["backend"])
        errors[place][line["table"], line["mode"]][line["seed"]] = line["mae"]
        units[line["task"]] = line["unit"]
    places, pooled = [], defaultdict[tuple[Any, ...], list[float]](list)
    for (task, size, backend), fronts in errors.items():
        reference = fronts.get((against, "frozen"), {})
        for (table, mode), by_seed in fronts.items():
            common = sorted(by_seed.keys() & reference.keys())
            changes = [math.log(by_seed[seed] / reference[seed]) for seed in common]
            pooled[size, backend, table, mode] += changes
            places.append(
                {"task": task, "size": size, "backend": backend, "table": table, "mode": mode, "unit": units[task]}
                | {"mae": statistics.fmean(by_seed.values()), "seeds": len(by_seed)}
                | {"sd": statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None}
                | {"difference": interval([by_seed[s] - reference[s] for s in common]) if common else None}
                | {"change": interval(changes) if common else None}
            )
    overall = [
        {"size": size, "backend": backend, "table": table, "mode": mode, "change": interval(changes)}
        for (size, backend, table, mode), changes in pooled.items()
        if changes
    ]
    samples = [{"task": t, "size": s, "unseen": statistics.fmean(shares)} for (t, s), shares in unseen.items()]
    return {"against": against, "places": places, "overall": overall, "samples": samples}


def markdown(content: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    lines = [
        f"{content['runs']} of {content['of']} runs. MAE on test rows, mean ± standard deviation over seeds; in "
        f"brackets the change against {content['against']} (frozen), paired by seed, with the 95 % interval of "
        "Student's t. The last column pools the changes of all tasks and seeds.",
    ]
    for key in dict.fromkeys((p["size"], p["backend"]) for p in content["places"]):
        lines += ["", f"## {key[1]}, {'all' if key[0] is None else key[0]} samples", "", *_block(content, key)]
    lines += ["", "## Test crystals with an element that is in no training crystal", ""]
    lines += ["| task | samples | share |", "|---|---|---|"]
    lines += [f"| {s['task']} | {s['size'] or 'all'} | {s['unseen']:.1%} |" for s in content["samples"]]
    lines += ["", "## Test crystals with a composition of the front-ends' training crystals", ""]
    lines += ["| task | test crystals | with such a composition |", "|---|---|---|"]
    lines += [f"| {o['task']} | {o['test']} | {o['composition_in_front_end']} |" for o in content["overlap"]]
    return "\n".join(lines) + "\n"


def _block(content: Mapping[str, Any], key: tuple[int | None, str]) -> list[str]:
    """Tables as rows, tasks as columns, and a last column over all tasks and seeds."""
    places = [p for p in content["places"] if (p["size"], p["backend"]) == key]
    tasks = {p["task"]: p["unit"] for p in places}
    cells = {(p["table"], p["mode"], p["task"]): p for p in places}
    overall = {(o["table"], o["mode"]): o for o in content["overall"] if (o["size"], o["backend"]) == key}
    fronts = sorted(overall, key=lambda front: overall[front]["change"]["mean"])
    fronts += [f for f in dict.fromkeys((p["table"], p["mode"]) for p in places) if f not in overall]
    header = ["table", "mode", *(f"{task} ({unit})" for task, unit in tasks.items()), "all tasks"]
    rows = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for front in fronts:
        entries = [_cell(cells.get((*front, task))) for task in tasks]
        rows.append("| " + " | ".join([*front, *entries, _percent(overall.get(front, {}).get("change"))]) + " |")
    return rows


def _cell(place: Mapping[str, Any] | None) -> str:
    if place is None:
        return "-"
    spread = "" if place["sd"] is None else f" ± {place['sd']:.3g}"
    change = "" if place["change"] is None else f" ({_percent(place['change'])})"
    return f"{place['mae']:.4g}{spread}{change}"


def _percent(change: Mapping[str, float | None] | None) -> str:
    """A change of the logarithm as a percentage, with its interval."""
    if change is None or change["mean"] is None:
        return "-"
    low, high = change["low"], change["high"]
    text = f"{100 * math.expm1(change['mean']):+.1f} %"
    if low is None or high is None:
        return text
    return f"{text} [{100 * math.expm1(low):+.1f}, {100 * math.expm1(high):+.1f}]"
