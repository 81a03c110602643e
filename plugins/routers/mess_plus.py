"""mess-plus: a normalised one-layer network predicts whether each model satisfies a request; a queue trades it for cost.

Paper: Woisetschläger et al. 2025, MESS+ (arXiv:2505.19947). Like theirs: on a frozen embedding, dropout, a linear
layer, layer norm, ReLU, dropout and K sigmoids s_m, trained with the unweighted cross-entropy by SGD with momentum
and clipped gradients. Online, request t is explored with probability p_t = min(1, c t^(-1/4)): all models answer it
and the network takes one step on it. Otherwise it goes to argmin_m V E_m + Q (alpha - s_m), with E_m a model's mean
cost and the virtual queue Q <- max(0, Q + alpha - outcome). Without costs (V = 0) this is argmax_m s_m, and s_m is
the score here; `sla` plays the queue. See `fidelity` on the card, also for how this differs from `mlp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product as combinations
from typing import TYPE_CHECKING, Literal

from rph import Labelled, RouterCard, RouterSpec, Trial, VariantCard, hookimpl
from rph.arrays import model_means
from rph.lazy import np, torch
from rph.machine import one_thread
from rph.training.headrouter import Data, HeadGroup, HeadRouter, stacked
from rph.training.heads import Draw, Head, Training, bce_loss, chance, layers, level, masked_bce, product

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.arrays import Float32, Float64, Floats
    from rph.training.heads import Forward, Parameters

    Tensor = torch.Tensor

CLIP = 1.0  # largest norm of the gradient


@dataclass(frozen=True)
class Config:
    hidden: int = 0  # width; 0: as wide as the embedding
    learning_rate: float = 0.03
    momentum: float = 0.9  # of sgd
    dropout: float = 0.1  # of the embedding and of the hidden layer
    batch: int = 64
    optimiser: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 0.01
    exploration: float = 0.0  # c of the online form: one pass, a step on each explored query; 0: offline


BASE = Config()
GRID = (
    *(
        replace(BASE, hidden=h, learning_rate=r, momentum=m)
        for h, r, m in combinations((0, 256), (0.03, 0.08), (0.9, 0.95))
    ),
    *(replace(BASE, hidden=h, dropout=0.3) for h in (256, 0)),
    replace(BASE, learning_rate=0.08, batch=128),
    *(replace(BASE, hidden=h, learning_rate=1e-3, optimiser="adamw") for h in (256, 512, 0)),
    replace(BASE, exploration=1.0),
)


# --- the network ------------------------------------------------------------------------------------


def initial(inputs: int, width: int, p: Float32, generator: torch.Generator, device: str) -> Parameters:
    """The network before training: its scores are p [K] on every query, where those of a model never run stay."""
    parameters = layers((inputs, width, len(p)), generator, start=level(p))
    parameters["scale0"] = torch.ones(1, width)
    parameters["bias_norm0"] = torch.zeros(1, width)
    return {name: value.to(device) for name, value in parameters.items()}


def forward(parameters: Parameters, X: Tensor, draw: Draw) -> Tensor:
    """X [..., B, d] -> logits [..., B, K]."""
    hidden = product(draw(X), parameters["weight0"]) + parameters["bias0"]
    hidden = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:])
    hidden = (hidden * parameters["scale0"] + parameters["bias_norm0"]).relu()
    return draw(hidden) @ parameters["weight1"] + parameters["bias1"]


# --- online -----------------------------------------------------------------------------------------


def stream(n: int, c: float, seed: int) -> tuple[Tensor, Tensor]:
    """Requests [n], rows in random order, and the places [T] of those explored: t = 1.. with p = min(1, c t^(-1/4))."""
    order = torch.randperm(n, generator=chance(seed, "order"))
    p = (c * torch.arange(1, n + 1, dtype=torch.float64) ** -0.25).clamp(max=1)
    drawn = torch.rand(n, generator=chance(seed, "exploration"), dtype=torch.float64)
    return order, (drawn < p).nonzero()[:, 0]


def online(
    parameters: Parameters,
    X: Tensor,
    labels: tuple[Tensor, Tensor],
    requests: tuple[Tensor, Tensor],
    variant: Config,
    seed: int,
) -> Iterator[tuple[Tensor, Parameters]]:
    """One pass over the `requests` of `stream`, rows of X [N, d], which learns from the explored ones only.

    `labels` are as from `rph.training.heads.observed`. Yields, before each step and at the end, the rows exploited since the
    last one and the parameters [1, ...] that decide on them; the next step changes these in place.
    """
    order, steps = requests
    live = {name: value[None].clone().requires_grad_() for name, value in parameters.items()}
    biases = [value for name, value in live.items() if name.startswith("bias")]
    others = [value for name, value in live.items() if not name.startswith("bias")]
    decay = variant.weight_decay
    optimiser = torch.optim.SGD(
        others, lr=variant.learning_rate, momentum=variant.momentum, weight_decay=decay
    )
    optimiser.add_param_group({"params": biases, "weight_decay": 0.0})
    draw = Draw([chance(seed, "dropout", X.device)], torch.tensor([variant.dropout], device=X.device))
    after = 0  # the last step's place + 1
    for t in steps.tolist():
        yield order[after:t], live
        row = order[t : t + 1].to(X.device)
        optimiser.zero_grad()
        loss = masked_bce(forward(live, X[row], draw), *(target[row] for target in labels))
        loss.sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(live.values(), CLIP)
        optimiser.step()
        after = t + 1
    yield order[after:], live


# --- the virtual queue ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Served:
    """What became of a stream of N requests."""

    chosen: NDArray[np.int64]  # [N] models
    queue: Float64  # [N] Q after each request
    cost: float  # mean of E_m over the requests, US dollars per call
    satisfaction: float  # mean outcome of the chosen models where it is known; NaN where it never is


def sla(scores: Floats, outcomes: Floats, costs: Floats, *, target: float, cost_weight: float) -> Served:
    """Route a stream so that satisfaction reaches `target` (alpha) at low cost: MESS+ without exploration.

    `scores` [N, K] are s_m in [0, 1], `outcomes` [N, K] the labels (NaN = not observed: the score stands in for it in
    the queue), `costs` [K] are E_m in US dollars per call, known for every model, and `cost_weight` is V, per US dollar.
    Equally good choices go to the higher score, then to the lower index: the first requests, while Q is 0 and V too.
    """
    N = len(scores)
    chosen, queue, Q = np.empty(N, np.int64), np.empty(N), 0.0
    for t, s in enumerate(scores.astype(np.float64)):
        penalty = cost_weight * costs + Q * (target - s)
        m = int(np.where(penalty == penalty.min(), s, -np.inf).argmax())
        outcome = outcomes[t, m]
        Q = max(0.0, Q + target - float(s[m] if np.isnan(outcome) else outcome))
        chosen[t], queue[t] = m, Q
    met = outcomes[np.arange(N), chosen].astype(np.float64)
    known = ~np.isnan(met)
    return Served(
        chosen=chosen,
        queue=queue,
        cost=float(costs[chosen].mean(dtype=np.float64)),
        satisfaction=float(met[known].mean()) if known.any() else float("nan"),
    )


# --- the router -------------------------------------------------------------------------------------


class MessPlusRouter(HeadRouter):
    @staticmethod
    def forward(variant: Config) -> Forward:
        return forward

    def fit(self, train: Labelled, val: Labelled, *, variant: Config, seed: int, device: str) -> None:
        if variant.exploration == 0:
            super().fit(train, val, variant=variant, seed=seed, device=device)
            return
        self.variant, self.device = variant, device
        self._fit_online(Data(train, val, device), seed)

    @one_thread()
    def _fit_online(self, data: Data, seed: int) -> None:
        """Before the first request nothing is known of a model: its score starts at 1/2, not at its mean label."""
        X, _ = self.standardise(data)
        unknown = np.full_like(data.means, 0.5)
        start = self._initial(data, unknown, seed)
        order, steps = requests = stream(len(X), self.variant.exploration, seed)
        for _, parameters in online(start, X, data.labels, requests, self.variant, seed):  # noqa: B007
            pass  # nobody waits for the answers
        self.parameters = {name: value.detach()[0] for name, value in parameters.items()}
        Y = data.train.Y[order[steps].numpy()]
        never = torch.tensor(np.isnan(Y).all(axis=0), device=data.device)
        pool = level(model_means(Y)).to(data.device)
        self.parameters["bias1"] = torch.where(never, pool, self.parameters["bias1"])

    def _initial(self, data: Data, p: Float32, seed: int) -> Parameters:
        d = data.train.X.shape[1]
        return initial(d, self.variant.hidden or d, p, chance(seed, "initial"), data.device)

    def head(self, data: Data, seed: int) -> Head:
        variant: Config = self.variant
        X, validation = self.standardise(data)
        return Head(
            parameters=self._initial(data, data.means, seed),
            forward=forward,
            loss=bce_loss,
            X=X,
            targets=data.labels,
            val=validation,
            training=Training(
                learning_rate=variant.learning_rate,
                cosine=False,
                weight_decay=variant.weight_decay,
                dropout=variant.dropout,
                batch=variant.batch,
                epochs=30,
                optimiser=variant.optimiser,
                momentum=variant.momentum,
                clip=CLIP,
            ),
            seed=seed,
            likelihood=True,
        )


def fit_many(train: Labelled, val: Labelled, trials: Sequence[Trial], device: str) -> HeadGroup:
    """Fit trials together: offline heads of one shape are trained as a stack, the online ones by themselves."""
    offline = [trial for trial in trials if trial.variant.exploration == 0]
    trained = iter(stacked(MessPlusRouter)(train, val, offline, device).routers)
    routers: list[HeadRouter] = []
    for trial in trials:
        if trial.variant.exploration == 0:
            routers.append(next(trained))
        else:
            routers.append(MessPlusRouter())
            routers[-1].fit(train, val, variant=trial.variant, seed=trial.seed, device=device)
    return HeadGroup(routers)


def describe(variant: Config) -> VariantCard:
    if variant.exploration:
        return VariantCard(
            original=True,
            why="learns online, from explored queries alone",
            no_gain="one pass over few explored queries teaches little beside each model's level",
        )
    own = variant.optimiser == "sgd" and variant.hidden == 0
    why = "the authors' network and optimiser, offline" if own else "the width or the optimiser is ours"
    return VariantCard(original=own, why=why)


CARD = RouterCard(
    name="mess-plus",
    title="Layer-normed network trained by SGD with momentum, as MESS+ predicts satisfaction",
    paper="arXiv:2505.19947",
    year=2025,
    family="classifier",
    licence="MIT",
    deterministic=False,
    calibrated=True,
    version=2,
    aliases=("mess_plus",),
    fidelity=(
        "It differs from mlp in the layer norm, the width, dropout on the embedding too, and standardised inputs.",
        "And in training: momentum SGD with weight decay and clipping, a constant rate, batches of 64 or 128, 30 epochs or, if that is more, 2,000 steps.",
        "Trained offline on all training queries; learning online from explored queries only is one variant.",
        "That variant passes once over the training queries in random order; it takes no checkpoint from val.",
        "Its inputs are scaled by all training queries, but it sees no label before it explores the query.",
        "Scores are those of V = 0, where costs, the target alpha and the queue drop out of the choice.",
        "The queue is a function of its own, `sla`, with a constant mean cost per model.",
        "The queue is moved by the observed label; the score stands in where it is missing.",
        "Offline, the checkpoint of best val routing accuracy is kept, not that of best micro-F1 at 0.5.",
        "Inputs have mean 0 and variance 1 on train: at these learning rates SGD needs them on one scale.",
        "Biases are spared weight decay.",
        "Output weights start at 0, output biases at the logit of each model's level on train (online at 0).",
        "A missing label is left out of the loss; the authors' code counts it as wrong.",
        "AdamW, widths other than the encoder's and dropout of .3 are ours; the authors' configurations have none of them.",
        "Online, one step is taken on each explored sample; the authors' configurations take one to five.",
        "A model never observed stays at the pool's mean level.",
    ),
    expected_failures=(
        (
            "calibrated-probabilities",
            "the authors' weight decay, an L2 penalty under SGD, and dropout draw probabilities to the mean label",
        ),
    ),
)


@hookimpl
def register_router() -> RouterSpec:
    return RouterSpec(card=CARD, grid=GRID, router=MessPlusRouter, fit_many=fit_many, describe=describe)
