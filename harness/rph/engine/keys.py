"""What of the software decides a trial's scores, for its key and for workers: docs/trial-keys.md says why each part counts."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint

from rph.distribution import OURS
from rph.engine import trials
from rph.engine.reach import Reached, reached
from rph.registry import Plugin


@dataclass(frozen=True)
class Software:
    """Whatever of it changes, the trials of a router are trained again."""

    router: str  # hash of the plugin's code and data, and of all that they reach
    trial: str  # the same of what runs a trial: it makes the inputs, trains, scores and checks
    packages: dict[str, str]  # distribution -> version, of those that either computes with

    def differences(self, other: Software) -> list[str]:
        """What another one has otherwise: names of packages, or whose code."""
        names = sorted({*self.packages, *other.packages})
        found = [name for name in names if self.packages.get(name) != other.packages.get(name)]
        if self.router != other.router:
            found.append("code of the router")
        if self.trial != other.trial:
            found.append("code that runs trials")
        return found


def software(plugin: Plugin) -> Software:
    """What decides the scores of a router's trials in this process, beside its inputs, variant and seed."""
    mine, runs = reach_of(plugin), reached(trials, distribution=None)
    return Software(
        router=mine.code, trial=runs.code, packages=dict(sorted({**runs.packages, **mine.packages}.items()))
    )


def reach_of(plugin: Plugin) -> Reached:
    """The code and the data of a plugin, and all that it reaches."""
    target = plugin.source.target
    theirs = target.dist if isinstance(target, EntryPoint) and plugin.source.distribution != OURS else None
    return reached(plugin.module, distribution=theirs)
