"""A browser and a site to open in it. Without a browser, or without playwright, these tests skip and say so."""

import contextlib
import shutil

import numpy as np
import pytest
from tests import entries, moments

from rph.board import site
from rph.results import cell

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "<img src=x onerror=alert(1)>"
FAMILIES = ("trees", "ranking", "neighbours & friends")


def some_entries():
    """Six routers of three families on two benchmarks, one of them a subset with costs; two encoders."""
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 3)) < [0.7, 0.6, 0.5]).astype(float)
    found = []
    for bench, costs, subset in (("plain", None, ""), ("priced", [0.004, 0.002, 0.001], "a tenth of it")):
        for encoder in ("mini", "large"):
            for i in range(6):
                best = labels.argmax(axis=1)
                routes = [np.where(rng.random(60) < 0.15 * i, best, 0) for _ in range(2)]
                name = HOSTILE if i == 5 else f"router-{i}"
                method = cell.Method(title=f"title {i}", paper="arXiv:2606.07587", year=2020 + i, licence="MIT",
                                        family=FAMILIES[i % 3], calibrated=True, fidelity=(HOSTILE,))  # fmt: skip
                found.append(
                    entries.entry(
                        labels,
                        routes,
                        bench=bench,
                        router=name,
                        encoder=encoder,
                        costs=costs,
                        subset=subset,
                        method=method,
                    )
                )
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The built site, as the address of its folder: every page is opened as a file."""
    out = tmp_path_factory.mktemp("browser") / "site"
    site.build(some_entries(), out)
    return out.as_uri()


@pytest.fixture(scope="session")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium is installed: see .ci/browser")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=BROWSER,
            args=["--headless=new", "--no-sandbox"],
            timeout=1000 * moments.PATIENCE,
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, folder):
    """visit(path, width=..., ...) opens a page. At the end no page may have complained on its console or asked the network."""
    complaints, asked = [], []
    with contextlib.ExitStack() as stack:

        def call(path, *, width=1280, height=900, **options):
            context = chromium.new_context(viewport={"width": width, "height": height}, **options)
            stack.callback(context.close)
            context.set_default_timeout(1000 * moments.PATIENCE)  # playwright's own patience is 30 s
            page = context.new_page()
            page.on(
                "console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None
            )
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("dialog", lambda dialog: complaints.append(dialog.message))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"{folder}/{path}")
            return page

        yield call
        assert not complaints
        assert [url for url in asked if not url.startswith(("file://", "data:", "blob:"))] == []
