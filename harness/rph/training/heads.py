"""Trains neural heads on frozen embeddings: one loop for every method that brings parameters, a forward and a loss.

The data stays on the device, and the loop never waits for it but at the checks. A check is every half epoch; it
measures val routing accuracy (or what the method validates by), and the parameters of the best check are the
result. All chance comes from generators made from the seed; the order of the minibatches and the draws of
dropout depend on the seed alone, so variants of one seed see the same batches.

Heads of one shape train as a stack: their parameters lie behind one another along a first axis G, so that each
step is one batched computation whatever G is. A method writes its forward and its loss once, with `...` for
that axis: `X @ parameters["weight0"]` is [B, h] for one head and [G, B, h] for a stack. Each head of a stack has
its own learning rate, weight decay, dropout, order of the data, best check and patience, and comes out as it
would alone, up to rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Literal

from rph.errors import RphError
from rph.lazy import np, torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

    Tensor = torch.Tensor
    Parameters = dict[str, Tensor]
    Forward = Callable[[Parameters, Tensor, "Draw"], Tensor]  # X [..., B, d] -> outputs [..., B, O]
    Loss = Callable[[Tensor, "Batch"], Tensor]  # outputs [..., B, O] -> [...], one number per head
    _Run = tuple[float, float]  # learning rate and weight decay

__all__ = [
    "Batch", "Draw", "Head", "Training", "Validation", "bce_loss", "chance", "feed_forward", "layers",
    "level", "masked_bce", "masked_mean", "mse_loss", "observed", "outputs_of", "product", "queries_of",
]  # fmt: skip

MOST_CERTAIN = 1e-3  # a head starts no closer to certainty than this
ROWS = 8192  # rows put through a head at once when it does not train
STACKED = {
    "cpu": 1 << 24,
    "cuda": 1 << 28,
}  # numbers in the parameters of one stack: beyond, stacks are split


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a head is trained. The defaults are those of the classifier heads."""

    learning_rate: float = 1e-3
    cosine: bool = True  # the learning rate falls to 0 over `epochs` along a cosine; else it stays
    weight_decay: float = 1e-4  # decoupled (adamw) or as an L2 penalty (adam, sgd); `bias...` is spared
    dropout: float = 0.0
    batch: int = 256
    epochs: int = 50  # at most ...
    steps: int = 0  # ... or, where it takes more epochs, so many steps
    patience: int = 10  # checks without a better val accuracy that end the training ...
    rest: int = 0  # ... or, where it takes more checks, so many steps
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.0  # of sgd
    clip: float | None = None  # largest norm of a head's whole gradient


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a loss is given beside the outputs."""

    targets: tuple[Tensor, ...]  # each [B, ...], or [G, B, ...] where the heads of a stack have their own
    constants: Mapping[str, Tensor]  # numbers of the variant, each [] or [G]
    parameters: Parameters
    draw: Draw


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What a check needs: val queries, their labels, and which model a tie goes to."""

    X: Tensor  # [V, d]
    Y: Tensor  # [V, K], NaN = not observed
    means: Tensor  # [K] observed train means

    def accuracy(self, scores: Tensor) -> Tensor:
        """scores [..., V, K] -> [...]: mean label of the routed models, over the queries where it was observed.

        NaN where none was.
        """
        chosen = self.Y.expand(scores.shape).gather(-1, route(scores, self.means)[..., None])[..., 0]
        return chosen.nanmean(dim=-1)


def _as_they_are(outputs: Tensor) -> Tensor:
    return outputs


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head to be trained: all that a method brings. Tensors are on one device, to which parameters are moved; they are used up.

    `val` measures `readout(outputs)`, which is where outputs [..., V, O] are not scores [..., V, K] already.
    """

    parameters: Parameters
    forward: Forward
    loss: Loss
    X: Tensor  # [N, d], or [N, ...]
    targets: tuple[Tensor, ...]  # each [N, ...]
    val: Validation
    training: Training
    seed: int
    constants: Mapping[str, float] = field(default_factory=dict)
    readout: Callable[[Tensor], Tensor] = _as_they_are


def route(scores: Tensor, means: Tensor) -> Tensor:
    """scores [..., N, K], means [K] -> [..., N] models. Ties: the higher train mean, then the lower index."""
    order = means.argsort(descending=True, stable=True)
    return order[scores[..., order].argmax(dim=-1)]  # argmax takes the first of equals


def observed(Y: Float32, device: str) -> tuple[Tensor, Tensor]:
    """Y [N, K] labels, NaN = not observed -> labels with 0 there, and the mask M: 1 where observed."""
    seen = ~np.isnan(Y)
    return torch.tensor(np.where(seen, Y, 0), device=device), torch.tensor(
        seen, dtype=torch.float32, device=device
    )


def masked_bce(z: Tensor, Y: Tensor, M: Tensor) -> Tensor:
    """Logits z [..., B, K], labels Y (any number where not observed), mask M -> [...] sum(M * BCE) / sum(M)."""
    # BCE = softplus(z) - y z, for labels between 0 and 1 too
    return masked_mean(torch.nn.functional.softplus(z) - Y * z, M)


def masked_mse(z: Tensor, Y: Tensor, M: Tensor) -> Tensor:
    """Squared error of sigmoid(z), averaged over what was observed; arguments as `masked_bce`."""
    return masked_mean((torch.sigmoid(z) - Y).square(), M)


def masked_mean(values: Tensor, M: Tensor) -> Tensor:
    """values and mask M, [..., B, K] -> [...], the mean over the last two axes where M is 1; 0 where it is nowhere."""
    return (values * M).sum(dim=(-2, -1)) / M.sum(dim=(-2, -1)).clamp(min=1)


def level(means: NDArray[np.floating[Any]] | Tensor) -> Tensor:
    """Mean labels -> logits to start from, within those of `MOST_CERTAIN`: a model never wrong has no logit."""
    return torch.logit(torch.as_tensor(means).clamp(MOST_CERTAIN, 1 - MOST_CERTAIN))


def queries_of(cells: int, models: int) -> int:
    """Queries of a minibatch, 16 to 512, that has about so many (query, model) cells: all of a query's models."""
    return min(512, max(16, cells // models))


def bce_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """The loss of a head whose outputs are logits and whose targets are labels and mask (`observed`)."""
    return masked_bce(outputs, *batch.targets)


def mse_loss(outputs: Tensor, batch: Batch) -> Tensor:
    """As `bce_loss`, with the squared error of the probability."""
    return masked_mse(outputs, *batch.targets)


def layers(
    widths: Sequence[int], generator: torch.Generator, name: str = "", start: Tensor | None = None
) -> Parameters:
    """A feed-forward network, widths (d, h, ..., O): `weight{name}0` [d, h], `bias{name}0` [1, h], and so on.

    Weights are He-uniform, from `generator` on the CPU; biases are 0. With `start` [O] the last weights are 0 and
    the last bias is `start`: the outputs before training, on every query. There the outputs of a model stay that is
    never observed.
    """
    parameters: Parameters = {}
    for layer, (width, following) in enumerate(pairwise(widths)):
        bound = (6 / width) ** 0.5
        weight = torch.rand((width, following), generator=generator) * 2 - 1
        parameters[f"weight{name}{layer}"] = weight * bound
        parameters[f"bias{name}{layer}"] = torch.zeros(1, following)
    if start is not None:
        parameters[f"weight{name}{layer}"].zero_()
        parameters[f"bias{name}{layer}"] = start.view(1, -1).clone()
    return parameters


def feed_forward(parameters: Parameters, X: Tensor, draw: Draw, name: str = "") -> Tensor:
    """X [..., B, d] -> [..., B, O] through the network of `layers`: ReLU and dropout after each hidden layer."""
    hidden = product(X, parameters[f"weight{name}0"]) + parameters[f"bias{name}0"]
    layer = 1
    while f"weight{name}{layer}" in parameters:
        hidden = draw(hidden.relu()) @ parameters[f"weight{name}{layer}"] + parameters[f"bias{name}{layer}"]
        layer += 1
    return hidden


def product(X: Tensor, W: Tensor) -> Tensor:
    """X [..., B, d] @ W [..., d, h], as one wide product where a stack of W [G, d, h] reads the same X [B, d].

    Two to three times as fast as the batched product there, which copies X for every head.
    """
    if X.dim() != 2 or W.dim() != 3:
        return X @ W
    wide = W.transpose(0, 1).reshape(X.shape[1], -1)  # [d, G * h]
    return (X @ wide).view(len(X), len(W), W.shape[-1]).transpose(0, 1)


def chance(seed: int, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator of its own for each purpose of a seed, so that drawing more for one leaves the others alone."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Draw:
    """Chance inside a forward or a loss while heads train; outside training it changes nothing.

    The draws depend on the seed alone: the heads of one seed share them, each with its own rate of dropout.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator] = (),
        rates: Tensor | None = None,
        member: Tensor | None = None,
    ) -> None:
        self.generators = generators  # one per seed
        self.rates = rates  # [G] dropout of each head; None: not training
        self.member = member  # [G] which generator is each head's; None where all share one

    def __call__(self, hidden: Tensor) -> Tensor:
        """Dropout: a share of `hidden` is 0 and the rest scaled up.

        While training, `hidden` is [G, ...] (it comes from parameters) or [B, d] (it does not).
        """
        if self.rates is None or not self.any_dropout:
            return hidden
        shape = hidden.shape if hidden.dim() == 2 else hidden.shape[1:]
        rates = self.rates.view(-1, *[1] * len(shape))
        return hidden * ((self.uniform(shape) >= rates) / (1 - rates))

    @cached_property
    def any_dropout(self) -> bool:
        return self.rates is not None and bool((self.rates > 0).any())

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Numbers in [0, 1) of one head's shape, or [G, *shape] where the heads are of several seeds."""
        return self._each(torch.rand, shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """As `uniform`, from the standard normal distribution; a single zero outside training."""
        return torch.zeros(()) if self.rates is None else self._each(torch.randn, shape)

    def _each(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        drawn = [draw(tuple(shape), generator=g, device=g.device) for g in self.generators]
        return drawn[0] if self.member is None else torch.stack(drawn)[self.member]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
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


@one_thread()
def fit_heads(heads: Sequence[Head]) -> list[Parameters]:
    """Train heads, those of one shape together; return each one's parameters at its best check.

    Raises RphError where a head diverges or no check could be measured.
    """
    found: dict[int, Parameters] = {}
    for stack in _stacks(heads):
        found |= zip(stack, _fit_stack([heads[i] for i in stack]), strict=True)
    return [found[i] for i in range(len(heads))]


def _stacks(heads: Sequence[Head]) -> Iterator[list[int]]:
    """Places of the heads that can train together: same computation, same shapes, same data."""
    together: dict[object, list[int]] = {}
    for i, head in enumerate(heads):
        shapes = tuple((name, value.shape) for name, value in head.parameters.items())
        schedule = replace(head.training, learning_rate=0.0, weight_decay=0.0, dropout=0.0)
        data = (head.X.data_ptr(), head.X.shape, head.val.X.data_ptr(), tuple(t.shape for t in head.targets))
        how = (head.forward, head.loss, head.readout, type(head.val), tuple(head.constants))
        key = (how, shapes, schedule, data)
        together.setdefault(key, []).append(i)
    for stack in together.values():
        first = heads[stack[0]]
        most = max(1, STACKED[first.X.device.type] // sum(v.numel() for v in first.parameters.values()))
        yield from (stack[i : i + most] for i in range(0, len(stack), most))


def _fit_stack(heads: Sequence[Head]) -> list[Parameters]:
    first, training, device = heads[0], heads[0].training, heads[0].X.device
    size = len(first.X)
    steps = math.ceil(size / training.batch)  # per epoch
    checks = {math.ceil(steps / 2), steps}
    total = steps * max(training.epochs, math.ceil(training.steps / steps))
    patience = max(training.patience, math.ceil(training.rest * len(checks) / steps))
    seeds = sorted({head.seed for head in heads})
    shuffles = [chance(seed, "order") for seed in seeds]
    stack = _Stack(heads, [chance(seed, "dropout", device) for seed in seeds], seeds)
    kept: list[Parameters] = [{} for _ in heads]
    best, stale = [-math.inf] * len(heads), [0] * len(heads)

    for step in range(total):
        done = step % steps  # of this epoch
        if done == 0:
            orders = torch.stack([torch.randperm(size, generator=g) for g in shuffles]).to(device)
        slowed = (1 + math.cos(math.pi * step / total)) / 2 if training.cosine else 1.0
        stack.learn(orders[:, done * training.batch : (done + 1) * training.batch], slowed)

        if done + 1 in checks:
            for place, accuracy in stack.check(step + 1).items():
                if accuracy > best[place]:  # never true of NaN
                    best[place], stale[place] = accuracy, 0
                    kept[place] = stack.parameters_of(place)
                else:
                    stale[place] += 1
            going_on = [place for place in stack.alive if stale[place] < patience]
            if not going_on:
                break
            if len(going_on) < len(stack.alive):
                stack.narrow(going_on)
    if not all(kept):
        raise RphError(
            "no checkpoint of the head could be chosen",
            why=f"at every check, the labels of the routed models were missing on all {len(first.val.Y)} val queries",
            fix="check the labels of the benchmark's val split",
        )
    return kept


@dataclass(frozen=True)
class _Part:
    """Rows of a stack that one call of an optimiser updates: heads of one learning rate and weight decay.

    The calls are those that torch's fused optimisers make: exact, and of one pass over memory. The classes around
    them took a third of the time of narrow heads, in Python, for what a stack does not need.
    """

    tensors: list[list[Tensor]]  # values, gradients, first moments, second moments
    rate: float
    decay: float

    def step(self, training: Training, steps: Tensor, slowed: float) -> None:
        values, gradients, first, second = self.tensors
        rate = self.rate * slowed
        if not values:
            return
        if training.optimiser == "sgd":
            torch._fused_sgd_(
                values,
                gradients,
                first if training.momentum else [],
                weight_decay=self.decay,
                momentum=training.momentum,
                lr=rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
                is_first_step=False,
            )
            return
        update = torch._fused_adamw_ if training.optimiser == "adamw" else torch._fused_adam_
        update(
            values,
            gradients,
            first,
            second,
            [],
            [steps] * len(values),
            lr=rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class _Stack:
    """Heads of one shape while they train: their parameters, stacked [G, ...].

    Heads of one learning rate and weight decay lie behind one another, and are updated together: each head exactly
    as it would be alone, in as few calls as there are such runs.
    """

    def __init__(self, heads: Sequence[Head], generators: list[torch.Generator], seeds: list[int]) -> None:
        self.heads, self.generators = heads, generators
        self.seed_of = [seeds.index(head.seed) for head in heads]
        # A target that all heads share is kept once: [N, ...]; others are stacked: [all heads, N, ...].
        columns = list(zip(*(head.targets for head in heads), strict=True))
        self.shared = [all(t.data_ptr() == column[0].data_ptr() for t in column) for column in columns]
        self.targets = [
            column[0] if shared else torch.stack(column)
            for column, shared in zip(columns, self.shared, strict=True)
        ]
        alive = sorted(range(len(heads)), key=lambda place: _run(heads[place]))
        names = heads[0].parameters
        device = heads[0].X.device
        stacked = {name: torch.stack([heads[place].parameters[name] for place in alive]) for name in names}
        self.steps = torch.zeros((), device=device)  # taken so far
        parameters = {name: value.to(device) for name, value in stacked.items()}
        first, second = ([torch.zeros_like(value) for value in parameters.values()] for _ in range(2))
        self._lay(parameters, first, second, alive)

    def _lay(self, stacked: Parameters, first: list[Tensor], second: list[Tensor], alive: list[int]) -> None:
        """Go on with the heads at these places, in this order, from these parameters and moments, all [G, ...]."""
        self.parameters, self.first, self.second, self.alive = stacked, first, second, alive
        for value in stacked.values():
            value.requires_grad_()
            value.grad = torch.zeros_like(value)
        self.gradients = [value.grad for value in stacked.values() if value.grad is not None]

        device = next(iter(stacked.values())).device
        heads = [self.heads[place] for place in alive]
        several = len(self.generators) > 1
        self.place = torch.tensor(alive, device=device)[:, None]
        self.member = torch.tensor([self.seed_of[p] for p in alive], device=device) if several else None
        rates = torch.tensor([head.training.dropout for head in heads], device=device)
        self.draw = Draw(self.generators, rates, self.member)
        self.constants = {
            name: torch.tensor([float(head.constants[name]) for head in heads], device=device)
            for name in heads[0].constants
        }

        values = [value.detach() for value in stacked.values()]
        biases = [name.startswith("bias") for name in stacked]
        self.parts: list[_Part] = []
        start = 0
        for (rate, decay), places in groupby(alive, key=lambda place: _run(self.heads[place])):
            rows = slice(start, start + len(list(places)))
            start = rows.stop
            for spared in (False, True):
                tensors = [
                    [tensor[rows] for tensor, bias in zip(each, biases, strict=True) if bias is spared]
                    for each in (values, self.gradients, first, second)
                ]
                self.parts.append(_Part(tensors, rate, 0.0 if spared else decay))

    def narrow(self, places: list[int]) -> None:
        """Go on with these heads only; the others have finished."""
        rows = torch.tensor([self.alive.index(place) for place in places], device=self.place.device)
        self._lay(
            {name: value.detach()[rows] for name, value in self.parameters.items()},
            [value[rows] for value in self.first],
            [value[rows] for value in self.second],
            places,
        )

    def learn(self, orders: Tensor, slowed: float) -> None:
        """One step of every head, at this share of its learning rate; orders [S, B]: each seed's rows."""
        rows = orders[0] if self.member is None else orders[self.member]  # [B] or [G, B]
        targets = tuple(
            target[rows] if shared else target[self.place, rows]
            for target, shared in zip(self.targets, self.shared, strict=True)
        )
        first = self.heads[0]
        torch._foreach_zero_(self.gradients)
        outputs = first.forward(self.parameters, first.X[rows], self.draw)
        batch = Batch(targets=targets, constants=self.constants, parameters=self.parameters, draw=self.draw)
        # Each head's loss depends on its own parameters only: the gradient of the sum is each one's own.
        first.loss(outputs, batch).sum().backward()  # type: ignore[no-untyped-call]
        if first.training.clip is not None:
            squares = [grad.square().flatten(1).sum(dim=1) for grad in self.gradients]
            norms = torch.stack(squares).sum(dim=0).sqrt()  # [G]
            share = (first.training.clip / (norms + 1e-6)).clamp(max=1)
            for grad in self.gradients:
                grad.mul_(share.view(-1, *[1] * (grad.dim() - 1)))
        self.steps += 1
        with torch.no_grad():
            for part in self.parts:
                part.step(first.training, self.steps, slowed)

    def check(self, step: int) -> dict[int, float]:
        """Place -> val accuracy of each head."""
        first = self.heads[0]
        outputs = outputs_of(first.forward, self.parameters, first.val.X)  # [G, V, O]
        if not bool(torch.isfinite(outputs).all()):
            raise RphError(
                f"training diverged by step {step}",
                why="the head's outputs on the val queries are not finite",
                fix="check the embeddings for extreme values, or lower the learning rate",
            )
        return dict(zip(self.alive, first.val.accuracy(first.readout(outputs)).tolist(), strict=True))

    def parameters_of(self, place: int) -> Parameters:
        row = self.alive.index(place)
        return {name: value[row].detach().clone() for name, value in self.parameters.items()}


def _run(head: Head) -> _Run:
    return head.training.learning_rate, head.training.weight_decay


def outputs_of(forward: Forward, parameters: Parameters, X: Tensor) -> Tensor:
    """X [N, d] -> outputs [..., N, O] without dropout, a block of rows at a time."""
    with torch.no_grad():
        blocks = [forward(parameters, X[i : i + ROWS], Draw()) for i in range(0, max(1, len(X)), ROWS)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)
