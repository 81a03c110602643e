"""Trains neural heads on frozen embeddings: one loop for every method that brings parameters, a forward and a loss.

The data stays on the device, and the loop never waits for it but at the checks. A check is every half epoch; it
measures val routing accuracy (not the loss), and the parameters of the best check are the result. All chance comes
from generators made from the seed; the order of the minibatches depends on the seed alone, so variants of one
seed see the same batches.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rph.errors import RphError
from rph.lazy import np, torch

if TYPE_CHECKING:
    from rph.api import Float32

    Parameters = dict[str, torch.Tensor]
    Drop = Callable[[torch.Tensor], torch.Tensor]  # dropout while training, nothing otherwise
    Forward = Callable[[Parameters, torch.Tensor, Drop], torch.Tensor]  # X [B, d] -> outputs [B, K]
    Loss = Callable[..., torch.Tensor]  # outputs [B, K], then one [B, ...] per target -> scalar

ROWS = 8192  # rows put through a head at once when it does not train


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a head is trained. The defaults are those of the classifier heads."""

    learning_rate: float = 1e-3
    cosine: bool = True  # the learning rate falls to 0 over `epochs` along a cosine; else it stays
    weight_decay: float = 1e-4  # decoupled, as AdamW's; parameters named `bias...` are spared
    dropout: float = 0.0
    batch: int = 256
    epochs: int = 50  # at most
    patience: int = 10  # checks without a better val accuracy that end the training


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a check needs: val queries, their labels, and which model a tie goes to."""

    X: torch.Tensor  # [V, d]
    Y: torch.Tensor  # [V, K], NaN = not observed
    means: torch.Tensor  # [K] observed train means

    def accuracy(self, outputs: torch.Tensor) -> float:
        """Mean label of the routed models, over the queries where it was observed; NaN where none was."""
        chosen = self.Y.gather(1, route(outputs, self.means)[:, None])
        return float(chosen.nanmean())


def route(outputs: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """outputs [N, K], means [K] -> [N] models. Ties: the higher train mean, then the lower index."""
    order = means.argsort(descending=True, stable=True)
    return order[outputs[:, order].argmax(dim=1)]  # argmax takes the first of equals


def observed(Y: Float32, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Y [N, K] labels, NaN = not observed -> labels with 0 there, and the mask M: 1 where observed."""
    seen = ~np.isnan(Y)
    return torch.tensor(np.where(seen, Y, 0), device=device), torch.tensor(
        seen, dtype=torch.float32, device=device
    )


def masked_bce(z: torch.Tensor, Y: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """Logits z, labels Y (any number where not observed), mask M, all [B, K] -> sum(M * BCE) / sum(M)."""
    return _masked_mean(torch.nn.functional.binary_cross_entropy_with_logits(z, Y, reduction="none"), M)


def masked_mse(z: torch.Tensor, Y: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    """Squared error of sigmoid(z), averaged over what was observed; arguments as `masked_bce`."""
    return _masked_mean((torch.sigmoid(z) - Y).square(), M)


def _masked_mean(values: torch.Tensor, M: torch.Tensor) -> torch.Tensor:
    return (values * M).sum() / M.sum().clamp(min=1)


def chance(seed: int, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator of its own for each purpose of a seed, so that drawing more for one leaves the others alone."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one CPU thread: a head is the same on every machine, and a minibatch is too small to share.

    Measured on two idle cores, 14k x 384: two threads take 1.3 to 1.9 times as long for heads up to 256 wide
    and 0.7 to 0.9 of the time at 1024; with one core busy elsewhere they lose everywhere.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def fit_head(
    parameters: Parameters,
    forward: Forward,
    loss: Loss,
    *,
    X: torch.Tensor,
    targets: tuple[torch.Tensor, ...],
    val: Validation,
    training: Training,
    seed: int,
) -> Parameters:
    """Train on X [N, d] and the targets, each [N, ...]; return the parameters of the best check.

    All tensors are on one device. The parameters handed in are used up.
    """
    size = len(X)
    steps = math.ceil(size / training.batch)  # per epoch
    checks = {math.ceil(steps / 2), steps}
    shuffle = chance(seed, "order")
    drop = _dropout(training.dropout, chance(seed, "dropout", X.device))
    optimiser = _adamw(parameters, training)
    best, kept, stale = -math.inf, dict[str, "torch.Tensor"](), 0

    for step in range(training.epochs * steps):
        done = step % steps  # of this epoch
        if done == 0:
            order = torch.randperm(size, generator=shuffle).to(X.device)
        rows = order[done * training.batch : (done + 1) * training.batch]
        if training.cosine:
            _set_learning_rate(optimiser, training, step / (training.epochs * steps))
        optimiser.zero_grad()
        outputs = forward(parameters, X[rows], drop)
        loss(outputs, *(target[rows] for target in targets)).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

        if done + 1 in checks:
            accuracy = val.accuracy(_checked(outputs_of(forward, parameters, val.X), step + 1))
            if accuracy > best:  # never true of NaN
                best, stale = accuracy, 0
                kept = {name: value.detach().clone() for name, value in parameters.items()}
            else:
                stale += 1
            if stale == training.patience:
                break
    if not kept:
        raise RphError(
            "no checkpoint of the head could be chosen",
            why=f"at every check, the labels of the routed models were missing on all {len(val.Y)} val queries",
            fix="check the labels of the benchmark's val split",
        )
    return kept


def outputs_of(forward: Forward, parameters: Parameters, X: torch.Tensor) -> torch.Tensor:
    """X [N, d] -> outputs [N, K] without dropout, a block of rows at a time."""
    with torch.no_grad():
        return torch.cat(
            [forward(parameters, X[i : i + ROWS], _no_dropout) for i in range(0, max(1, len(X)), ROWS)]
        )


def _checked(outputs: torch.Tensor, step: int) -> torch.Tensor:
    if not bool(torch.isfinite(outputs).all()):
        raise RphError(
            f"training diverged by step {step}",
            why="the head's outputs on the val queries are not finite",
            fix="check the embeddings for extreme values, or lower the learning rate",
        )
    return outputs


def _no_dropout(hidden: torch.Tensor) -> torch.Tensor:
    return hidden


def _dropout(rate: float, generator: torch.Generator) -> Drop:
    """Dropout from a generator of ours: torch's own draws from the global state."""
    if rate == 0:
        return _no_dropout

    def drop(hidden: torch.Tensor) -> torch.Tensor:
        kept = torch.empty_like(hidden).bernoulli_(1 - rate, generator=generator)
        return hidden * kept.div_(1 - rate)

    return drop


def _adamw(parameters: Parameters, training: Training) -> torch.optim.AdamW:
    for value in parameters.values():
        value.requires_grad_()
    biases = [value for name, value in parameters.items() if name.startswith("bias")]
    others = [value for name, value in parameters.items() if not name.startswith("bias")]
    groups = [
        {"params": others, "weight_decay": training.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=training.learning_rate, fused=True)


def _set_learning_rate(optimiser: torch.optim.AdamW, training: Training, progress: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = training.learning_rate * (1 + math.cos(math.pi * progress)) / 2
