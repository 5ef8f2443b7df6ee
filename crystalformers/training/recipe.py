"""The recipe of a training run: every setting with its unit, its published default, and nothing hidden.

The defaults are the published recipe of Crystalformer (Taniai et al., ICLR 2024, section 4 and appendix), with
one slip of the authors' code not repeated: biases are not decayed (their code decays them 1000 times more
than weights).
"""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from crystalformers.errors import ConfigError
from crystalformers.models import MODELS, architecture_of
from crystalformers.models.presets import preset

Schedule = Literal["inverse-sqrt", "cosine", "constant", "step"]

OPERATIONAL = frozenset(
    {"threads", "image_cache_gb", "checkpoint_minutes", "checkpoint_steps", "tensorboard", "accelerator", "devices"}
)
"""Settings that change how a run is carried out but not what it computes; free to differ on resume."""


class Section(BaseModel):
    """A setting made of settings. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Exclude(Section):
    """Rows of another table that must not be learned from, so that it can be a fair test.

    Attributes:
        table: path of the table.
        split: which of its rows; null for all.
        by: ``id``: rows of the same id; ``composition``: rows of the same reduced formula, whatever their structure.
    """

    table: str
    split: Literal["train", "val", "test"] | None = "test"
    by: Literal["id", "composition"] = "id"


class Elements(Section):
    """A table of element vectors in front of the model.

    Attributes:
        table: its name or file, as `crystalformers.elements.load_elements` takes it.
        standardise: give every column mean 0 and standard deviation 1 over the elements of the table; raw properties in
            units of their own train badly.
        trainable: whether training may change the vectors.
        lr_scale: their learning rate in units of `lr`.
    """

    table: str
    standardise: bool = True
    trainable: bool = False
    lr_scale: float = Field(0.1, gt=0)


class Augment(Section):
    """Random poses for a model that sees Cartesian coordinates, anew in every training batch and never elsewhere.

    A pose is a rotation or rotation with reflection, uniform over all of O(3), and a translation.

    Attributes:
        probability: share of the crystals that are moved.
        translation: largest shift along each axis, Angstrom.
        jitter: standard deviation of independent displacements of the atoms, Angstrom.
    """

    probability: float = Field(1.0, ge=0, le=1)
    translation: float = Field(5.0, ge=0)
    jitter: float = Field(0.0, ge=0)


class Recipe(BaseModel):
    """All settings of a training run. Unknown keys are refused.

    Attributes:
        architecture: name of the model, as `crystalformers.models.MODELS` lists it.
        preset: name of a published model (`crystalformers.models.presets`) that `model` starts from; its settings are
            written into `model` when the recipe is read, so that a saved recipe names none.
        model: settings of the model; those left out take the values of the preset, or the architecture's defaults.
        tolerance: Gaussian weight beyond the image radius that may be ignored, relative to an atom's own.
        epochs: passes over the training split.
        batch_size: crystals per optimiser step, over all devices together.
        max_atoms: atoms per optimiser step above which batches are made smaller (bounds memory); null for no bound.
        loss: of one standardised label: ``l1``, absolute error, or ``mse``, its square.
        loss_balance: of several targets: ``none``: every label counts the same; ``targets``: every target does,
            however many labels it has; ``uncertainty``: by learned weights (Kendall et al., CVPR 2018), that start
            like ``targets``.
        optimizer: ``adamw``, or ``sgd`` with momentum.
        lr: peak learning rate.
        betas: decay rates of AdamW's two moments.
        eps: AdamW's denominator offset.
        momentum: of SGD.
        weight_decay: decay of weights per step, relative to the learning rate (of AdamW: decoupled from the gradient);
            biases are not decayed.
        schedule: ``inverse-sqrt``: lr sqrt(T / (T + t)) after t steps; ``cosine``: to zero at the last epoch;
            ``step``: lr times a factor after every so many epochs; ``constant``.
        schedule_steps: T of the inverse square root, optimiser steps.
        schedule_epochs: epochs between two steps of ``step``.
        schedule_factor: factor of ``step``.
        warmup_steps: optimiser steps over which the rate first rises linearly.
        clip_norm: largest global norm of the gradient.
        average_epochs: last epochs whose weights, after every step, are averaged with equal weight; the learning
            rate is constant meanwhile. 0: the model is that of the best validation epoch, which is otherwise saved as a
            second one. Left out: a tenth of `epochs` (published: 50 of 500).
        elements: a table of element vectors in front of the model; null for vectors of the model's own.
        exclude: tables whose rows must not be learned from, neither for training nor for validation.
        augment: random poses of the training crystals; null for none, which is right for an invariant model.
        published_slips: repeat mistakes of the published training code of CrystalTransformer, to reproduce its results
            (`training.published_slips`); needs `augment`.
        early_stopping: epochs without a better validation error after which training ends; null never stops.
        precision: ``32``, or ``bf16`` to round the dense layers (not the geometry) to bfloat16.
        seed: of the initial weights, the order of the data and a split drawn at random.
        val_fraction: share of the rows drawn for validation where the table brings no validation rows.
        test_fraction: share of the rows drawn for testing where the table brings no split at all.
        image_cache_gb: memory for images that stay from epoch to epoch, GB (1e9 bytes); the others are rebuilt.
        threads: CPU threads; null leaves the choice to PyTorch.
        accelerator: ``auto``, ``cpu`` or ``gpu``, as Lightning Fabric takes it.
        devices: how many of them.
        checkpoint_minutes: longest time between two resume checkpoints, minutes.
        checkpoint_steps: also save every so many optimiser steps; null for no such rule.
        tensorboard: also write TensorBoard event files into the run folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    architecture: str = "crystalformer"
    preset: str | None = Field(None, exclude=True)
    model: dict[str, Any] = Field(default_factory=dict)
    tolerance: float = Field(1e-5, gt=0, lt=1)
    epochs: int = Field(500, ge=1)
    batch_size: int = Field(128, ge=1)
    max_atoms: int | None = Field(16384, ge=1)
    loss: Literal["l1", "mse"] = "l1"
    loss_balance: Literal["none", "targets", "uncertainty"] = "none"
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(5e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-5, ge=0)
    schedule: Schedule = "inverse-sqrt"
    schedule_steps: int = Field(4000, ge=1)
    schedule_epochs: int = Field(10, ge=1)
    schedule_factor: float = Field(0.96, gt=0, le=1)
    warmup_steps: int = Field(0, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    average_epochs: int = Field(50, ge=0)
    elements: Elements | None = None
    exclude: tuple[Exclude, ...] = ()
    augment: Augment | None = None
    published_slips: bool = False
    early_stopping: int | None = Field(None, ge=1)
    precision: Literal["32", "bf16"] = "32"
    seed: int = Field(123, ge=0)
    val_fraction: float = Field(0.1, gt=0, lt=0.5)
    test_fraction: float = Field(0.1, ge=0, lt=0.5)
    image_cache_gb: float = Field(2.0, ge=0)
    threads: int | None = Field(None, ge=1)
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(1, ge=1)
    checkpoint_minutes: float = Field(5.0, ge=0)
    checkpoint_steps: int | None = Field(None, ge=1)
    tensorboard: bool = False

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        """Fill in what follows from other settings, so that the saved recipe hides nothing."""
        if not isinstance(data, dict):
            raise ConfigError(f"A recipe is a mapping of settings to values, not {type(data).__name__}.")
        _refuse_unknown(data, list(cls.model_fields), "setting")
        architecture = _architecture(data.get("architecture"), data.get("preset"))
        if architecture not in MODELS:
            raise ConfigError(f"Architecture '{architecture}' is not one of {', '.join(MODELS)}.")
        epochs = data.get("epochs", cls.model_fields["epochs"].default)
        average = data.get("average_epochs")
        if average is None:
            average = epochs // 10 if isinstance(epochs, int) else 0
        model = _resolved_model(architecture, data.get("preset"), data.get("model") or {})
        return {**data, "architecture": architecture, "average_epochs": average, "preset": None, "model": model}

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.average_epochs > self.epochs:
            raise ConfigError(
                f"average_epochs = {self.average_epochs} exceeds epochs = {self.epochs}; lower it "
                "(a tenth of the epochs is the published share)."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas = {self.betas} must lie in [0, 1).")
        if self.augment is not None and MODELS[self.architecture].Config(**self.model).invariant:
            raise ConfigError(
                f"augment: this {self.architecture} sees no coordinates, so that random poses change nothing; leave it "
                "out."
            )
        if self.published_slips and self.augment is None:
            raise ConfigError("published_slips: the mistakes are those of random poses; add 'augment'.")
        if self.elements is not None and "element_dim" not in self.model:
            raise ConfigError(f"elements: {self.architecture} has a table of its own and takes no other.")
        return self

    @classmethod
    def parse(cls, settings: dict[str, Any], source: str = "recipe") -> Recipe:
        """A recipe from plain settings.

        Raises:
            ConfigError: naming `source`, the setting and what is wrong with it.
        """
        try:
            return cls(**settings)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        except ValidationError as error:
            raise ConfigError(f"{source}: {_first_problem(error)}") from None

    @classmethod
    def load(cls, path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
        """Read a YAML file.

        Args:
            path: of the file.
            overrides: settings that take precedence over those of the file.

        Raises:
            ConfigError: if the file cannot be read or a setting is unknown or out of range.
        """
        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the recipe cannot be read ({error}).") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not a YAML file ({' '.join(str(error).split())}).") from None
        if not isinstance(settings or {}, dict):
            raise ConfigError(f"{path}: a recipe is a list of lines 'setting: value'.")
        return cls.parse({**(settings or {}), **(overrides or {})}, str(path))

    def to_yaml(self) -> str:
        """The resolved recipe, readable again by `load`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @property
    def first_averaged_epoch(self) -> int:
        """Epoch (from 0) in which averaging begins; equal to `epochs` when there is none."""
        return self.epochs - self.average_epochs


def _architecture(given: Any, name: str | None) -> Any:
    """The architecture that is named, that of the preset, or the default."""
    of_preset = None if name is None else architecture_of(preset(name))
    if given is not None and of_preset is not None and given != of_preset:
        raise ConfigError(f"The preset '{name}' is a {of_preset}, not a {given}; leave out one of them.")
    return given or of_preset or Recipe.model_fields["architecture"].default


def _resolved_model(architecture: str, name: str | None, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ConfigError("The section 'model' must be a mapping of settings to values.")
    config_class = MODELS[architecture].Config
    names = [name for name in config_class.__dataclass_fields__ if name != "n_targets"]
    if "n_targets" in given:
        raise ConfigError("The model setting n_targets follows from the targets; remove it.")
    _refuse_unknown(given, names, f"{architecture} setting")
    start = {} if name is None else asdict(preset(name))
    try:
        config = TypeAdapter(config_class).validate_python({**start, **given})
    except ValidationError as error:
        raise ConfigError(f"model: {_first_problem(error)}") from None
    return {name: getattr(config, name) for name in names}


def _refuse_unknown(given: dict[Any, Any], known: list[str], what: str) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
            raise ConfigError(f"Unknown {what} '{key}'; {hint}")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    where = ".".join(str(part) for part in problem["loc"]) or "settings"
    return f"{where} = {problem['input']!r}: {problem['msg']}."
