"""The parts of run.py, each a function of one plan; they print what they find and return it for the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.attention import COUNT, HEADS, WIDTH, Attention, errors, seconds_per_call
from benchmarks.gpu.work import CapturedEpoch, Eager, Plan, resident_crystals, supercell_of, synthetic_crystals
from benchmarks.harness import digits, interleaved, print_table, spread
from crystalformers.attention import Backend, infinite_attention
from crystalformers.attention.backends.triton import operators
from crystalformers.attention.backends.triton.operators import Tiling
from crystalformers.images import CrystalBatch

EPOCH = 44_578
"""Crystals of the JARVIS training set whose epoch the papers time (Crystalformer: 32 s on an RTX A6000)."""

PRECISIONS = ("float32", "bf16")
TILINGS = (
    *(Tiling(images=images, warps=warps) for images, warps in ((16, 4), (16, 2), (32, 4), (32, 8), (64, 8))),
    Tiling(stages=1),
    *(Tiling(images=images, warps=warps, precision="tf32x3") for images, warps in ((16, 4), (32, 8))),
)
TILING_SECONDS = 75
"""After this time no further way to cut the work is tried: each must be compiled."""

FACTOR, FLOOR, ROUNDED = 2, 2.4e-8, 4e-3
"""A kernel may make FACTOR times the error of plain float32 PyTorch, and always FLOOR, a fifth of a rounding; with bf16
ROUNDED."""


def agreement(plan: Plan) -> list[dict[str, Any]]:
    """Errors of values and gradients, against the brute-force reference and then against float64 PyTorch."""
    rows = []
    cases: tuple[tuple[Backend, str, int], ...] = (
        ("reference", "cpu", 6 if plan.on_gpu else 1),
        ("torch", plan.device.type, plan.size if plan.on_gpu else 2),
    )
    for exact, where, count in cases if plan.on_gpu else cases[:1]:
        batch = plan.batch(count)
        for precision, features in (("float32", torch.float32), ("bf16", torch.bfloat16)):
            task, there = (
                Attention(batch, device, plan.seed, rounded=precision == "bf16") for device in (plan.device, where)
            )
            truth = there.solve(exact, torch.float64)
            plain = errors(task.solve("torch", torch.float32), truth)
            for backend in plan.backends:
                if backend == "torch":
                    continue
                found = errors(task.solve(backend, torch.float32, features), truth)
                row = {"against": exact, "crystals": count, "backend": backend, "precision": precision}
                rows.append(row | {"plain": plain, "errors": found})
                cells = (f"{name} {found[name]:.1e} ({plain[name]:.1e})" for name in found)
                print(f"{backend} {precision} against {exact}: rms error (plain float32) " + ", ".join(cells))
                bound = {
                    name: FACTOR * max(plain[name], FLOOR) if features == torch.float32 else ROUNDED for name in found
                }
                worse = [name for name in found if not found[name] <= bound[name]]
                assert not worse, f"{backend} {precision} against {exact}: {worse} err too much"
    return rows


def repeats(plan: Plan) -> dict[str, int]:
    """Identical calls give identical bits."""
    task = Attention(plan.batch(60 if plan.on_gpu else 1), plan.device, plan.seed)
    times = 250 if plan.on_gpu else 2
    for backend in plan.backends:
        if backend == "torch":  # plain PyTorch adds with atomics on a GPU
            continue
        first = task.solve(backend, torch.float32)
        for _ in range(times - 1):
            again = task.solve(backend, torch.float32)
            assert all(torch.equal(first[name], again[name]) for name in first), backend
    return {"repeats": times}


def tiles(plan: Plan) -> list[dict[str, Any]]:
    """Forward and backward of one layer for several ways to cut the work; the fastest exact one stays in use."""
    if "triton" not in plan.backends:
        return []
    rows: list[dict[str, Any]] = []
    task = Attention(plan.batch(plan.size if plan.on_gpu else 1), plan.device, plan.seed)
    start = perf_counter()
    for tiling in TILINGS if plan.on_gpu else TILINGS[:1]:
        if perf_counter() - start > TILING_SECONDS:
            print(f"NOT TRIED after {TILING_SECONDS} s: {tiling} and those after it")
            break
        operators.TILING = tiling
        try:
            rows += [asdict(tiling) | layer_times(plan, task, "triton", p) | {"features": p} for p in PRECISIONS]
        except Exception as error:  # a tiling that does not fit the card is no failure of the others
            rows.append(asdict(tiling) | {"failed": repr(error)[:300]})
    good = [row for row in rows if "failed" not in row and row["features"] == "float32" and row["precision"] == "ieee"]
    best = min(good, key=lambda row: row["forward_s"] + row["backward_s"])
    operators.TILING = Tiling(**{name: best[name] for name in asdict(Tiling())})
    columns = ["images", "warps", "stages", "precision", "features"]
    print_table([*columns, "forward µs", "backward µs"], [
        [*(str(row.get(name, "-")) for name in columns),
         *(digits(1e6 * row[f"{way}_s"]) if "failed" not in row else "failed" for way in ("forward", "backward"))]
        for row in rows])  # fmt: skip
    print(f"in use from here on: {operators.TILING}")
    return rows


def layer_times(plan: Plan, task: Attention, backend: Backend, precision: str) -> dict[str, float]:
    """Seconds of one layer's forward and backward pass, the lists of the batch made beforehand."""
    device = plan.device
    leaves, geometry, cotangent = task.problem(torch.float32, torch.bfloat16 if precision == "bf16" else torch.float32)

    q, k, v, inverse_variance, W = leaves

    def forward() -> Tensor:
        return infinite_attention(q, k, v, inverse_variance, W, geometry, backend)

    y = forward()
    cotangent = cotangent.to(y.dtype)
    back = seconds_per_call(lambda: torch.autograd.grad(y, leaves, cotangent, retain_graph=True), device, 30)
    with torch.no_grad():
        return {"forward_s": seconds_per_call(forward, device, 30), "backward_s": back}


def roofline(plan: Plan) -> dict[str, Any]:
    """Bytes and operations of one layer's forward pass, and the rates of the card, measured here."""
    device = plan.device
    batch = plan.batch(plan.size if plan.on_gpu else 1)
    images = batch.images
    assert images is not None
    within = int((images.distance < 5.92 * 1.4).sum())  # exp(-17.5) at the average width
    edge = 1 << (28 if plan.on_gpu else 12)
    block = torch.empty(edge, device=device)
    copy = seconds_per_call(block.clone, device, 10)
    square = torch.randn(8192 if plan.on_gpu else 64, 8192 if plan.on_gpu else 64, device=device)
    product = seconds_per_call(lambda: square @ square, device, 5)
    half = square.bfloat16()
    product_bf16 = seconds_per_call(lambda: half @ half, device, 10)
    features = batch.n_atoms * HEADS * WIDTH * 4
    counted = {
        "atoms": batch.n_atoms,
        "images": len(images.distance),
        "images_summed": within,
        "bytes": 4 * features + within * 12 + batch.n_atoms * HEADS * COUNT * 4,
        "exponentials": within * (HEADS + COUNT),
        "operations": within * HEADS * (4 * WIDTH + 2 * COUNT),
    }
    rates = {
        "copy_bytes_per_s": 8 * edge / copy,
        "float32_operations_per_s": 2 * len(square) ** 3 / product,
        "bf16_operations_per_s": 2 * len(square) ** 3 / product_bf16,
    }
    floor = max(counted["bytes"] / rates["copy_bytes_per_s"], counted["operations"] / rates["float32_operations_per_s"])
    task = Attention(batch, device, plan.seed)
    measured = {backend: layer_times(plan, task, backend, "float32") for backend in plan.backends}
    for backend, times in measured.items():
        forward, backward = (1e6 * times[f"{way}_s"] for way in ("forward", "backward"))
        print(f"one layer, {backend}: forward {forward:.0f} µs, backward {backward:.0f} µs; floor {1e6 * floor:.1f} µs")
    return {"counted": counted, "rates": rates, "floor_s": floor, "measured": measured}


def images(plan: Plan) -> dict[str, Any]:
    """Image lists built on the device and on the CPU, structures/s."""
    crystals = [crystal for part in plan.batches for crystal in part][: 4 * plan.size]
    tasks = {
        str(device): lambda device=device: [
            replace(plan, device=torch.device(device)).pack(crystals[k : k + plan.size])
            for k in range(0, len(crystals), plan.size)
        ]
        for device in {"cpu", plan.device.type}
    }
    times = interleaved(tasks, plan.rounds, plan.seconds / 2)
    speeds = {device: spread([len(crystals) / t for t in values]) for device, values in times.items()}
    print(", ".join(f"{device}: {digits(speed['median'])} lists/s" for device, speed in speeds.items()))
    return speeds


def eager(plan: Plan) -> list[dict[str, Any]]:
    """Structures/s of steps called one after the other."""
    packed = [plan.pack(crystals) for crystals in plan.batches]
    structures, rows = sum(map(len, packed)), list[dict[str, Any]]()
    for backend in plan.models:
        for precision in PRECISIONS:
            plan.peak()
            times = interleaved(Eager(plan, backend, precision, packed).tasks(), plan.rounds, plan.seconds)
            speeds = {name: spread([structures / t for t in values]) for name, values in times.items()}
            about = {"backend": backend, "precision": precision}
            rows.append({**about, "structures_per_s": speeds, "peak_bytes": plan.peak()})
    tasks = list(rows[0]["structures_per_s"])
    table: list[list[str]] = []
    for row in rows:
        medians = [digits(row["structures_per_s"][task]["median"]) for task in tasks]
        peak = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}"
        table.append([row["backend"], row["precision"], *medians, peak])
    print_table(["backend", "precision", *(f"{task} /s" for task in tasks), "peak GiB"], table)
    return rows


def captured(plan: Plan) -> list[dict[str, Any]]:
    """Whole epochs over a data set on the device, each step one CUDA graph: gather, forward, backward, AdamW."""
    return epochs(plan, "crystalformer")


def framed(plan: Plan) -> list[dict[str, Any]]:
    """The same with CrystalFramer, max frames found on the device."""
    return epochs(plan, "crystalframer")


def epochs(plan: Plan, variant: str) -> list[dict[str, Any]]:
    """Epochs of a preset, training and inference."""
    backend = plan.models[0]
    crystals = synthetic_crystals(plan.epoch, plan.seed + 1)
    parts = [crystals[k : k + plan.size] for k in range(0, len(crystals), plan.size)]
    plan = replace(plan, batches=parts, variant=variant)
    resident, rows = resident_crystals(plan), []
    for precision in PRECISIONS:
        plan.peak()
        run = CapturedEpoch(plan, backend, precision, plan.size, resident)
        tasks = {"train": partial(run.epoch, run.train), "infer": partial(run.epoch, run.infer)}
        times = interleaved(tasks, plan.rounds, 0.0)
        assert torch.isfinite(run.loss), "the loss is not finite"
        seconds = spread([t * EPOCH / len(crystals) for t in times["train"]])
        rate = spread([len(crystals) / t for t in times["infer"]])
        row = {"model": variant, "backend": backend, "precision": precision, "crystals": len(crystals)}
        rows.append(
            row | {"capacity": asdict(run.capacity), "epoch_s": seconds, "infer_per_s": rate, "peak_bytes": plan.peak()}
        )
        print(
            f"{variant}, {backend} {precision}: epoch of {EPOCH:,} crystals {seconds['median']:.2f} s, inference "
            f"{digits(rate['median'])} structures/s"
        )
    return rows


def large(plan: Plan) -> list[dict[str, Any]]:
    """Time and memory of one large cell, predicted."""
    rows = []
    backend = plan.models[0]
    for n_atoms in plan.atoms:
        crystal = supercell_of(n_atoms, plan.seed)
        batch = plan.pack([crystal])
        model = plan.model(backend, batch)
        plan.peak()
        with torch.inference_mode():
            seconds = seconds_per_call(partial(model, batch), plan.device, 5)
        rows.append({"atoms": n_atoms, "seconds": seconds, "peak_bytes": plan.peak()})
        print(f"{n_atoms:,} atoms: {1e3 * seconds:.2f} ms")
    return rows


def compiled(plan: Plan) -> dict[str, Any]:
    """torch.compile of the model, forward and backward, against the same model in eager mode."""
    batch = plan.pack(plan.batches[0])
    batch.crystal_of_atom  # noqa: B018, what is cached beforehand need not be traced
    backend = plan.models[0]
    model = plan.model(backend, batch)
    function = torch.compile(model, fullgraph=True, dynamic=True, backend="inductor" if plan.on_gpu else "aot_eager")
    with torch.no_grad():
        difference = float((function(batch) - model(batch)).abs().max())

    def step(work: Callable[[CrystalBatch], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(work(batch).sum(), list(model.parameters()))

    seconds = {name: seconds_per_call(step(work), plan.device, 10) for name, work in
               (("compiled", function), ("eager", model))}  # fmt: skip
    times = ", ".join(f"{name} {1e3 * value:.2f} ms" for name, value in seconds.items())
    print(f"largest difference {difference:.1e}; forward and backward: {times}")
    assert difference < 1e-4, difference
    return {"difference": difference, "seconds": seconds}


PARTS: dict[str, Callable[[Plan], Any]] = {
    part.__name__: part
    for part in (agreement, repeats, tiles, captured, framed, roofline, images, eager, large, compiled)
}
