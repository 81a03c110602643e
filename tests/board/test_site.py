"""The site: what its pages hold, that they need no network and run no stranger's script, and what is refused."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import entries

from rph.board import ranking, site
from rph.board.sheets import board_sheet
from rph.board.site import views
from rph.errors import UsageError
from rph.results import sheets
from rph.results.cell import Method

HOSTILE = "<script>alert(1)</script>"
LABELS = np.array([[1, 0], [0, 1], [1, 0], [1, 1], [1, 0], [0, 0]] * 5)  # a is right on 4 of 6, b on 2 of 6
A, B = np.zeros(30, int), np.ones(30, int)
BEST = np.where(LABELS[:, 1] > LABELS[:, 0], 1, 0)  # right wherever a model is: 5 of 6


def method(**changes):
    known = {"title": "by hand", "paper": "arXiv:2606.07587", "year": 2026, "family": "hand-made", "licence": "MIT",
             "calibrated": True, "fidelity": ("one difference",)}  # fmt: skip
    return Method(**known | changes)


def some_entries():
    """Two benchmarks, one without costs and one a subset with them; two encoders on the first; one unranked result."""
    return [
        entries.entry(LABELS, BEST, bench="one", router="good", encoder="mini", method=method()),
        entries.entry(LABELS, A, bench="one", router="plain", encoder="mini"),
        entries.entry(LABELS, [BEST, A], bench="one", router="good", encoder="large"),
        entries.entry(LABELS, B, bench="one", router="plain", encoder="large"),
        entries.entry(LABELS, BEST, bench="part", router="good", encoder="mini", costs=[0.002, 0.001], subset="a tenth"),
        entries.entry(LABELS, B, bench="part", router="plain", encoder="mini", costs=[0.002, 0.001], subset="a tenth"),
        entries.entry(LABELS, A, bench="one", router="hasty", encoder="mini", protocol="quick"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "site"
    site.build(some_entries(), folder)
    return folder


class Page(HTMLParser):
    """What a page consists of: its tags with their attributes, and its text."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def pages(folder):
    return {path: Page(path) for path in sorted(folder.rglob("*.html"))}


def test_every_benchmark_and_router_has_a_page_and_every_link_leads_to_a_file(built):
    found = pages(built)
    assert {path.relative_to(built).as_posix() for path in found} == {
        "index.html", "results.html", "methods.html", "benchmarks/one.html", "benchmarks/part.html",
        "routers/good.html", "routers/plain.html", "routers/hasty.html",
    }  # fmt: skip
    for path, page in found.items():
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids)), path
        for attributes in page.of("a") + page.of("link") + page.of("script"):
            address = attributes.get("href") or attributes.get("src") or "data:"
            if not address.startswith(("data:", "https://arxiv.org/abs/")):
                file, _, anchor = address.partition("#")
                assert not file or (path.parent / unquote(file)).is_file(), (path, address)
                assert "=" in anchor or file or anchor in ids, (path, address)


def test_no_page_needs_a_network_or_runs_a_script_of_its_own(built):
    for path, page in pages(built).items():
        (policy,) = (
            m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"
        )
        assert "default-src 'none'" in policy and "script-src 'self';" in policy, path
        for attributes in page.of("script"):
            assert attributes.get("type") == "application/json" or "://" not in attributes["src"], path
        assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")], path


def test_tables_say_what_they_are(built):
    for path, page in pages(built).items():
        assert len(page.of("caption")) == len(page.of("table")), path
        assert all(attributes.get("scope") in ("row", "col") for attributes in page.of("th")), path
        assert all("aria-label" in a for _, a in page.tags if a.get("role") in ("region", "img")), path


def test_the_numbers_of_a_board_are_those_of_the_result(built):
    text = (built / "benchmarks" / "one.html").read_text()
    good = text[text.index('data-q="good') :]
    good = good[: good.index("</tr>")]
    # Encoder large, seeds right on 5 of 6 and on 4 of 6: mean 3/4, std 1/6 / sqrt 2. Best single (a) has 4 of 6, the
    # oracle 5 of 6: half of the gap is closed.
    assert ">75.00 ± 11.79<" in good and 'data-value="0.75"' in good and ">50.0<" in good
    assert text.count('class="reference"') == 2  # on the board of each encoder
    assert "30 test queries" in text and "no costs" in text
    part = (built / "benchmarks" / "part.html").read_text()
    # BEST sends 20 of 30... to a at $2 per 1,000 calls and the others to b at $1
    share = (BEST == 0).mean()
    assert f">{1000 * (share * 0.002 + (1 - share) * 0.001):.2f}<" in part


def test_tasks_and_languages_stand_beside_best_single_and_the_best_model_per_task(tmp_path, built):
    of_test, kinds = np.array([[1, 0], [0, 1], [0, 1], [0, 1]] * 5), ["maths", HOSTILE] * 10
    train, of_train = (
        [[1, 0]] * 3 + [[0, 1]] * 2,
        ["maths"] * 3 + [HOSTILE] * 2,
    )  # best single: a, of HOSTILE: b
    how = {
        "bench": "bench",
        "tasks": kinds,
        "languages": ["en"] * 20,
        "train": train,
        "train_tasks": of_train,
    }
    site.build([entries.entry(of_test, [0] * 20, **how)], tmp_path / "site")
    page = tmp_path / "site" / "benchmarks" / "bench.html"
    text = page.read_text("utf-8")
    assert HOSTILE not in text and HOSTILE in Page(page).text
    rows = text[text.index('id="tasks"') : text.index('id="models"')].split("<tr>")
    # On maths a is right on 5 of 10, on the other task b on all 10; so best per task has 3 of 4, and a, the router, 1 of 4.
    (hostile, maths), (german,) = rows[2:4], rows[5:]
    for row, shown in (
        (hostile, ["0.00", "0.00", "100.00", "100.00"]),
        (maths, ["50.00", "50.00", "50.00", "100.00"]),
    ):
        assert re.findall(r">([0-9]+\.[0-9]{2})<", row) == shown
    assert "accuracy is 75.00 %, the best router's 25.00 %" in text and "the router closes -200.0 %" in text
    assert ">en<" in german and ">20<" in german and ">25.00<" in german
    assert 'id="tasks"' not in (built / "benchmarks" / "one.html").read_text()


def test_a_subset_is_marked_wherever_it_stands(built):
    assert "Subset." in Page(built / "benchmarks" / "part.html").text
    assert "Subset." not in Page(built / "benchmarks" / "one.html").text
    for path, least in {"index.html": 1, "results.html": 2, "routers/good.html": 3}.items():
        assert len([s for s in Page(built / path).of("span") if s.get("class") == "badge"]) >= least, path
    assert "part (subset)" in Page(built / "index.html").text


def test_an_unranked_result_is_listed_with_the_reason_and_on_no_board(built):
    assert "hasty" not in Page(built / "benchmarks" / "one.html").text
    for path in ("results.html", "routers/hasty.html"):
        (cell,) = (td for td in Page(built / path).of("td") if "protocol quick" in td.get("title", ""))
        assert cell["class"] == "small"
    assert "protocol quick: only paper is ranked" in (built / "results.csv").read_text()


def test_the_downloads_are_the_boards(built):
    boards = ranking.boards(some_entries())
    large, mini, part = boards
    for board, name in ((large, "one-large"), (mini, "one-mini"), (part, "part-mini")):
        expected = sheets.to_csv(board_sheet(board))
        assert (built / "benchmarks" / f"{name}.csv").read_text() == expected
    lines = (built / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + len(some_entries())


def test_what_a_stranger_writes_is_text(tmp_path):
    named = method(title=HOSTILE, family=f"{HOSTILE} & 'more'", paper="javascript:alert(1)", licence=HOSTILE,
                   fidelity=(f"<img src=x onerror=alert(1)> {HOSTILE}",))  # fmt: skip
    models = (f"</script>{HOSTILE}", '"><b onclick=alert(1)>')
    one = entries.entry(LABELS, BEST, bench="../../up", router=HOSTILE, encoder='"><i>', costs=[0.002, 0.001],
                        method=named, models=models,
                        variant_name="<u>k=1</u>", device="<s>")  # fmt: skip
    other = entries.entry(LABELS, A, bench="../../up", router="..", encoder='"><i>', costs=[0.002, 0.001],
                          models=models)  # fmt: skip
    folder = tmp_path / "inner" / "site"
    site.build([one, other], folder)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]  # "../../up" leads nowhere
    for path, page in pages(folder).items():
        assert not {"img", "b", "i", "u", "s"} & {tag for tag, _ in page.tags}, path
        assert all("src" in a or a.get("type") == "application/json" for a in page.of("script")), path
        assert not any(a.get("href", "").startswith("javascript") for a in page.of("a")), path
    router = next(page for path, page in pages(folder).items() if "alert" in path.name)
    assert HOSTILE in router.text and "<img src=x onerror=alert(1)>" in router.text


def test_equal_results_give_equal_pages_and_a_site_is_replaced(built, tmp_path):
    again = tmp_path / "site"
    site.build(some_entries(), again)
    files = sorted(path.relative_to(built) for path in built.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((built / file).read_bytes() == (again / file).read_bytes() for file in files)
    site.build(some_entries()[:2], again)
    assert not (again / "benchmarks" / "part.html").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_a_folder_that_is_no_site_is_left_alone(tmp_path):
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(UsageError, match="is not replaced"):
        site.build(some_entries(), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not replaced"):
        site.build(some_entries(), tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "index.html"]


def test_without_the_extra_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh", None)
    monkeypatch.delitem(sys.modules, "rph.board.site.plots", raising=False)
    monkeypatch.delattr(site, "plots", raising=False)
    with pytest.raises(UsageError, match=r"\[site\]"):
        site.build(some_entries(), tmp_path / "site")
    assert not list(tmp_path.iterdir())


def test_nothing_but_unranked_results_still_gives_pages(tmp_path):
    site.build(some_entries()[-1:], tmp_path / "site")
    assert "not ranked" in Page(tmp_path / "site" / "results.html").text


def test_two_releases_of_a_benchmark_have_two_pages(tmp_path):
    changed = LABELS.copy()
    changed[0] = [0, 0]
    both = [entries.entry(labels, A, bench="one") for labels in (LABELS, changed)]
    found = site.build(both, tmp_path / "site").benchmarks
    assert len({benchmark.path for benchmark in found}) == 2
    assert {benchmark.name for benchmark in found} == {
        f"one ({e.result.bench_fingerprint[:8]})" for e in both
    }


@given(st.lists(st.text(max_size=80), max_size=8))
def test_file_names_are_safe_and_never_collide(names):
    found = views.slugs(names)
    assert set(found) == set(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,69}", slug) for slug in found.values())
    assert len({slug.lower() for slug in found.values()}) == len(found)


def test_file_names_stay_readable_and_differ_where_case_does_not_count():
    assert views.slugs(["knn", "qwen2.5-0.5b"]) == {"knn": "knn", "qwen2.5-0.5b": "qwen2.5-0.5b"}
    upper, lower = views.slugs(["KNN", "knn"]).values()
    assert upper == "KNN" and lower.startswith("knn-")


def test_values_are_printed_for_reading():
    percent, tenths = views.FORMATS["percent"], views.FORMATS["tenths"]
    assert (percent(0.61497), tenths(0.1652), percent(None)) == ("61.50", "16.5", "n/a")
    assert tenths(-1.2e-15) == "0.0"  # not -0.0
    assert [views.dollars(v) for v in (0.0050006, 0.000417, 1.25, 0.0, None)] == ["5.00", "0.417", "1,250.00", "0", "n/a"]  # fmt: skip
    assert views.paper_url("arXiv:2606.07587") == "https://arxiv.org/abs/2606.07587"
    assert views.paper_url("arXiv:2606.07587 onload=x") is None and views.paper_url("https://evil") is None


def test_a_scale_places_values_between_its_ends():
    scale = views.Scale(0.5, 0.7)
    assert (scale.at(0.5), scale.at(0.55), scale.at(0.7)) == ("0.00%", "25.00%", "100.00%")
    assert scale.holds(0.6) and not scale.holds(0.8) and not scale.holds(None)


def test_a_histogram_of_a_large_pool_adds_up_the_small_models():
    shares = {f"m{i:02}": (20 - i) / 210 for i in range(20)}
    bars = views._bars(shares, [1 / 20] * 20)
    assert len(bars) == views.MODELS_SHOWN + 1 and bars[-1].model == "the other 4 models"
    assert sum(bar.selected for bar in bars) == pytest.approx(1)
    assert bars[-1].mass == pytest.approx(4 / 20)
    assert [bar.model for bar in views._bars({"a": 0.0, "b": 1.0}, None)] == ["b", "a"]


def test_the_committed_results_build_from_the_command_line(tmp_path):
    rph = shutil.which("rph", path=str(sys.executable).rsplit("/", 1)[0])
    command = [rph, "leaderboard", "build", "leaderboard/results", "-o", str(tmp_path / "site")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "result(s)" in run.stdout and (tmp_path / "site" / "index.html").is_file()
    refused = subprocess.run(
        [*command[:3], str(tmp_path), *command[4:]], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2 and "no result files under" in refused.stderr
