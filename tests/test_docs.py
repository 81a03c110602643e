"""The documentation site: built as it is published, its links, what it says of the code; and its pages on GitHub."""

import ast
import html
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
import yaml
from hypothesis import given
from hypothesis import strategies as st

import rph
from rph import protocol, registry, testing
from rph.cli import main

pytest.importorskip("mkdocs", reason="needs the extra `docs`")
griffe = pytest.importorskip("griffe", reason="needs the extra `docs`")
import markdown

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
ON_GITHUB = [
    *DOCS,
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "leaderboard").glob("**/README.md")),
]
MADE = runpy.run_path(str(ROOT / "docs/gen_pages.py"))
NOWHERE = "http://127.0.0.1:9"  # a proxy that does not answer
LOADS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}


class Html(HTMLParser):
    """What a page points at, what it loads, the places in it, and its text."""

    def __init__(self, page):
        super().__init__()
        self.links, self.loads, self.ids, self.text = [], [], set(), ""
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if attrs.get(LOADS.get(tag)) and attrs.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(attrs[LOADS[tag]])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the site, by its path in it; built with no network in reach."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    env = {**os.environ, "http_proxy": NOWHERE, "https_proxy": NOWHERE}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return {page.relative_to(out).as_posix(): Html(page) for page in out.rglob("*.html")} | {"": out}


@pytest.fixture(scope="module")
def pages(site):
    return {path: page for path, page in site.items() if path}


def test_every_link_of_the_site_leads_to_a_page_and_to_a_place_in_it(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            to = urlsplit(link)
            if (
                to.scheme or path == "404.html"
            ):  # that page is served at any depth: its links begin at the root
                continue
            target = (
                os.path.normpath(os.path.join(os.path.dirname(path), unquote(to.path))) if to.path else path
            )
            target = f"{target}/index.html".removeprefix("./") if (site[""] / target).is_dir() else target
            place = unquote(to.fragment)
            missing = place and target in pages and place not in pages[target].ids | {"__top"}
            if missing or not (site[""] / target).is_file():
                broken.append((path, link))
    assert not broken
    assert sum(len(page.links) for page in pages.values()) > 1000


def test_no_page_loads_anything_over_a_network(site, pages):
    assert [
        (path, load) for path, page in pages.items() for load in page.loads if urlsplit(load).netloc
    ] == []
    for sheet in site[""].rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", sheet.read_text("utf-8")), sheet
    assert all(page.loads for page in pages.values())


@pytest.mark.parametrize("kind", ["router", "encoder", "benchmark"])
def test_every_built_in_plugin_has_a_page_with_its_card(pages, kind):
    found = registry.installed()
    ours = [s.name for s in found.sources() if s.kind == kind and s.distribution == registry.OURS]
    assert len(ours) >= 7
    assert {f"{kind}s/{name}.html" for name in ours} | {f"{kind}s/index.html"} == {
        path for path in pages if path.startswith(f"{kind}s/")
    }
    for name in ours:
        card, text = found.load(kind, name).spec.card, _flat(pages[f"{kind}s/{name}.html"].text)
        for said in (card.title, *getattr(card, "fidelity", ()), *getattr(card, "notes", ())):
            assert _flat(said.replace("`", "")) in text, (name, said)


def test_the_site_is_published_beside_the_leaderboard():
    built = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["site_dir"]
    jobs = yaml.safe_load((ROOT / ".github/workflows/site.yml").read_text())["jobs"]
    runs = [step["run"] for step in jobs["build"]["steps"] if "run" in step]
    assert runs == ["make leaderboard docs", f"mv {built} site/docs"]
    assert f"/{built}/" in (ROOT / ".gitignore").read_text().split()


def _flat(text):
    return " ".join(text.split())


def test_a_router_s_page_has_its_variants_failures_and_results(pages):
    found = registry.installed()
    results = defaultdict(list)
    for path in (ROOT / "leaderboard/results").glob("*/*/*.json"):
        result = json.loads(path.read_text())
        results[result["router"]].append(result)
    for router in found.names("router"):
        if (plugin := found.load("router", router)).source.distribution != registry.OURS:
            continue
        text = _flat(pages[f"routers/{router}.html"].text)
        variants = text.partition("Variants¶")[2].partition("How it differs")[0]
        assert " 1, the default " in variants and (
            f" {len(plugin.spec.grid)} " in variants or len(plugin.spec.grid) == 1
        )
        for check, why in plugin.spec.card.expected_failures:
            assert f"{check}: {why}" in text
        assert results[router]
        for result in results[router]:
            assert (
                f"{100 * result['test_accuracy_mean']:.2f}; " in text
                and result["variant_name"].replace(",", ", ") in text
            )


def test_the_reference_has_every_public_name_and_the_comments_of_fields(pages):
    assert {f"rph.{name}" for name in rph.__all__ if name != "__version__"} <= pages["api/index.html"].ids
    assert {f"rph.testing.{name}" for name in testing.__all__} <= pages["api/testing.html"].ids
    text = _flat(pages["api/index.html"].text)
    assert "N, unique over the whole benchmark" in text and "noqa" not in text


# --- the pages themselves ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ON_GITHUB, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_to_a_file_of_the_repository(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        to = urlsplit(link)
        assert to.scheme or (path.parent / to.path).exists(), link


def test_the_metrics_page_names_every_metric():
    text = (ROOT / "docs/metrics.md").read_text("utf-8")
    for module in ("metrics", "utility", "probabilities", "uncertainty"):
        tree = ast.parse((ROOT / f"harness/rph/results/{module}.py").read_text("utf-8"))
        public = {n.name for n in tree.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")}
        assert {name for name in public if not re.search(rf"\b{name}\b", text)} == set()


def test_the_protocol_page_has_the_presets():
    text = (ROOT / "docs/protocol.md").read_text("utf-8")
    for preset in protocol.PRESETS.values():
        seeds = ", ".join(map(str, preset.seeds))
        assert f"| `{preset.name}` | {preset.variants} | {preset.finalists} | {seeds} |" in text


def commands(text):
    """The calls of rph in a page, as lists of words: lines of its blocks of code, and `rph ...` between backticks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    calls = [re.sub(r"^(\w+=\S+ +)+", "", line) for line in lines]
    calls += re.findall(r"`(rph [^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    return [shlex.split(call, comments=True)[1:] for call in calls if call.startswith("rph ")]


def unknown(words, command):
    """The words of a call that the program would not know: commands and options. Names in capitals stand for others."""
    words = list(words)
    while words and hasattr(command, "commands") and words[0].islower() and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return words[0]
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    return next((o for o in options if o not in known and not hasattr(command, "commands")), None)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.stem)
def test_every_command_and_option_of_a_page_exists(path):
    program = typer.main.get_command(main.app)
    assert [call for call in commands(path.read_text("utf-8")) if unknown(call, program)] == []


def test_the_reader_of_commands_finds_what_does_not_exist():
    program = typer.main.get_command(main.app)
    page = "```bash\nRPH_HOME=/x rph evla --router a\nrph eval --ruoter a \\\n  --bench b  # --x\n```\nand `rph data gone`."
    assert [unknown(call, program) for call in commands(page)] == ["evla", "--ruoter", "gone"]


# --- how they are made ------------------------------------------------------------------------------


@given(text=st.from_regex(r"[a-z][a-z *_<>|~^&#\[\]()\\!.;-]{0,40}[a-z]", fullmatch=True))
def test_plain_text_stays_what_it_is_in_markdown(text):
    rendered = markdown.markdown(MADE["_text"](text), extensions=["tables", "admonition"])
    assert html.unescape(re.sub(r"</?p>", "", rendered)) == text


def test_code_between_backticks_stays_code():
    assert (
        markdown.markdown(MADE["_text"]("a_b `c_d` e*f*g")) == "<p>a&#95;b <code>c_d</code> e&#42;f&#42;g</p>"
    )


def test_a_field_s_comment_is_its_documentation(tmp_path):
    (tmp_path / "sample.py").write_text(
        "class Split:\n"
        '    """A split.\n\n    >>> 1 + 1\n    2\n\n    More.\n    """\n\n'
        "    ids: list  # N, unique\n"
        "    splits: (\n        dict | None\n    )  # counts\n"
        "    plain: int\n"
        "    checked: int = 0  # type: ignore\n"
    )
    extensions = griffe.load_extensions(str(ROOT / "docs/comments.py"))
    split = griffe.load("sample", search_paths=[tmp_path], extensions=extensions)["Split"]
    said = {name: member.docstring and member.docstring.value for name, member in split.members.items()}
    assert said == {"ids": "N, unique", "splits": "counts", "plain": None, "checked": None}
    assert split.docstring.value == "A split.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."
