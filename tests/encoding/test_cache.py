"""The embedding cache: what is in the key, and what survives kills, damage, races and broken encoders."""

import json
import os
import signal
import subprocess
import sys
import tracemalloc
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import moments, toys

from rph import EncoderSpec, RoutingDataset, RphError, Split, UsageError
from rph.encoding import cache as embed

CARD = toys.encoder_card(name="tiny", dim=4, pooling="mean", normalise=False)


def split(name, queries):
    return Split(
        ids=[f"{name}-{i}" for i in range(len(queries))],
        queries=queries,
        tasks=[""] * len(queries),
        labels=np.ones((len(queries), 2), np.float32),
    )


def dataset(train=30, val=10, test=20):
    """Queries of many lengths, no two alike."""

    def queries(name, count):
        return [f"{name} {i} " + "x" * (i * 7 % 13) for i in range(count)]

    parts = {
        name: split(name, queries(name, n)) for name, n in (("train", train), ("val", val), ("test", test))
    }
    return RoutingDataset(name="toy", models=("a", "b"), **parts)


def vector(text, dim=4):
    """A text's row, from its bytes alone."""
    seed = int.from_bytes(text.encode()[:64], "little") + len(text)
    return np.random.default_rng(seed).normal(size=dim).astype(np.float32)


class Tiny:
    """Deterministic, and remembers what it was given."""

    def __init__(self):
        self.encoded, self.fitted = [], None

    def identity(self):
        return "tiny-1"

    def fit(self, train_texts):
        self.fitted = list(train_texts)

    def encode(self, texts, *, device):
        self.encoded += texts
        return np.stack([vector(text) for text in texts])


class Returning(Tiny):
    """Returns whatever a function makes of the right rows."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def encode(self, texts, *, device):
        return self.change(super().encode(texts, device=device))


def spec(card=CARD):
    return EncoderSpec(card=card, build=Tiny)


def made(data, encoder=None, card=CARD, **options):
    return embed.embed(data, spec(card), encoder or Tiny(), device="cpu", **options)


def expected(queries, prefix=""):
    return np.stack([vector(prefix + query) for query in queries])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(embed, "CHUNK", 8)
    monkeypatch.setattr(embed, "ROWS", 16)


# --- what an entry is -------------------------------------------------------------------------------


def test_rows_stand_in_the_order_of_the_queries_in_each_split():
    data = dataset()
    got = made(data)
    for name, part in data.splits():
        assert np.array_equal(getattr(got, name), expected(part.queries))
    assert got.train.dtype == np.float32
    assert not got.cached


def test_texts_are_encoded_longest_first_and_each_once():
    encoder = Tiny()
    data = dataset()
    made(data, encoder)
    lengths = [len(text) for text in encoder.encoded]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(encoder.encoded) == sorted(q for _, part in data.splits() for q in part.queries)


def test_a_second_call_reads_the_entry_and_never_encodes():
    first, encoder = made(dataset()), Tiny()
    second = made(dataset(), encoder)
    assert second.cached and not encoder.encoded
    assert second.path == first.path and second.seconds == first.seconds
    assert np.array_equal(second.test, first.test)


def test_the_splits_are_read_only_views_of_one_mapped_file():
    got = made(dataset())
    on_disk = np.load(got.path / "embeddings.npy", mmap_mode="r")
    assert on_disk.shape == (60, 4)
    for part in (got.train, got.val, got.test):
        assert isinstance(part, np.memmap) and not part.flags.writeable
        assert part.base is got.train.base  # one mapping
    assert not list(got.path.parent.glob("*.partial"))


def test_the_prefix_is_put_before_every_query():
    encoder, data = Tiny(), dataset()
    got = made(data, encoder, replace(CARD, prefix="query: "))
    assert all(text.startswith("query: ") for text in encoder.encoded)
    assert np.array_equal(got.val, expected(data.val.queries, "query: "))


def test_meta_says_what_is_in_the_key_and_where_the_vectors_come_from():
    got = made(dataset())
    meta = json.loads((got.path / "meta.json").read_text())
    assert meta["key_parts"]["identity"] == "tiny-1"
    assert meta["key_parts"]["dataset"] == dataset().fingerprint
    assert meta["key_parts"]["card"]["pooling"] == "mean"
    assert meta["shape"] == [60, 4]
    assert meta["device"] == "cpu"
    assert meta["versions"]["numpy"] == np.__version__
    assert meta["seconds"] == got.seconds


def test_progress_reports_every_chunk():
    seen = []
    made(dataset(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 60) for n in (*range(0, 60, 8), 60)]


@given(st.lists(st.text(max_size=8), min_size=1, max_size=40), st.lists(st.text(max_size=8), max_size=9))
def test_any_texts_come_back_in_order(tmp_path_factory, train, test):
    data = RoutingDataset(
        name="any",
        models=("a", "b"),
        train=split("train", train),
        val=split("val", []),
        test=split("test", test),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPH_HOME", str(tmp_path_factory.mktemp("home")))
        got = made(data)
        assert np.array_equal(got.train, expected(train))
        assert got.val.shape == (0, 4)
        assert len(got.test) == len(test)


def test_a_benchmark_without_queries_is_refused():
    with pytest.raises(UsageError, match="'toy' has no queries"):
        made(dataset(0, 0, 0))


def test_no_second_copy_of_the_matrix_is_held(monkeypatch):
    monkeypatch.setattr(embed, "CHUNK", 512)
    rows, dim = 6000, 512

    class Wide(Tiny):
        def encode(self, texts, *, device):
            return np.zeros((len(texts), dim), np.float32)

    data = dataset(rows, 1, 1)
    data.fingerprint  # noqa: B018  computed here, so that its own memory is not counted
    np.zeros(1)
    tracemalloc.start()
    made(data, Wide(), replace(CARD, dim=dim))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * rows * dim * 4  # measured 0.3: a chunk, its bytes, and the texts


# --- the key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"hf_id": "a/b"},
        {"revision": "0" * 40},
        {"dim": 5},
        {"pooling": "cls"},
        {"normalise": True},
        {"prefix": "query: "},
        {"max_tokens": 128},
        {"dtype": "bfloat16"},
        {"fitted": True},
        {"code_version": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_that_decides_a_vector_changes_the_key(change):
    data = dataset()
    assert embed.key(data, replace(CARD, **change), "w") != embed.key(data, CARD, "w")


def test_the_weights_and_the_queries_change_the_key_but_the_words_about_them_do_not():
    data = dataset()
    key = embed.key(data, CARD, "w")
    assert embed.key(data, CARD, "other weights") != key
    assert embed.key(dataset(train=31), CARD, "w") != key
    assert (
        embed.key(dataset(), replace(CARD, title="x", licence="x", notes=("x",), aliases=("x",)), "w") == key
    )
    assert made(data).key == embed.key(data, CARD, "tiny-1")


def test_every_field_of_a_card_is_either_in_the_key_or_known_to_be_words():
    words = {"title", "licence", "citation", "files", "aliases", "notes"}
    assert set(embed.DECIDES) | words | {"stored"} == set(CARD.__dataclass_fields__)


# --- what the encoder cannot see, what the file cannot hold ------------------------------------------


class Cutting(Tiny):
    """Sees the first 15 characters of a text."""

    cut = 0

    def encode(self, texts, *, device):
        self.cut += sum(len(text) > 15 for text in texts)
        if self.cut > self.stop:
            raise OSError("stopped")
        return super().encode(texts, device=device)

    stop = 10**9


def test_queries_that_were_cut_are_counted_said_and_kept_also_over_a_failure():
    data = dataset()
    long = sum(len(query) > 15 for _, part in data.splits() for query in part.queries)
    broken = Cutting()
    broken.stop = 10
    with pytest.raises(RphError, match="stopped"):
        made(data, broken)
    with pytest.warns(UserWarning, match=rf"{long} of 60 queries are longer than None tokens"):
        assert made(data, Cutting()).cut == long
    assert made(data, Cutting()).cut == long  # from the cache
    assert made(dataset(train=31)).cut is None  # an encoder that does not say


def test_a_card_may_keep_half_precision():
    half = replace(CARD, stored="float16")
    got = made(dataset(), card=half)
    on_disk = np.load(got.path / "embeddings.npy")
    assert on_disk.dtype == np.float16
    wanted = expected(dataset().train.queries)
    assert np.array_equal(got.train, wanted.astype(np.float16).astype(np.float32))
    assert got.path != made(dataset()).path
    assert made(dataset(), card=half).cached


def test_what_half_precision_cannot_hold_is_refused():
    with pytest.raises(RphError, match=r"returned 70000, which float16"):
        made(dataset(), Returning(lambda X: X * 0 + 70_000), card=replace(CARD, stored="float16"))


# --- damage -----------------------------------------------------------------------------------------


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def numpy_header(path):
    flip(path / "embeddings.npy", 30)


DAMAGE = {
    "a flipped byte in a row": lambda path: flip(path / "embeddings.npy", -3),
    "a flipped byte in numpy's header": numpy_header,
    "a truncated matrix": lambda path: os.truncate(path / "embeddings.npy", 400),
    "an empty matrix": lambda path: os.truncate(path / "embeddings.npy", 0),
    "no matrix": lambda path: (path / "embeddings.npy").unlink(),
    "no meta": lambda path: (path / "meta.json").unlink(),
    "half a meta": lambda path: os.truncate(path / "meta.json", 100),
    "a meta that is a list": lambda path: (path / "meta.json").write_text("[1]"),
    "a meta that is not text": lambda path: (path / "meta.json").write_bytes(b"\xff\xfe\x00"),
    "another figure in the meta": lambda path: (path / "meta.json").write_text(
        (path / "meta.json").read_text().replace('"seconds": ', '"seconds": 1')
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_said_and_encoded_again(damage):
    data = dataset()
    entry = made(data)
    damage(entry.path)
    with pytest.warns(UserWarning, match="are damaged .*: encoding again") as said:
        again = made(data)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert not again.cached
    assert np.array_equal(again.train, expected(data.train.queries))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(data).cached


def test_an_entry_moved_under_another_key_is_not_believed():
    entry = made(dataset())
    other = dataset(train=29, val=11)  # as many rows
    entry.path.rename(entry.path.with_name(embed.key(other, CARD, "tiny-1")))
    with pytest.warns(UserWarning, match="describes another entry"):
        assert np.array_equal(made(other).val, expected(other.val.queries))


# --- broken encoders --------------------------------------------------------------------------------


def poison(X, value=np.nan):
    X[2, 1] = value
    return X


BROKEN = {
    "a row too few": (lambda X: X[:-1], r"returned 7 rows for 8 queries"),
    "other dimensions": (lambda X: X[:, :3], r"returned 3 dimensions, not 4, for 8 queries"),
    "one vector": (lambda X: X[0], r"returned an array of shape \(4,\) for 8 queries"),
    "three axes": (lambda X: X[None], r"returned an array of shape \(1, 8, 4\)"),
    "NaN": (poison, r"returned NaN or infinity for 1 of 8 queries"),
    "infinity": (lambda X: poison(X, -np.inf), r"returned NaN or infinity for 1 of 8 queries"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_an_encoder_that_breaks_its_contract_is_named_and_nothing_is_kept(change, message, rph_home):
    with pytest.raises(RphError, match="encoder 'tiny' " + message):
        made(dataset(), Returning(change))
    assert not [path for path in rph_home.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not made(dataset()).cached


def test_the_query_named_is_the_first_in_the_benchmark_that_has_no_vector():
    data = dataset()
    bad = {data.val.queries[3], data.test.queries[0]}  # both in the last, shortest chunks or not: each alone

    class Nan(Tiny):
        def encode(self, texts, *, device):
            X = super().encode(texts, device=device)
            X[[text in bad for text in texts]] = np.nan
            return X

    embed.CHUNK = 60  # one chunk: the order inside it is by length
    with pytest.raises(RphError, match="for 2 of 60 queries, the first 'val-3'"):
        made(data, Nan())


def test_an_encoder_without_a_fixed_dimension_must_still_keep_to_one():
    sizes = iter([4, 4, 3])
    encoder = Returning(lambda X: X[:, : next(sizes)])
    with pytest.raises(RphError, match="returned 3 dimensions, not 4"):
        made(dataset(), encoder, replace(CARD, dim=None))
    with pytest.raises(RphError, match="returned 0 dimensions"):
        made(dataset(), Returning(lambda X: X[:, :0]), replace(CARD, dim=None))


def test_an_encoders_exception_is_passed_on_with_its_message():
    def fail(X):
        raise ValueError("no such layer")

    with pytest.raises(RphError, match="encoder 'tiny' failed while it encoded 8 queries") as raised:
        made(dataset(), Returning(fail))
    assert raised.value.why.startswith("ValueError: no such layer (test_cache.py:")
    assert isinstance(raised.value.__cause__, ValueError)


def test_an_rph_error_from_an_encoder_is_left_as_it_is():
    def fail(X):
        raise RphError("no weights", fix="install them")

    with pytest.raises(RphError, match=r"^no weights"):
        made(dataset(), Returning(fail))


def test_after_an_exception_the_finished_chunks_are_kept():
    left = iter(range(3))

    def fail(X):
        if next(left, None) is None:
            raise RuntimeError("lost the device")
        return X

    with pytest.raises(RphError, match="lost the device"):
        made(dataset(), Returning(fail))
    encoder = Tiny()
    got = made(dataset(), encoder)
    assert len(encoder.encoded) == 60 - 3 * 8
    assert np.array_equal(got.train, expected(dataset().train.queries))


# --- fitted encoders --------------------------------------------------------------------------------


class Centred(Tiny):
    """Subtracts the mean vector of the train queries: a row depends on what it was fitted on."""

    def fit(self, train_texts):
        super().fit(train_texts)
        self.mean = expected(train_texts).mean(axis=0)

    def encode(self, texts, *, device):
        return super().encode(texts, device=device) - self.mean


FITTED = replace(CARD, fitted=True, prefix="> ")


def test_a_fitted_encoder_sees_the_train_queries_and_no_others():
    encoder, data = Centred(), dataset()
    got = made(data, encoder, FITTED)
    assert encoder.fitted == ["> " + query for query in data.train.queries]
    assert np.allclose(got.train.mean(axis=0), 0, atol=1e-6)


def test_a_fitted_encoder_continues_after_a_failure_with_the_same_vectors(monkeypatch, tmp_path):
    data = dataset()
    whole = np.array(made(data, Centred(), FITTED).test)
    monkeypatch.setenv("RPH_HOME", str(tmp_path / "other"))

    class Failing(Centred):
        def encode(self, texts, *, device):
            if len(self.encoded) >= 16:
                raise RuntimeError("power")
            return super().encode(texts, device=device)

    with pytest.raises(RphError):
        made(data, Failing(), FITTED)
    encoder = Centred()
    assert np.array_equal(made(data, encoder, FITTED).test, whole)
    assert len(encoder.encoded) == 60 - 16
    assert encoder.fitted == ["> " + query for query in data.train.queries]


def test_an_encoder_that_learns_nothing_is_never_fitted():
    encoder = Tiny()
    made(dataset(), encoder)
    assert encoder.fitted is None


# --- kills, races and a full disk: real processes ----------------------------------------------------

CHILD = """
import os, signal, sys
sys.path[:0] = {folders!r}
import numpy as np
import test_cache as here
from rph import disk
from rph.encoding import cache
from tests import moments

cache.CHUNK, cache.ROWS = 8, 16
log, moment = sys.argv[1], sys.argv[2]
dim = 64 if moment == "full" else 4  # wide: the rows outgrow the journal

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Counting(here.Tiny):
    def encode(self, texts, *, device):
        if moment != "full":  # or the log would be the first file that does not fit
            with open(log, "a") as file:
                file.write("".join(text + "\\n" for text in texts))
        self.encoded += texts
        if moment == "encoding" and len(self.encoded) >= int(sys.argv[3]):
            die()
        if moment == "held":
            moments.pass_gate(sys.argv[3], "encode")
        return np.stack([here.vector(text, dim) for text in texts])

append, checksum = cache._append, disk.sha256_file
if moment == "before the journal":
    cache._append = lambda path, content: die() if path.suffix == ".jsonl" and os.path.getsize(path) > 500 else append(path, content)
if moment == "half a line":
    def half(path, content):
        if path.suffix == ".jsonl" and os.path.getsize(path) > 500:
            append(path, content[:20])
            die()
        append(path, content)
    cache._append = half
if moment == "half the rows":
    def half(path, content):
        if path.suffix == ".f32" and os.path.getsize(path) > 200:
            append(path, content[:50])
            die()
        append(path, content)
    cache._append = half
if moment == "publishing":
    disk.sha256_file = lambda path: die()
if moment == "full":
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
if moment == "held":
    moments.pass_gate(sys.argv[3], "begin")
try:
    got = here.made(here.dataset(), Counting(), here.replace(here.CARD, dim=dim))
except here.RphError as error:
    sys.exit("RphError: " + str(error))
print(got.cached)
"""


FOLDERS = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
STARTED = []


@pytest.fixture(autouse=True)
def started():
    """The processes of a test, which end with it."""
    yield
    moments.end(STARTED)
    STARTED.clear()


def child(log, moment="never", *more):
    command = [sys.executable, "-c", CHILD.format(folders=FOLDERS), str(log), moment, *map(str, more)]
    STARTED.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


@pytest.fixture
def gate(tmp_path):
    """Closed: a child comes to it before it begins, and then in the middle of each chunk of 8 texts."""
    gate = moments.Gate(tmp_path / "gate")
    gate.close()
    return gate


def uninterrupted(monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setenv("RPH_HOME", str(tmp_path / "uninterrupted"))
        return (made(dataset()).path / "embeddings.npy").read_bytes()


@pytest.mark.parametrize(
    ("moment", "more", "encoded_twice"),
    [
        ("encoding", [1], 8),  # in the first chunk
        ("encoding", [30], 8),
        ("encoding", [60], 4),  # in the last, a short one
        ("before the journal", [], 8),
        ("half a line", [], 8),
        ("half the rows", [], 8),
        ("publishing", [], 0),
    ],
)
def test_a_killed_process_is_continued_after_its_last_finished_chunk(
    moment, more, encoded_twice, tmp_path, monkeypatch
):
    log = tmp_path / "log"
    killed = child(log, moment, *more)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a kill is not damage: nothing to say
        before = len(log.read_text().splitlines())
        encoder = Tiny()
        got = made(dataset(), encoder)
    assert before + len(encoder.encoded) == 60 + encoded_twice
    assert (got.path / "embeddings.npy").read_bytes() == uninterrupted(monkeypatch, tmp_path)
    leftovers = [path.name for path in got.path.parent.iterdir() if path != got.path]
    assert leftovers == [f"{got.key}.lock"]


def test_a_process_killed_again_and_again_from_outside_still_arrives(tmp_path, monkeypatch, gate):
    log = tmp_path / "log"
    for _ in range(3):
        process = child(log, "held", gate.folder)
        gate.let_through(1 + 2, process)  # it begins, and makes two chunks
        gate.kill(gate.next(process))  # in its third chunk
        process.communicate()
    got = made(dataset())
    assert (got.path / "embeddings.npy").read_bytes() == uninterrupted(monkeypatch, tmp_path)
    times = Counter(log.read_text().splitlines())
    assert len(times) == 7 * 8 and sum(times.values()) == (2 + 1) * 3 * 8  # each kill costs the chunk in hand


def interrupted(tmp_path):
    killed = child(tmp_path / "log", "encoding", 30)
    killed.communicate()
    (partial,) = (Path(os.environ["RPH_HOME"]) / "embeddings" / "tiny").glob("*.partial")
    return partial


def test_damaged_rows_of_an_unfinished_entry_are_encoded_again(tmp_path):
    flip(interrupted(tmp_path) / "rows.f32", 8 * 4 * 4 + 5)  # in the second of three chunks
    encoder = Tiny()
    with pytest.warns(UserWarning, match="is damaged after 8 queries"):
        got = made(dataset(), encoder)
    assert len(encoder.encoded) == 52
    assert np.array_equal(got.train, expected(dataset().train.queries))


@pytest.mark.parametrize("at", range(0, 900, 61))
def test_a_damaged_journal_never_yields_wrong_rows(at, tmp_path):
    journal = interrupted_without_process() / "journal.jsonl"
    flip(journal, at % journal.stat().st_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = made(dataset())
    assert np.array_equal(got.test, expected(dataset().test.queries))


def interrupted_without_process():
    def fail(X):
        if len(encoder.encoded) > 24:
            raise RuntimeError
        return X

    encoder = Returning(fail)
    with pytest.raises(RphError):
        made(dataset(), encoder)
    (partial,) = (Path(os.environ["RPH_HOME"]) / "embeddings" / "tiny").glob("*.partial")
    return partial


def test_rows_of_other_library_versions_are_not_mixed_in(monkeypatch):
    interrupted_without_process()
    monkeypatch.setattr(embed, "_versions", lambda: {"torch": "99"})
    encoder = Tiny()
    with pytest.warns(UserWarning, match="other versions or another device"):
        made(dataset(), encoder)
    assert len(encoder.encoded) == 60


def test_of_two_processes_one_encodes_and_the_other_reads_its_entry(tmp_path, gate):
    log = tmp_path / "log"
    both = [child(log, "held", gate.folder) for _ in range(2)]
    for process in moments.until(
        lambda: len(gate.waiting()) == 2 and gate.waiting(), "both are about to begin"
    ):
        gate.let(process)
    gate.next()  # one of them encodes
    gate.open()
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sorted(out.strip() for out, _ in outputs) == ["False", "True"]
    times = Counter(log.read_text().splitlines())
    assert len(times) == 60 and set(times.values()) == {1}


def test_who_waits_hears_of_the_others_progress_and_takes_over_when_it_dies(tmp_path, gate):
    other = child(tmp_path / "log", "held", gate.folder)
    gate.let_through(1 + 1, other)
    gate.next(other)  # it is in its second chunk
    seen = []

    def progress(done, total):
        seen.append(done)
        other.kill()  # at the first sign of its progress

    encoder = Tiny()
    got = made(dataset(), encoder, progress=progress)
    other.communicate()
    assert seen[0] == 8 and len(encoder.encoded) == 52
    assert np.array_equal(got.val, expected(dataset().val.queries))


@pytest.mark.parametrize(
    ("limit", "still_to_encode"),
    [(10, 60), (1000, 60), (5000, 44), (15_400, 0)],  # the journal, the first rows, the third, the final file
)
def test_a_full_disk_is_said_and_the_same_command_continues(limit, still_to_encode, tmp_path):
    full = child(tmp_path / "log", "full", limit)
    _, error = full.communicate()
    assert full.returncode == 1
    assert "RphError: no room to write" in error and "Traceback" not in error
    home = Path(os.environ["RPH_HOME"]) / "embeddings" / "tiny"
    assert not list(home.glob("*/meta.json"))  # nothing counts as done
    for rows in home.glob("*.partial/rows.f32"):
        assert rows.stat().st_size == (60 - still_to_encode) * 64 * 4  # no half chunk stays
    encoder = Returning(lambda X: np.stack([vector(text, 64) for text in encoder.encoded[-len(X) :]]))
    got = made(dataset(), encoder, replace(CARD, dim=64))
    assert len(encoder.encoded) == still_to_encode
    assert np.array_equal(got.train, np.stack([vector(text, 64) for text in dataset().train.queries]))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said(rph_home):
    rph_home.mkdir(mode=0o500)
    with pytest.raises(RphError, match="cannot be written"):
        made(dataset())
