"""Names on a command line become plugins, data and a device: the only place where they are looked up."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import NoneType, SimpleNamespace, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from rph.api import (
    BenchmarkSpec,
    Encoder,
    EncoderSpec,
    RoutingDataset,
    Split,
)
from rph.data import routing_table, validity
from rph.engine.executors import Executor
from rph.engine.failures import Failure, failing
from rph.errors import UsageError
from rph.registry import ALL, Kind, Registry, plugin_errors

T = TypeVar("T")


def parse_name(text: str) -> tuple[str, dict[str, str]]:
    """`name:key=value,key=value` -> name and options.

    >>> parse_name("synthetic:n=20000,k=11")
    ('synthetic', {'n': '20000', 'k': '11'})
    """
    name, _, rest = text.partition(":")
    options = {}
    for part in re.split(r",(?=\w+=)", rest) if rest else []:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UsageError(
                f"{text!r} cannot be read",
                why=f"{part!r} is not key=value",
                fix="write name:key=value,key=value",
            )
        options[key] = value
    return name, options


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


CONVERT: dict[Any, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _truth, Path: Path}


def typed_options(function: Any, options: dict[str, str], what: str) -> dict[str, Any]:
    """The options as `function`'s keyword arguments, converted by their annotations: those in CONVERT, also `| None`."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {p.name: p for p in inspect.signature(function).parameters.values() if p.kind in by_name}
    typed = {}
    for key, value in options.items():
        if key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
            known = ", ".join(parameters) or "none"
            raise UsageError(
                f"{what} has no option {key!r}",
                why=f"did you mean {close[0]!r}?" if close else f"its options: {known}",
                fix=f"`rph show {what.split()[-1].strip(chr(39))}` explains them",
            )
        kind = _stated_type(function, parameters[key])
        if kind not in CONVERT:
            raise UsageError(
                f"option {key!r} of {what} cannot be given as text",
                why="it states no type"
                if kind is inspect.Parameter.empty
                else f"its type is {inspect.formatannotation(kind)}",
                fix=f"leave it out; its authors can state {', '.join(one.__name__ for one in CONVERT)}",
            )
        try:
            typed[key] = CONVERT[kind](value)
        except ValueError as error:
            raise UsageError(f"option {key}={value} of {what} is not a valid {kind.__name__}") from error
    required = [name for name, p in parameters.items() if p.default is p.empty and name not in typed]
    if required:
        raise UsageError(
            f"{what} needs a value for {' and '.join(required)}",
            why="there is no default",
            fix="write it after the name: NAME:" + ",".join(f"{name}=..." for name in required),
        )
    return typed


def _stated_type(function: Any, parameter: inspect.Parameter) -> Any:
    """What the parameter's annotation stands for, without `None`; for an unknown name the annotation itself.

    Other annotations are left alone: they may name what is imported for type checkers only.
    """
    alone = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    code = inspect.unwrap(function.__init__ if inspect.isclass(function) else function)
    try:
        hint = get_type_hints(alone, getattr(code, "__globals__", {}))[parameter.name]
    except NameError:
        return parameter.annotation
    if get_origin(hint) not in (Union, UnionType):
        return hint
    return next(kind for kind in get_args(hint) if kind is not NoneType)


def benchmark_loader(registry: Registry, text: str) -> Callable[[], RoutingDataset]:
    """What `--bench text` names, ready to be loaded: a benchmark by name with options, or a routing-table/1 folder.

    Raises UsageError for a name or an option that does not exist; nothing is read yet.
    """
    path = Path(text).expanduser()
    before_options = text.partition(":")[0]
    is_path = bool({"/", os.sep} & set(before_options)) or text.startswith((".", "~"))
    # Any other folder that happens to have a benchmark's name, as one of results, must not hide the benchmark.
    if routing_table.is_table(path) or (is_path and path.is_dir()):
        return lambda: routing_table.read(path)
    if is_path:
        raise UsageError(
            f"benchmark folder {text!r} does not exist", fix="give a folder with a bench.yaml, or a name"
        )
    name, options = parse_name(text)
    plugin = registry.load("benchmark", name)
    spec: BenchmarkSpec = plugin.spec
    with plugin_errors(f"benchmark {name!r} cannot be used", plugin.source.remedy):
        typed = typed_options(spec.load, options, f"benchmark {name!r}")

    def load() -> RoutingDataset:
        with plugin_errors(f"benchmark {name!r} cannot be loaded", plugin.source.remedy):
            dataset = spec.load(**typed)
            if not isinstance(dataset, RoutingDataset):
                raise TypeError(f"its load returned {type(dataset).__name__}, not RoutingDataset")
            validity.check(dataset)
        return dataset

    return load


@dataclass(frozen=True, kw_only=True)
class BuiltEncoder:
    """An encoder with its options; no weights are loaded yet."""

    label: str  # as results name it
    spec: EncoderSpec
    encoder: Encoder


def build_executor(
    registry: Registry, name: str, workers: int | None, limit: float | None, device: str
) -> Executor:
    """An executor by name; see `ExecutorSpec` for the rest."""
    plugin = registry.load("executor", name)
    with plugin_errors(f"executor {name!r} cannot be started", plugin.source.remedy):
        executor: Executor = plugin.spec.build(workers, limit, device)
    return executor


def build_encoder(registry: Registry, text: str) -> BuiltEncoder:
    """An encoder by name, with options."""
    name, options = parse_name(text)
    plugin = registry.load("encoder", name)
    spec: EncoderSpec = plugin.spec
    with plugin_errors(f"encoder {name!r} cannot be built", plugin.source.remedy):
        built = spec.build(**typed_options(spec.build, options, f"encoder {name!r}"))
        identity = built.identity()
        if not isinstance(identity, str):
            raise TypeError(f"its identity is {identity!r}, not text")
    return BuiltEncoder(label=spec.name, spec=spec, encoder=built)


def expand(registry: Registry, kind: Kind, names: Sequence[str]) -> list[str]:
    """`all` becomes every installed name of the kind; repeated names count once."""
    every = [n for name in names for n in (registry.names(kind) if name == ALL else [name])]
    return list(dict.fromkeys(every))


def usable(
    registry: Registry,
    kind: Kind,
    names: Sequence[str],
    make: Callable[[str], T],
    failures: list[Failure],
) -> list[tuple[str, T]]:
    """Each name, `all` expanded, with what `make` gives for it. A plugin that is broken becomes a failure.

    Raises UsageError for a wrong name or option that was given; one that only `all` stands for is a failure too.
    """
    found = []
    for name in expand(registry, kind, names):
        with failing(failures, "plugins", also_usage=name not in names):
            found.append((name, make(name)))
    return found


def resolve_device(name: str) -> str:
    """`auto` is cuda where there is one, else cpu."""
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device {name!r} is not known", fix="--device auto, cpu or cuda")
    if name == "cpu":
        return name
    has_cuda = _sees_cuda()
    if name == "cuda" and not has_cuda:
        raise UsageError(
            "--device cuda: no CUDA device is visible", fix="use --device auto, or check the driver"
        )
    return "cuda" if has_cuda else "cpu"


def _sees_cuda() -> bool:
    if version("torch").endswith(
        "+cpu"
    ):  # a build for CPUs alone: no need to import it, which takes a second
        return False
    import torch

    return torch.cuda.is_available()


def with_prices(dataset: RoutingDataset, prices: dict[str, float]) -> RoutingDataset:
    """The benchmark with a price per call, in US dollars, of models whose costs are unknown: the user's.

    A model has a known price where any of its costs on train is known (rph.results.utility.CostScale). Those without one
    that get none here stay out of what cost and utility are over. Raises UsageError for a model that is not in the pool,
    and for one whose price is known: what its calls cost was measured, and is not overruled.
    """
    if not prices:
        return dataset
    by_place = np.full(len(dataset.models), np.nan, np.float32)
    for model, price in prices.items():
        if model not in dataset.models:
            close = difflib.get_close_matches(model, dataset.models, n=1)
            raise UsageError(
                f"--price {model}: {dataset.name!r} has no such model",
                why=f"did you mean {close[0]!r}?" if close else f"its models: {', '.join(dataset.models)}",
                fix="give prices for models of the pool; where pools differ, run one benchmark after the other",
            )
        by_place[dataset.models.index(model)] = price
    if dataset.train.costs is not None:
        unpriced = np.isnan(dataset.train.costs).all(axis=0)
        if (twice := ~unpriced & ~np.isnan(by_place)).any():
            names = ", ".join(np.array(dataset.models)[unpriced])
            raise UsageError(
                f"--price {dataset.models[twice.argmax()]}: {dataset.name!r} has the costs of this model",
                why="they were measured call by call, and a price does not overrule them",
                fix=f"leave it out; models without a price: {names or 'none'}",
            )

    def priced(split: Split) -> Split:
        costs = np.full(split.labels.shape, np.nan, np.float32) if split.costs is None else split.costs
        return dataclasses.replace(split, costs=np.where(np.isnan(costs), by_place, costs))

    return dataclasses.replace(
        dataset, train=priced(dataset.train), val=priced(dataset.val), test=priced(dataset.test)
    )
