"""Fine-tuning: a run that starts from the weights of a trained model, its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from crystalformers.errors import ConfigError
from crystalformers.models import CrystalModel
from crystalformers.prediction.card import read_card
from crystalformers.prediction.loading import load_model, member_of
from crystalformers.prediction.model import Model
from crystalformers.target import Target
from crystalformers.training import lineage
from crystalformers.training.dataset import Dataset
from crystalformers.training.lineage import UNKNOWN
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

    def describe(self, dataset: Dataset) -> str:
        """What is taken over, what starts anew, and what is known of test rows that the parent has learned from."""
        kept = f"the outputs of {', '.join(self.kept)}" if self.kept else "no outputs"
        fresh = f"; {', '.join(self.fresh)} starts anew" if self.fresh else ""
        text = f"starting from {self.model.name} ({self.model.fingerprint[:12]}): its encoder and {kept}{fresh}"
        return f"{text}\n{self._describe_overlap(dataset)}" if len(dataset.splits["test"]) else text

    def overlap(self, dataset: Dataset) -> dict[str, lineage.Overlap] | None:
        """How many test rows are among those that the parent has learned from; None if that is not known."""
        return lineage.overlap(self.model.arrays, dataset.table, dataset.splits["test"])

    @property
    def knows_ancestors(self) -> bool:
        """Whether the parent knows what its own parent, if it had one, has learned from."""
        init = read_card(self.model.card, "init", dict[str, Any] | None)
        return init is None or (init.get("overlap", UNKNOWN) != UNKNOWN and init.get("knows_ancestors") is True)

    def _describe_overlap(self, dataset: Dataset) -> str:
        found = self.overlap(dataset)
        if found is None:
            return "whether the parent has learned from test rows is unknown: its file does not tell its training rows"
        counts = " and ".join(f"the {kind} of {one.shared} of {one.checked}" for kind, one in found.items())
        earlier = "" if self.knows_ancestors else "; of its own parents it is unknown"
        return f"the parent has learned from {counts} test rows{earlier}"

    def to_dict(self, dataset: Dataset) -> dict[str, Any]:
        """Its name, hash, targets and training data, and which test rows it knows, for the card of the new model."""
        card, overlap = self.model.card, self.overlap(dataset)
        return {
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "targets": [target.to_dict() for target in self.model.targets],
            "kept": list(self.kept),
            "data": card.get("data"),
            "init": card.get("init"),
            "overlap": UNKNOWN if overlap is None else {kind: asdict(one) for kind, one in overlap.items()},
            "knows_ancestors": self.knows_ancestors,
        }


def inherit(model: CrystalModel, targets: Sequence[Target], init: Init) -> Parent:
    """Give a fresh model the weights of its parent, as far as they fit, and freeze what is to stay.

    Args:
        model: fresh, of the parent's architecture or with frames besides, with one output per target.
        targets: of the new model, with mean and std.
        init: the parent and how to use it.

    Raises:
        CheckpointError: if the parent cannot be read.
        ConfigError: if it predicts one of the targets in another unit, basis or transform, or all would be frozen.
    """
    parent = load_model(init.model)
    network = member_of(parent, init.member)
    own = {target.name: (row, target) for row, target in enumerate(parent.targets)}
    if init.head == "same":
        for target in targets:
            if target.name in own:
                _check_same(init.model, own[target.name][1], target)
    kept = tuple(t.name for t in targets if t.name in own) if init.head == "same" else ()
    _take_over_encoder(model, network, with_head=init.head == "same")
    if init.head == "same":
        theirs = outputs(network)
        for output, target in zip(outputs(model), targets, strict=True):
            if target.name in kept:
                row, before = own[target.name]
                output.take_over(theirs[row], before, target)
            else:
                output.start_at_mean()
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


def _take_over_encoder(model: CrystalModel, parent: CrystalModel, *, with_head: bool) -> None:
    """Copy all tensors but the outputs, or but the whole head; a head of its own per target follows its target.

    What the encoder has besides, the weights of new frames, begins at zero: it changes nothing until it has learned.
    """
    left_out = {id(t) for output in outputs(model) for t in (output.linear.weight, output.linear.bias)}
    if not with_head or any(isinstance(network.stages[-1], nn.ModuleList) for network in (model, parent)):
        left_out = {id(parameter) for parameter in model.stages[-1].parameters()}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in left_out}
    ours = model.state_dict()
    theirs = {name: tensor for name, tensor in parent.state_dict().items() if name in ours and name not in names}
    model.load_state_dict(theirs, strict=False)
    head = {id(parameter) for parameter in model.stages[-1].parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name not in theirs and id(parameter) not in head:
                parameter.zero_()


@dataclass(frozen=True)
class Output:
    """Where one standardised prediction comes from.

    Attributes:
        head: the head, or that of the target alone.
        linear: the last layer in it.
        row: of that layer.
    """

    head: nn.Module
    linear: nn.Linear
    row: int

    @torch.no_grad()
    def take_over(self, other: Output, before: Target, now: Target) -> None:
        """Predict the same as another output in physical units: z' = (z std + mean - mean') / std'."""
        if self.linear.out_features == other.linear.out_features == 1:
            self.head.load_state_dict(other.head.state_dict())
        self.linear.weight[self.row] = other.linear.weight[other.row] * (before.std / now.std)
        self.linear.bias[self.row] = (other.linear.bias[other.row] * before.std + before.mean - now.mean) / now.std

    @torch.no_grad()
    def start_at_mean(self) -> None:
        """Predict the mean of the training labels."""
        self.linear.weight[self.row] = 0
        self.linear.bias[self.row] = 0


def outputs(model: CrystalModel) -> list[Output]:
    """The outputs of a model, one per target.

    Raises:
        ConfigError: if the head does not end in linear layers with one output per target.
    """
    head = model.stages[-1]
    found = []
    for part in head if isinstance(head, nn.ModuleList) else [head]:
        linears = [module for module in part.modules() if isinstance(module, nn.Linear)]
        if linears:
            found += [Output(part, linears[-1], row) for row in range(linears[-1].out_features)]
    if len(found) != model.n_targets:
        raise ConfigError(f"The head of a {type(model).__name__} does not end in layers with one output per target.")
    return found


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
