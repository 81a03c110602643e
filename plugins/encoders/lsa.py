"""Latent semantic analysis: TF-IDF of words and word pairs, reduced to 256 dimensions, fitted on train queries.

No network, no weights, seconds on one core: the encoder for a first look, and a floor that a sentence encoder
should beat. It sees which words a query uses, not what they mean, and its vectors are those of one
benchmark: they cannot be compared with another's.

A term is a run of word characters, of any length, or one CJK ideograph (Chinese has no spaces: a run would be a
whole clause, which no second query repeats); pairs of neighbours are terms too. On the 14,395 train queries
of RouterDC's seven-model data, a third of them Chinese, kNN (k = 100) on these vectors routes 61.1 % of the
test queries to a model that is right (best single 57.3 %). Other terms were tried, words alone, character
1-4-grams, both, and gave 60.8 to 61.3 %, within one standard error (0.8 points): the cheap ones stayed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rph import EncoderCard, EncoderSpec, RphError, hookimpl
from rph.lazy import np

if TYPE_CHECKING:
    from rph.api import Float32

DIM = 256
TERMS = 100_000  # the most frequent are kept: 100 MB of projection, whatever the benchmark
COMMON = 2  # a term must be in this many train queries,
FEW = 1000  # unless there are fewer queries than this
NGRAMS = (1, 2)  # words and pairs of neighbours
IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TERM = rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+"
RANK = 1e-5  # a singular value this much smaller than the first is rounding, not a direction


def vocabulary(texts: Sequence[str]) -> list[str]:
    """The terms that are kept, sorted: the TERMS most frequent ones; of equally frequent terms the first by their letters.

    scikit-learn's `max_features` sorts frequencies alone, by a sort that is not stable and differs between processors: of
    the many terms as frequent as the last one kept, it keeps others there. Raises ValueError where there is no term.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    count = CountVectorizer(token_pattern=TERM, ngram_range=NGRAMS, min_df=COMMON if len(texts) >= FEW else 1)
    frequency = np.asarray(count.fit_transform(texts).sum(axis=0)).ravel()
    names = count.get_feature_names_out()  # sorted
    kept = np.sort(np.argsort(-frequency, kind="stable")[:TERMS])
    found: list[str] = names[kept].tolist()
    return found


class LSA:
    """TF-IDF [N, terms] times the right singular vectors [terms, d] of the train queries, rows of norm 1."""

    def __init__(self) -> None:
        self._terms: Any = None  # the fitted TfidfVectorizer
        self._projection: Float32 | None = None  # [terms, d]

    def identity(self) -> str:
        return f"scikit-learn {version('scikit-learn')}"  # its tokenizer and solver decide the vectors

    def fit(self, train_texts: Sequence[str]) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from threadpoolctl import threadpool_limits

        try:
            terms = TfidfVectorizer(
                token_pattern=TERM,
                ngram_range=NGRAMS,
                sublinear_tf=True,
                vocabulary=vocabulary(train_texts),
                dtype=np.float32,
            )
            T = terms.fit_transform(train_texts)  # [N, terms]
        except ValueError as error:
            raise RphError(
                f"encoder 'lsa' found no terms in {len(train_texts)} train queries",
                why=str(error),
                fix="use an encoder that is not fitted on the benchmark, such as minilm",
            ) from error
        svd = TruncatedSVD(n_components=min(DIM, *T.shape), random_state=0)
        with threadpool_limits(1):  # the sum of a dot product depends on how many threads share it
            svd.fit(T)
        real = svd.singular_values_ > RANK * svd.singular_values_[0]
        self._terms = terms
        self._projection = np.ascontiguousarray(svd.components_[real].T, dtype=np.float32)

    def learned(self) -> str:
        """The vocabulary, by the sha256 of its terms in their order: equal on every processor."""
        terms = "\n".join(self._terms.get_feature_names_out())
        return f"vocabulary sha256 {hashlib.sha256(terms.encode()).hexdigest()}"

    def encode(self, texts: Sequence[str], *, device: str) -> Float32:
        """Rows [N, d] of norm 1, on the CPU whatever the device; a query without a known term is a zero row."""
        if self._projection is None:
            raise RphError("encoder 'lsa' was asked to encode before it was fitted", fix="call fit first")
        X = self._terms.transform(texts) @ self._projection
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        out: Float32 = np.divide(X, norms, out=np.zeros_like(X), where=norms > 0)
        return out


CARD = EncoderCard(
    name="lsa",
    title="TF-IDF of words and word pairs, reduced by a truncated SVD fitted on the train queries",
    hf_id="",
    revision="",
    dim=None,
    pooling="none",
    normalise=True,
    prefix="",
    max_tokens=None,
    dtype="float32",
    licence="BSD-3-Clause",
    citation="Deerwester et al. 1990, Indexing by latent semantic analysis, JASIS 41(6)",
    fitted=True,
    code_version=2,
    notes=(
        "256 dimensions, fewer where the train queries span fewer",
        "a query without any term of the train queries is a zero row",
        "terms of a single train query are left out, unless there are fewer than 1,000 queries",
    ),
)


@hookimpl
def register_encoder() -> EncoderSpec:
    return EncoderSpec(card=CARD, build=LSA)
