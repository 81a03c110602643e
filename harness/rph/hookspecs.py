"""The four things a plugin can be. A plugin is a module with one of these hooks.

The entry point that publishes the module is named `<kind>-<name>`, so that names, conflicts and
suggestions come from package metadata alone:

    [project.entry-points.rph]
    router-knn = "rph_plugins.routers.knn"

The hooks and the records they return have a version. A spec says in `api` for which one it was written; one written
for a later version than this is refused (docs/stability.md).
"""

from pluggy import HookimplMarker, HookspecMarker

from rph.api import BenchmarkSpec, EncoderSpec, ExecutorSpec, RouterSpec

API_VERSION = 1
hookspec = HookspecMarker("rph")
hookimpl = HookimplMarker("rph")


@hookspec
def register_router() -> RouterSpec:  # type: ignore[empty-body]
    """A method that scores, per query, every model of the pool."""


@hookspec
def register_encoder() -> EncoderSpec:  # type: ignore[empty-body]
    """A text encoder that turns queries into embeddings."""


@hookspec
def register_benchmark() -> BenchmarkSpec:  # type: ignore[empty-body]
    """A pool of models with labels and costs on queries, in three frozen splits."""


@hookspec
def register_executor() -> ExecutorSpec:  # type: ignore[empty-body]
    """What runs the trainings of a sweep: in this process, in several, on several machines."""
