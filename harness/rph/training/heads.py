"""What a neural head on frozen embeddings is made of: a method brings parameters, a forward and a loss; `stacks` trains it.

The data stays on the device, and the loop never waits for it but at the checks. A check is every half epoch, on small data
less often; it measures val routing accuracy (or what the method validates by) and, of equals, val cross-entropy: the
parameters of the best check are the result, of equal ones the last. Patience is counted in steps, so that a head of few
queries is trained before it stops. All chance comes from generators made from the seed; the order of the minibatches and the draws of
dropout depend on the seed alone, so variants of one seed see the same batches.

Heads of one shape train as a stack: their parameters lie behind one another along a first axis G, so that each
step is one batched computation whatever G is. A method writes its forward and its loss once, with `...` for
that axis: `X @ parameters["weight0"]` is [B, h] for one head and [G, B, h] for a stack. Each head of a stack has
its own learning rate, weight decay, dropout, order of the data, best check and patience, and comes out as it
would alone, up to rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from rph.holes import lower
from rph.lazy import np, torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32

    Tensor = torch.Tensor
    Parameters = dict[str, Tensor]
    Forward = Callable[[Parameters, Tensor, "Draw"], Tensor]  # X [..., B, d] -> outputs [..., B, O]
    Loss = Callable[[Tensor, "Batch"], Tensor]  # outputs [..., B, O] -> [...], one number per head

__all__ = [
    "Batch", "Draw", "Head", "Training", "Validation", "bce_loss", "chance", "feed_forward", "held_out", "layers",
    "level", "masked_bce", "masked_mean", "mse_loss", "observed", "outputs_of", "product", "queries_of",
]  # fmt: skip

MOST_CERTAIN = 1e-3  # a head starts no closer to certainty than this
RIDGE, NEWTON, HALVINGS = 1e-9, 30, 30  # of the map of scores that are no logits
ROWS = 8192  # rows put through a head at once when it does not train


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a head is trained. The defaults are those of the classifier heads."""

    learning_rate: float = 1e-3
    cosine: bool = True  # the learning rate falls to 0 over `epochs` along a cosine; else it stays
    weight_decay: float = 1e-4  # decoupled (adamw) or as an L2 penalty (adam, sgd); `bias...` is spared
    dropout: float = 0.0
    batch: int = 256
    epochs: int = 50  # at most ...
    steps: int = 2000  # ... or, where it takes more epochs, so many steps
    apart: int = 20  # steps between two checks, at least: on small data an epoch is a step or two
    patience: int = 10  # checks without a better one that end the training ...
    rest: int = 500  # ... once so many steps are without one too
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
    """What a check needs: val queries, their labels and pools, and which model a tie goes to.

    A check is better than another by a higher `accuracy`, or by an equal one and a lower `loss`.
    """

    X: Tensor  # [V, d]
    Y: Tensor  # [V, K], NaN = not observed
    means: Tensor  # [K] train levels
    pool: Tensor | None = None  # [V, K] which models may be chosen; None: all
    weight: Tensor | None = None  # [V, K] what each choice counts; None: each 1

    @cached_property
    def _unlabelled(self) -> bool:
        """Whether val has no label at all."""
        return bool(self.Y.isnan().all())

    def scores(self, outputs: Tensor) -> Tensor:
        """What the head gives on val [..., V, ...] -> the scores [..., V, K] that it is routed by."""
        return outputs

    def accuracy(self, outputs: Tensor) -> Tensor:
        """outputs [..., V, ...] -> [...]: mean label of the routed models, as variants are chosen (rph.holes.lower).

        NaN where val has no label at all.
        """
        scores = self.scores(outputs)
        if self._unlabelled:
            return self.Y.new_full(scores.shape[:-2], torch.nan)
        chosen = route(scores, self.means, self.pool)[..., None]
        labels, weight = (
            None if table is None else table.expand(scores.shape).gather(-1, chosen)[..., 0]
            for table in (self.Y, self.weight)
        )
        accuracy: Tensor = lower(labels, weight)
        return accuracy

    def loss(self, outputs: Tensor, likelihood: bool) -> Tensor:
        """outputs [G, V, ...] -> [G] float64: cross-entropy of the observed labels, each with its weight.

        With `likelihood` scores are logits of P(correct); else each head's pass through the one rising sigmoid that
        makes these very labels most likely: what they could say of P(correct).
        """
        scores = self.scores(outputs)
        seen = ~self.Y.isnan()
        s, y = scores[:, seen].double(), self.Y[seen].double()
        w = torch.ones_like(y) if self.weight is None else self.weight[seen].double()
        z = s if likelihood else likeliest(s, y, w)
        return ((torch.nn.functional.softplus(z) - y * z) * w).sum(dim=-1) / w.sum()


def _as_they_are(outputs: Tensor) -> Tensor:
    return outputs


@dataclass(frozen=True, kw_only=True)
class Head:
    """One head to be trained: all that a method brings. Tensors are on one device, to which parameters are moved; they are used up.

    `val` measures `readout(outputs)`, which is where outputs [..., V, O] are not scores [..., V, K] already; with
    `likelihood` they are logits of P(correct), which the loss makes likely.
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
    likelihood: bool = False


def likeliest(s: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Scores s [G, n], labels y and weights w [n], all float64 -> the logits a s + b [G, n], a >= 0, of least cross-entropy.

    As rph.results.probabilities.fit_sigmoid, for the heads of a stack at once: Newton's method on standardised scores,
    each head's step halved until it descends.
    """
    w = w / w.sum()
    middle = (s * w).sum(dim=-1, keepdim=True)
    spread = ((s - middle).square() * w).sum(dim=-1, keepdim=True).sqrt()
    x = torch.where(spread > 1e-9 * s.abs().amax(dim=-1, keepdim=True), (s - middle) / spread, 0)
    a, b = torch.zeros_like(middle), torch.zeros_like(middle) + torch.logit((y * w).sum(), eps=1e-7)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        z = a * x + b
        cross = ((torch.nn.functional.softplus(z) - y * z) * w).sum(dim=-1, keepdim=True)
        return cross + RIDGE / 2 * (a.square() + b.square())

    found = loss(a, b)
    for _ in range(NEWTON):
        p = torch.sigmoid(a * x + b)
        off, curve = (p - y) * w, p * (1 - p) * w
        g_a, g_b = (off * x).sum(dim=-1, keepdim=True) + RIDGE * a, off.sum(dim=-1, keepdim=True) + RIDGE * b
        aa = (curve * x * x).sum(dim=-1, keepdim=True) + RIDGE
        ab = (curve * x).sum(dim=-1, keepdim=True)
        bb = curve.sum(dim=-1, keepdim=True) + RIDGE
        det = aa * bb - ab * ab
        step_a, step_b = (bb * g_a - ab * g_b) / det, (aa * g_b - ab * g_a) / det
        size = torch.ones_like(a)
        for _ in range(HALVINGS):
            trial = loss(a - size * step_a, b - size * step_b)
            worse = trial > found
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        a, b = a - size * step_a, b - size * step_b
        gained, found = found - trial, trial
        if bool((gained.abs() < 1e-12).all()):
            break
    level = torch.logit((y * w).sum(), eps=1e-7)  # the loss is convex: no rising map is better than none
    return torch.where(a > 0, a * x + b, level)


def route(scores: Tensor, means: Tensor, pool: Tensor | None = None) -> Tensor:
    """scores [..., N, K], levels [K], pool [N, K] -> [..., N] models. Ties: the higher level, then the lower index."""
    if pool is not None:
        scores = scores.masked_fill(~pool, -torch.inf)
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


def held_out(n: int, share: float, seed: int) -> Tensor:
    """Which of n training queries [n] a seed holds out to calibrate on: this share of them, rounded down."""
    held = torch.zeros(n, dtype=torch.bool)
    held[torch.randperm(n, generator=chance(seed, "calibration"))[: int(share * n)]] = True
    return held


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


def outputs_of(forward: Forward, parameters: Parameters, X: Tensor) -> Tensor:
    """X [N, d] -> outputs [..., N, O] without dropout, a block of rows at a time."""
    with torch.no_grad():
        blocks = [forward(parameters, X[i : i + ROWS], Draw()) for i in range(0, max(1, len(X)), ROWS)]
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=-2)
