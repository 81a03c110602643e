"""The public surface, word for word. What is written here is promised: docs/stability.md says what a change of it means."""

import dataclasses
import inspect
import re
from pathlib import Path

import rph
import rph.testing
from rph import arrays, holes, hookspecs
from rph.training import clusters, costheads, headrouter, heads, localmeans, neighbours, states

SURFACE = """
# rph
API_VERSION: int
class BenchmarkCard
  name: str
  title: str
  citation: str
  url: str
  licence: str
  models: tuple[str, ...]
  splits: dict[SplitName, int] | None
  costs: bool
  label_rule: str
  split_rule: str
  paper: dict[SplitName, int] | None = None
  files: tuple[File, ...] = ()
  aliases: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
class BenchmarkSpec
  card: BenchmarkCard
  load: Callable[..., RoutingDataset]
  options: dict[str, str] = dict()
  api: int = 1
  name: str
class Encoder(Protocol)
  def identity(self) -> str
  def fit(self, train_texts: Sequence[str]) -> None
  def encode(self, texts: Sequence[str], *, device: str) -> Float32
class EncoderCard
  name: str
  title: str
  hf_id: str
  revision: str
  dim: int | None
  pooling: str
  normalise: bool
  prefix: str
  max_tokens: int | None
  dtype: str
  licence: str
  citation: str
  files: tuple[File, ...] = ()
  stored: Literal['float32', 'float16'] = 'float32'
  fitted: bool = False
  code_version: int = 1
  aliases: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()
class EncoderSpec
  card: EncoderCard
  build: Callable[..., Encoder]
  api: int = 1
  name: str
class ExecutorCard
  name: str
  title: str
  needs: str = ''
  aliases: tuple[str, ...] = ()
class ExecutorSpec
  card: ExecutorCard
  build: Callable[[int | None, float | None, str], Any]
  api: int = 1
  name: str
class File
  repo: str
  path: str
  revision: str
  repo_type: Literal['dataset', 'model'] = 'dataset'
  size: int | None = None
  sha256: str | None = None
  licence: str = ''
class Holes
  planned: bool = False
  blocks: frozenset[Cell] = frozenset()
  plan: Mapping[Cell, float] = dict()
  settled: bool = False
class Labelled(Queries)
  Y: Float32
  C: Float32 | None
  models: tuple[str, ...]
  pool: NDArray[np.bool_] | None = None
  weight: Float32 | None = None
  mask: Mask
  observed: Labelled
class Queries
  X: Float32
  texts: Sequence[str]
  def __len__(self) -> int
  unit: Float32
class Router(Protocol)
  def fit(self, train: Labelled, val: Labelled, *, variant: Any, seed: int, device: str) -> None
  def scores(self, queries: Queries) -> Float32
  def state(self) -> dict[str, NDArray[Any]]
  def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Any, device: str) -> Router
class RouterCard
  name: str
  title: str
  paper: str
  year: int
  family: str
  licence: str
  deterministic: bool
  calibrated: bool
  version: int = 1
  needs: tuple[Needs, ...] = ('labels',)
  supports: tuple[Supports, ...] = ('missing-labels',)
  aliases: tuple[str, ...] = ()
  fidelity: tuple[str, ...] = ()
  expected_failures: tuple[tuple[str, str], ...] = ()
class RouterGroup(Protocol)
  def scores(self, queries: Queries) -> Sequence[Float32]
class RouterSpec
  card: RouterCard
  grid: tuple[Any, ...]
  router: type[Router]
  fit_many: Callable[[Labelled, Labelled, Sequence[Trial], str], RouterGroup] | None = None
  describe: Callable[[Any], VariantCard] | None = None
  api: int = 1
  name: str
  def variant_card(self, variant: Any) -> VariantCard
  def variants(self, models: int) -> tuple[Any, ...]
class RoutingDataset
  name: str
  models: tuple[str, ...]
  train: Split
  val: Split
  test: Split
  subset: str = ''
  holes: Holes = Holes()
  def splits(self) -> Iterator[tuple[SplitName, Split]]
  has_costs: bool
  level: NDArray[np.float64]
  has_holes: bool
  blocks: frozenset[Cell]
  def mask(self, split: SplitName) -> Mask
  best_single: int
  def part(self, *, train: Split | None = None, val: Split | None = None, test: Split | None = None) -> RoutingDataset
  fingerprint: str
class RphError(Exception)
  def __init__(self, what: str, *, why: str = '', fix: str = '') -> None
class Split
  ids: Sequence[str]
  queries: Sequence[str]
  tasks: Sequence[str]
  labels: Float32
  costs: Float32 | None = None
  p_correct: Float32 | None = None
  reasons: NDArray[np.uint8] | None = None
  languages: Sequence[str] = ()
  def __len__(self) -> int
class Trial
  variant: Any
  seed: int
class UsageError(RphError)
class VariantCard
  original: bool | None = None
  why: str = ''
  calibrated: bool | None = None
  deterministic: bool | None = None
  reads: Literal['embedding', 'text'] = 'embedding'
  most_models: int | None = None
  no_gain: str = ''
__version__: str
hookimpl: HookimplMarker
def load(folder: str | Path, *, device: str = 'auto', encoder: str | None = None, registry: Registry | None = None) -> LoadedRouter
# rph.testing
class CheckBenchmark(Protocol)
  def __call__(self, benchmark: str | BenchmarkSpec, **options: Any) -> None
class CheckEncoder(Protocol)
  def __call__(self, encoder: str | EncoderSpec, **options: Any) -> None
class CheckRouter(Protocol)
  def __call__(self, router: str | RouterSpec, *, only: Iterable[str] | None = None, expected_failed_checks: Mapping[str, str] | None = None) -> None
def check_benchmark() -> CheckBenchmark
def check_encoder() -> CheckEncoder
def check_router() -> CheckRouter
def parametrize_with_router_checks(routers: Sequence[str | RouterSpec], *, expected_failed_checks: Mapping[str, str] | None = None) -> pytest.MarkDecorator
# the hooks
def register_router() -> rph.api.RouterSpec
def register_encoder() -> rph.api.EncoderSpec
def register_benchmark() -> rph.api.BenchmarkSpec
def register_executor() -> rph.api.ExecutorSpec
# rph.training.heads
class Batch
  targets: tuple[Tensor, ...]
  constants: Mapping[str, Tensor]
  parameters: Parameters
  draw: Draw
class Draw
  def __init__(self, generators: Sequence[torch.Generator] = (), rates: Tensor | None = None, member: Tensor | None = None) -> None
  def __call__(self, hidden: Tensor) -> Tensor
  any_dropout: bool
  def uniform(self, shape: Sequence[int]) -> Tensor
  def normal(self, shape: Sequence[int]) -> Tensor
class Head
  parameters: Parameters
  forward: Forward
  loss: Loss
  X: Tensor
  targets: tuple[Tensor, ...]
  val: Validation
  training: Training
  seed: int
  constants: Mapping[str, float] = dict()
  readout: Callable[[Tensor], Tensor] = _as_they_are
  likelihood: bool = False
class Training
  learning_rate: float = 0.001
  cosine: bool = True
  weight_decay: float = 0.0001
  dropout: float = 0.0
  batch: int = 256
  epochs: int = 50
  steps: int = 2000
  apart: int = 20
  patience: int = 10
  rest: int = 500
  optimiser: Literal['adamw', 'adam', 'sgd'] = 'adamw'
  momentum: float = 0.0
  clip: float | None = None
class Validation
  X: Tensor
  Y: Tensor
  means: Tensor
  pool: Tensor | None = None
  weight: Tensor | None = None
  def scores(self, outputs: Tensor) -> Tensor
  def accuracy(self, outputs: Tensor) -> Tensor
  def loss(self, outputs: Tensor, likelihood: bool) -> Tensor
def bce_loss(outputs: Tensor, batch: Batch) -> Tensor
def chance(seed: int, purpose: str, device: str | torch.device = 'cpu') -> torch.Generator
def feed_forward(parameters: Parameters, X: Tensor, draw: Draw, name: str = '') -> Tensor
def held_out(n: int, share: float, seed: int) -> Tensor
def layers(widths: Sequence[int], generator: torch.Generator, name: str = '', start: Tensor | None = None) -> Parameters
def level(means: NDArray[np.floating[Any]] | Tensor) -> Tensor
def masked_bce(z: Tensor, Y: Tensor, M: Tensor) -> Tensor
def masked_mean(values: Tensor, M: Tensor) -> Tensor
def mse_loss(outputs: Tensor, batch: Batch) -> Tensor
def observed(Y: Float32, device: str) -> tuple[Tensor, Tensor]
def outputs_of(forward: Forward, parameters: Parameters, X: Tensor) -> Tensor
def product(X: Tensor, W: Tensor) -> Tensor
def queries_of(cells: int, models: int) -> int
# rph.training.headrouter
class Data
  def __init__(self, train: Labelled, val: Labelled, device: str) -> None
  def once(self, key: Hashable, make: Callable[[], T]) -> T
  X: Tensor
  labels: tuple[Tensor, Tensor]
  seen: Tensor
  validation: Validation
  scaling: tuple[Tensor, Tensor]
  standardised: tuple[Tensor, Validation]
class HeadGroup
  def __init__(self, routers: Sequence[HeadRouter]) -> None
  def scores(self, queries: Queries) -> list[Float32]
class HeadRouter
  seed: int
  parameters: Parameters
  buffers: dict[str, Tensor]
  def __init__(self, variant: Any = None, device: str = 'cpu') -> None
  def head(self, data: Data, seed: int) -> Head
  def read(self, outputs: Tensor) -> Tensor
  def finish(self, data: Data) -> None
  def trained_as(variant: Any) -> Hashable
  def fit(self, train: Labelled, val: Labelled, *, variant: Any, seed: int, device: str) -> None
  def inputs(self, queries: Queries) -> Tensor
  def outputs(self, X: Tensor) -> Tensor
  def scores(self, queries: Queries) -> Float32
  def forward(variant: Any) -> Forward
  def standardise(self, data: Data) -> tuple[Tensor, Validation]
  def state(self) -> dict[str, NDArray[Any]]
  def from_state(cls, state: dict[str, NDArray[Any]], *, variant: Any, device: str) -> Self
def stacked(router: type[HeadRouter]) -> Callable[[Labelled, Labelled, Sequence[Trial], str], HeadGroup]
# rph.training.clusters
class ClusterGroup
  routers: Sequence[ClusterRouter]
  def scores(self, queries: Queries) -> list[Float32]
class ClusterRouter
  def learn(self, found: Clustering, known: Labelled, variant: Any, device: str) -> None
  def scores(self, queries: Queries) -> Float32
  def fit(self, train: Labelled, val: Labelled, *, variant: Any, seed: int, device: str) -> None
class Clustering
  centres: torch.Tensor
  assignment: torch.Tensor
  inertia: float
def cluster_means(Y: Float32, assignment: torch.Tensor, clusters: int, *, shrinkage: float) -> Float32
def clustered(router: type[ClusterRouter]) -> Callable[[Labelled, Labelled, Sequence[Trial], str], ClusterGroup]
def kmeans(X: torch.Tensor, clusters: int, *, generator: torch.Generator) -> Clustering
def nearest_centre(X: torch.Tensor, centres: torch.Tensor) -> torch.Tensor
# rph.training.neighbours
def nearest(queries: Float32, train: Float32, k: int, device: str) -> Iterator[tuple[slice, Tensor, Tensor]]
def nearest_others(X: Float32, k: int, device: str) -> Iterator[tuple[slice, Tensor, Tensor]]
# rph.training.localmeans
class Memory
  def __init__(self, X: Float32, Y: Float32, C: Float32 | None, device: str) -> None
  def best(self, candidates: Sequence[int]) -> tuple[int, int]
  def scores(self, queries: Queries, rules: Sequence[Rule]) -> Float32
  def costs(self, queries: Queries, rules: Sequence[Rule]) -> Float32 | list[None]
  def left_out_scores(self, rule: Rule) -> Float32
Weights: _LiteralGenericAlias
def best_k(X: Float32, tables: Sequence[Float32], candidates: Sequence[int], device: str) -> list[int]
def local_means(queries: Float32, X: Float32, T: Float32, rules: Sequence[Rule], device: str, own: NDArray[np.int64] | None = None) -> Float32
def r_squared(found: Float32, T: Float32) -> Float64
# rph.training.costheads
class CostCheck(Validation)
  def accuracy(self, outputs: Tensor) -> Tensor
  def loss(self, outputs: Tensor, likelihood: bool) -> Tensor
class CostHead(HeadRouter)
  def cost_head(self, data: Data, parameters: Parameters, training: Training, seed: int) -> Head
  def finish(self, data: Data) -> None
  def read(self, outputs: Tensor) -> Tensor
class LogScale
  def __init__(self, costs: Float32) -> None
  def __call__(self, costs: Float32) -> Float32
def squared_error(outputs: Tensor, batch: Batch) -> Tensor
# rph.training.states
def into_encoder(encoder: Encoder, state: State) -> None
def load(path: Path) -> State
def of_encoder(encoder: Encoder) -> State
def save(path: Path, state: State) -> None
# rph.arrays
def level(Y: Floats) -> Float64
def model_means(Y: Float32) -> Float32
def observed_means(Y: Floats) -> Float64
def to_device(array: NDArray[Any], device: str) -> Tensor
def unit_rows(X: Float32) -> Float32
"""

TOOLBOX = (
    heads,
    headrouter,
    clusters,
    neighbours,
    localmeans,
    costheads,
    states,
    arrays,
)  # a weaker promise: docs/stability.md
VISIBLE = ("__call__", "__init__", "__len__")


def described(module, names):
    """Each name with its signature; records with their fields, classes with their methods."""
    lines = []
    for name in names:
        value = getattr(module, name)
        if isinstance(value, type):
            bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
            lines += [f"class {name}({bases})" if bases else f"class {name}", *fields(value), *members(value)]
        elif inspect.isfunction(value) or hasattr(value, "__wrapped__"):  # the latter: a fixture
            lines.append(f"def {name}{signature(value)}")
        else:
            lines.append(f"{name}: {type(value).__name__}")
    return lines


def fields(kind):
    if not dataclasses.is_dataclass(kind):
        return [f"  {name}: {what}" for name, what in vars(kind).get("__annotations__", {}).items()]
    lines = []
    for field in dataclasses.fields(kind):
        if field.name in kind.__annotations__:  # its own, and not those of its base
            value = getattr(field.default, "__name__", repr(field.default))  # a function has no lasting repr
            default = "" if field.default is dataclasses.MISSING else f" = {value}"
            made = (
                ""
                if field.default_factory is dataclasses.MISSING
                else f" = {field.default_factory.__name__}()"
            )
            lines.append(f"  {field.name}: {field.type}{default}{made}")
    return lines


def members(kind):
    generated = "__init__" if dataclasses.is_dataclass(kind) or getattr(kind, "_is_protocol", False) else ""
    lines = []
    for name, member in vars(kind).items():
        if name in (generated, *getattr(kind, "__dataclass_fields__", ())) or (
            name.startswith("_") and name not in VISIBLE
        ):
            continue
        function = getattr(member, "fget", None) or getattr(member, "func", None)  # properties
        if function:
            lines.append(f"  {name}: {signature(function).partition(' -> ')[2]}")
        elif inspect.isfunction(member) or isinstance(member, classmethod | staticmethod):
            lines.append(f"  def {name}{signature(getattr(member, '__func__', member))}")
    return lines


def signature(function):
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))  # annotations are texts


def surface():
    hooks = [name for name in vars(hookspecs) if name.startswith("register_")]
    parts = {
        "rph": described(rph, rph.__all__),
        "rph.testing": described(rph.testing, rph.testing.__all__),
        "the hooks": described(hookspecs, hooks),
        **{module.__name__: described(module, module.__all__) for module in TOOLBOX},
    }
    return "\n".join(line for title, lines in parts.items() for line in (f"# {title}", *lines))


def test_the_public_surface_is_the_one_promised():
    assert surface() == SURFACE.strip(), "read docs/stability.md before you change SURFACE"


def test_what_the_numbers_of_reasons_mean_stays():
    assert holes.REASONS[:6] == (
        "",
        "planned",
        "failed",
        "empty",
        "cut",
        "unscored",
    )  # new ones come after them


def test_the_policy_names_the_api_version_in_force():
    text = (Path(__file__).parents[2] / "docs" / "stability.md").read_text()
    assert f"`rph.API_VERSION` is {rph.API_VERSION}" in text


def test_every_public_name_says_what_it_is():
    for module in (rph, rph.testing, *TOOLBOX):
        for name in module.__all__:
            value = getattr(module, name)
            if isinstance(value, type) or inspect.isfunction(value):
                doc = inspect.getdoc(value) or ""
                assert doc and not doc.startswith(f"{name}("), name  # the latter is a dataclass's own
