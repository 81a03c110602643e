"""Heads that learn what a call costs: the squared error of the standardised log cost, read in US dollars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rph.arrays import observed_means, to_device
from rph.lazy import np, torch
from rph.training.headrouter import Data, HeadRouter
from rph.training.heads import Head, Training, Validation, masked_mean, observed

if TYPE_CHECKING:
    from torch import Tensor

    from rph.api import Float32
    from rph.training.heads import Batch, Parameters

__all__ = ["CostCheck", "CostHead", "LogScale", "squared_error"]

CHEAPEST = 1e-3  # of a model's mean cost: calls that cost less count as that, since 0 has no logarithm


class LogScale:
    """Costs to logarithms of mean 0 and variance 1 for each model, by the train costs [N, K]."""

    def __init__(self, costs: Float32) -> None:
        dollars = np.nan_to_num(observed_means(costs))
        self.least = np.maximum(dollars * CHEAPEST, 1e-12).astype(np.float32)  # [K]
        logarithms = np.log(np.maximum(costs, self.least), dtype=np.float64)
        mean = np.nan_to_num(observed_means(logarithms))
        deviation = np.sqrt(np.nan_to_num(observed_means(np.square(logarithms - mean))))
        self.mean = mean.astype(np.float32)
        self.deviation = np.where(deviation > 1e-6, deviation, 1).astype(np.float32)  # 1: one price for all

    def __call__(self, costs: Float32) -> Float32:
        """[N, K] US dollars, NaN = unknown -> [N, K], NaN alike."""
        result: Float32 = (np.log(np.maximum(costs, self.least)) - self.mean) / self.deviation
        return result


def squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    """Squared error of the outputs themselves; targets are values and mask."""
    values, mask = batch.targets
    return masked_mean((outputs - values).square(), mask)


@dataclass(frozen=True, kw_only=True)
class CostCheck(Validation):
    """A check measures the squared error; Y are standardised log costs. Without any, the last check stands."""

    def accuracy(self, outputs: Tensor) -> Tensor:
        return -masked_mean((outputs - self.Y.nan_to_num(0.0)).square(), (~torch.isnan(self.Y)).float())

    def loss(self, outputs: Tensor, likelihood: bool) -> Tensor:
        return -self.accuracy(outputs)


class CostHead(HeadRouter):
    """A head with an output per model, whose scores [N, K] are US dollars per call; NaN for a model without any cost.

    A method's `head` calls `cost_head` with the network that it starts from.
    """

    def cost_head(self, data: Data, parameters: Parameters, training: Training, seed: int) -> Head:
        """The head to train; the train queries have costs."""
        val = data.validation
        train_costs, val_costs = data.train.C, data.val.C
        assert train_costs is not None
        scale = LogScale(train_costs)
        self.buffers["log"] = to_device(np.stack([scale.mean, scale.deviation]), data.device)  # [2, K]
        missing = np.full_like(data.val.Y, np.nan)
        return Head(
            parameters=parameters,
            forward=self.forward(self.variant),
            loss=squared_error,
            X=data.X,
            targets=observed(scale(train_costs), data.device),
            val=CostCheck(
                X=val.X,
                Y=to_device(missing if val_costs is None else scale(val_costs), data.device),
                means=val.means,
            ),
            training=training,
            seed=seed,
        )

    def finish(self, data: Data) -> None:
        """The mean of a logarithm is not the logarithm of the mean: estimates get the mean of the train costs."""
        costs = data.train.C
        assert costs is not None
        self.buffers["factor"] = torch.ones(len(data.means), device=data.device)  # [K]
        estimates = np.where(np.isnan(costs), np.nan, self.scores(data.train))
        sums = np.nansum(costs, axis=0, dtype=np.float64), np.nansum(estimates, axis=0, dtype=np.float64)
        factor = np.divide(*sums, out=np.full(len(data.means), np.nan), where=sums[1] > 0)
        self.buffers["factor"] = to_device(factor.astype(np.float32), data.device)

    def read(self, outputs: Tensor) -> Tensor:
        mean, deviation = self.buffers["log"][0], self.buffers["log"][1]
        return (outputs * deviation + mean).exp() * self.buffers["factor"]
