"""What one request may cost, and the error for one that would cost more."""

from __future__ import annotations

from dataclasses import dataclass

from crystalformers.errors import CrystalformersError


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how many are served at once.

    Attributes:
        body_bytes: size of a request.
        held_bytes: size of all requests that are held in memory together.
        structures: in a request.
        atoms: in all structures of a request together.
        images: that a model takes into account for one structure; they decide over time and memory.
        explained_images: the same of a structure whose attention is shown, which holds the weights of all heads.
        atom_vectors: that one answer may hold.
        seconds: from the end of the body to the answer.
        body_seconds: in which the body must arrive.
        waiting: requests that are served or wait at once.
        batch_seconds: how long the first request of a batch waits for others.
        reader_seconds: in which a file must be read.
        reader_bytes: memory that reading a file may take.
    """

    body_bytes: int = 16 << 20
    held_bytes: int = 128 << 20
    structures: int = 2_000
    atoms: int = 50_000
    images: float = 1e7
    explained_images: float = 1e6
    atom_vectors: int = 10_000
    seconds: float = 60.0
    body_seconds: float = 20.0
    waiting: int = 128
    batch_seconds: float = 0.004
    reader_seconds: float = 20.0
    reader_bytes: int = 3 << 30


class RefusedError(CrystalformersError):
    """A request that is refused; `status` is its HTTP status.

    401 token missing, 408 sent too slowly, 413 too large, 421 for another host, 422 cannot be used, 429 too many at
    once, 503 stopping or out of time.
    """

    def __init__(self, status: int, problem: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(problem, where=where, remedy=remedy)
        self.status = status
