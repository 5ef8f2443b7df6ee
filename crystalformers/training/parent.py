"""Fine-tuning: a run that starts from the weights of a trained model, its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from crystalformers.errors import ConfigError
from crystalformers.models import CrystalModel
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model
from crystalformers.target import Target
from crystalformers.training.recipe import Init, Recipe


@dataclass(frozen=True)
class Parent:
    """A trained model and what a run takes from it.

    Attributes:
        model: as `load_model` gives it.
        kept: targets whose outputs are taken over.
        fresh: targets whose outputs start anew.
    """

    model: Model
    kept: tuple[str, ...]
    fresh: tuple[str, ...]

    def describe(self) -> str:
        """What is taken over and what starts anew, a sentence."""
        kept = f"the outputs of {', '.join(self.kept)}" if self.kept else "no outputs"
        fresh = f"; {', '.join(self.fresh)} starts anew" if self.fresh else ""
        return f"starting from {self.model.name} ({self.model.fingerprint[:12]}): its encoder and {kept}{fresh}"

    def to_dict(self) -> dict[str, Any]:
        """Its name, hash, targets and training data, for the card of the new model."""
        card = self.model.card
        return {
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "targets": [target.to_dict() for target in self.model.targets],
            "kept": list(self.kept),
            "data": card.get("data"),
            "init": card.get("init"),
        }


def inherit(model: CrystalModel, targets: Sequence[Target], init: Init) -> Parent:
    """Give a fresh model the weights of its parent, as far as they fit, and freeze what is to stay.

    Args:
        model: fresh, of the parent's architecture, with one output per target.
        targets: of the new model, with mean and std.
        init: the parent and how to use it.

    Raises:
        CheckpointError: if the parent cannot be read.
        ConfigError: if it predicts one of the targets in another unit, basis or transform, or all would be frozen.
    """
    parent = load_model(init.model)
    own = {target.name: (row, target) for row, target in enumerate(parent.targets)}
    if init.head == "same":
        for target in targets:
            if target.name in own:
                _check_same(init.model, own[target.name][1], target)
    head = model.stages[-1]
    output = _output(model)
    left_out = {id(output.weight), id(output.bias)} if init.head == "same" else {id(p) for p in head.parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in left_out}
    state = {name: tensor for name, tensor in parent.network.state_dict().items() if name not in names}
    model.load_state_dict(state, strict=False)
    kept = tuple(t.name for t in targets if t.name in own) if init.head == "same" else ()
    if init.head == "same":
        with torch.no_grad():
            output.weight.zero_()
            output.bias.zero_()
            for row, target in enumerate(targets):
                if target.name in kept:
                    _take_over(output, row, target, _output(parent.network), *own[target.name])
    _freeze(model, init)
    return Parent(parent, kept, tuple(t.name for t in targets if t.name not in kept))


def _check_same(name: str, own: Target, target: Target) -> None:
    for field in ("unit", "basis", "transform"):
        before, now = getattr(own, field), getattr(target, field)
        if before != now:
            raise ConfigError(
                f"the model predicts {target.name} with {field} '{before}', the table has '{now}'",
                where=f"init: {name}",
                remedy="convert the labels, or learn the target anew with init.head = fresh",
            )


def _output(model: CrystalModel) -> nn.Linear:
    """The layer whose outputs are the standardised predictions."""
    *_, last = (module for module in model.stages[-1].modules() if isinstance(module, nn.Linear))
    if last.out_features != model.n_targets:
        raise ConfigError(f"The head of a {type(model).__name__} does not end in a layer with one output per target.")
    return last


def _take_over(output: nn.Linear, row: int, target: Target, theirs: nn.Linear, their_row: int, own: Target) -> None:
    """One output of the parent, for labels with another mean and std: z' = (z std + mean - mean') / std'."""
    output.weight[row] = theirs.weight[their_row] * (own.std / target.std)
    output.bias[row] = (theirs.bias[their_row] * own.std + own.mean - target.mean) / target.std


def _freeze(model: CrystalModel, init: Init) -> None:
    stages = model.stages
    if init.freeze >= len(stages):
        raise ConfigError(
            f"init.freeze = {init.freeze} leaves nothing to learn",
            where=f"init: {init.model}",
            remedy=f"the model has {len(stages)} stages, the last one is the head; freeze at most {len(stages) - 1}",
        )
    for stage in stages[: init.freeze]:
        stage.requires_grad_(False)


def keep_frozen(model: CrystalModel, recipe: Recipe) -> None:
    """Put the frozen stages in evaluation mode: no dropout, and no statistics that change."""
    if recipe.init is not None:
        for stage in model.stages[: recipe.init.freeze]:
            stage.eval()


def waiting_for_head(recipe: Recipe, epoch: int) -> bool:
    """Whether only the head learns in an epoch (from 0)."""
    return recipe.init is not None and epoch < recipe.init.head_epochs
