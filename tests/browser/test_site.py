"""The site in a browser, from a folder: sorting, filtering, themes, a phone, plots, and names that would be markup."""

import pytest

HOSTILE = "<img src=x onerror=alert(1)>"
PLAIN, PRICED = "benchmarks/plain.html", "benchmarks/priced.html"
PAGES = ["index.html", "results.html", "methods.html", PLAIN, PRICED, "routers/router-1.html"]
SHOWN = "section:not([hidden]) tbody.ranked tr:not([hidden])"


def column(page, name, rows=SHOWN):
    """The texts of a column of the shown board, top to bottom."""
    heads = page.locator("section:not([hidden]) table.sortable").first.locator("thead th").all_inner_texts()
    place = next(i for i, text in enumerate(heads) if text.strip() == name)
    return [row.locator("> *").nth(place).inner_text() for row in page.locator(rows).all()]


def accuracies(page):
    return [float(text.split()[0]) for text in column(page, "Accuracy")]


def click(page, name):
    page.locator("section:not([hidden]) thead button", has_text=name).first.click()


def sorted_by(page):
    return page.locator("section:not([hidden]) table.sortable th[aria-sort]").first.evaluate(
        "th => [th.innerText.trim(), th.getAttribute('aria-sort')]"
    )


def test_a_heading_sorts_and_says_so_and_the_fixed_rows_stay(visit):
    page = visit(PLAIN)
    ranked = accuracies(page)
    assert ranked == sorted(ranked, reverse=True) and len(set(ranked)) > 2
    assert sorted_by(page) == ["Rank", "ascending"]
    click(page, "Accuracy")
    assert accuracies(page) == ranked and sorted_by(page) == ["Accuracy", "descending"]
    click(page, "Accuracy")
    assert accuracies(page) == ranked[::-1] and sorted_by(page) == ["Accuracy", "ascending"]
    click(page, "Router")
    assert column(page, "Router") == sorted(column(page, "Router"))
    fixed = page.locator("section:not([hidden]) tbody.reference th").all_inner_texts()
    assert fixed == ["oracle", "best single", "random"]


def test_the_keyboard_sorts(visit):
    page = visit(PLAIN)
    page.locator("section:not([hidden]) thead button", has_text="Accuracy").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert sorted_by(page) == ["Accuracy", "ascending"]


def test_filters_hide_rows_and_stand_in_the_address(visit, folder):
    page = visit(PLAIN)
    page.get_by_label("Family", exact=True).select_option("trees")
    assert sorted(column(page, "Router")) == ["router-0", "router-3"]
    assert page.get_by_role("status").inner_text() == "2 of 6 routers"
    click(page, "Accuracy")
    page.get_by_label("Encoder", exact=True).select_option("mini")
    assert page.url.endswith("#family=trees&sort=accuracy&down=1&encoder=mini")
    again = visit(page.url.removeprefix(f"{folder}/"))
    assert column(again, "Router") == column(page, "Router")
    assert again.get_by_label("Family", exact=True).input_value() == "trees"
    assert again.locator("section:not([hidden])").get_attribute("data-encoder") == "mini"
    again.get_by_label("Family", exact=True).select_option("")
    again.get_by_label("Encoder", exact=True).select_option("large")
    assert again.url.endswith("#sort=accuracy&down=1") and len(column(again, "Router")) == 6


def test_a_search_finds_part_of_a_name(visit):
    page = visit("results.html")
    page.get_by_label("Router", exact=True).fill("ROUTER-3")
    assert page.get_by_role("status").inner_text() == "4 of 24 results"
    page.get_by_label("Benchmark", exact=True).select_option("priced")
    page.get_by_label("Encoder", exact=True).select_option("large")
    assert page.get_by_role("status").inner_text() == "1 of 24 results"


def test_an_address_with_a_filter_that_does_not_exist_shows_everything(visit):
    page = visit(f"{PLAIN}#family=nonsense&sort=nonsense&encoder=mini")
    assert len(column(page, "Router")) == 6 and sorted_by(page) == ["Rank", "ascending"]


def test_a_link_into_the_page_keeps_the_filter(visit):
    page = visit(f"{PLAIN}#family=trees")
    page.evaluate("location.hash = 'models'")
    page.wait_for_timeout(50)
    assert len(column(page, "Router")) == 2


def test_from_the_overall_board_to_a_router_to_its_board(visit):
    page = visit("index.html")
    page.get_by_role("link", name="router-1").first.click()
    assert page.locator("h1").inner_text() == "router-1"
    assert "How it differs from its paper" in page.locator("main").inner_text()
    page.locator("#results + div").get_by_role("link", name="priced").first.click()
    page.wait_for_load_state()
    assert page.locator("h1").inner_text().startswith("priced")
    assert page.locator("section:not([hidden])").get_attribute("data-encoder") == "large"
    assert "Subset." in page.locator("main").inner_text()


def test_a_histogram_opens(visit):
    page = visit("routers/router-1.html")
    last = page.locator("details").last
    assert not last.locator("table").first.is_visible()
    last.locator("summary").click()
    assert last.locator("table").first.is_visible()
    assert "Hard queries" in last.inner_text()


@pytest.mark.parametrize("path", PAGES)
def test_what_a_stranger_named_is_text(visit, path):
    page = visit(path)
    page.wait_for_timeout(100)
    assert page.locator("img").count() == 0
    if path not in ("methods.html", "routers/router-1.html"):
        assert HOSTILE in page.locator("tbody.ranked").first.inner_text()


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_never_scrolls_the_page_sideways(visit, path):
    page = visit(path, width=380, height=800, has_touch=True)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    sizes = page.evaluate(
        "[...document.querySelectorAll('main p')].map(p => parseFloat(getComputedStyle(p).fontSize))"
    )
    assert min(sizes) >= 12


def background(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_is_the_systems_until_one_is_chosen(visit):
    assert background(visit(PLAIN, color_scheme="light")) == "rgb(255, 255, 255)"
    page = visit(PLAIN, color_scheme="dark")
    dark = background(page)
    assert dark != "rgb(255, 255, 255)"
    page.locator("#theme").click()
    assert background(page) == "rgb(255, 255, 255)"
    page.reload()
    assert background(page) == "rgb(255, 255, 255)"  # kept
    page.locator("#theme").click()
    assert background(page) == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", [PLAIN, PRICED, "routers/router-1.html", "methods.html"])
def test_texts_have_the_contrast_that_wcag_asks_for(visit, path, scheme):
    """4.5 to 1 (WCAG 2.1, 1.4.3), for every text on the ground that it stands on."""
    page = visit(path, color_scheme=scheme)
    worst = page.evaluate("""() => {
      const parse = text => text.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      const ground = element => {
        for (; element; element = element.parentElement) {
          const colour = parse(getComputedStyle(element).backgroundColor);
          if (colour.length < 4 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
      };
      let worst = [99, ""];
      for (const element of document.querySelectorAll("main *, header *, footer *")) {
        const text = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
        if (!text || element.closest(".plot, script, noscript, option") || !element.offsetParent) continue;
        const [a, b] = [parse(getComputedStyle(element).color), ground(element)].map(light);
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < worst[0]) worst = [ratio, element.outerHTML.slice(0, 120)];
      }
      return worst;
    }""")
    assert 4.5 <= worst[0] < 99, worst


@pytest.mark.parametrize("path", [PLAIN, PRICED])
def test_a_plot_is_drawn_once_its_board_is_shown_and_follows_the_theme(visit, path):
    page = visit(path, color_scheme="light")
    page.wait_for_selector("section:not([hidden]) .plot .bk-Figure")
    assert page.locator("section[hidden] .plot .bk-Figure").count() == 0

    def axis():
        return page.evaluate("Bokeh.documents[0].roots()[0].below[0].major_label_text_color")

    before = axis()
    page.locator("#theme").click()
    assert axis() != before
    page.get_by_label("Encoder", exact=True).select_option("mini")
    page.wait_for_selector("section[data-encoder=mini] .plot .bk-Figure")
    assert page.evaluate("Bokeh.documents.length") == 2


def test_a_board_can_be_downloaded(visit, folder):
    page = visit(PLAIN)
    with page.expect_download() as started:
        page.locator("section:not([hidden]) caption a").click()
    assert started.value.suggested_filename == "plain-large.csv"
    assert started.value.path().read_text().startswith("#,tier,router,accuracy")


def test_without_scripts_everything_is_there_but_the_plot(visit):
    page = visit(PLAIN, java_script_enabled=False)
    assert page.locator("tbody.ranked tr").count() == 12 + 3  # two encoders, and the models
    assert page.locator(".controls").is_hidden() and page.locator("#theme").is_hidden()
    assert "The plot needs JavaScript" in page.locator("main").inner_text()


def test_the_first_sort_of_a_board_takes_less_than_a_tenth_of_a_second(visit):
    times = []
    for _ in range(3):  # the best of three: other processes have the cores too
        page = visit(f"{PRICED}#encoder=mini")
        page.wait_for_selector("section:not([hidden]) .plot .bk-Figure")
        times.append(
            page.evaluate("""() => {
              // As many rows on each of the boards as there are methods.
              for (const body of document.querySelectorAll("section tbody.ranked")) {
                const rows = [...body.rows];
                while (body.rows.length < 21) body.append(rows[body.rows.length % rows.length].cloneNode(true));
              }
              document.body.offsetHeight;
              const start = performance.now();
              document.querySelector("section:not([hidden]) th[data-key=accuracy] button").click();
              document.body.offsetHeight; // the layout too
              return (performance.now() - start) / 1000;
            }""")
        )
        assert sorted_by(page) == ["Accuracy", "descending"]
    assert min(times) < 0.1
