"""Files as the authors' code writes them, with random weights, for the tests of `paper_checkpoints`."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from samples import rock_salt
from torch import Tensor

from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

TRAINED = {
    "seed": 123, "experiment_name": "code_v5", "save_path": "result", "optimizer": "adamw", "lr": 5e-4,
    "lr_sch": "inverse_sqrt_nowarmup", "sch_params": [4000.0], "adam_betas": [0.9, 0.98], "weight_decay": 1e-5,
    "clip_norm": 1.0, "clip_grad": 0.0, "batch_size": 128, "n_epochs": 500, "loss_func": "L1", "freeze_bn_epochs": 0,
    "train_filter_max": 0, "train_filter_min": 0, "train_percent_check": 1.0, "val_percent_check": 1.0,
    "model_checkpoint_save_top_k": 1, "pretrained_model": None, "num_workers": 0, "normalize_targets": "scale_bias",
    "swa_epochs": 50, "scale_grad": 0.0, "use_cuda_code": True, "ddp": False, "reproduciblity_state": 0,
    "param_file": "default.json",
}  # fmt: skip
BUILT = {
    "encoder_name": "latticeformer", "num_layers": 2, "lattice_range": 2, "adaptive_cutoff_sigma": -3.5,
    "minimum_range": True, "model_dim": 8, "k_dim": 0, "v_dim": 0, "head_num": 2, "ff_dim": 12, "t_fixup_init": True,
    "embedding_dim": [8], "t_activation": "relu", "domain": "real", "gauss_lb_real": 0.5, "gauss_lb_reci": 0.5,
    "gauss_state": "q", "normalize_gauss": True, "use_cgcnn_feat": False, "scale_real": [1.4], "scale_reci": [2.2],
    "value_pe_dist_real": 6, "value_pe_dist_reci": 0, "value_pe_wave_real": 0, "value_pe_wave_reci": 0,
    "value_pe_dist_max": -10.0, "pooling": "avr", "pre_pooling_op": "no", "norm_type": "no", "dropout": 0.0,
    "targets": "formation_energy", "target_set": "jarvis__dft_3d_2021",
}  # fmt: skip
FIRST_PAPER = TRAINED | BUILT | {
    "positive_func": "elu=0.1", "value_pe_width_scale": 1.0, "value_pe_headed": True, "value_pe_condproj": "no",
    "exclude_self": False, "norm_func_mode": 0, "use_low_memory": True,
}  # fmt: skip
SECOND_PAPER = TRAINED | BUILT | {
    "positive_func_beta": 0.1, "value_pe_dist_coef": 1.5, "value_pe_dist_wscale": 1.0, "frame_method": "max",
    "cos_abs": 0, "value_pe_angle_real": 4, "value_pe_angle_wscale": 1.0, "value_pe_angle_coef": 6.0,
    "symm_break_noise": 1e-5,
}  # fmt: skip

SMALL = CrystalformerConfig(dim=8, heads=2, blocks=2, feedforward=12, radial_functions=6)
SMALL_FRAMED = replace(
    SMALL, frame="max", angular_functions=4, angular_width=1.0, distance_coefficient=1.5, angle_coefficient=6.0
)


def state(params: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights in the authors' names and layouts, written from their description, not from our code."""
    dim, heads, hidden, domain = params["model_dim"], params["head_num"], params["ff_dim"], params["domain"]
    outputs = 1 if isinstance(params["targets"], str) else len(params["targets"])
    shapes: dict[str, tuple[int, ...]] = {
        "input_embeddings.weight": (dim, 98),
        "mlp.0.weight": (dim, dim),
        "mlp.0.bias": (dim,),
        "mlp.3.weight": (outputs, dim),
        "mlp.3.bias": (outputs,),
    }
    for i in range(params["num_layers"]):
        layer = f"encoder.layers.{i}."
        shapes |= {f"{layer}self_attn.{x}_proj_weight": (dim, dim) for x in "qkv"}
        shapes |= {
            f"{layer}self_attn.gauss_scale": (2,),
            f"{layer}self_attn.atten_scale": (1,),
            f"{layer}self_attn.in_proj_bias": (3 * dim,),
            f"{layer}self_attn.lattice_pos_weights": (dim,),
            f"{layer}self_attn.out_proj.weight": (dim, dim),
            f"{layer}self_attn.out_proj.bias": (dim,),
            f"{layer}linear1.weight": (hidden, dim),
            f"{layer}linear1.bias": (hidden,),
            f"{layer}linear2.weight": (dim, hidden),
            f"{layer}linear2.bias": (dim,),
        }
        reciprocal = domain == "reci" or (domain == "real-reci" and i % 2)
        if params["value_pe_dist_real"] and not reciprocal:
            shapes[f"{layer}self_attn.pe_dist_proj"] = (1, heads, dim // heads, params["value_pe_dist_real"])
        if params.get("value_pe_angle_real"):
            angular = (1, heads, dim // heads, params["value_pe_angle_real"])
            shapes |= {f"{layer}self_attn.proj_angle{axis}": angular for axis in (1, 2, 3)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tensors | {name: torch.tensor([4.0, 0.25]) for name in tensors if name.endswith("gauss_scale")}


def lightning(
    params: dict[str, Any], weights: dict[str, Tensor], average: dict[str, Tensor] | None = None, steps: int = 100
) -> dict[str, Any]:
    """What Lightning writes for the authors' module, training state included."""
    tensors = OrderedDict({f"model.{name}": tensor for name, tensor in weights.items()})
    tensors["swa_model.n_averaged"] = torch.tensor(steps)
    tensors.update({f"swa_model.module.{name}": tensor for name, tensor in (average or weights).items()})
    outputs = len(weights["mlp.3.bias"])
    tensors |= {"target_std": torch.full((outputs,), 2.0), "target_mean": torch.full((outputs,), -1.0)}
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    return {
        "epoch": 499,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": tensors,
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 500}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 5e-4, "betas": (0.9, 0.98)}]}],
        "lr_schedulers": [{"base_lrs": [5e-4], "lr_lambdas": [None]}],
        "hparams_name": "params",
        "hyper_parameters": params,
    }


def written(path: Path, params: dict[str, Any], **changes: Any) -> Path:
    torch.save(lightning(params, state(params)) | changes, path)
    return path


def rock_salt_output(model: Crystalformer) -> Tensor:
    """Standardised prediction for NaCl, (1, targets)."""
    batch = CrystalBatch.from_crystals([rock_salt("Na", "Cl")])
    batch = with_images(batch, model.radius(1e-3), directions=model.needs_directions).to(model.embedding.weight.dtype)
    with torch.no_grad():
        return model(batch)


VARIANTS: dict[str, tuple[dict[str, Any], CrystalformerConfig]] = {
    "real": (FIRST_PAPER, SMALL),
    "simplified": (FIRST_PAPER | {"value_pe_dist_real": 0}, replace(SMALL, radial_functions=0)),
    "dual": (FIRST_PAPER | {"domain": "multihead"}, replace(SMALL, space="dual")),
    "alternating": (FIRST_PAPER | {"domain": "real-reci"}, replace(SMALL, space="alternating")),
    "reciprocal": (FIRST_PAPER | {"domain": "reci"}, replace(SMALL, space="reciprocal", radial_functions=0)),
    "framed": (SECOND_PAPER, SMALL_FRAMED),
    "weighted PCA": (SECOND_PAPER | {"frame_method": "weighted_pca"}, replace(SMALL_FRAMED, frame="weighted-pca")),
    "static local": (SECOND_PAPER | {"frame_method": "max_static"}, replace(SMALL_FRAMED, frame="static-local")),
    "PCA": (SECOND_PAPER | {"frame_method": "pca"}, replace(SMALL_FRAMED, frame="pca")),
    "lattice": (SECOND_PAPER | {"frame_method": "lattice"}, replace(SMALL_FRAMED, frame="lattice")),
    "frames off": (SECOND_PAPER | {"value_pe_angle_real": 0}, SMALL),
    "five blocks": (FIRST_PAPER | {"num_layers": 5}, replace(SMALL, blocks=5)),
    "one block": (FIRST_PAPER | {"num_layers": 1}, replace(SMALL, blocks=1)),
    "other numbers": (
        FIRST_PAPER
        | {"scale_real": 1.5, "positive_func": "elu=0.2", "value_pe_dist_max": 12.0, "value_pe_width_scale": 2.0},
        replace(SMALL, sigma=1.5, sigma_slope=0.2, radial_maximum=12.0, radial_width=2.0),
    ),
    "two targets": (FIRST_PAPER | {"targets": ["formation_energy", "opt_bandgap"]}, replace(SMALL, n_targets=2)),
}
