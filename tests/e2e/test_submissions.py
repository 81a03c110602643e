"""Results on their way to the leaderboard, honest and hostile: what is accepted, what is refused, and what is said."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests import toys

from rph.board import submissions
from rph.distribution import OURS
from rph.results import blocks, files, recompute
from rph.results.blocks import Block
from rph.results.cell import Record

ROOT = Path(__file__).parents[2]
RESULTS = "leaderboard/results"
ROUTERS = ("knn", "elo", "kmeans", "toy")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A folder with the toy benchmark, and the results of four routers on it in `leaderboard/results`."""
    folder = tmp_path_factory.mktemp("measured")
    toys.write_bench(folder / "bench")
    toys.write_plugin(folder / "plugin.py")
    command = [
        sys.executable,
        "-m",
        "rph",
        "eval",
        "--plugin",
        "plugin.py",
        "--bench",
        "bench",
        "--device",
        "cpu",
    ]
    command += [
        "--encoder",
        "numbers",
        "--out",
        RESULTS,
        *(word for name in ROUTERS for word in ("--router", name)),
    ]
    environment = os.environ | {"RPH_HOME": str(folder / "home")}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def board(measured, tmp_path):
    """A leaderboard with the results of three routers; those of `toy` lie in `results`, to be submitted."""
    clone = tmp_path / "clone"
    shutil.copytree(measured / RESULTS, clone / RESULTS)
    shutil.move(clone / RESULTS / "toy/toy", tmp_path / "results/toy/toy")
    (clone / "README.md").write_text("a leaderboard\n")
    return clone


@pytest.fixture
def submitted(board, tmp_path):
    """The JSON of an honest result that is not on the board yet."""
    return tmp_path / "results/toy/toy/numbers.json"


def npz(path):
    return path.with_name("numbers.queries.npz")


@contextlib.contextmanager
def edited(path):
    """The JSON of a result, to be changed."""
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


def put(path, **fields):
    """Claim other values: `put(path, n_test=5)`; `a__0__b` is the field b of the first entry of a."""
    with edited(path) as content:
        for name, value in fields.items():
            *way, last = (int(key) if key.isdigit() else key for key in name.split("__"))
            inner = content
            for key in way:
                inner = inner[key]
            inner[last] = value


def pack(path, **arrays):
    """Replace arrays of a result."""
    with np.load(npz(path)) as kept:
        np.savez_compressed(npz(path), **(dict(kept) | arrays))


def arrays(path):
    with np.load(npz(path)) as kept:
        return dict(kept)


def member(path, name, content, **options):
    """Put bytes into the npz under a name, in the place of what is there."""
    with zipfile.ZipFile(npz(path)) as old:
        kept = {one: old.read(one) for one in old.namelist() if one != name}
    with zipfile.ZipFile(npz(path), "w", zipfile.ZIP_DEFLATED) as new:
        for one, data in (kept | {name: content}).items():
            new.writestr(one, data, **options)


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def claim(path, **changes):
    """Change arrays, then every number that follows from them: a forgery without a contradiction in itself."""
    entry = files.read(path)
    queries = dataclasses.replace(entry.queries, **changes)
    forged = dataclasses.replace(entry, queries=queries)
    result = recompute.recomputed(forged)
    measured = result.per_seed
    configurations = tuple(
        one.model_copy(update={"test_accuracy": measured[result.seeds.index(one.seed)].test_accuracy})
        if one.variant_name == result.variant_name
        else one
        for one in result.configurations
    )
    result = result.model_copy(update={"configurations": configurations})
    result = recompute.recomputed(dataclasses.replace(forged, result=result))
    files.write(path.parents[2], result, queries)


def validate(rph, board, path, *options):
    code, output, error = rph("leaderboard", "validate", path, "--root", board / RESULTS, "--json", *options)
    assert not error
    (verdict,) = json.loads(output)
    assert code == (0 if verdict["ok"] else 1)
    return verdict


# --- validate: honest results -----------------------------------------------------------------------


def test_an_honest_result_is_accepted_and_what_is_not_verified_is_named(rph, board, submitted):
    code, output, error = rph("leaderboard", "validate", submitted, "--root", board / RESULTS)
    assert (code, error) == (0, "")
    assert output.startswith(f"ok: {submitted}\n") and "1 of 1 result(s) are as they claim" in output
    said = output.partition("not verified:\n")[2]
    for unverified in (
        "BCE, ECE, utility",
        "what the routes cost",
        "labels of models that no other result chose",
    ):
        assert unverified in said
    assert "it is a local file of the submitter" in said


def test_a_benchmark_at_hand_verifies_labels_and_costs_too(rph, board, submitted, measured):
    verdict = validate(rph, board, submitted, "--bench", measured / "bench")
    assert verdict["ok"]
    said = " ".join(verdict["unverified"])
    assert "BCE" in said and "label" not in said and "cost:" not in said


def test_a_benchmark_that_no_result_is_of_is_said_to_have_verified_nothing(rph, board, submitted, tmp_path):
    other = toys.write_bench(tmp_path / "other", name="other")
    code, output, error = rph(
        "leaderboard", "validate", submitted, "--root", board / RESULTS, "--bench", other
    )
    assert code == 0 and "what the routes cost" in output
    assert error == "note: no result is of the benchmark 'other'\n"


def test_a_folder_means_every_result_in_it(rph, measured):
    code, output, _ = rph("leaderboard", "validate", measured / RESULTS, "--root", measured / RESULTS)
    assert code == 0 and "4 of 4 result(s)" in output
    assert all(f"toy/{name}/numbers.json" in output for name in ROUTERS)


def with_an_unknown_block(path):
    with edited(path) as content:
        content["blocks"]["of_tomorrow"] = {"value": [1, {"low": 0.25, "high": None}], "why": "new"}
    pack(path, **{"of_tomorrow/low": np.array([[0.5, np.nan]], np.float16), "of_tomorrow/all": np.array(7)})
    return "the block of_tomorrow, which this version of rph does not know: it is kept as it is"


def test_a_block_that_is_unknown_is_submitted_as_it_is_and_named_as_not_verified(rph, board, submitted):
    committed(board)
    said = with_an_unknown_block(submitted)
    assert said in validate(rph, board, submitted)["unverified"]
    head = board.parent / "head"
    shutil.copytree(board, head)
    assert rph("leaderboard", "submit", submitted, "--into", head)[0] == 0
    place = head / RESULTS / "toy/toy/numbers.json"
    assert place.read_bytes() == submitted.read_bytes()
    assert npz(place).read_bytes() == npz(submitted).read_bytes()
    code, output = diff(rph, (board, head))
    assert code == 0 and said.replace("_", r"\_") in output


def test_a_block_that_is_known_is_verified(rph, board, submitted, monkeypatch):
    class Count(Record):
        wrong: tuple[int, ...]

    def count(result, arrays):
        return Count(wrong=tuple(int(one) for one in (arrays["labels"] == 0).sum(axis=1)))

    known = Block(
        record=Count, arrays={"low": ("int8", "SN")}, make=lambda dataset, arrays: None, recompute=count
    )
    monkeypatch.setitem(blocks.KNOWN, "toy", known)
    labels = arrays(submitted)["labels"]
    wrong = (labels == 0).sum(axis=1).tolist()
    pack(submitted, **{"toy/low": labels.astype(np.int8)})
    put(submitted, blocks__toy={"wrong": wrong})
    verdict = validate(rph, board, submitted)
    assert verdict["ok"] and "the block toy" not in str(verdict["unverified"])
    put(submitted, blocks__toy={"wrong": [0, *wrong[1:]]})
    (problem,) = validate(rph, board, submitted)["problems"]
    assert problem["rule"] == "metrics" and "blocks.toy.wrong.0 is 0" in problem["what"]
    put(submitted, blocks__toy={"wrong": wrong, "right": 1})
    (problem,) = validate(rph, board, submitted)["problems"]
    assert problem["rule"] == "schema" and "blocks.toy.right: Extra inputs" in problem["what"]


def test_the_results_of_this_repository_are_what_they_claim(rph):
    code, output, _ = rph("leaderboard", "validate", ROOT / RESULTS, "--root", ROOT / RESULTS)
    assert code == 0, output


def test_a_first_result_of_a_benchmark_says_that_its_labels_are_taken_on_trust(rph, submitted, tmp_path):
    (tmp_path / "empty").mkdir()
    code, output, _ = rph("leaderboard", "validate", submitted, "--root", tmp_path / "empty")
    assert code == 0 and "all labels: the board has no other result of this benchmark" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/a/b.json"], "does not exist"),
        (["clone"], "holds no results"),
        (["results/toy/toy/numbers.queries.npz"], "is no result"),
        (["results", "--root", "nowhere"], "does not exist"),
    ],
)
def test_a_wrong_call_is_told_what_to_do(rph, board, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    code, output, error = rph("leaderboard", "validate", *arguments)
    assert (code, output) == (2, "") and said in error


# --- validate: hostile results ----------------------------------------------------------------------


def repeated_key(path):
    text = path.read_text()
    path.write_text(text.replace('"bench": ', '"test_accuracy_mean": 0.99,\n "bench": ', 1))


def instead(old, new):
    def change(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def renamed(old, new):
    """Another name of a model, wherever it stands."""
    return lambda path: path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))


def a_number(text):
    """Write `text` where a number stands."""
    return lambda path: path.write_text(
        json.dumps(json.loads(path.read_text()) | {"seconds": "HERE"}).replace('"HERE"', text)
    )


def with_fields(**fields):
    return lambda path: put(path, **fields)


def without_a_seed(path):
    with edited(path) as content:
        content["seeds"], content["per_seed"] = content["seeds"][:-1], content["per_seed"][:-1]
    kept = arrays(path)
    pack(path, **{name: kept[name][:-1] for name in ("seeds", "routes", "labels")})


def moved(path):
    place = path.parents[2] / "toy/other"
    place.mkdir()
    shutil.copy(npz(path), place)
    shutil.move(path, place)
    return place / path.name


def linked_json(path):
    target = path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(target)


def linked_npz(path):
    npz(path).unlink()
    npz(path).symlink_to("/etc/passwd")


def linked_folder(path):
    target = path.parent.rename(path.parents[1] / "elsewhere")
    path.parent.symlink_to(target, target_is_directory=True)


def bomb(path):
    """40 KB that unpack to 300 MB."""
    member(path, "labels.npy", npy(np.zeros((5, 15_000_000), np.float32)))


def announced(path):
    """A header that would make numpy ask for petabytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (5, 10**14)}
    )
    member(path, "labels.npy", header.getvalue())


def block(content=None, **arrays):
    """Give the result a block that nobody knows, called `other`, and arrays."""

    def change(path):
        put(path, blocks__other=content or {})
        pack(path, **arrays)

    return change


def block_array(name, *, shape, descr="<f4", data=b""):
    """An array of the unknown block of which the header says what it likes."""

    def change(path):
        put(path, blocks__other={})
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
        member(path, name, header.getvalue() + data)

    return change


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/rph-was-here",)


def pickled(path):
    member(path, "labels.npy", npy(np.array([Evil()], object), allow_pickle=True))


def flipped(path):
    """A better label where the router chose what another router of the board chose too, and failed."""
    kept, other = (
        arrays(path),
        files.read(path.parents[3] / "clone" / RESULTS / "toy/knn/numbers.json").queries,
    )
    same = (kept["routes"][0] == other.routes[0]) & (kept["labels"][0] == 0)
    place = np.flatnonzero(same)[0]
    chose = kept["routes"][:, place] == kept["routes"][0, place]
    kept["labels"][chose, place] = 1
    kept["best"][place] = 1
    claim(path, labels=kept["labels"], best=kept["best"])


def two_truths(path):
    kept = arrays(path)
    place = np.flatnonzero((kept["best"] == 1) & (kept["routes"] == kept["routes"][0]).all(axis=0))[0]
    kept["labels"][0, place] = 1 - kept["labels"][0, place]
    claim(path, labels=kept["labels"])


def no_floor(path):
    claim(path, floor=np.zeros_like(arrays(path)["floor"]))


def all_easy(path):
    claim(
        path,
        difficulty=np.where(arrays(path)["difficulty"] == 2, 1, arrays(path)["difficulty"]).astype(np.uint8),
    )


def above_the_oracle(path):
    kept = arrays(path)
    claim(path, labels=np.ones_like(kept["labels"]))


def another_choice(path):
    """The variant that is best on test in the place of the one that is best on val."""
    with edited(path) as content:
        names = [one["variant_name"] for one in content["configurations"]]
        content["variant_name"] = next(name for name in names if name != content["variant_name"])


def a_hidden_variant(path):
    """Without the variant that won on val, as if it had never been tried."""
    with edited(path) as content:
        won = content["variant_name"]
        content["configurations"] = [one for one in content["configurations"] if one["variant_name"] != won]
        content["trials"] = len(content["configurations"])
        content["blocks"].pop("alike", None)  # nor as one that routes as another


def a_sixteenth_variant(path):
    with edited(path) as content:
        first = content["configurations"][0]
        content["configurations"] += [
            {**first, "variant_name": f"more={i}", "val_accuracy": 0.1} for i in range(15)
        ]
        content["trials"] = content["times_test_was_scored"] = len(content["configurations"])


HOSTILE = {
    "no JSON": (lambda path: path.write_text("{"), "json", "Expecting"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe"), "json", "utf-8"),
    "a list": (lambda path: path.write_text("[1]"), "schema", "the file"),
    "a key twice": (repeated_key, "json", "'test_accuracy_mean' stands twice"),
    "NaN": (a_number("NaN"), "json", "NaN is no JSON number"),
    "Infinity": (a_number("-Infinity"), "json", "-Infinity is no JSON number"),
    "a number that is infinite": (a_number("1e999"), "json", "1e999 is too large"),
    "a number of many digits": (a_number("9" * 400), "json", "too large"),
    "a number of too many digits": (a_number("9" * 5000), "json", "digits"),
    "NaN as a text": (with_fields(seconds="NaN"), "schema", "seconds: Input should be a valid number"),
    "deep nesting": (a_number("[" * 100_000 + "]" * 100_000), "json", ""),
    "nesting": (with_fields(variant={"a": [[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]}), "schema", "20 levels"),
    "an unknown field": (with_fields(rank=1), "schema", "rank: Extra inputs"),
    "a field that is missing": (instead('"n_test"', '"n_tests"'), "schema", "n_test: Field required"),
    "another format": (with_fields(format="rph-result/1"), "schema", "format"),
    "a terminal's escape": (with_fields(method__title="\x1b[2Jgone"), "schema", "control characters"),
    "text from right to left": (with_fields(variant_name="\u202eabc"), "schema", "control characters"),
    "a page of text": (with_fields(method__title="a" * 3000), "schema", "3,000 characters"),
    "a large JSON": (lambda path: path.write_text(path.read_text() + " " * (2 << 20)), "size", "bytes"),
    "HTML as a name": (with_fields(router="<img src=x onerror=alert(1)>"), "name", "router is '<img"),
    "HTML as a model": (renamed("large", "<script>"), "name", "a model is named '<script>'"),
    "a path as a name": (with_fields(bench="../../../etc"), "name", "bench is '../../../etc'"),
    "dots as a name": (with_fields(encoder=".."), "name", "encoder is '..'"),
    "a long name": (with_fields(router="r" * 101), "name", "router is"),
    "another's place": (with_fields(router="knn"), "place", "belongs at toy/knn/numbers.json"),
    "a wrong place": (moved, "place", "belongs at toy/toy/numbers.json"),
    "a link": (linked_json, "plain", "symbolic link"),
    "a link to a secret": (linked_npz, "plain", "symbolic link"),
    "a link to a folder": (linked_folder, "plain", "symbolic link"),
    "no queries": (lambda path: npz(path).unlink(), "plain", "cannot be read"),
    "a large npz": (lambda path: npz(path).write_bytes(b"x" * ((20 << 20) + 1)), "size", "20,971,521 bytes"),
    "no zip": (lambda path: npz(path).write_bytes(b"PK\x03\x04 and more"), "arrays", "no readable npz"),
    "a zip bomb": (bomb, "size", "it unpacks to 300,0"),
    "an announced size": (announced, "arrays", "100000000000000"),
    "a pickle": (pickled, "arrays", "pickled objects"),
    "another file inside": (lambda path: member(path, "run.py", b"print(1)"), "arrays", "run.py"),
    "a path inside": (lambda path: member(path, "../../evil.npy", npy(np.zeros(1))), "arrays", "../../evil.npy"),
    "another packing": (
        lambda path: member(path, "best.npy", npy(arrays(path)["best"]), compress_type=zipfile.ZIP_LZMA),
        "arrays",
        "another way than deflate",
    ),
    "no array": (lambda path: member(path, "best.npy", b"12345678"), "arrays", "magic"),
    "an array of another type": (lambda path: pack(path, best=arrays(path)["best"].astype(float)), "arrays", "float64"),
    "an array cut short": (
        lambda path: member(path, "best.npy", npy(arrays(path)["best"])[:-4]), "size", "best is packed as",
    ),
    "a model that is not there": (
        lambda path: pack(path, routes=arrays(path)["routes"] + np.uint16(3)), "arrays", "a route leads to no model",
    ),
    "a block's name of markup": (with_fields(blocks={"<b>": {}}), "schema", "blocks.<b>.[key]: String should match"),
    "a block's name with a line more": (with_fields(blocks={"other\n": {}}), "schema", "should match pattern"),
    "a path as a block's name": (with_fields(blocks={"../other": {}}), "schema", "should match pattern"),
    "a long block's name": (with_fields(blocks={"a" * 41: {}}), "schema", "should match pattern"),
    "a field as a block's name": (with_fields(blocks={"test_accuracy_mean": {}}), "schema", "as a field is"),
    "a block that is no object": (with_fields(blocks={"other": [1]}), "schema", "blocks.other: Input should be an object"),
    "many blocks": (with_fields(blocks={f"b{i}": {} for i in range(41)}), "size", "it holds 41 blocks"),
    "a block of a terminal's escape": (block({"a": ["\x1b[2J"]}), "schema", "control characters"),
    "a block of a page of text": (block({"a" * 3000: 1}), "schema", "3,000 characters"),
    "a block of nests": (block({"a": json.loads("[" * 30 + "]" * 30)}), "schema", "20 levels"),
    "a block of a large number": (block({"a": 10**20}), "json", "too large"),
    "a block of objects": (
        lambda path: [block()(path), member(path, "other/a.npy", npy(np.array([Evil()], object), allow_pickle=True))],
        "arrays", "other/a holds pickled objects",
    ),
    "a block of texts": (block(**{"other/a": np.array(["a"])}), "arrays", "only numbers are kept"),
    "a block of dates": (block(**{"other/a": np.array(["2026"], "M8[s]")}), "arrays", "only numbers are kept"),
    "a block of tables": (block(**{"other/a": np.zeros(1, [("a", "f4")])}), "arrays", "only numbers are kept"),
    "an array of no block": (block(**{"another/a": np.zeros(1)}), "arrays", "another/a"),
    "an array of a block, hidden": (block(**{"other/.a": np.zeros(1)}), "arrays", "other/.a"),
    "an array of a block, elsewhere": (block(**{"other/../../a": np.zeros(1)}), "arrays", "other/../../a"),
    "a file in a block": (
        lambda path: [block()(path), member(path, "other/a", b"print(1)")], "arrays", "other/a",
    ),
    "a core array in a block": (
        lambda path: [block()(path), member(path, "other/labels/best.npy", npy(np.zeros(1)))], "arrays", "other/labels/best",
    ),
    "many arrays": (block(**{f"other/a{i}": np.zeros(1) for i in range(200)}), "size", "it holds 210 arrays"),
    "a block's bomb": (block(**{"other/a": np.zeros(40_000_000)}), "size", "it unpacks to 320,0"),
    "a block's announced size": (block_array("other/a.npy", shape=(10**14,)), "arrays", "that is not read"),
    "a block's size that is not there": (block_array("other/a.npy", shape=(10**6,)), "size", "other/a is packed as"),
    "a block's size that is nothing": (block_array("other/a.npy", shape=(0, 10**30)), "arrays", "that is not read"),
    "a block's size that is no number": (block_array("other/a.npy", shape=(True,), data=b"1234"), "arrays", "that is not read"),
    "a block's size below nothing": (
        block_array("other/a.npy", shape=(-1, -1), data=b"1234"), "arrays", "that is not read",
    ),
    "too many cells": (with_fields(n_test=20_000_000), "size", "20,000,000 queries x 3 models"),
    "no queries at all": (with_fields(n_test=-1), "schema", "it has -1 test queries"),
    "a quick protocol": (with_fields(protocol="quick"), "protocol", "only paper is ranked"),
    "an old protocol": (with_fields(protocol_version=0), "protocol", "version 0"),
    "an oracle's leak": (with_fields(selector_cost="realised (oracle leak)"), "protocol", "must not know"),
    "seeds left out": (without_a_seed, "protocol", "not [42, 1337, 2026, 7]"),
    "a stochastic router called deterministic": (with_fields(deterministic=True), "protocol", "has the seeds [42]"),
    "a wrong fingerprint": (with_fields(bench_fingerprint="0" * 64), "benchmark", "'0000000000000000'..."),
    "other models": (with_fields(reference__n_train=61), "benchmark", "reference.n_train is 61"),
    "another subset": (with_fields(subset="half of it"), "benchmark", "its subset"),
    "other weights": (with_fields(encoder_identity="numbers of mine"), "encoder", "is 'numbers' on the board"),
    "another test set": (with_fields(reference__oracle=0.5, oracle=0.5), "metrics", "reference.oracle is 0.5"),
    "a forged accuracy": (with_fields(test_accuracy_mean=0.99), "metrics", "test_accuracy_mean is 0.99"),
    "a forged spread": (with_fields(test_accuracy_std=0.0001), "metrics", "test_accuracy_std is 0.0001"),
    "a forged seed": (with_fields(per_seed__0__test_accuracy=0.99), "metrics", "per_seed.0.test_accuracy is 0.99"),
    "a forged mean of BCE": (with_fields(bce=0.001), "metrics", "bce is 0.001"),
    "an impossible ECE": (with_fields(per_seed__0__ece=-0.5), "metrics", "which cannot be"),
    "a forged curve": (with_fields(per_seed__0__curve__0__accuracy=0.99), "metrics", "per_seed.0.curve.0.accuracy is 0.99"),
    "a curve of its own": (with_fields(per_seed__0__curve=[]), "schema", "per_seed.0.curve"),
    "forged selections": (with_fields(per_seed__0__selections=[10, 10, 10]), "metrics", "per_seed.0.selections"),
    "selections too few": (with_fields(per_seed__0__selections=[30]), "schema", "1 values for 3 models"),
    "no best single model": (with_fields(reference__best_single_model="gpt-9"), "schema", "not in the pool"),
    "a model twice": (with_fields(models__0="large"), "schema", "twice"),
    "labels of its own": (flipped, "labels", "labels are not those of the board's other results on 1 query"),
    "labels that contradict each other": (two_truths, "labels", "two seeds give one model different labels"),
    "a lower floor": (no_floor, "labels", "floor is not that of the board's other results"),
    "no hard queries": (all_easy, "labels", "difficulty is not that of the board's other results"),
    "above the oracle": (above_the_oracle, "labels", "is above the best label"),
    "labels above 1": (lambda path: pack(path, labels=arrays(path)["labels"] * 2), "labels", "outside [0, 1]"),
    "a variant chosen on test": (another_choice, "selection", "the protocol chooses"),
    "a variant that is hidden": (a_hidden_variant, "selection", "the protocol chooses"),
    "sixteen variants": (a_sixteenth_variant, "selection", "the protocol allows 15"),
    "a forged val accuracy": (with_fields(val_accuracy=0.99), "selection", "val_accuracy is 0.99"),
    "trials that are not listed": (with_fields(trials=3), "selection", "of 3 trials"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_result_is_refused_with_the_rule_and_what_to_do(rph, board, submitted, what):
    forge, rule, said = HOSTILE[what]
    path = forge(submitted)
    path = path if isinstance(path, Path) else submitted
    verdict = validate(rph, board, path)
    found = [
        problem for problem in verdict["problems"] if problem["rule"] == rule and said in problem["what"]
    ]
    assert found, verdict["problems"]
    assert all(
        problem["fix"] and problem["file"].startswith(str(path.parents[2])) for problem in verdict["problems"]
    )
    assert not Path("/tmp/rph-was-here").exists()


def another_encoders(path):
    """The same result once more beside it, as if of another encoder."""
    other = path.with_name("other.json")
    shutil.copy(path, other)
    shutil.copy(npz(path), other.with_name("other.queries.npz"))
    put(other, encoder="other")
    return other


def test_another_package_cannot_take_a_router_s_name(rph, board):
    other = another_encoders(board / RESULTS / "toy/knn/numbers.json")
    put(other, router_distribution="rph-evil")
    (problem,) = validate(rph, board, other)["problems"]
    assert (
        problem["rule"] == "router" and f"is of {OURS!r} on the board, not of 'rph-evil'" in problem["what"]
    )


def test_all_problems_of_a_result_are_told_at_once(rph, board, submitted):
    put(submitted, test_accuracy_mean=0.9, protocol="smoke", bench_fingerprint="f" * 64, val_accuracy=1.0)
    rules = {problem["rule"] for problem in validate(rph, board, submitted)["problems"]}
    assert rules == {"protocol", "benchmark", "metrics", "selection"}
    code, output, _ = rph("leaderboard", "validate", submitted, "--root", board / RESULTS)
    assert code == 1 and output.count("    fix: ") >= 4 and "0 of 1 result(s)" in output


def test_a_label_that_no_other_router_shows_is_caught_where_the_benchmark_is_at_hand(
    rph, measured, submitted, tmp_path
):
    (tmp_path / "empty").mkdir()
    path, kept = submitted, arrays(submitted)
    place = np.flatnonzero(kept["labels"][0] == 0)[0]
    chose = kept["routes"][:, place] == kept["routes"][0, place]
    assert (
        json.loads(path.read_text())["models"][kept["routes"][0, place]] == "large"
    )  # the best single model
    for name, where in (("labels", (chose, place)), ("best", place), ("floor", place)):
        kept[name][where] = 1
    claim(path, labels=kept["labels"], best=kept["best"], floor=kept["floor"])
    arguments = ["leaderboard", "validate", path, "--root", tmp_path / "empty"]
    code, output, _ = rph(*arguments)
    assert code == 0 and "all labels" in output  # and it says so
    code, output, _ = rph(*arguments, "--bench", measured / "bench")
    assert code == 1 and "labels are not the benchmark's on 1 query" in output and "all labels" not in output


def test_costs_and_the_fingerprint_are_compared_with_the_benchmark_at_hand(
    rph, measured, board, submitted, tmp_path
):
    with edited(submitted) as content:
        for seed in content["per_seed"]:
            seed["cost"] /= 2
        content["cost"] /= 2
    assert validate(rph, board, submitted)["ok"]
    (problem, *_) = validate(rph, board, submitted, "--bench", measured / "bench")["problems"]
    assert problem["rule"] == "metrics" and "per_seed.0.cost" in problem["what"]
    other = toys.write_bench(tmp_path / "other", toys.tables(seed=1))
    (problem,) = validate(rph, board, submitted, "--bench", other)["problems"]
    assert problem["rule"] == "benchmark" and "that of the benchmark" in problem["what"]


# What a result says of itself that neither its queries nor the board's other results can contradict.
FREE = {
    "router_distribution", "router_version", "method.title", "method.paper", "method.year", "method.family",
    "method.licence", "variant.noise", "variant.fault", "seconds", "times_test_was_scored", "device",
    "configurations.*.val_accuracy", "configurations.*.test_accuracy",
    f"packages.{OURS}", "packages.numpy", "packages.torch",
    # What the cards of variants say is taken as claimed, but for the chosen one's.
    "blocks.variants.variants.*.why", "blocks.variants.variants.*.no_gain",
    "blocks.variants.variants.*.calibrated", "blocks.variants.variants.*.deterministic",
}  # fmt: skip


def leaves(value, way=()):
    """(keys, value) of everything in a JSON that holds nothing."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*way, key))
    else:
        yield way, value


def otherwise(value):
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value + 0.01
        case str():
            return f"{value}x"
        case None:
            return 0.5


def test_nothing_else_in_a_result_can_be_changed(board, submitted):
    """Each kind of leaf is changed alone, in the last of its lists."""
    others = submissions.board_of(board / RESULTS)
    text = submitted.read_text()
    by_kind = {
        ".".join("*" if isinstance(key, int) else key for key in way): (way, value)
        for way, value in leaves(json.loads(text))
    }
    unnoticed = set()
    for kind, (way, value) in by_kind.items():
        with edited(submitted) as content:
            inner = content
            for key in way[:-1]:
                inner = inner[key]
            inner[way[-1]] = otherwise(value)
        if not submissions.validate([submitted], board=others)[0].problems:
            unnoticed.add(kind)
        submitted.write_text(text)
    assert unnoticed == FREE and len(by_kind) > 100


# --- diff: what a pull request changes --------------------------------------------------------------


@pytest.fixture
def trees(board, tmp_path):
    """The leaderboard, and a copy of it with an honest result more."""
    head = tmp_path / "head"
    shutil.copytree(board, head)
    shutil.copytree(tmp_path / "results/toy/toy", head / RESULTS / "toy/toy")
    return board, head


def diff(rph, trees, *options):
    base, head = trees
    code, output, error = rph("leaderboard", "diff", "--base", base, "--head", head, *options)
    assert not error and output.startswith(f"### Leaderboard: {'refused' if code else 'accepted'}\n")
    return code, output


def test_a_new_result_is_accepted_with_the_ranks_it_makes(rph, trees):
    code, output = diff(rph, trees)
    assert code == 0 and "1 result(s) added or changed, 0 problem(s)." in output
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in output.splitlines()
        if line.startswith("|")
    ]
    ranks = {row[2]: (row[0], row[1], row[6]) for row in rows if len(row) == 8}
    assert ranks["knn"] == ("1", "1", "0.00") and ranks["toy"] == ("1", "new", "n/a")
    assert ranks["kmeans"] == ("3", "2", "0.00") and ranks["elo"] == ("4", "3", "0.00")
    assert "taken on trust" in output and "BCE, ECE, utility" in output


@pytest.mark.parametrize("before", ["rph", OURS])
def test_a_result_under_the_distributions_former_name_is_the_same_routers(rph, trees, before):
    base, head = trees
    after = {"rph": OURS, OURS: "rph"}[before]
    put(base / RESULTS / "toy/knn/numbers.json", router_distribution=before)
    put(head / RESULTS / "toy/knn/numbers.json", router_distribution=after)
    another_encoders(head / RESULTS / "toy/knn/numbers.json")
    code, output = diff(rph, trees)
    assert code == 0 and "3 result(s) added or changed, 0 problem(s)." in output


def test_nothing_changed_is_nothing_to_say(rph, board):
    code, output = diff(rph, (board, board))
    assert code == 0 and "0 result(s) added or changed, 0 problem(s)." in output and "|" not in output


def code_in_it(head):
    (head / "harness").mkdir()
    (head / "harness/metrics.py").write_text("accuracy = lambda *_: 1.0\n")


def another_file(head):
    (head / RESULTS / "toy/toy/notes.html").write_text("<script>alert(1)</script>\n")


def a_workflow(head):
    (head / ".github/workflows").mkdir(parents=True)
    (head / ".github/workflows/submission.yml").write_text("on: pull_request_target\n")


def another_text(head):
    (head / "README.md").write_text("another leaderboard\n")


def a_removal(head):
    shutil.rmtree(head / RESULTS / "toy/elo")


def half_a_removal(head):
    (head / RESULTS / "toy/elo/numbers.queries.npz").unlink()


def a_link(head):
    path = head / RESULTS / "toy/toy/numbers.json"
    path.unlink()
    path.symlink_to("/etc/passwd")


def a_link_elsewhere(head):
    (head / RESULTS / "toy/evil").symlink_to("/etc", target_is_directory=True)


def a_forged_result(head):
    put(head / RESULTS / "toy/toy/numbers.json", test_accuracy_mean=0.99)


def a_name_that_acts(head):
    place = head / RESULTS / "toy/<img src=x onerror=alert(1)> **@all** [a](b)`"
    place.mkdir()
    shutil.copy(head / RESULTS / "toy/toy/numbers.json", place)


def a_name_of_controls(head):
    (head / "a\x1b[2J\nb|c").write_text("")


CHANGES = {
    "code": (code_in_it, "files", "harness/metrics.py"),
    "a workflow": (a_workflow, "files", ".github/workflows/submission.yml"),
    "another file beside results": (another_file, "files", "toy/toy/notes.html"),
    "another text": (another_text, "files", "README.md"),
    "a removal": (a_removal, "removal", "toy/elo/numbers.json"),
    "half a removal": (half_a_removal, "removal", "toy/elo/numbers.queries.npz"),
    "a link in a file's place": (a_link, "plain", "toy/toy/numbers.json"),
    "a link": (a_link_elsewhere, "files", "toy/evil"),
    "a forged result": (a_forged_result, "metrics", "toy/toy/numbers.json"),
    "a name that acts": (
        a_name_that_acts,
        "files",
        r"\<img src=x onerror=alert(1)\> \*\*@all\*\* \[a\](b)\`",
    ),
    "a name of controls": (a_name_of_controls, "files", "a�\\[2J�b\\|c"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_that_is_more_or_less_than_a_result_is_refused(rph, trees, what):
    change, rule, file = CHANGES[what]
    change(trees[1])
    code, output = diff(rph, trees)
    assert code == 1
    rows = [line for line in output.splitlines() if line.startswith(f"| {rule} |")]
    assert any(file in row for row in rows), output
    assert "<img" not in output.replace(r"\<", "") and "\x1b" not in output


def better(head):
    """The router of a result that stands was measured again, and is better now."""
    source, target = (head / RESULTS / "toy" / name / "numbers.json" for name in ("knn", "elo"))
    shutil.copy(source, target)
    shutil.copy(npz(source), npz(target))
    put(target, router="elo")


def test_a_changed_score_needs_a_label(rph, trees):
    better(trees[1])
    code, output = diff(rph, trees)
    assert code == 1
    (row,) = [line for line in output.splitlines() if line.startswith("| score |")]
    assert "toy/elo/numbers.json" in row and "label scores-change" in row
    code, output = diff(rph, trees, "--allow-score-changes")
    assert code == 0
    (row,) = [line for line in output.splitlines() if "| elo |" in line]
    assert row.startswith("| 1 | 3 | elo | 73.33 |") and "| 16.67 |" in row


def test_rounding_is_no_change_of_a_score(rph, trees):
    path = trees[1] / RESULTS / "toy/elo/numbers.json"
    with edited(path) as content:
        content["test_accuracy_mean"] += 1e-12
        content["seconds"] += 1
    code, output = diff(rph, trees)
    assert code == 0 and "2 result(s) added or changed" in output


def test_a_whole_board_may_be_measured_again_and_is_then_compared_with_itself(rph, trees):
    """With other weights: no result of the old ones is left to contradict."""
    for name in ROUTERS:
        put(trees[1] / RESULTS / f"toy/{name}/numbers.json", encoder_identity="numbers, again")
    assert diff(rph, trees)[0] == 0
    shutil.copy(trees[0] / RESULTS / "toy/elo/numbers.json", trees[1] / RESULTS / "toy/elo/numbers.json")
    code, output = diff(rph, trees)
    assert code == 1 and "| encoder |" in output


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", folder, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def committed(folder):
    git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "all")
    return folder


def test_of_a_working_copy_only_what_git_would_commit_is_compared(rph, trees):
    for tree in trees:
        (tree / ".gitignore").write_text("*.tmp\n")
        committed(tree)
    (trees[1] / "scratch.tmp").write_text("ignored")
    assert diff(rph, trees)[0] == 0
    (trees[1] / "scratch.txt").write_text("not ignored")
    code, output = diff(rph, trees)
    assert code == 1 and "scratch.txt" in output


# --- the script that the workflow and `make ci-leaderboard` call ------------------------------------


def ci(base, head, cwd, **environment):
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment
    command = [cwd / ".ci/leaderboard", base, head]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def test_the_script_judges_folders_and_commits(trees):
    base, head = trees
    (base / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/leaderboard", base / ".ci/leaderboard")
    committed(base)
    shutil.copytree(head / RESULTS / "toy/toy", base / RESULTS / "toy/toy")
    assert ci("HEAD", ".", base).returncode == 0  # as `make ci-leaderboard` calls it
    better(base)
    (base / ".gitattributes").write_text("* export-ignore\n")
    git(base, "add", "--all")
    git(base, "commit", "--quiet", "--message", "more")
    judged = ci("HEAD~1", "HEAD", base, SCORES_MAY_CHANGE="false")
    assert judged.returncode == 1 and judged.stdout.startswith("### Leaderboard: refused")
    assert "| score |" in judged.stdout and "| .gitattributes |" in judged.stdout
    judged = ci("HEAD~1", "HEAD", base, SCORES_MAY_CHANGE="true")
    assert judged.returncode == 1 and "| score |" not in judged.stdout
    assert git(base, "status", "--porcelain") == ""  # it left nothing behind
    unknown = ci("HEAD~9", "HEAD", base)
    assert unknown.returncode == 2 and "neither a folder nor a commit" in unknown.stderr


# --- submit -----------------------------------------------------------------------------------------


def test_submit_puts_the_files_in_place_and_sends_nothing(rph, board, submitted):
    committed(board)
    code, output, error = rph("leaderboard", "submit", submitted, "--into", board)
    assert (code, error) == (0, "")
    place = board / RESULTS / "toy/toy/numbers.json"
    assert place.read_bytes() == submitted.read_bytes()
    assert npz(place).read_bytes() == npz(submitted).read_bytes()
    assert git(board, "status", "--porcelain", "-uall").split() == [
        "??", f"{RESULTS}/toy/toy/numbers.json", "??", f"{RESULTS}/toy/toy/numbers.queries.npz",
    ]  # fmt: skip
    assert git(board, "log", "--oneline").count("\n") == 1 and git(board, "branch").split() == ["*", "main"]
    for command in (
        "git switch --create result-toy-toy-numbers",
        f"git add {RESULTS}/toy/toy/numbers.json {RESULTS}/toy/toy/numbers.queries.npz",
        "git commit --message 'Add toy x toy x numbers'",
        "git push --set-upstream origin result-toy-toy-numbers",
        "gh pr create --title 'Add toy x toy x numbers' --body-file ",
    ):
        assert command in output
    text = Path(output.split("--body-file ")[1].strip()).read_text()
    assert "rph eval --router toy --bench toy --encoder numbers --protocol paper --device cpu" in text
    assert "| 1 | new | toy | 73.33 |" in text and "| 3 | 2 | kmeans |" in text
    assert "numpy " + np.__version__ in text and "Not verified" in text
    code, _, _ = rph("leaderboard", "diff", "--base", board, "--head", board)
    assert code == 0


def test_html_in_the_notes_of_a_result_is_text_in_a_pull_request(rph, board, submitted):
    committed(board)
    put(submitted, method__title="<script>alert(1)</script>", method__fidelity=["[a](javascript:b) | c"])
    code, output, _ = rph("leaderboard", "submit", submitted, "--into", board)
    text = Path(output.split("--body-file ")[1].strip()).read_text()
    assert code == 0 and r"| method | \<script\>alert(1)\</script\> (none) |" in text


def test_a_result_written_straight_into_the_clone_is_submitted_too(rph, board, submitted):
    committed(board)
    shutil.copytree(submitted.parent, board / RESULTS / "toy/toy")
    code, output, _ = rph("leaderboard", "submit", board / RESULTS / "toy/toy/numbers.json", "--into", board)
    text = Path(output.split("--body-file ")[1].strip()).read_text()
    assert code == 0 and "| 1 | new | toy | 73.33 |" in text


def test_submit_of_a_forged_result_puts_nothing_in_place(rph, board, submitted):
    committed(board)
    put(submitted, test_accuracy_mean=0.99)
    code, output, error = rph("leaderboard", "submit", submitted, "--into", board)
    assert code == 1 and "test_accuracy_mean is 0.99" in output and "nothing was prepared" in error
    assert git(board, "status", "--porcelain") == ""


def test_submit_into_something_else_is_told(rph, board, submitted, tmp_path):
    code, _, error = rph("leaderboard", "submit", submitted, "--into", tmp_path)
    assert code == 2 and "is no copy of the leaderboard" in error
    code, _, error = rph("leaderboard", "submit", submitted, "--into", board)
    assert code == 2 and "is no git clone" in error


def test_a_pickle_would_have_run_had_it_been_loaded(tmp_path):
    """The trap of `Evil` is real: the tests above would see it spring."""
    assert b"rph-was-here" in pickle.dumps(Evil())
