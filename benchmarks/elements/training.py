"""One run of the experiment on element vectors: a back-end with a table, trained on a sample and tested.

This is not `crystalformers.fit`, since hundreds of runs of some seconds each would spend most of their time on run
folders, resume files and the start of each run. Models, targets, graphs and tables are those of the library.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.elements.data import TASKS, Graphs, Rows, Split, error, load, split_of
from crystalformers.elements import ElementTable, load_elements
from crystalformers.models import build_model
from crystalformers.periodic import NUMBER_OF
from crystalformers.training.exclusion import element_counts

ROWS = 100
"""Elements whose vectors a model takes: 1 to 100."""

MOST_SEEN = 400_000
"""Largest number of training crystals in a run, counted in every epoch."""

WEIGHT_DECAY = 1e-2
WARMUP = 0.1
"""Share of the steps over which the learning rate rises; then it follows a cosine to zero."""

FINE_TUNING = 0.1
"""Learning rate of fine-tuned vectors relative to that of the model."""


@dataclass(frozen=True)
class BackEnd:
    """A model behind the element vectors.

    Attributes:
        architecture: in `crystalformers.models.MODELS`.
        lr: peak learning rate, from `experiment.search`.
        model: its settings.
        tolerance: for the radius of the images of a model without a cutoff.
    """

    architecture: str
    lr: float
    model: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-3


BACKENDS = {
    "cgcnn": BackEnd("cgcnn", 3e-3),
    "megnet": BackEnd("megnet", 1e-2),
    "alignn": BackEnd("alignn", 1e-2, {"dim": 64, "angle_layers": 2, "bond_layers": 2}),
    "crystalformer": BackEnd(
        "crystalformer", 1e-3, {"dim": 64, "heads": 4, "blocks": 3, "feedforward": 128, "radial_functions": 32}
    ),
}
"""ALIGNN and Crystalformer are small, for two cores: ALIGNN has 0.15 million parameters (published: 4.0), Crystalformer
0.12 million (published: 0.85)."""


@dataclass(frozen=True)
class Run:
    """The settings of one line of the results.

    Attributes:
        task: in `TASKS`.
        size: number of training and validation crystals together; None for all.
        backend: in `BACKENDS`.
        table: label of the table in the recipe.
        source: name or file of the table; None for vectors that are learned with the model.
        mode: `frozen` or `fine-tuned`.
        seed: of the sample, the weights and the order of the data; it also selects the fold.
    """

    task: str
    size: int | None
    backend: str
    table: str
    source: str | None
    mode: str
    seed: int


@cache
def standardised(source: str) -> ElementTable:
    """A table of element vectors, every column with mean 0 and standard deviation 1."""
    return load_elements(source).standardised()


def fingerprint(source: str | None) -> str | None:
    """Hash of the elements and vectors of a table, by which a changed table is recognised; 16 hex digits."""
    if source is None:
        return None
    table = standardised(source)
    return hashlib.blake2b(table.numbers.tobytes() + table.vectors.tobytes(), digest_size=8).hexdigest()


@cache
def graphs_of(table: str, backend: str) -> Graphs:
    """Crystals of a table with the images that a back-end uses."""
    chosen = BACKENDS[backend]
    return Graphs(load(table), build_model(chosen.architecture, chosen.model), chosen.tolerance)


def model_of(run: Run) -> Any:
    """A new model with the vectors of the run's table; elements that the table lacks get its mean, 0."""
    chosen = BACKENDS[run.backend]
    torch.manual_seed(run.seed)
    if run.source is None:
        return build_model(chosen.architecture, chosen.model)
    table = standardised(run.source)
    model: Any = build_model(chosen.architecture, {**chosen.model, "element_dim": table.dim})
    vectors = torch.from_numpy(table.dense("zero", ROWS))
    model.elements.set(vectors, torch.ones(ROWS, dtype=torch.bool), trainable=run.mode == "fine-tuned")
    return model


def missing(run: Run, rows: Rows) -> dict[str, int]:
    """Elements of these rows that the table lacks, and the number of rows with each."""
    if run.source is None:
        return {}
    table, known = load(TASKS[run.task].table), standardised(run.source).known(ROWS)
    counts = element_counts(table, rows)
    return {symbol: count for symbol, count in counts.items() if not known[NUMBER_OF[symbol] - 1]}


def carry_out(run: Run, lr: float | None = None) -> dict[str, Any]:
    """Train on one thread, choose the epoch with the smallest validation error, and measure the test error."""
    torch.set_num_threads(1)
    start = time.process_time()
    task, chosen = TASKS[run.task], lr or BACKENDS[run.backend].lr
    split = split_of(task, run.size, run.seed)
    graphs = graphs_of(task.table, run.backend)
    graphs.prepare(np.concatenate([split.train, split.val, split.test]))
    prepared = time.process_time()
    model = model_of(run)
    validation, epoch, epochs = train(model, graphs, split, chosen, run.seed)
    trained = time.process_time()
    predicted = predict(model, graphs.batches(split.test))
    return {
        **asdict(run),
        "fingerprint": fingerprint(run.source),
        "mae": error(split, predicted, split.test, load(task.table).n_atoms),
        "unit": task.unit,
        "val_error": validation,
        "rows": {name: len(getattr(split, name)) for name in ("train", "val", "test")},
        "test_std": float(split.labels[split.test].std()) * split.target.std,
        "best_epoch": epoch,
        "epochs": epochs,
        "lr": chosen,
        "missing": missing(run, split.test),
        "unseen": unseen(run, split),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "cpu_seconds": {"graphs": round(prepared - start, 2), "training": round(trained - prepared, 2)},
    }


def unseen(run: Run, split: Split) -> float:
    """Share of the test crystals with an element that is in no training crystal."""
    table = load(TASKS[run.task].table)
    seen = {z for row in split.train for z in table.numbers(row).tolist()}
    return float(np.mean([not seen.issuperset(table.numbers(row).tolist()) for row in split.test]))


def schedule(rows: int) -> tuple[int, int]:
    """Batch size and number of epochs for a number of training rows: small samples are seen more often.

    All of mp36k, 28,457 training crystals, gets 15 epochs only.
    """
    batch = 16 if rows < 200 else 32 if rows < 1000 else 64
    return batch, min(max(40, round(1200 / math.sqrt(rows))), math.ceil(MOST_SEEN / rows))


def train(model: Any, graphs: Graphs, split: Split, lr: float, seed: int) -> tuple[float, int, int]:
    """Fit a model in place and return to the weights of its best epoch.

    Returns:
        The validation error of that epoch (standardised), its number, and the number of epochs.
    """
    batch_size, epochs = schedule(len(split.train))
    rng = np.random.default_rng(seed)
    per_epoch = max(1, len(split.train) // batch_size)
    model.calibrate(graphs.batch(rng.permutation(split.train)[: 4 * batch_size]))
    optimizer = torch.optim.AdamW(groups(model, lr), lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
    timetable = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: pace(step / (epochs * per_epoch)))
    validation = graphs.batches(split.val)
    best, best_epoch, weights = math.inf, -1, model.state_dict()
    for epoch in range(epochs):
        model.train()
        # Rows that do not fill a batch are left out, different ones in each epoch.
        for rows in np.array_split(rng.permutation(split.train)[: per_epoch * batch_size], per_epoch):
            loss = nn.functional.l1_loss(model(graphs.batch(rows)), split.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            timetable.step()
        current = float(np.abs(predict(model, validation) - split.labels[split.val, 0].double().numpy()).mean())
        if current < best:
            best, best_epoch, weights = current, epoch, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return best, best_epoch, epochs


def pace(done: float) -> float:
    """Learning rate relative to its peak after this share of the steps."""
    return min(1.0, (done + 1e-3) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Parameters of the model, and vectors of a fine-tuned table, which learn more slowly and do not decay."""
    own = getattr(model.config, "element_dim", 0) == 0
    vectors = [] if own else [p for name, p in model.named_parameters() if name == "elements.vectors"]
    others: list[Tensor] = [p for p in model.parameters() if all(p is not v for v in vectors)]
    return [{"params": others}, {"params": vectors, "lr": lr * FINE_TUNING, "weight_decay": 0.0}]


@torch.inference_mode()
def predict(model: nn.Module, batches: list[Any]) -> NDArray[np.float64]:
    """Standardised predictions of all crystals."""
    model.eval()
    return np.concatenate([model(batch)[:, 0].double().numpy() for batch in batches])
