"""What an encoder and a benchmark owe, checked on small inputs; `rph.testing` has the fixtures. Routers: `rph.checks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rph import table
from rph.api import BenchmarkSpec, EncoderSpec
from rph.errors import RphError
from rph.lazy import np
from rph.registry import FAILURES

if TYPE_CHECKING:
    from rph.api import Encoder, Float32

TEXTS = (
    "What is 17 plus 25?",
    "Write a poem about a river.",
    "谁是天王？ Привет, mundo! 🙂",
    "",
    "word " * 2000,  # longer than any encoder's limit
    "def f(x):\n\treturn x",
    "What is 17 plus 25?",
)
TOLERANCE = 1e-4  # of a vector's length: sums in a batch of another shape round otherwise


def wrong_with_encoder(spec: EncoderSpec, **options: Any) -> list[str]:
    """Each thing that the encoder owes and does not keep, in words. `options` are those of `--encoder name:key=value`."""
    return list(_with_errors(_encoder(lambda: spec.build(**options), spec)))


def wrong_with_benchmark(spec: BenchmarkSpec, **options: Any) -> list[str]:
    """Each thing that the benchmark owes and does not keep, in words. `options` are those of `--bench name:key=value`."""
    return list(_with_errors(_benchmark(lambda: spec.load(**options), spec)))


def _with_errors(problems: Iterator[str]) -> Iterator[str]:
    """The problems, and as the last one whatever the plugin raises while they are looked for."""
    try:
        yield from problems
    except RphError as error:
        yield " ".join(str(error).split())
    except FAILURES as error:
        yield f"{type(error).__name__}: {error}"


def _encoder(build: Callable[[], Encoder], spec: EncoderSpec) -> Iterator[str]:
    card, encoder = spec.card, build()
    if not isinstance(encoder.identity(), str) or encoder.identity() != build().identity():
        yield "identity() is no text, or not the same for two encoders built alike"
    X = _vectors(encoder, spec, TEXTS)
    if not isinstance(X, np.ndarray) or X.dtype != np.float32 or X.ndim != 2 or len(X) != len(TEXTS):
        yield f"{len(TEXTS)} texts give {_described(X)}, not a float32 array with a row for each"
        return
    if X.shape[1] != (card.dim or X.shape[1]):
        yield f"vectors have {X.shape[1]} dimensions, and the card says {card.dim}"
    if not np.isfinite(X).all():
        yield f"{int((~np.isfinite(X).all(axis=1)).sum())} of {len(X)} vectors are not finite"
        return
    lengths = np.linalg.norm(X, axis=1)
    if card.normalise and not np.all((lengths == 0) | (np.abs(lengths - 1) < TOLERANCE)):
        yield f"the card says normalise, and vectors have lengths from {lengths.min():.4g} to {lengths.max():.4g}"
    for what, other in (
        ("encoded a second time", encoder.encode(TEXTS, device="cpu")),
        ("encoded by another encoder built alike", _vectors(build(), spec, TEXTS)),
        ("encoded alone", np.concatenate([encoder.encode([text], device="cpu") for text in TEXTS])),
        ("encoded in another order", encoder.encode(TEXTS[::-1], device="cpu")[::-1]),
    ):
        gap = np.abs(other - X).max(axis=1)
        if (rows := int((~(gap <= TOLERANCE * np.maximum(lengths, 1))).sum())) > 0:
            yield f"{rows} of {len(X)} texts have another vector when {what}, by up to {gap.max():.2g}"


def _vectors(encoder: Encoder, spec: EncoderSpec, texts: tuple[str, ...]) -> Float32:
    if spec.card.fitted:
        encoder.fit(texts)
    return encoder.encode(texts, device="cpu")


def _described(X: Any) -> str:
    return f"{X.dtype} {X.shape}" if isinstance(X, np.ndarray) else type(X).__name__


def _benchmark(load: Callable[[], Any], spec: BenchmarkSpec) -> Iterator[str]:
    card, dataset = spec.card, load()
    table.check(dataset)
    if load().fingerprint != dataset.fingerprint:
        yield "loading twice gives two contents: the fingerprints differ"
    if card.models and card.models != dataset.models:
        yield f"the card names {len(card.models)} models, {_first(card.models)}; the data have {_first(dataset.models)}"
    counts = {name: len(split) for name, split in dataset.splits()}
    if card.splits is not None and not dataset.subset and card.splits != counts:
        yield f"the card says {card.splits} queries, and there are {counts}"
    if card.costs != dataset.has_costs:
        yield f"the card says {'costs' if card.costs else 'no costs'}, and there are {'none' if card.costs else 'some'}"


def _first(models: tuple[str, ...]) -> str:
    return f"{', '.join(models[:3])}{', ...' if len(models) > 3 else ''}"
