"""What a router or an encoder has learnt, as named arrays in a safetensors file. No pickle, no code.

A router gives its arrays itself (`Router.state`). An encoder that learns from the train queries has no such method:
its attributes are read, where they are arrays, plain values or a `TfidfVectorizer` of scikit-learn. Anything else is
refused, so that nothing is left out in silence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rph.errors import RphError, UsageError
from rph.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rph.api import Encoder

    State = dict[str, NDArray[Any]]

__all__ = ["into_encoder", "load", "of_encoder", "save"]

TEXTS = "texts"  # in the file's metadata: which arrays are texts
LENGTHS = "/lengths"  # after the name of an array of texts: how many bytes of UTF-8 each has
ODD = (
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
    RecursionError,
)  # what changed content leads to


def save(path: Path, state: State) -> None:
    """Write arrays of any shape: booleans, integers, floats, or texts (dtype U). UsageError for any other."""
    from safetensors.numpy import save_file

    stored: State = {}
    texts = []
    for name, array in state.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biufU":
            kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise UsageError(
                f"what was learnt cannot be exported: {name!r} is {kind}, not an array of plain values",
                fix="`rph check router NAME --only state-round-trip` shows it to the router's author",
            )
        if array.dtype.kind == "U":
            encoded = [str(text).encode("utf-8", "surrogatepass") for text in array.ravel()]
            stored[name] = np.frombuffer(b"".join(encoded), np.uint8)
            stored[name + LENGTHS] = np.array([len(text) for text in encoded], np.int64).reshape(array.shape)
            texts.append(name)
        else:
            stored[name] = np.asarray(array, order="C")
    save_file(stored, path, metadata={TEXTS: json.dumps(texts)})


def load(path: Path) -> State:
    """The arrays of `save`. RphError where the file is no safetensors file, or none that `save` wrote."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            state: State = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            texts = json.loads((file.metadata() or {}).get(TEXTS, "[]"))
        return _with_texts(state, texts)
    except (OSError, SafetensorError) as error:
        raise RphError(f"{path} cannot be read", why=str(error), fix="export the router again") from error
    except ODD as error:
        raise RphError(
            f"{path} is not what was written",
            why=f"{type(error).__name__}: {error}",
            fix="export the router again",
        ) from error


def _with_texts(state: State, names: list[str]) -> State:
    """The state with its texts put together from their bytes and lengths."""
    for name in names:
        lengths = state.pop(name + LENGTHS)
        whole, ends = state[name].tobytes(), np.cumsum(lengths)
        if lengths.sum() != len(whole) or (lengths < 0).any():
            raise ValueError(f"the lengths of the texts {name!r} are those of others")
        parts = [
            whole[end - length : end].decode("utf-8", "surrogatepass")
            for end, length in zip(ends, lengths.ravel(), strict=True)
        ]
        state[name] = np.array(parts, dtype=np.str_).reshape(lengths.shape)
    return state


# --- encoders ---------------------------------------------------------------------------------------

PLAIN = (bool, int, float, str, type(None))


def of_encoder(encoder: Encoder) -> State:
    """The attributes of a fitted encoder. UsageError names one that is of no known kind."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    state: State = {}
    for name, value in vars(encoder).items():
        if isinstance(value, np.ndarray):
            state[f"array/{name}"] = value
        elif isinstance(value, TfidfVectorizer):
            state |= {f"tfidf/{name}/{part}": array for part, array in _of_tfidf(value).items()}
        elif isinstance(value, PLAIN):
            state[f"plain/{name}"] = _as_text(value)
        else:
            raise UsageError(
                f"encoder {type(encoder).__name__} cannot be exported",
                why=f"its attribute {name!r} is a {type(value).__name__}, and no such thing is written without pickle",
                fix="keep what it learns in arrays, plain values and a TfidfVectorizer",
            )
    return state


def into_encoder(encoder: Encoder, state: State) -> None:
    """Give a new encoder the attributes of a fitted one. RphError where `of_encoder` did not make this state."""
    try:
        _into_encoder(encoder, state)
    except ODD as error:
        raise RphError(
            f"what encoder {type(encoder).__name__} learnt is not what was written",
            why=f"{type(error).__name__}: {error}",
            fix="export the router again",
        ) from error


def _into_encoder(encoder: Encoder, state: State) -> None:
    vectorizers: dict[str, State] = {}
    for key, array in state.items():
        kind, name = key.split("/", 1)
        if kind == "tfidf":
            name, part = name.split("/", 1)
            vectorizers.setdefault(name, {})[part] = array
        else:
            setattr(encoder, name, array if kind == "array" else json.loads(str(array[()])))
    for name, parts in vectorizers.items():
        setattr(encoder, name, _tfidf(parts))


def _as_text(value: Any) -> NDArray[Any]:
    return np.array(json.dumps(value))


def _of_tfidf(vectorizer: Any) -> State:
    """A fitted TfidfVectorizer: its parameters, its terms in the order of their columns, and their weights."""
    parameters = vectorizer.get_params() | {"dtype": np.dtype(vectorizer.dtype).name, "vocabulary": None}
    try:
        described = _as_text(parameters)
    except TypeError as error:  # a tokenizer or an analyzer that is a function
        raise UsageError(
            "a TfidfVectorizer with functions of its own cannot be exported", why=str(error)
        ) from error
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    return {"parameters": described, "terms": np.array(terms, dtype=np.str_), "idf": vectorizer.idf_}


def _tfidf(parts: State) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    parameters = json.loads(str(parts["parameters"][()]))
    parameters |= {
        "dtype": np.dtype(parameters["dtype"]).type,
        "ngram_range": tuple(parameters["ngram_range"]),
    }
    vectorizer = TfidfVectorizer(**parameters)
    vectorizer.vocabulary_ = {term: column for column, term in enumerate(parts["terms"].tolist())}
    vectorizer.idf_ = parts["idf"]
    return vectorizer
