"""The fused CPU kernel as an operator of PyTorch's library: opcheck, torch.export, torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from strategies import make_crystal, random_crystals
from torch import Tensor, nn

from crystalformers.attention import AngularBasis, AngularEncoding, Geometry, RadialBasis, infinite_attention
from crystalformers.attention.backends.cpu import backend as cpu
from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, Images, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

pytestmark = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")

RADIUS = 5.0


def packed(crystals: Any) -> CrystalBatch:
    return with_images(CrystalBatch.from_crystals(crystals), RADIUS, directions=True).to(torch.float32)


def operands(monkeypatch: pytest.MonkeyPatch, radial: int, frame: Any) -> tuple[Any, ...]:
    """What the operator is called with."""
    batch = packed([make_crystal("random", 2), make_crystal("tiny")])
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    q, k, v = (normal(batch.n_atoms, 3, 4) for _ in range(3))
    encoding = normal(3, 4, radial) if radial else None
    angular = None if frame is None else AngularEncoding(normal(3, 3, 4, 6), AngularBasis(6, 2.0), frame)
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(cpu.ImageSum, "apply", lambda *given: calls.append(given) or cpu._image_sum(*given))
    geometry = Geometry(batch, RadialBasis(radial, 14.0))
    infinite_attention(q, k, v, torch.full((batch.n_atoms, 3), 0.6), encoding, geometry, "cpu", angular=angular)
    ((*features, tensors, numbers, counts),) = calls
    return *(feature.detach().clone().requires_grad_() for feature in features), tensors, numbers, counts


@pytest.mark.parametrize(("radial", "frame"), [(5, None), (0, None), (5, "max"), (5, "weighted-pca")])
def test_the_operator_is_registered_as_pytorch_wants_it(
    monkeypatch: pytest.MonkeyPatch, radial: int, frame: Any
) -> None:
    """Schema, autograd, fake kernel, and all of it traced with dynamic shapes."""
    torch.library.opcheck(torch.ops.crystalformers.cpu_image_sum.default, operands(monkeypatch, radial, frame))


def test_the_operator_and_the_function_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager code takes a short cut around the dispatcher."""
    given = operands(monkeypatch, 5, "max")
    monkeypatch.undo()
    answers = []
    for function in (torch.ops.crystalformers.cpu_image_sum, cpu.ImageSum.apply):
        outputs = function(*given)
        assert not outputs[-1].requires_grad
        answers.append([*outputs, *torch.autograd.grad(sum(t.square().sum() for t in outputs[:2]), given[:4])])
    assert all(torch.equal(mine, expected) for mine, expected in zip(*answers, strict=True))


class Flat(nn.Module):
    """A Crystalformer as a function of tensors, as torch.export wants it."""

    def __init__(self, model: Crystalformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, atoms: dict[str, Tensor], images: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.model(CrystalBatch(**atoms, images=Images(**images, radius=RADIUS)))
        return y


def flat(batch: CrystalBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    images = batch.images
    assert images is not None
    atoms = {name: getattr(batch, name) for name in ("numbers", "positions", "lattice", "ptr")}
    return atoms, {name: getattr(images, name) for name in ("distance", "pair", "ptr", "pair_target", "pair_source")}


def small_model(batch: CrystalBatch) -> Crystalformer:
    torch.manual_seed(0)
    model = Crystalformer(CrystalformerConfig(dim=16, heads=2, blocks=1, feedforward=16, radial_functions=8))
    model.calibrate(batch)
    model.backend = "cpu"
    return model


def test_an_exported_model_predicts_batches_of_any_size() -> None:
    batch, other = packed(random_crystals(3)), packed(random_crystals(5, seed=7))
    model = small_model(batch)
    atoms, crystals, images, pairs = (torch.export.Dim(name, min=2) for name in ("A", "C", "E", "P"))
    shapes = (
        {"numbers": {0: atoms}, "positions": {0: atoms}, "lattice": {0: crystals}, "ptr": {0: crystals + 1}},
        {"distance": {0: images}, "pair": {0: images}, "ptr": {0: atoms + 1}}
        | {"pair_target": {0: pairs}, "pair_source": {0: pairs}},
    )
    program = torch.export.export(Flat(model), flat(batch), dynamic_shapes=(shapes[0], shapes[1]))
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    called = {str(node.target) for graph in graphs for node in graph.nodes}
    assert "crystalformers.cpu_image_sum.default" in called
    for given in (batch, other):
        assert torch.allclose(program.module()(*flat(given)), model(given), atol=1e-6)


@pytest.mark.slow
def test_a_compiled_model_is_one_graph_and_has_the_same_gradients() -> None:
    batch = packed(random_crystals(3))
    model = small_model(batch)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    answers = []
    for function in (model, compiled):
        y = function(batch)
        answers.append([y, *torch.autograd.grad(y.sum(), list(model.parameters()))])
    for mine, expected in zip(*answers, strict=True):
        assert torch.allclose(mine, expected, atol=1e-6)
