"""The recipe of a training run: every setting with its unit and its default, and nothing hidden.

The published recipe of Crystalformer (Taniai et al., ICLR 2024, section 4 and appendix) is ``defaults: published``. One
slip of the authors' code is not repeated: biases are not decayed (their code decays them 1000 times more than weights).
"""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from crystalformers.errors import ConfigError
from crystalformers.extras import optional
from crystalformers.models import MODELS, architecture_of
from crystalformers.models.presets import FRAME_SETTINGS, frames_of, preset
from crystalformers.prediction.loading import trained_architecture
from crystalformers.training.yaml_settings import read_yaml, with_overrides

with optional("train", "a recipe"):
    import yaml

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


class Init(Section):
    """A trained model to start from: fine-tuning. Everything but the outputs of new targets is taken over.

    A model is divided into stages from its input to its prediction head: the vectors of the elements, each block, the
    head (`CrystalModel.stages`).

    Attributes:
        model: its name, run folder or weight file, as `load_model` takes it.
        head: ``same``: the head is taken over, with the outputs of targets that the model predicts already; outputs of
            other targets start at the mean of the training labels. ``fresh``: all of it starts with random weights.
        frames: preset of a CrystalFramer whose frames a Crystalformer gets besides what it has learned. Their weights
            begin at zero, so that the new model begins as the other one ended.
        member: which member to start from, if the model is an ensemble, counted from 0.
        freeze: stages from the input that training leaves as they are.
        lr_decay: learning rate of a stage in units of that of the next one, which is nearer to the head.
        head_epochs: epochs at the beginning in which only the head learns.
    """

    model: str
    head: Literal["same", "fresh"] = "same"
    frames: str | None = None
    member: int = Field(0, ge=0)
    freeze: int = Field(0, ge=0)
    lr_decay: float = Field(0.7, gt=0, le=1)
    head_epochs: int = Field(0, ge=0)


MUON_MOMENTUM = 0.95
"""Share of Muon's last direction in the next, as proposed (Jordan, "Muon", 2024), where the recipe names none."""

SGD_MOMENTUM = 0.9
"""That of SGD, where the recipe names none."""

PUBLISHED: dict[str, Any] = {
    "epochs": 500,
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 5e-4,
    "schedule": "inverse-sqrt",
    "warmup_steps": 0,
}
"""Settings of Crystalformer for the Materials Project in which the published recipe differs from the defaults here."""

FINE_TUNING: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 2e-3,
    "schedule": "cosine",
    "warmup_steps": 50,
}
"""Settings of a run that starts from a trained model, where the recipe names no others.

With `Init.lr_decay`, chosen on development rows of four small tables (docs/fine-tuning-results.md)."""


class Augment(Section):
    """Random poses for a model that sees Cartesian coordinates, drawn for every training batch and for nothing else.

    A pose is a rotation or rotation with reflection, uniform over all of O(3), and a translation.

    Attributes:
        probability: share of the crystals that are moved.
        translation: largest shift along each axis, Angstrom.
        jitter: standard deviation of independent displacements of the atoms, Angstrom.
    """

    probability: float = Field(1.0, ge=0, le=1)
    translation: float = Field(5.0, ge=0)
    jitter: float = Field(0.0, ge=0)


class Recipe(Section):
    """All settings of a training run.

    Attributes:
        defaults: which values the settings have that are left out: ``recommended``, those here, or ``published``, those
            of the Crystalformer paper (`PUBLISHED`). Of a run that starts from a trained model, `FINE_TUNING` in front.
        architecture: name of the model, as `crystalformers.models.MODELS` lists it.
        preset: name of a published model (`crystalformers.models.presets`) that `model` starts from; its settings are
            written into `model` when the recipe is read, so that a saved recipe names none.
        model: settings of the model; those left out take the values of the preset, or the architecture's defaults.
        init: a trained model to start from, whose architecture and settings the new one has; null for random weights.
            `FINE_TUNING` holds then. `init: NAME` is short for `init: {model: NAME}`.
        tolerance: Gaussian weight beyond the image radius that may be ignored, relative to an atom's own.
        epochs: passes over the training split.
        batch_size: crystals per optimiser step, over all devices together.
        max_atoms: atoms per optimiser step above which batches are made smaller (bounds memory); null for no bound.
        loss: of one standardised label: ``l1``, absolute error, or ``mse``, its square.
        loss_balance: of several targets: ``none``: every label counts the same; ``targets``: every target does,
            however many labels it has; ``sum``: as ``targets``, but their sum (published for CrystalTransformer);
            ``uncertainty``: by learned weights (Kendall et al., CVPR 2018), that start
            like ``targets``.
        optimizer: ``adamw``; ``muon``, AdamW with orthogonalised steps of the weight matrices (`training.muon`); or
            ``sgd`` with momentum.
        lr: peak learning rate.
        betas: decay rates of AdamW's two moments.
        eps: AdamW's denominator offset.
        momentum: of SGD and Muon; left out: 0.9, of Muon 0.95.
        weight_decay: decay of weights per step, relative to the learning rate (of AdamW: decoupled from the gradient);
            biases are not decayed.
        schedule: ``inverse-sqrt``: lr sqrt(T / (T + t)) after t steps; ``cosine``: to zero at the last epoch;
            ``step``: lr times a factor after every so many epochs; ``constant``.
        schedule_steps: T of the inverse square root, optimiser steps.
        schedule_epochs: epochs between two steps of ``step``.
        schedule_factor: factor of ``step``.
        warmup_steps: optimiser steps over which the rate first rises linearly; at most a tenth of the run.
        clip_norm: largest global norm of the gradient.
        average_epochs: last epochs whose weights, after every step, are averaged with equal weight; the learning
            rate is constant meanwhile. 0: the model is that of the best validation epoch, which is otherwise saved as a
            second one. Left out: a tenth of `epochs` (published: 50 of 500).
        elements: a table of element vectors in front of the model; null for vectors of the model's own.
        exclude: tables whose rows must not be learned from, neither for training nor for validation.
        augment: random poses of the training crystals; null for none, which is right for an invariant model.
        published_slips: follow the authors' training also where ours differs on purpose
            (`training.published_slips`); of CrystalTransformer with coordinates it needs `augment`.
        early_stopping: epochs without a better validation error after which training ends; null never stops.
        precision: ``32``, or ``bf16`` to round the dense layers (not the geometry) to bfloat16. On a CPU the sums over
            images then leave out what is small beside that rounding, in training and validation; a prediction does not.
        seed: of the initial weights, the order of the data and a split drawn at random.
        split_seed: of a split drawn at random, the folds of an ensemble among them; null for that of `seed`.
        val_fraction: share of the rows drawn for validation where the table brings no validation rows.
        test_fraction: share of the rows drawn for testing where the table brings no split at all.
        image_cache_gb: memory for images that stay from epoch to epoch, GB (1e9 bytes); the others are rebuilt.
        threads: CPU threads; null leaves the choice to PyTorch.
        accelerator: ``auto``, ``cpu`` or ``gpu``, as Lightning Fabric takes it.
        devices: how many of them; with `torchrun` there is one for each of its processes instead.
        checkpoint_minutes: longest time between two resume checkpoints, minutes.
        checkpoint_steps: also save every so many optimiser steps; null for no such rule.
        tensorboard: also write TensorBoard event files into the run folder.
    """

    model_config = ConfigDict(protected_namespaces=())

    defaults: Literal["recommended", "published"] = Field("recommended", exclude=True)
    architecture: str = "crystalformer"
    preset: str | None = Field(None, exclude=True)
    model: dict[str, Any] = Field(default_factory=dict)
    init: Init | None = None
    tolerance: float = Field(1e-5, gt=0, lt=1)
    epochs: int = Field(100, ge=1)
    batch_size: int = Field(32, ge=1)
    max_atoms: int | None = Field(16384, ge=1)
    loss: Literal["l1", "mse"] = "l1"
    loss_balance: Literal["none", "targets", "sum", "uncertainty"] = "none"
    optimizer: Literal["adamw", "muon", "sgd"] = "muon"
    lr: float = Field(1e-3, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-8, gt=0)
    momentum: float = Field(MUON_MOMENTUM, ge=0, lt=1)
    weight_decay: float = Field(1e-5, ge=0)
    schedule: Schedule = "cosine"
    schedule_steps: int = Field(4000, ge=1)
    schedule_epochs: int = Field(10, ge=1)
    schedule_factor: float = Field(0.96, gt=0, le=1)
    warmup_steps: int = Field(250, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    average_epochs: int = Field(10, ge=0)
    elements: Elements | None = None
    exclude: tuple[Exclude, ...] = ()
    augment: Augment | None = None
    published_slips: bool = False
    early_stopping: int | None = Field(None, ge=1)
    precision: Literal["32", "bf16"] = "32"
    seed: int = Field(123, ge=0)
    split_seed: int | None = Field(None, ge=0)
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
        if isinstance(data.get("init"), str):
            data = {**data, "init": {"model": data["init"]}}
        if data.get("init") is not None:
            data = _fine_tuning(data)
        if data.get("defaults") == "published":
            data = {**PUBLISHED, **data, "defaults": "recommended"}
        architecture = _architecture(data.get("architecture"), data.get("preset"))
        if not isinstance(architecture, str) or architecture not in MODELS:
            raise ConfigError(f"Architecture '{architecture}' is not one of {', '.join(MODELS)}.")
        epochs = data.get("epochs", cls.model_fields["epochs"].default)
        average = data.get("average_epochs")
        if average is None:
            average = epochs // 10 if isinstance(epochs, int) else 0
        model = _resolved_model(architecture, data.get("preset"), data.get("model") or {})
        if data.get("optimizer", "muon") != "muon":
            data = {"momentum": SGD_MOMENTUM, **data}
        return {**data, "architecture": architecture, "average_epochs": average, "preset": None, "model": model}

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.architecture == "ensemble":
            raise ConfigError("architecture: an ensemble is trained member by member; name that of the members.")
        if self.average_epochs > self.epochs:
            raise ConfigError(
                f"average_epochs = {self.average_epochs} exceeds epochs = {self.epochs}; lower it "
                "(a tenth of the epochs is the published share)."
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas = {self.betas} must lie in [0, 1).")
        invariant = MODELS[self.architecture].Config(**self.model).invariant
        if self.augment is not None and invariant:
            raise ConfigError(
                f"augment: this {self.architecture} sees no coordinates, so that random poses change nothing; leave it "
                "out."
            )
        if self.published_slips and self.augment is None and not invariant:
            raise ConfigError("published_slips: some of the mistakes are those of random poses; add 'augment'.")
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
            return cls.model_validate(settings)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_first_problem(error)}") from None

    @classmethod
    def load(cls, path: Path, overrides: dict[str, Any] | None = None) -> Recipe:
        """Read a YAML file.

        Args:
            path: of the file.
            overrides: settings that take precedence over those of the file; `init.model` names one of a section.

        Raises:
            ConfigError: if the file cannot be read or a setting is unknown or out of range.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: the recipe cannot be read ({error}).") from None
        settings = read_yaml(text, str(path))
        if not isinstance(settings or {}, dict):
            raise ConfigError(f"{path}: a recipe is a list of lines 'setting: value'.")
        return cls.parse(with_overrides(settings or {}, overrides or {}), str(path))

    def to_yaml(self) -> str:
        """The resolved recipe, readable again by `load`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @property
    def seed_of_split(self) -> int:
        """The seed of everything that divides rows at random."""
        return self.seed if self.split_seed is None else self.split_seed

    @property
    def first_averaged_epoch(self) -> int:
        """Epoch (from 0) in which averaging begins; equal to `epochs` when there is none."""
        return self.epochs - self.average_epochs


def accelerator_of(device: str) -> Literal["cpu", "gpu"]:
    """The setting `accelerator` for a device, `cpu` or `cuda`.

    Raises:
        ConfigError: if the device is another one.
    """
    if device not in ("cpu", "cuda", "cuda:0"):
        problem = f"training takes cpu or cuda, not '{device}'"
        remedy = "choose the GPU with the environment variable CUDA_VISIBLE_DEVICES"
        raise ConfigError(problem, where="device", remedy=remedy)
    return "cpu" if device == "cpu" else "gpu"


def _fine_tuning(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run that starts from a trained model, with its architecture and the new frames."""
    model = _setting(data["init"], "model")
    if not isinstance(model, str):
        raise ConfigError("init needs the setting 'model': a name, run folder or weight file.")
    if data.get("preset") is not None:
        raise ConfigError("init: the model brings its own settings; leave out 'preset'.")
    architecture, settings = trained_architecture(model, int(_setting(data["init"], "member") or 0))
    frames = _setting(data["init"], "frames")
    if frames is not None:
        if settings.get("frame", "none such") is not None:
            remedy = "only a Crystalformer without frames can get them; leave out init.frames"
            has = f"frames already ({settings['frame']})" if "frame" in settings else "no place for frames"
            raise ConfigError(f"this {architecture} has {has}", where=f"init: {model}", remedy=remedy)
        settings = {**settings, **frames_of(frames)}
    given = {"architecture": data.get("architecture") or architecture, **(data.get("model") or {})}
    for name, value in given.items():
        own = {"architecture": architecture, **settings}.get(name)
        if value != own:
            hint = " and name new frames with init.frames" if name in FRAME_SETTINGS else ""
            raise ConfigError(f"init: {model} has {name} = {own}, not {value}; leave out '{name}'{hint}.")
    return {**FINE_TUNING, **data, "architecture": architecture, "model": settings}


def _setting(section: Any, name: str) -> Any:
    return section.get(name) if isinstance(section, dict) else getattr(section, name, None)


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
