"""`crystalformers models`: the bundled models and their measured errors."""

from __future__ import annotations

from typing import Any

import typer


def models_command() -> None:
    """List the bundled models and their measured errors; those called a base are for `train --init`."""
    from crystalformers.checkpoint import read_description
    from crystalformers.cli.output import print_table
    from crystalformers.prediction import bundled
    from crystalformers.prediction.bundled import find_weights

    if not bundled.names():
        typer.echo("No model is bundled with this installation.")
        return
    rows = []
    for name in bundled.names():
        description = read_description(find_weights(name))
        for target in description["targets"]:
            rows.append((name, target["name"], target["unit"], *data_and_error(description["card"], target["name"])))
    print_table(("model", "property", "unit", "training data", "test error (MAE)"), rows)


def data_and_error(card: dict[str, Any], target: str) -> tuple[str, str]:
    """The training data and the mean absolute test error of a target according to a card; `-` if it has none."""
    data = card.get("data", {})
    rows = data.get("rows", {}).get("train")
    words = [data.get("name"), None if rows is None else f"{rows} crystals"]
    measured = card.get("errors", {}).get("test", {}).get(target)
    error = "-" if measured is None else f"{measured['mae']:.3g} ({measured['n']} crystals)"
    return ", ".join(word for word in words if word) or "-", error
