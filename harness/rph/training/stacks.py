"""Trains heads: those of one shape as a stack, each with an optimiser, an order of the data and a best check of its own.

Heads of one shape lie behind one another along a first axis G of their parameters, so that each step is one batched
computation whatever G is. The data stays on the device, and the loop never waits for it but at the checks. Each head comes
out as it would alone, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from rph.errors import RphError
from rph.lazy import torch
from rph.machine import one_thread
from rph.training.heads import Batch, Draw, Head, Training, chance, outputs_of

if TYPE_CHECKING:
    from rph.training.heads import Parameters

    Tensor = torch.Tensor
    _Run = tuple[float, float]  # learning rate and weight decay

STACKED = {
    "cpu": 1 << 24,
    "cuda": 1 << 28,
}  # numbers in the parameters of one stack: beyond, stacks are split

_brief = ContextVar("brief", default=False)


@contextmanager
def briefly(brief: bool = True) -> Iterator[None]:
    """Within it heads train for their epochs, however few steps these are: enough to see how a router is wired.

    With `brief=False` they train as always, within another `briefly` too.
    """
    outer = _brief.set(brief)
    try:
        yield
    finally:
        _brief.reset(outer)


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
        how = (head.forward, head.loss, head.readout, head.likelihood, type(head.val), tuple(head.constants))
        key = (how, shapes, schedule, data)
        together.setdefault(key, []).append(i)
    for stack in together.values():
        first = heads[stack[0]]
        most = max(1, STACKED[first.X.device.type] // sum(v.numel() for v in first.parameters.values()))
        yield from (stack[i : i + most] for i in range(0, len(stack), most))


def _fit_stack(heads: Sequence[Head]) -> list[Parameters]:
    first, training, device = heads[0], heads[0].training, heads[0].X.device
    if _brief.get():
        training = replace(training, steps=0, rest=0, apart=1)
    size = len(first.X)
    steps = math.ceil(size / training.batch)  # per epoch
    checks = {math.ceil(steps / 2), steps}
    total = steps * max(training.epochs, math.ceil(training.steps / steps))
    seeds = sorted({head.seed for head in heads})
    shuffles = [chance(seed, "order") for seed in seeds]
    stack = _Stack(heads, [chance(seed, "dropout", device) for seed in seeds], seeds)
    kept: list[Parameters] = [{} for _ in heads]
    best = [(-math.inf, 0.0)] * len(heads)  # accuracy and minus the loss of what is kept
    better, stale = [0] * len(heads), [0] * len(heads)  # the step of the last better check, and checks since
    checked = 0  # the step of the last check

    for step in range(total):
        done = step % steps  # of this epoch
        if done == 0:
            orders = torch.stack([torch.randperm(size, generator=g) for g in shuffles]).to(device)
        slowed = (1 + math.cos(math.pi * step / total)) / 2 if training.cosine else 1.0
        stack.learn(orders[:, done * training.batch : (done + 1) * training.batch], slowed)

        taken = step + 1
        if (done + 1 in checks and taken - checked >= training.apart) or taken == total:
            checked = taken
            found_of = stack.check(taken, best)
            for place in stack.alive:
                stale[place] += 1
                if (found := found_of.get(place)) is None or found < best[place]:
                    continue
                kept[place] = stack.parameters_of(place)
                if found > best[place]:
                    best[place], better[place], stale[place] = found, taken, 0
            going_on = [
                place
                for place in stack.alive
                if stale[place] < training.patience or taken - better[place] < training.rest
            ]
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
            _fused("sgd")(
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
        _fused(training.optimiser)(
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
        for gradient in self.gradients:
            gradient.zero_()
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

    def check(self, step: int, best: Sequence[tuple[float, float]]) -> dict[int, tuple[float, float]]:
        """Place -> val accuracy and minus val loss, of those heads whose accuracy is not below that of the best check."""
        first = self.heads[0]
        outputs = outputs_of(first.forward, self.parameters, first.val.X)  # [G, V, O]
        if not bool(torch.isfinite(outputs).all()):
            raise RphError(
                f"training diverged by step {step}",
                why="the head's outputs on the val queries are not finite",
                fix="check the embeddings for extreme values, or lower the learning rate",
            )
        read = first.readout(outputs)
        accuracies = first.val.accuracy(read).tolist()
        near = [
            i
            for i, (place, accuracy) in enumerate(zip(self.alive, accuracies, strict=True))
            if accuracy >= best[place][0]  # never true of NaN
        ]
        if not near:
            return {}
        losses = first.val.loss(read[near], first.likelihood).tolist()
        return {self.alive[i]: (accuracies[i], -loss) for i, loss in zip(near, losses, strict=True)}

    def parameters_of(self, place: int) -> Parameters:
        row = self.alive.index(place)
        return {name: value[row].detach().clone() for name, value in self.parameters.items()}


def _fused(optimiser: str) -> Callable[..., None]:
    """The step of torch's own fused optimiser, which is no part of its public interface. RphError where there is none."""
    name = f"_fused_{optimiser}_"
    try:
        step: Callable[..., None] = getattr(torch, name)
    except AttributeError as error:
        raise RphError(
            f"torch {torch.__version__} has no {name}",
            why="heads are trained by it, and it is no part of torch's public interface; torch 2.13 has it",
            fix="install torch 2.13.0, the version in constraints.txt",
        ) from error
    return step


def _run(head: Head) -> _Run:
    return head.training.learning_rate, head.training.weight_decay
