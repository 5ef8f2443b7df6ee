"""Hyper-parameters of Crystalformer and CrystalFramer: the authors' names and values, and our settings.

Their training script stores every entry of its parameter file in a checkpoint. An entry is either translated (`READ`),
or must have the one value that this architecture stands for (`FIXED`), or matters in training only (`TRAINING`). A
checkpoint with any other entry is refused, since it may hold another model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from crystalformers.attention.frames.local import FrameMethod
from crystalformers.errors import CheckpointError
from crystalformers.models.crystalformer import CrystalformerConfig, Space

SPACES: dict[str, Space] = {
    "real": "real",
    "reci": "reciprocal",
    "multihead": "dual",
    "real-reci": "alternating",
}
"""Their `domain` to our `space`."""

FRAMES: dict[str, FrameMethod] = {
    "max": "max",
    "weighted_pca": "weighted-pca",
    "max_static": "static-local",
    "pca": "pca",
    "lattice": "lattice",
}
"""Their `frame_method` to our `frame`."""

DIFFERENT_FRAMES: dict[str, str] = {
    "weighted_pca": "their code weights by distance too and takes fixed axes where the second moment is small",
    "max_static": "the second axis of their code points to the farthest image, here and in the paper to the nearest",
    "pca": "their code takes the axes from the cell as given, with random signs; here from the primitive cell",
    "lattice": "their code takes the vectors from the cell as given; here from the lattice of all translations",
}
"""Frames with which our predictions differ from theirs, and why."""

FIXED: dict[str, tuple[Any, ...]] = {
    "encoder_name": ("latticeformer",),
    "k_dim": (0,),
    "v_dim": (0,),
    "t_fixup_init": (True,),
    "t_activation": ("relu",),
    "gauss_state": ("q",),
    "normalize_gauss": (True,),
    "use_cgcnn_feat": (False,),
    "value_pe_dist_reci": (0,),
    "value_pe_wave_real": (0,),
    "value_pe_wave_reci": (0,),
    "pooling": ("avr",),
    "pre_pooling_op": ("no",),
    "norm_type": ("no", "id"),
}
"""What their code can vary and this architecture cannot: the values that this architecture corresponds to."""

FIXED_IF_GIVEN: dict[str, tuple[Any, ...]] = {
    "value_pe_headed": (True,),
    "value_pe_condproj": ("no",),
    "exclude_self": (False,),
    "norm_func_mode": (0,),
}
"""The same for parameters that only the code of the first paper has."""

IMAGES: dict[str, Any] = {"lattice_range": 2, "adaptive_cutoff_sigma": -3.5, "minimum_range": True}
"""Parameters of their choice of images, which a tolerance replaces here, with their published values."""

READ = frozenset(
    "num_layers model_dim head_num ff_dim embedding_dim domain gauss_lb_real gauss_lb_reci scale_real scale_reci "
    "value_pe_dist_real value_pe_dist_max targets dropout".split()
)
"""Translated; in every checkpoint."""

READ_IF_GIVEN = frozenset(
    "positive_func positive_func_beta value_pe_width_scale value_pe_dist_wscale value_pe_dist_coef frame_method "
    "cos_abs value_pe_angle_real value_pe_angle_wscale value_pe_angle_coef target_set".split()
)
"""Translated; in the checkpoints of one of the papers."""

TRAINING = frozenset(
    "seed experiment_name save_path optimizer lr lr_sch sch_params adam_betas momentum weight_decay clip_norm "
    "clip_grad batch_size n_epochs loss_func freeze_bn_epochs train_filter_max train_filter_min train_percent_check "
    "val_percent_check model_checkpoint_save_top_k pretrained_model num_workers normalize_targets swa_epochs "
    "scale_grad use_cuda_code use_low_memory ddp reproduciblity_state symm_break_noise param_file "
    "training_data".split()
)
"""Has no effect on a trained model."""


def config_of(params: Mapping[str, Any]) -> CrystalformerConfig:
    """Our settings from their hyper-parameters.

    Raises:
        CheckpointError: if one is missing, unknown, or has a value that this architecture has no counterpart for.
        ConfigError: if the settings contradict each other.
    """
    _refuse_unknown(params)
    for name, allowed in (FIXED | FIXED_IF_GIVEN).items():
        if name in params and params[name] not in allowed:
            raise _unsupported(params, name, f"only {' or '.join(map(repr, allowed))} is")
    if params["domain"] not in list(SPACES):
        raise _unsupported(params, "domain", f"only {', '.join(SPACES)} are")
    if params["embedding_dim"] not in ([params["model_dim"]], (params["model_dim"],)):
        raise _unsupported(params, "embedding_dim", "only one hidden layer as wide as model_dim is")
    space = SPACES[params["domain"]]
    sigma, radial_maximum = _shared(params, "scale_real"), _number(params, "value_pe_dist_max")
    return CrystalformerConfig(
        dim=_count(params, "model_dim"),
        heads=_count(params, "head_num"),
        blocks=_count(params, "num_layers"),
        feedforward=_count(params, "ff_dim"),
        radial_functions=0 if space == "reciprocal" else _count(params, "value_pe_dist_real"),
        radial_maximum=radial_maximum if radial_maximum > 0 else -radial_maximum * sigma,
        radial_width=_either(params, "value_pe_width_scale", "value_pe_dist_wscale"),
        sigma=sigma,
        sigma_slope=_slope(params),
        sigma_floor=_floor(params, space),
        space=space,
        reciprocal_sigma=_shared(params, "scale_reci"),
        n_targets=len(target_names(params)),
        **_framing(params, space),
    )


def params_of(config: CrystalformerConfig, targets: Sequence[str]) -> dict[str, Any]:
    """Their hyper-parameters from our settings, in the names of both papers.

    Raises:
        CheckpointError: if their code cannot express the model.
    """
    if config.frame and config.space != "real":
        raise CheckpointError(
            f"the authors' code has no frames in space '{config.space}', so it cannot open such a model"
        )
    if config.frame_blocks is not None:
        raise CheckpointError("the authors' code has frames in all blocks or none, so it cannot open such a model")
    if config.element_dim:
        raise CheckpointError("the authors' code takes no table of element vectors, so it cannot open such a model")
    domain = next(theirs for theirs, ours in SPACES.items() if ours == config.space)
    method = next((theirs for theirs, ours in FRAMES.items() if ours == config.frame), "no")
    return {
        **{name: allowed[0] for name, allowed in (FIXED | FIXED_IF_GIVEN).items()},
        **IMAGES,
        "num_layers": config.blocks,
        "model_dim": config.dim,
        "head_num": config.heads,
        "ff_dim": config.feedforward,
        "embedding_dim": [config.dim],
        "dropout": 0.0,
        "domain": domain,
        "gauss_lb_real": config.sigma_floor,
        "gauss_lb_reci": config.sigma_floor,
        "scale_real": [config.sigma],
        "scale_reci": [config.reciprocal_sigma],
        "positive_func": f"elu={config.sigma_slope!r}",
        "positive_func_beta": config.sigma_slope,
        "value_pe_dist_real": config.radial_functions,
        "value_pe_dist_max": config.radial_maximum,
        "value_pe_width_scale": config.radial_width,
        "value_pe_dist_wscale": config.radial_width,
        "value_pe_dist_coef": config.distance_coefficient,
        "frame_method": method,
        "cos_abs": 0,
        "value_pe_angle_real": config.angular_functions if config.frame else 0,
        "value_pe_angle_wscale": config.angular_width,
        "value_pe_angle_coef": config.angle_coefficient,
        "targets": list(targets),
    }


def differences(params: Mapping[str, Any], config: CrystalformerConfig) -> list[str]:
    """The hyper-parameters that our model does not follow although it was read; one sentence each."""
    notes = []
    if config.frame and (method := params["frame_method"]) in DIFFERENT_FRAMES:
        notes.append(f"frame_method = {method}: predictions differ from theirs, since {DIFFERENT_FRAMES[method]}.")
    others = [f"{name} = {params[name]}" for name, usual in IMAGES.items() if params.get(name, usual) != usual]
    if others:
        notes.append(f"{', '.join(others)}: images are chosen by a tolerance here.")
    if params["dropout"]:
        notes.append(f"dropout = {params['dropout']}: there is none in further training here.")
    return notes


def agreed(read: CrystalformerConfig, given: CrystalformerConfig | None) -> CrystalformerConfig:
    """The settings of the file, with `tie_width` from the caller, since their code has none.

    Raises:
        CheckpointError: naming the first setting in which the file differs from those that the caller expects.
    """
    if given is None:
        return read
    for name in (field.name for field in fields(given) if field.name not in ("tie_width", "n_targets")):
        if getattr(read, name) != getattr(given, name):
            problem = f"the file says {name} = {getattr(read, name)!r}, the preset {getattr(given, name)!r}"
            raise CheckpointError(problem, remedy="leave the preset out")
    return replace(read, tie_width=given.tie_width)


def target_names(params: Mapping[str, Any]) -> list[str]:
    """Names of their targets, in order."""
    targets = params["targets"]
    names = [targets] if isinstance(targets, str) else list(targets or [])
    if not names or not all(isinstance(name, str) and name for name in names):
        raise _unsupported(params, "targets", "only names are")
    return names


def _framing(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    if not params.get("value_pe_angle_real"):
        # Without angular functions their code ignores all other settings of frames and has no distance coefficient.
        return {}
    if _given(params, "frame_method") not in list(FRAMES):
        raise _unsupported(params, "frame_method", f"only {', '.join(FRAMES)} are")
    if space != "real":
        raise _unsupported(params, "domain", "only 'real' is with frames")
    if _given(params, "cos_abs") != 0:
        raise _unsupported(params, "cos_abs", "only 0 is")
    return {
        "frame": FRAMES[params["frame_method"]],
        "angular_functions": _count(params, "value_pe_angle_real"),
        "angular_width": _number(params, "value_pe_angle_wscale"),
        "distance_coefficient": _number(params, "value_pe_dist_coef"),
        "angle_coefficient": _number(params, "value_pe_angle_coef"),
    }


def _slope(params: Mapping[str, Any]) -> float:
    if "positive_func" not in params:
        return _number(params, "positive_func_beta")
    match = re.fullmatch(r"elu=(\d+(?:\.\d*)?(?:e-?\d+)?)", str(params["positive_func"]))
    if match is None:
        raise _unsupported(params, "positive_func", "only 'elu=...' is")
    slope = float(match[1])
    if params.get("positive_func_beta", slope) != slope:
        raise _unsupported(params, "positive_func_beta", f"with positive_func = elu={slope} only that is")
    return slope


def _floor(params: Mapping[str, Any], space: Space) -> float:
    real, reciprocal = _number(params, "gauss_lb_real"), _number(params, "gauss_lb_reci")
    if space in ("dual", "alternating") and real != reciprocal:
        raise _unsupported(params, "gauss_lb_reci", f"only gauss_lb_real = {real} is")
    return reciprocal if space == "reciprocal" else real


def _shared(params: Mapping[str, Any], name: str) -> float:
    """A parameter with a value for each block, which must all be the same."""
    values = params[name] if isinstance(params[name], list | tuple) else [params[name]]
    if not values or any(value != values[0] for value in values):
        raise _unsupported(params, name, "only one value for all blocks is")
    return _number({name: values[0]}, name)


def _either(params: Mapping[str, Any], first: str, second: str) -> float:
    """A parameter whose name differs between the codes of the two papers."""
    if first in params and params.get(second, params[first]) != params[first]:
        raise _unsupported(params, first, f"with {second} = {params[second]!r} only that is")
    return _number(params, first if first in params else second)


def _count(params: Mapping[str, Any], name: str) -> int:
    value = _given(params, name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _unsupported(params, name, "only whole numbers are")
    return value


def _number(params: Mapping[str, Any], name: str) -> float:
    value = _given(params, name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _unsupported(params, name, "only numbers are")
    return float(value)


def _given(params: Mapping[str, Any], name: str) -> Any:
    if name not in params:
        raise CheckpointError(f"hyper-parameter '{name}' is missing")
    return params[name]


def _refuse_unknown(params: Mapping[str, Any]) -> None:
    required = READ | FIXED.keys()
    for name in sorted(required):
        _given(params, name)
    known = required | READ_IF_GIVEN | FIXED_IF_GIVEN.keys() | IMAGES.keys() | TRAINING
    for name in sorted(params.keys() - known):
        raise _unsupported(params, name, "since this version does not know it")


def _unsupported(params: Mapping[str, Any], name: str, remark: str) -> CheckpointError:
    return CheckpointError(f"hyper-parameter {name} = {params[name]!r} is not supported, {remark}")
