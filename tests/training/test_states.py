"""What was learnt, as arrays in a file: nothing is lost, nothing but plain values is written."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from rph import RphError, UsageError, registry
from rph.conformance import worlds
from rph.training import states

REGISTRY = registry.installed()
PLAIN = st.sampled_from(["?", "i1", "i4", "i8", "u1", "u2", "f2", "f4", "f8"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
TEXTS = arrays.arrays(
    np.dtype("U5"), SHAPES, elements=st.text(max_size=5).map(lambda text: text.rstrip("\0"))
)  # numpy drops them


@given(
    state=st.dictionaries(st.text(max_size=8), PLAIN.flatmap(lambda t: arrays.arrays(t, SHAPES)), max_size=3),
    texts=TEXTS,
    fortran=st.booleans(),
)
def test_arrays_come_back_as_they_were(tmp_path_factory, state, texts, fortran):
    path = tmp_path_factory.mktemp("state") / "a.safetensors"
    order = "F" if fortran else "C"
    given_ = {f"plain {name}": np.asarray(array, order=order) for name, array in state.items()}
    given_["texts"] = texts
    states.save(path, given_)
    found = states.load(path)
    assert found.keys() == given_.keys()
    for name, array in given_.items():
        assert found[name].shape == array.shape and found[name].dtype.kind == array.dtype.kind
        if array.dtype.kind != "U":
            assert found[name].dtype == array.dtype
            assert found[name].tobytes() == array.tobytes()  # NaN and its bits too
        else:
            assert found[name].tolist() == array.tolist()


@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.array([1 + 2j]), [1, 2], "text"],
    ids=["object", "complex", "list", "str"],
)
def test_what_is_no_plain_array_is_refused_by_its_name(tmp_path, value):
    with pytest.raises(UsageError, match="'weights' is"):
        states.save(tmp_path / "a.safetensors", {"weights": value})


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"x" * 100])
def test_a_file_of_something_else_is_an_error(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(RphError, match="cannot be read"):
        states.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("arrays", "texts"),
    [
        ({}, '["gone"]'),
        ({"a": np.zeros(2, np.uint8)}, '["a"]'),
        ({"a": np.zeros(2, np.uint8), "a/lengths": np.array([1, 5])}, '["b"]'),
        ({"a": np.array([255], np.uint8), "a/lengths": np.array([1])}, '["a"]'),
        ({"a": np.full(3, 97, np.uint8), "a/lengths": np.array([1, 1])}, '["a"]'),
        ({"a": np.full(3, 97, np.uint8), "a/lengths": np.array([-1, 4])}, '["a"]'),
        ({"a": np.zeros(2, np.uint8), "a/lengths": np.array([0.5])}, '["a"]'),
        ({}, "{"),
        ({}, "1"),
    ],
)
def test_a_file_that_save_did_not_write_is_an_error(tmp_path, arrays, texts):
    save_file(arrays, tmp_path / "a.safetensors", metadata={"texts": texts})
    with pytest.raises(RphError, match="is not what was written"):
        states.load(tmp_path / "a.safetensors")


ALSO = {"carrot": -1, "linucb": -1, "tag-router": "text", "rorf": -1, "knn": -1}  # variants of another make


def variants():
    for name in REGISTRY.names("router"):
        spec = REGISTRY.load("router", name).spec
        yield pytest.param(spec, spec.grid[0], id=name)
        if name in ALSO:
            last = spec.grid[-1]
            if ALSO[name] == "text":
                last = next(one for one in spec.grid if one.tagger == "text")
            yield pytest.param(spec, last, id=f"{name}-too")


def test_there_are_21_routers_to_be_exported():
    assert len(REGISTRY.names("router")) == 21


@pytest.mark.parametrize(("spec", "variant"), list(variants()))
def test_every_router_scores_bit_for_bit_as_before_it_was_written(briefly, tmp_path, spec, variant):
    world = worlds.smooth_world(120, 40, 60)
    router = spec.router()
    router.fit(world.train, world.val, variant=variant, seed=7, device="cpu")
    states.save(tmp_path / "a.safetensors", router.state())
    loaded = spec.router.from_state(states.load(tmp_path / "a.safetensors"), variant=variant, device="cpu")
    scores = router.scores(world.test)
    assert scores.shape == (60, 5) and len(np.unique(scores)) > 5
    assert np.array_equal(loaded.scores(world.test), scores)


# --- encoders ---------------------------------------------------------------------------------------

TRAIN = ["the cat sat", "the dog sat", "a cat and a dog", "知道 cat", "one more dog"]


def test_a_fitted_lsa_gives_the_same_vectors_after_it_was_written(tmp_path):
    spec = REGISTRY.load("encoder", "lsa").spec
    encoder, other = spec.build(), spec.build()
    encoder.fit(TRAIN)
    states.save(tmp_path / "a.safetensors", states.of_encoder(encoder))
    states.into_encoder(other, states.load(tmp_path / "a.safetensors"))
    texts = [*TRAIN, "cat dog", "unheard of", ""]
    vectors = encoder.encode(texts, device="cpu")
    assert np.abs(vectors).sum() > 0
    assert np.array_equal(other.encode(texts, device="cpu"), vectors)


class Learner:
    """An encoder with one attribute."""

    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize("value", [3, 2.5, "a", None, True, np.arange(3.0)])
def test_plain_attributes_come_back(tmp_path, value):
    states.save(tmp_path / "a.safetensors", states.of_encoder(Learner(value)))
    other = Learner("another")
    states.into_encoder(other, states.load(tmp_path / "a.safetensors"))
    assert type(other.value) is type(value) and np.array_equal(other.value, value)


def test_an_attribute_that_would_need_pickle_is_refused_by_its_name():
    with pytest.raises(UsageError, match=r"its attribute 'value' is a Learner"):
        states.of_encoder(Learner(Learner(1)))


def test_a_vectorizer_with_a_function_is_refused():
    vectorizer = TfidfVectorizer(tokenizer=str.split, token_pattern=None).fit(TRAIN)
    with pytest.raises(UsageError, match="functions of its own"):
        states.of_encoder(Learner(vectorizer))
