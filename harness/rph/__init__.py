"""rph, the routing plateau harness: what a plugin imports. Nothing here imports numpy or torch."""

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
)
from rph.errors import RphError, UsageError
from rph.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "BenchmarkCard",
    "BenchmarkSpec",
    "Encoder",
    "EncoderCard",
    "EncoderSpec",
    "ExecutorCard",
    "ExecutorSpec",
    "File",
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
    "__version__",
    "hookimpl",
]
