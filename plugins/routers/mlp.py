"""mlp: a feed-forward network predicts, from the embedding, each model's probability of being correct.

Paper: Hu et al. 2024, RouterBench (arXiv:2403.12031); `mlp_cn` in the study of the routing plateau. Like theirs:
ReLU networks of the same widths on frozen embeddings, a model's rows without a label left out. Unlike theirs: see
`fidelity` on the card; above all, the models share one network, and the best checkpoint is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from rph import Labelled, Queries, RouterCard, RouterSpec, hookimpl
from rph.arrays import model_means, to_device
from rph.heads import Training, Validation, chance, fit_head, masked_bce, masked_mse, observed, outputs_of
from rph.lazy import np, torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Float32
    from rph.heads import Drop, Parameters

LARGE = 50_000  # training queries beyond which batches are larger
MOST_CERTAIN = 1e-3  # the output bias starts no closer to certainty than this


@dataclass(frozen=True)
class Config:
    hidden: tuple[int, ...] = (100, 100)  # widths; () is a linear head
    dropout: float = 0.1  # after every hidden layer
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    loss: Literal["bce", "mse"] = "bce"  # mse: squared error of the probability
    per_model: bool = False  # a network of its own for each model, instead of one with K outputs
    standardise: bool = False  # inputs of mean 0 and variance 1 on train, instead of rows of length 1


BASE = Config()
GRID = (
    *(
        replace(BASE, hidden=h)
        for h in ((100, 100), (256,), (512, 256), (), (100,), (512,), (256, 128), (1024, 512))
    ),
    *(replace(BASE, hidden=h, learning_rate=3e-4) for h in ((256,), (512, 256))),
    *(replace(BASE, hidden=h, dropout=0.3, weight_decay=1e-2) for h in ((100, 100), (512, 256))),
    replace(BASE, loss="mse"),
    replace(BASE, per_model=True),
    replace(BASE, hidden=(512, 256), standardise=True),
)
LOSSES = {"bce": masked_bce, "mse": masked_mse}


class MlpRouter:
    parameters: Parameters
    scaling: tuple[torch.Tensor, torch.Tensor] | None = None  # mean and deviation [d] of the inputs on train
    device: str

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        self.device = device
        known = train.observed
        if variant.standardise:
            self.scaling = _scaling(known.X, device)
        X = self._inputs(known)
        means = model_means(train.Y)
        self.parameters = fit_head(
            initial(X.shape[1], means, variant, chance(seed, "initial"), device),
            forward,
            LOSSES[variant.loss],
            X=X,
            targets=observed(known.Y, device),
            val=Validation(
                X=self._inputs(val),
                Y=to_device(val.Y, device),
                means=to_device(means, device),
            ),
            training=Training(
                learning_rate=variant.learning_rate,
                weight_decay=variant.weight_decay,
                dropout=variant.dropout,
                batch=256 if len(X) <= LARGE else 1024,
            ),
            seed=seed,
        )

    def _inputs(self, queries: Queries) -> torch.Tensor:
        if self.scaling is None:
            return to_device(queries.unit, self.device)
        mean, deviation = self.scaling
        return to_device(queries.X, self.device).sub(mean).div_(deviation)

    def scores(self, queries: Queries) -> Float32:
        z = outputs_of(forward, self.parameters, self._inputs(queries))
        result: Float32 = torch.sigmoid(z).cpu().numpy()
        return result

    def state(self) -> dict[str, NDArray[Any]]:
        named = dict(self.parameters)
        if self.scaling is not None:
            named["input_mean"], named["input_deviation"] = self.scaling
        return {name: value.cpu().numpy() for name, value in named.items()}

    @classmethod
    def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Config, device: str) -> MlpRouter:
        router = cls()
        router.device = device
        named = {name: torch.tensor(value, device=device) for name, value in state.items()}
        if variant.standardise:
            router.scaling = named.pop("input_mean"), named.pop("input_deviation")
        router.parameters = named
        return router


def initial(
    inputs: int, means: Float32, variant: Config, generator: torch.Generator, device: str
) -> Parameters:
    """Parameters of G networks, one per model or one for all: `weight0` [d, G * h], `weight1` [G, h, h'], ...

    The outputs start at logit(p_m): hidden weights are He-uniform, those of the last layer 0, so that a model
    never run stays at its prior.
    """
    networks, outputs = (len(means), 1) if variant.per_model else (1, len(means))
    widths = (inputs, *variant.hidden, outputs)
    parameters: Parameters = {}
    for layer, (width, following) in enumerate(pairwise(widths)):
        shape = (networks, width, following) if layer else (width, networks * following)
        bound = (6 / width) ** 0.5 if layer < len(variant.hidden) else 0.0
        parameters[f"weight{layer}"] = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        parameters[f"bias{layer}"] = torch.zeros(networks, 1, following)
    p = torch.tensor(means).clamp(MOST_CERTAIN, 1 - MOST_CERTAIN)
    parameters[f"bias{len(variant.hidden)}"] = torch.logit(p).view(networks, 1, outputs)
    return {name: value.to(device) for name, value in parameters.items()}


def forward(parameters: Parameters, X: torch.Tensor, drop: Drop) -> torch.Tensor:
    """X [B, d] -> logits [B, K]. All networks read the same X: their first layer is one product, the later batched."""
    bias = parameters["bias0"]  # [G, 1, h]
    hidden = torch.addmm(bias.flatten(), X, parameters["weight0"])  # [B, G * h]
    hidden = hidden.view(len(X), len(bias), -1).transpose(0, 1)  # [G, B, h]
    for layer in range(1, len(parameters) // 2):
        hidden = drop(hidden.relu())
        hidden = torch.baddbmm(parameters[f"bias{layer}"], hidden, parameters[f"weight{layer}"])
    return hidden.transpose(0, 1).flatten(1)  # G or the last width is 1: [B, K]


def _scaling(X: Float32, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    mean = X.mean(axis=0, dtype=np.float64)
    deviation = X.std(axis=0, dtype=np.float64)
    deviation[deviation == 0] = 1  # a constant input says nothing
    as_tensor = partial(torch.tensor, dtype=torch.float32, device=device)
    return as_tensor(mean), as_tensor(deviation)


CARD = RouterCard(
    name="mlp",
    title="Feed-forward network on the embedding, one output per model",
    paper="arXiv:2403.12031",
    year=2024,
    family="classifier",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    aliases=("mlp_cn",),
    fidelity=(
        "One network with an output per model, not one network per model (a variant here).",
        "Binary cross-entropy on logits, not the squared error of an unbounded output (a variant squares p).",
        "AdamW with a cosine learning rate, not Adam at a constant one with an L2 penalty of 1e-4.",
        "Dropout after every hidden layer, of which the original has none.",
        "The checkpoint of the best val routing accuracy is kept; the original runs 200 epochs without validation.",
        "In the variant with one network per model, all networks are checked and stopped together.",
        "Output weights start at 0 and output biases at the logit of each model's mean label.",
        "Widths beyond (100) and (100, 100), the linear head and standardised inputs are ours.",
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=MlpRouter)
