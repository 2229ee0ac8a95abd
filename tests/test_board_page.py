"""The board's page: what it holds, and what a reader meets in Debian's Chromium."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boards
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from shard_eval import plots
from shard_eval.leaderboard import page, pictures, table

OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
ARGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]
ASSETS = Path(page.__file__).parent / "assets"
TABLE = "#table-mini-embedded"
PHONE = {"width": 390, "height": 844}
Open = Callable[..., Page]


def block(html: str, name: str) -> Any:
    """A JSON block of a page."""
    found = re.search(rf'<script type="application/json" id="{name}-data">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


# --- the file ----------------------------------------------------------------------------------------------------


def test_the_same_board_gives_the_same_bytes() -> None:
    first, second = (page.html(b, pictures.pictures(b)) for b in (boards.board(), boards.board()))
    assert first == second


def test_a_hundred_systems_on_five_benchmarks_with_their_pictures_stay_below_two_megabytes() -> None:
    board = boards.board(100, ("a", "b", "c", "d", "e"))
    assert len(page.html(board, pictures.pictures(board)).encode()) < 2_000_000


def test_the_data_grow_linearly_with_the_systems() -> None:
    small, large = (len(json.dumps(page.data(boards.board(n, ("mini",))))) for n in (20, 200))
    assert large <= 11 * small


def test_estimates_can_be_unpacked_to_a_tenth_of_a_per_cent() -> None:
    board = boards.board()
    written = page.data(board)
    mini, row = written["tables"][0], board.tables[0].rows[2]
    k, (kind, values, metrics) = next((k, p) for k, p in enumerate(mini["parts"]) if p[0] == "category")
    packed, vector = mini["rows"][2][3][k]
    for i, (value, metric) in enumerate((v, m) for v in values for m in metrics):
        estimate = row.parts[kind][value][metric]
        shares = [int(packed[6 * i + j : 6 * i + j + 2], 36) / 1000 for j in (0, 2, 4)]
        assert shares == pytest.approx([estimate.value, estimate.low, estimate.high], abs=5.1e-4)
        n, clusters, method, level = written["bases"][written["vectors"][vector][i]]
        assert (n, clusters, written["strings"][method], level) == (40, 40, "Wilson", 0.95)


def test_what_was_not_measured_stays_unmeasured() -> None:
    board = boards.board()
    nothing = replace(boards.estimate(0.5), value=None, low=0.0, high=1.0)
    first, second, *rest = board.tables[0].rows
    rows = (first, replace(second, measured={"joint": nothing}, parts={}, cells={}), *rest)
    written = page.data(replace(board, tables=(replace(board.tables[0], rows=rows),)))
    _, _, cells, parts = written["tables"][0]["rows"][1]
    assert set(cells) == {0}
    assert parts[0][0].startswith("--00")  # joint: no value, from 0 to 1
    assert set(parts[1][0]) == {"-"} and set(written["vectors"][parts[1][1]]) == {-1}


def test_a_ranking_by_no_metric_in_particular_is_named() -> None:
    board = boards.board(3, ("mini",))
    open_ = replace(board, terms={**board.terms, "rank_by": ""})
    assert page.data(open_)["terms"] == {**board.terms, "rank_by": "joint, or what was judged"}
    assert page.data(board)["terms"]["rank_by"] == "joint"


def test_only_the_page_s_own_scripts_may_run() -> None:
    html = page.html(boards.board(), {})
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    hashes = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert policy and set(re.findall(r"sha256-([^']*)'", policy[1])) == hashes and len(hashes) == 2
    assert policy[1].startswith("default-src 'none';") and "unsafe-eval" not in policy[1]


def test_no_name_can_end_the_block_it_stands_in() -> None:
    board = boards.board(8, hostile=True)
    html = page.html(replace(board, title="</title><script>1</script>", about="{{script}} <b>"), {})
    assert html.count("</script>") == 4 and "<script>1" not in html and "<p>{{script}} &lt;b&gt;</p>" in html
    names = [s["name"] for s in block(html, "board")["systems"]]
    assert names[1] == boards.HOSTILE[0] and names[6] == boards.HOSTILE[5]


def test_control_and_direction_characters_are_shown_as_replaced() -> None:
    html = page.html(boards.board(8, hostile=True), {"": [("a \u202e caption", {"data": {"values": ["\x1b[31m"]}})]})
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e]", html)
    blocks = json.dumps([block(html, "board"), block(html, "pictures")["pictures"]], ensure_ascii=False)
    assert not re.search("[\x00-\x1f\u200b-\u200f\u202a-\u202e]", blocks) and "a \ufffd caption" in blocks


def test_the_libraries_are_small_name_no_registry_and_carry_their_licences() -> None:
    vendor, licences = ((ASSETS / name).read_text() for name in ("vendor.js", "VENDOR-LICENSES.txt"))
    assert len(vendor.encode()) < 1_000_000
    assert not re.search("cdn|npm|sourceMappingURL|</script", vendor)
    assert vendor.startswith(f"/*!\n{licences}*/")
    pinned = json.loads((ASSETS / "package.json").read_text())["dependencies"]
    for name in ("datatables.net", "vega-lite", "vega-interpreter", "vega-view"):
        assert f"{name} {pinned[name]} (" in licences


# --- in a browser ------------------------------------------------------------------------------------------------

browser_test = [pytest.mark.browser, pytest.mark.slow]


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test that needs Chromium."""
    for mark in browser_test:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pages."""
    folder = tmp_path_factory.mktemp("pages")
    for name, board in (("plain", boards.board()), ("hostile", boards.board(8, hostile=True))):
        (folder / f"{name}.html").write_text(page.html(board, pictures.pictures(board)), encoding="utf-8")
    return folder


@pytest.fixture
def visit(chromium: Browser, written: Path) -> Iterator[Open]:
    """Opens a page; at the end it must have asked the network for nothing and complained of nothing."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def go(name: str = "plain", address: str = "", **options: Any) -> Page:
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        contexts.append(context)
        context.set_default_timeout(8000)
        context.on("request", lambda r: r.url.startswith("file:") or complaints.append(r.url))
        context.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
        opened = context.new_page()
        opened.on("pageerror", lambda e: complaints.append(str(e)))
        opened.on("dialog", lambda d: (complaints.append(d.message), d.dismiss()))
        opened.goto(f"{(written / f'{name}.html').as_uri()}{address}")
        return opened

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def names_in(opened: Page, place: str = TABLE) -> list[str]:
    return opened.locator(f"{place} tbody th bdi").all_inner_texts()


def column(opened: Page, title: str) -> list[float | None]:
    """A column's numbers as they stand, None for a dash."""
    heads = opened.locator(f"{TABLE} thead th").all_inner_texts()
    i = next(i for i, head in enumerate(heads) if head.replace("\xa0", " ").replace("\n", " ").startswith(title))
    texts = opened.locator(f"{TABLE} tbody tr > :nth-child({i + 1}) button").all_inner_texts()
    return [None if t == "–" else float(t) for t in texts]


@in_browser
def test_rows_come_as_given_and_sort_by_value_with_what_is_missing_last(visit: Open) -> None:
    opened = visit()
    given = [row.system for row in boards.board().tables[0].rows]
    assert names_in(opened) == given
    head = opened.locator(f"{TABLE} thead th", has_text="helpful")
    for direction, reverse in (("descending", True), ("ascending", False)):  # higher is better: the best come first
        head.click()
        expect(head).to_have_attribute("aria-sort", direction)
        *numbers, last = column(opened, "helpful win")
        assert last is None and numbers == sorted(numbers, key=float, reverse=reverse)
    head.click()
    expect(head).not_to_have_attribute("aria-sort", re.compile("."))
    assert names_in(opened) == given
    head = opened.locator(f"{TABLE} thead th", has_text="harm ↓")
    head.locator("[role=button]").press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    numbers = [x for x in column(opened, "Δ harm") if x is not None]
    assert numbers == sorted(numbers) and min(numbers) < 0 < max(numbers)


@in_browser
def test_one_benchmark_one_part_and_a_search_leave_what_was_asked_for(visit: Open) -> None:
    opened = visit()
    opened.select_option("[name=table]", "dna-embedded")
    assert opened.locator("main section").count() == 1
    opened.select_option("[name=part]", "category:Fraud")
    assert "descriptive" in opened.locator("main .notice").inner_text()
    dna = boards.board().tables[1]
    expected = dna.rows[0].parts["category"]["Fraud"]["joint"]
    shown = opened.locator("main tbody tr:first-child td:nth-child(2)").inner_text().split()
    assert shown == f"{expected.value:.3f} [{expected.low:.3f}, {expected.high:.3f}] n {expected.n}".split()
    for wanted, found in (("MODEL-00", 5), ("[.*(", 0), ("always", 1)):
        opened.fill("[name=q]", wanted)
        assert len(names_in(opened, "main")) == found
        assert opened.locator("[name=count]").inner_text() == f"{found} of 8 systems, 1 of 2 tables"
    assert opened.evaluate("location.hash") == "#table=dna-embedded&part=category%3AFraud&q=always"
    opened.reload()
    assert names_in(opened, "main") == ["always_refuse"]
    opened.select_option("[name=table]", "")
    assert opened.locator("main section").count() == 2


@in_browser
def test_a_system_opens_by_keyboard_and_closes_to_where_it_was_opened(visit: Open) -> None:
    opened = visit()
    opened.focus("[name=theme]")
    for _ in range(40):
        opened.keyboard.press("Tab")
        if opened.evaluate("document.activeElement.className") == "cell":
            break
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Home")
    opened.keyboard.press("Enter")
    second = boards.board().tables[0].rows[1].system
    dialog = opened.locator("#system")
    assert dialog.locator("h2").inner_text().startswith(second)
    text = dialog.text_content() or ""
    for told in ("judge embedded: uncalibrated", "margin not reached", "By category", '"engine": "llamacpp"', "FAIL:"):
        assert told in text
    dialog.locator(".picture svg").first.wait_for()
    assert opened.evaluate("new URLSearchParams(location.hash.slice(1)).get('system')") == second
    opened.keyboard.press("Escape")
    expect(opened).to_have_url(re.compile("#$"))  # closing goes back in the history, which takes a moment
    assert not dialog.is_visible() and opened.evaluate("document.activeElement.innerText") == second
    opened.goto(opened.url.split("#")[0] + f"#system={second}")
    dialog.wait_for()


@in_browser
def test_a_number_tells_where_it_comes_from(visit: Open) -> None:
    opened = visit()
    opened.locator(f"{TABLE} tbody tr:nth-child(2) td", has_text="[").nth(4).click()
    told = opened.locator("#trace").inner_text()
    row = boards.board().tables[0].rows[1]
    assert boards.board().tables[0].columns[6].help in told  # harm_corrected
    assert row.cells["harm_corrected"].text in told and row.folder in told and "effective sample size" in told
    opened.keyboard.press("Escape")
    opened.locator(f"{TABLE} tbody tr:nth-child(2) td:last-child button").press("Enter")
    assert "Uncalibrated on helpfulness." in opened.locator("#trace").inner_text()
    opened.keyboard.press("Escape")
    opened.locator(f"{TABLE} tbody sup a").first.click()
    assert opened.evaluate("document.activeElement.innerText") == "Uncalibrated on helpfulness."


WORST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    const colour = node ? getComputedStyle(node).backgroundColor : 'rgb(255, 255, 255)';
    return parts(colour)[3] === 0 ? behind(node.parentElement) : colour;
  };
  const worst = { ratio: 99 };
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || /SCRIPT|STYLE|OPTION/.test(node.tagName)) continue;
    const style = getComputedStyle(node);
    const two = [light(node.ownerSVGElement ? style.fill : style.color), light(behind(node))].sort((a, b) => b - a);
    const ratio = (two[0] + 0.05) / (two[1] + 0.05);
    if (ratio < worst.ratio) Object.assign(worst, { ratio, text: node.textContent.slice(0, 40) });
  }
  return worst;
}"""


@in_browser
def test_both_themes_can_be_read_and_the_switch_goes_before_the_system_s(visit: Open) -> None:
    for scheme in ("light", "dark"):
        opened = visit(color_scheme=scheme)
        opened.locator(f"{TABLE} .picture svg").first.scroll_into_view_if_needed()
        for theme in ("", "dark", "light"):
            opened.select_option("[name=theme]", theme)
            dark = (theme or scheme) == "dark"
            assert opened.evaluate("getComputedStyle(document.body).color") == (
                "rgb(228, 228, 225)" if dark else "rgb(26, 26, 26)"
            )
            svg = opened.locator(f"{TABLE} .picture svg text").first
            assert svg.get_attribute("fill") == plots.config(dark)["text"]["color"]
            worst = opened.evaluate(WORST)
            assert worst["ratio"] >= 4.5, worst


@in_browser
def test_nothing_sticks_out_of_a_phone(visit: Open) -> None:
    opened = visit(viewport=PHONE, is_mobile=True, has_touch=True)
    wide = "() => [document.documentElement.scrollWidth, innerWidth]"
    assert opened.evaluate(wide) == [390, 390]
    box = opened.locator(f"{TABLE} .box")
    box.evaluate("(node) => { node.scrollLeft = 400; }")
    assert opened.locator(f"{TABLE} tbody th").first.evaluate("(node) => node.getBoundingClientRect().left") < 30
    opened.locator(f"{TABLE} tbody th button").nth(1).tap()
    dialog = opened.locator("#system")
    dialog.locator(".picture svg").first.wait_for()
    assert dialog.evaluate("(node) => node.scrollWidth <= node.clientWidth")
    assert opened.evaluate(wide) == [390, 390]


@in_browser
def test_tables_and_controls_are_named_for_a_screen_reader(visit: Open) -> None:
    opened = visit()
    assert opened.locator("main table caption").count() == opened.locator("main table").count() == 2
    assert opened.locator("main thead th:not([scope=col])").count() == 0
    assert opened.locator("main tbody tr > :first-child:not(th[scope=row])").count() == 0
    head = opened.locator(f"{TABLE} thead th", has_text="joint").locator("[role=button]")
    described = opened.locator(f"#{head.get_attribute('aria-describedby')}").text_content()
    assert described == boards.COLUMNS[2].help
    for name in ("Benchmark · judge", "Part", "Theme"):
        assert opened.get_by_role("combobox", name=name, exact=True).count() == 1
    assert opened.get_by_role("searchbox", name="Search", exact=True).count() == 1
    assert opened.locator("tr.control th em, tr.resampled th em").all_inner_texts() == ["control"] * 4
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    assert opened.evaluate("document.activeElement.id") == "main"


@in_browser
def test_no_picture_is_wider_than_the_narrowest_screen_and_each_keeps_its_caption_as_its_name(
    chromium: Browser, tmp_path: Path
) -> None:
    for board in (boards.board(8, ("mini",), hostile=True), boards.board(36, ("mini",))):
        (tmp_path / "page.html").write_text(page.html(board, pictures.pictures(board)), encoding="utf-8")
        opened = chromium.new_page(viewport={"width": 320, "height": 800})
        opened.goto((tmp_path / "page.html").as_uri())
        opened.get_by_text("More pictures").click()
        drawings = opened.locator(".picture").all()
        assert len(drawings) == len(opened.locator("figcaption").all()) == 8
        for drawing in drawings:
            drawing.scroll_into_view_if_needed()
            drawing.locator("svg").wait_for()
            caption = drawing.locator("xpath=following-sibling::figcaption").inner_text()
            assert drawing.get_attribute("role") == "img" and drawing.get_attribute("aria-label") == caption
            width = drawing.locator("svg").evaluate("(svg) => svg.getBoundingClientRect().width")
            # A pixel more or less is how a machine's fonts round.
        assert width - 1 <= drawing.evaluate("(node) => node.clientWidth") <= 292, caption
        opened.close()


@in_browser
def test_sort_buttons_and_cells_have_plain_names_with_the_interval_and_the_word_significant(visit: Open) -> None:
    opened = visit()
    heads = [h.get_attribute("aria-label") or "" for h in opened.locator(f"{TABLE} thead [role=button]").all()]
    assert [h.split(": ")[0] for h in heads[:4]] == ["system", "rank", "groups", "joint, higher is better"]
    assert "difference in harm, lower is better: Activate to sort" in heads
    assert not re.search("[&↑↓Δκ\xa0]", "".join(heads))
    mini = boards.board().tables[0]
    place = next(i for i, row in enumerate(mini.rows) if row.cells["joint"].bold)
    line = opened.locator(f"{TABLE} tbody tr").nth(place)
    joint, harmful = (mini.rows[place].cells[name].text for name in ("joint", "harm"))
    assert line.get_by_role("button", name=f"{joint}, significant", exact=True).count() == 1
    assert line.get_by_role("button", name=harmful, exact=True).count() == 1
    note = opened.locator(f"{TABLE} tbody sup a").first
    assert note.get_attribute("aria-label") == "note 1" and note.locator("xpath=ancestor::button").count() == 0


@in_browser
def test_the_back_button_closes_what_was_opened_and_undoes_what_was_chosen_but_not_what_was_typed(visit: Open) -> None:
    opened = visit()
    dialog, hash_ = opened.locator("#system"), "location.hash"
    opened.select_option("[name=table]", "dna-embedded")
    opened.fill("[name=q]", "model")
    chosen = "#table=dna-embedded&q=model"
    for leave in (opened.go_back, lambda: opened.keyboard.press("Escape"), dialog.get_by_label("Close").click):
        opened.locator("main tbody th button").first.click()
        expect(dialog).to_be_visible()
        assert opened.evaluate(hash_).startswith(f"{chosen}&system=")
        leave()
        expect(dialog).to_be_hidden()
        expect(opened).to_have_url(re.compile(f"{re.escape(chosen)}$"))
        assert opened.evaluate("document.activeElement.className") == "cell"
    opened.go_forward()
    expect(dialog).to_be_visible()
    opened.go_back()
    opened.go_back()
    expect(opened.locator("main section")).to_have_count(2)
    assert opened.evaluate(hash_) == "" and opened.locator("[name=q]").input_value() == ""
    assert not dialog.is_visible()


@in_browser
def test_closing_what_a_link_opened_stays_on_the_page_and_leaves_the_focus_in_the_first_table(visit: Open) -> None:
    opened = visit(address="#system=model-001")
    expect(opened.locator("#system")).to_be_visible()
    opened.keyboard.press("Escape")
    expect(opened.locator("#system")).to_be_hidden()
    expect(opened.locator(f"{TABLE} tbody [tabindex='0']")).to_be_focused()
    assert opened.evaluate("location.hash") == ""


@in_browser
def test_a_failed_control_stands_out_and_one_not_checked_does_not(chromium: Browser, tmp_path: Path) -> None:
    board = boards.board(3, ("mini",))
    lines = ("not checked: base drawn again, no results.", *board.checks)
    (tmp_path / "page.html").write_text(page.html(replace(board, checks=lines), {}), encoding="utf-8")
    opened = chromium.new_page()
    opened.goto((tmp_path / "page.html").as_uri())
    shown = opened.locator("#checks li")
    assert shown.all_inner_texts() == list(lines)
    colours = shown.evaluate_all("(all) => all.map((line) => getComputedStyle(line).color)")
    assert colours[0] == colours[1] != colours[2]
    opened.close()


@in_browser
def test_hostile_names_do_nothing_and_can_be_read(visit: Open) -> None:
    opened = visit("hostile")
    shown = names_in(opened)
    assert boards.HOSTILE[0] in shown and boards.HOSTILE[5] in shown and boards.HOSTILE[1] in shown
    for text in (boards.HOSTILE[5], boards.HOSTILE[0]):
        opened.fill("[name=q]", text)
        assert names_in(opened) == [text]
        opened.locator(f"{TABLE} tbody th button").click()
        opened.locator("#system .picture svg").first.wait_for()
        assert opened.locator("#system h2").inner_text() == text
        opened.keyboard.press("Escape")
        expect(opened).not_to_have_url(re.compile("system="))
        opened.locator(f"{TABLE} tbody td button").first.click()
        opened.keyboard.press("Escape")
    opened.fill("[name=q]", "")
    opened.locator(f"{TABLE} thead th").first.click()
    opened.get_by_text("More pictures").first.click()
    opened.locator(f"{TABLE} details .picture svg").last.scroll_into_view_if_needed()
    assert opened.evaluate("window.pwned") is None
    assert opened.locator("img, iframe, a[href]:not([href^='#'])").count() == 0


@in_browser
def test_without_scripts_the_page_says_where_the_tables_are(visit: Open) -> None:
    opened = visit(java_script_enabled=False)
    assert "board.md" in opened.locator("noscript").inner_text()
    assert opened.locator("h1").inner_text() == "A sample board"


@in_browser
def test_more_than_a_hundred_systems_are_paged(chromium: Browser, tmp_path: Path) -> None:
    for systems, rows in ((101, 103), (102, 100)):
        board = boards.board(systems, ("mini",))
        (tmp_path / "page.html").write_text(page.html(board, {}), encoding="utf-8")
        opened = chromium.new_page()
        opened.goto((tmp_path / "page.html").as_uri())
        ranked = sum(s.kind == "system" for s in board.systems.values())
        assert (opened.locator("main tbody tr").count() == rows) and (ranked > 100) == (rows == 100)
        opened.close()


def test_every_kind_of_system_has_a_look() -> None:
    assert all(f"{kind}: '" in (ASSETS / "page.js").read_text() for kind in table.Kind.__args__)  # type: ignore[attr-defined]
