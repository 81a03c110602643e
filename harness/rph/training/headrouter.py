"""What every router that is a trained head has in common: its data on the device, fitting, scoring, state.

A method subclasses `HeadRouter` and says what is its own: the head to train, and how its outputs become scores.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

from rph.api import Labelled, Queries, Trial
from rph.arrays import ROWS, model_means, to_device
from rph.lazy import np, torch
from rph.training.heads import Head, Validation, observed, outputs_of
from rph.training.stacks import fit_heads

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32
    from rph.training.heads import Forward, Parameters

    Tensor = torch.Tensor

__all__ = ["Data", "HeadGroup", "HeadRouter", "stacked"]

T = TypeVar("T")


class Data:
    """Train and val on one device, made once for all heads that are fitted together: they share its tensors.

    Training queries without any label are left out.
    """

    def __init__(self, train: Labelled, val: Labelled, device: str) -> None:
        self.train = train.observed
        self.val = val
        self.device = device
        self.means = model_means(self.train.Y)  # [K] train levels
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` makes, made once for all heads of this data that ask for the same key."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    @cached_property
    def X(self) -> Tensor:
        """Train embeddings [N, d], rows of length 1."""
        return to_device(self.train.unit, self.device)

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Train labels [N, K], 0 where missing, and the mask: 1 where observed."""
        return observed(self.train.Y, self.device)

    @cached_property
    def seen(self) -> Tensor:
        """Which models [K] have a train label."""
        return torch.tensor(~np.isnan(self.train.Y).all(axis=0), device=self.device)

    @cached_property
    def validation(self) -> Validation:
        """What a check needs, for heads that read `X`."""
        return self._validation(to_device(self.val.unit, self.device))

    @cached_property
    def scaling(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation [d] of the raw train embeddings; a constant input has deviation 1."""
        X = self.train.X
        mean = X.mean(axis=0, dtype=np.float64)
        blocks = (X[i : i + ROWS] for i in range(0, len(X), ROWS))  # X in float64 would be twice X
        squares = sum((np.square(block - mean).sum(axis=0) for block in blocks), np.zeros(X.shape[1]))
        deviation = np.sqrt(squares / max(1, len(X)))
        deviation[deviation == 0] = 1  # a constant input says nothing
        pair = torch.tensor(np.stack([mean, deviation]), dtype=torch.float32, device=self.device)
        return pair[0], pair[1]

    @cached_property
    def standardised(self) -> tuple[Tensor, Validation]:
        """Train embeddings [N, d] of mean 0 and variance 1, and the validation of heads that read them."""
        return _scaled(self.train, self.scaling), self._validation(_scaled(self.val, self.scaling))

    def _validation(self, X: Tensor) -> Validation:
        pool, weight = (None if table is None else to_device(table, self.device) for table in self.val.mask)
        return Validation(
            X=X,
            Y=to_device(self.val.Y, self.device),
            means=to_device(self.means, self.device),
            pool=pool,
            weight=weight,
        )


def _scaled(queries: Queries, scaling: tuple[Tensor, Tensor]) -> Tensor:
    mean, deviation = scaling
    return to_device(queries.X, str(mean.device)).sub(mean).div_(deviation)


class HeadRouter:
    """A router that is one head. A subclass gives `head`, and `read` where its scores are not probabilities.

    `buffers` are arrays beside the trained parameters that scoring needs; `head` fills them. Where they hold
    `input_mean` and `input_deviation` the inputs are standardised with them, else they are rows of length 1.
    """

    double = False  # score in float64: for scores in which the rounding of another batch size would show
    seed: int  # of the fit
    parameters: Parameters
    buffers: dict[str, Tensor]

    def __init__(self, variant: Any = None, device: str = "cpu") -> None:
        self.variant, self.device = variant, device
        self.parameters, self.buffers = {}, {}

    # --- what a method says ---

    def head(self, data: Data, seed: int) -> Head:
        """The head of `self.variant` that is to be trained."""
        raise NotImplementedError

    def read(self, outputs: Tensor) -> Tensor:
        """Outputs [N, O] of the trained head -> scores [N, K]."""
        return torch.sigmoid(outputs)

    def finish(self, data: Data) -> None:
        """What is learnt after the head is trained."""

    @staticmethod
    def trained_as(variant: Any) -> Hashable:
        """Variants of equal value share one trained head: they differ in `finish` and `read` only."""
        whole: Hashable = variant
        return whole

    # --- what all share ---

    def fit(self, train: Labelled, val: Labelled, *, variant: Any, seed: int, device: str) -> None:
        _fit([self], train, val, [Trial(variant=variant, seed=seed)], device)

    def inputs(self, queries: Queries) -> Tensor:
        """What the head reads [N, d]."""
        if "input_mean" in self.buffers:
            X = _scaled(queries, (self.buffers["input_mean"], self.buffers["input_deviation"]))
        else:
            X = to_device(queries.unit, self.device)
        return X.double() if self.double else X

    def outputs(self, X: Tensor) -> Tensor:
        """X [N, d] as the head takes it -> its outputs [N, O]."""
        return outputs_of(self._forward, self.parameters, X)

    def scores(self, queries: Queries) -> Float32:
        result: Float32 = self.read(self.outputs(self.inputs(queries))).float().cpu().numpy()
        return result

    @property
    def _forward(self) -> Forward:
        return self.forward(self.variant)

    @staticmethod
    def forward(variant: Any) -> Forward:
        """The head's forward in this variant: a function of the module, so that heads can be stacked."""
        raise NotImplementedError

    def standardise(self, data: Data) -> tuple[Tensor, Validation]:
        """Have the head read standardised inputs: its X [N, d] and its validation."""
        self.buffers["input_mean"], self.buffers["input_deviation"] = data.scaling
        return data.standardised

    def state(self) -> dict[str, NDArray[Any]]:
        named = {f"parameter/{name}": value for name, value in self.parameters.items()}
        named |= {f"buffer/{name}": value for name, value in self.buffers.items()}
        return {name: value.cpu().numpy() for name, value in named.items()}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Any, device: str) -> Self:
        router = cls(variant, device)
        for name, value in state.items():
            kind, own = name.split("/", 1)
            kept = router.parameters if kind == "parameter" else router.buffers
            kept[own] = torch.tensor(value, device=device)
        return router


class HeadGroup:
    """Routers that were fitted together."""

    def __init__(self, routers: Sequence[HeadRouter]) -> None:
        self.routers = routers

    def scores(self, queries: Queries) -> list[Float32]:
        return [router.scores(queries) for router in self.routers]


def stacked(router: type[HeadRouter]) -> Callable[[Labelled, Labelled, Sequence[Trial], str], HeadGroup]:
    """The `fit_many` of a method: heads of one shape train as a stack, equal heads once.

    Within rounding the heads are those of fitting one by one; a test of each method states the tolerance.
    """

    def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> HeadGroup:
        routers = [router() for _ in trials]
        _fit(routers, train, val, trials, device)
        return HeadGroup(routers)

    return fit_many


def _fit(
    routers: Sequence[HeadRouter], train: Labelled, val: Labelled, trials: Sequence[Trial], device: str
) -> None:
    data = Data(train, val, device)
    first: dict[Hashable, HeadRouter] = {}  # of those that share a trained head
    heads = []
    keys = []
    for router, trial in zip(routers, trials, strict=True):
        router.variant, router.seed, router.device, router.buffers = trial.variant, trial.seed, device, {}
        key = (router.trained_as(trial.variant), trial.seed)
        keys.append(key)
        if key not in first:
            first[key] = router
            heads.append(router.head(data, trial.seed))
    for router, parameters in zip(first.values(), fit_heads(heads), strict=True):
        if router.double:
            parameters = {name: value.double() for name, value in parameters.items()}
        router.parameters = parameters
    for router, key in zip(routers, keys, strict=True):
        router.parameters = first[key].parameters
        router.buffers = dict(first[key].buffers)
        router.finish(data)
