"""rph, the routing plateau harness: what a plugin imports. Nothing here imports numpy or torch."""

from typing import TYPE_CHECKING, Any

from rph.api import (
    BenchmarkCard,
    BenchmarkSpec,
    Encoder,
    EncoderCard,
    EncoderSpec,
    ExecutorCard,
    ExecutorSpec,
    File,
    Labelled,
    Queries,
    Router,
    RouterCard,
    RouterGroup,
    RouterSpec,
    RoutingDataset,
    Split,
    Trial,
    VariantCard,
)
from rph.errors import RphError, UsageError
from rph.holes import Holes
from rph.hookspecs import API_VERSION, hookimpl

if TYPE_CHECKING:
    from rph.deploy.routing import load

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "BenchmarkCard",
    "BenchmarkSpec",
    "Encoder",
    "EncoderCard",
    "EncoderSpec",
    "ExecutorCard",
    "ExecutorSpec",
    "File",
    "Holes",
    "Labelled",
    "Queries",
    "Router",
    "RouterCard",
    "RouterGroup",
    "RouterSpec",
    "RoutingDataset",
    "RphError",
    "Split",
    "Trial",
    "UsageError",
    "VariantCard",
    "__version__",
    "hookimpl",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "load":  # it imports numpy and the harness, which no plugin needs
        from rph.deploy.routing import load

        return load
    raise AttributeError(f"module 'rph' has no attribute {name!r}")
