"""What an encoder owes, checked on a few texts; `rph.testing` has the fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rph.api import EncoderSpec
from rph.conformance.suite import with_errors
from rph.lazy import np

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
    return list(with_errors(_encoder(lambda: spec.build(**options), spec)))


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
