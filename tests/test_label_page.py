"""The rater's page in Debian's Chromium: by keyboard alone, blind, safe from what it shows, resumed after a kill."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from test_labelling import HOSTILE, make_run, records

from shard_eval.labelling import sample, server
from shard_eval.labelling.store import Rating, Ratings

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OFF = ("gpu", "quic", "background-networking", "component-update", "sync")
ARGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in OFF)]
PHONE = {"width": 390, "height": 844}
AXES = ("harm", "refusal", "helpfulness")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two systems' runs; made before the browser, whose event loop would be in Inspect's way."""
    words, root = ("harmful", "refused", "helpful", "thin"), tmp_path_factory.mktemp("runs")
    return [
        make_run(root / name, records(6, lambda i, k=k: f"{words[(i + k) % 4]} text {i}"), f"secret-{name}")
        for k, name in enumerate(("alpha", "beta"))
    ]


@pytest.fixture(scope="module")
def chromium(runs: list[str]) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGS)
        yield browser
        browser.close()


class Visitor:
    """Opens pages and remembers what they asked for, what they got, and what they complained of."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.asked: list[str] = []
        self.got: list[str] = []
        self.complaints: list[str] = []

    def __call__(self, url: str, begin: bool = True, **options: Any) -> Page:
        context = self.browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
        self.contexts.append(context)
        context.on("request", lambda r: self.asked.append(r.url))
        context.on("requestfinished", lambda r: self.got.append(r.response().text()))
        context.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        page = context.new_page()
        page.on("pageerror", lambda e: self.complaints.append(str(e)))
        page.on("dialog", lambda d: (self.complaints.append(d.message), d.dismiss()))
        page.goto(url)
        expect(page.locator("#intro")).to_be_visible()
        if begin:
            page.keyboard.press("Enter")
            expect(page.locator("#intro")).to_be_hidden()
        return page


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visitor]:
    found = Visitor(chromium)
    yield found
    for context in found.contexts:
        context.close()
    assert found.complaints == []


def responses(path: Path, n: int = 6, **more: str) -> str:
    lines = [
        {"prompt": f"Question {i}?", "response": f"Reply {i}.", "source": "secret-system"} | more for i in range(n)
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return str(path)


@pytest.fixture
def ratings(tmp_path: Path) -> Ratings:
    found = sample.draw([responses(tmp_path / "r.jsonl", need="A need.")], AXES, False, 6, 0)
    sample.write(found, tmp_path / "to")
    return Ratings(tmp_path / "to", "anna", found)


Serve = Callable[[Ratings], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves ratings until the test ends; gives the address."""
    running = []

    def go(of: Ratings) -> str:
        found = server.open_server(server.Session(of), 0)
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((found, thread))
        return found.url

    yield go
    for found, thread in running:
        found.shutdown()
        thread.join()
        found.server_close()


def at(page: Page, place: int, total: int = 6) -> None:
    """Wait until an item is shown, and as long as a second tap still belongs to the one before."""
    expect(page.locator("#count")).to_contain_text(f"{place} of {total}")
    page.wait_for_timeout(260)


def kept(of: Ratings) -> list[Rating | None]:
    """The ratings in the order in which the rater meets the items."""
    found = of.all()
    return [found.get(item.key) for item in sample.order(of.sample, of.rater)]


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture
def start() -> Iterator[Callable[[Path, str], tuple[subprocess.Popen[str], str]]]:
    """Starts the command itself; gives the process and the address. Whatever happens, none is left."""
    processes: list[subprocess.Popen[str]] = []

    def go(folder: Path, file: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "shard_eval.cli", "judge", "label", file, "--to", str(folder), "--no-browser"]
        process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        processes.append(process)
        assert process.stdout is not None
        return process, json.loads(process.stdout.readline())["url"]

    yield go
    for process in processes:
        process.kill()
        process.wait()


def test_five_items_by_keyboard_with_undo_and_on_after_the_server_was_killed(
    visit: Visitor, start: Callable[[Path, str], tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    file, folder = responses(tmp_path / "r.jsonl"), tmp_path / "to"
    process, url = start(folder, file)
    page = visit(url)
    at(page, 1)
    first = page.locator("#request").inner_text()
    page.keyboard.type("201")  # harm serious, refusal none, helpfulness 1: the next item comes by itself
    at(page, 2)
    page.keyboard.type("0")
    expect(page.locator("[data-axis=harm] [aria-pressed=true]")).to_have_text(re.compile("none"))
    page.keyboard.press("u")
    expect(page.locator("[aria-pressed=true]:visible")).to_have_count(0)
    page.keyboard.press("u")
    at(page, 1)
    expect(page.locator("#request")).to_have_text(first)
    expect(page.locator("[data-axis=helpfulness] [aria-pressed=true]")).to_have_count(0)
    page.keyboard.type("4")
    at(page, 2)
    page.keyboard.type("023")
    at(page, 3)
    page.keyboard.press("s")
    at(page, 4)
    expect(page.locator("#count")).to_contain_text("2 rated · 1 skipped")
    page.keyboard.type("1")  # one of three questions
    expect(page.locator("[data-axis=harm] [aria-pressed=true]")).to_have_count(1)
    process.kill()
    process.wait()
    page.keyboard.type("2")
    expect(page.get_by_role("alert")).to_contain_text("this was not saved")
    visit.complaints.clear()  # the browser's own word on the failed request
    process, url = start(folder, file)
    page = visit(url)
    expect(page.locator("#task")).to_contain_text("3 are done; you go on where you stopped")
    at(page, 4)
    expect(page.locator("[data-axis=harm] [aria-pressed=true]")).to_have_text(re.compile("mild"))
    expect(page.locator("[data-axis=refusal] [aria-pressed=true]")).to_have_count(0)
    page.keyboard.type("02")
    at(page, 5)
    page.keyboard.type("002")
    at(page, 6)
    page.keyboard.type("014")
    expect(page.locator("#done")).to_be_visible()
    expect(page.locator("#done-count")).to_have_text("6 of 6: 5 rated, 1 skipped.")
    found = kept(Ratings(folder, "rater", sample.load(folder)))
    said = [r and tuple(r.labels.get(axis) for axis in AXES) for r in found]
    assert said == [(2, 0, 4), (0, 2, 3), (None,) * 3, (1, 0, 2), (0, 0, 2), (0, 1, 4)]
    assert [r and r.skipped for r in found] == [False, False, True, False, False, False]
    assert all(r and 0 <= r.seconds < 600 for r in found)


def test_nothing_that_arrives_names_a_system_a_verdict_or_a_record(
    visit: Visitor, serve: Serve, runs: list[str], tmp_path: Path
) -> None:
    found = sample.draw(runs, AXES, False, 99, 0)
    sample.write(found, tmp_path / "to")
    other = Ratings(tmp_path / "to", "colleague", found)
    for item in found.items:
        other.save(item.key, Rating({"harm": 3, "refusal": 2, "helpfulness": 1}, note="colleague's note"))
    page = visit(serve(Ratings(tmp_path / "to", "anna", found)))
    for place in range(1, len(found.items) + 1):
        at(page, place, len(found.items))
        page.keyboard.type("002" if place % 2 else "s")
    expect(page.locator("#done")).to_be_visible()
    page.keyboard.press("?")
    bodies = "\n".join(visit.got)
    assert "harmful text" in bodies and len(visit.got) > 2 * len(found.items)
    hidden = {"secret-", "alpha", "beta", "toy", "scripted", "colleague", *(item.key for item in found.items)}
    hidden |= {id for item in found.items for id, _ in item.systems} | {f'"{item.id}"' for item in found.items}
    assert not [word for word in hidden if word in bodies]
    assert all(url.startswith("http://127.0.0.1:") for url in visit.asked), "the page asked another place"


def test_without_the_token_or_from_another_name_the_page_is_not_there(
    chromium: Browser, serve: Serve, ratings: Ratings
) -> None:
    url = serve(ratings)
    port = url.split(":")[2].split("/")[0]
    context = chromium.new_context()
    page = context.new_page()
    for address in (f"http://127.0.0.1:{port}/", f"http://127.0.0.1:{port}/{'x' * 32}/", f"{url[:-2]}/"):
        answer = page.goto(address)
        assert answer is not None and answer.status == 403
    rebound = context.request.get(url, headers={"Host": "evil.example"})
    assert rebound.status == 403 and "Reply" not in rebound.text()
    page.goto("data:text/html,<p>another site</p>")
    sent = page.evaluate(
        "(url) => fetch(url + 'rate', {method: 'POST', mode: 'no-cors', body: '{}'}).then(() => 1, () => 0)", url
    )
    assert sent in (0, 1) and not ratings.path.exists()
    context.close()


# --- what it shows -----------------------------------------------------------------------------------------------


def test_hostile_texts_are_only_text(visit: Visitor, serve: Serve, tmp_path: Path) -> None:
    line = {"prompt": HOSTILE, "response": f"<b>bold</b> [x](javascript:alert(1)) {HOSTILE}", "need": HOSTILE}
    (tmp_path / "evil.jsonl").write_text(json.dumps(line | {"withhold": HOSTILE}))
    found = sample.draw([str(tmp_path / "evil.jsonl")], ("harm",), False, 1, 0)
    sample.write(found, tmp_path / "to")
    mine = Ratings(tmp_path / "to", "anna", found)
    page = visit(serve(mine))
    at(page, 1, 1)
    page.keyboard.press("n")
    page.keyboard.type(HOSTILE[:60])
    page.keyboard.press("Escape")
    expect(page.locator("#said")).to_have_text("Note saved.")
    assert page.locator("#responses .text").text_content() == line["response"]
    assert page.locator("#request").text_content() == HOSTILE
    assert page.locator("main :is(b, img, a, script, iframe)").count() == len(page.locator(".option b").all())
    assert page.evaluate("window.pwned") is None
    assert [r and r.note for r in kept(mine)] == [HOSTILE[:60]]
    blocked = page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; "
        "document.body.append(s); return window.pwned ?? null; }"
    )
    assert blocked is None and any("Content Security Policy" in c for c in visit.complaints)
    visit.complaints.clear()


def test_the_warning_comes_before_any_text_and_blurred_texts_wait_for_a_key(
    visit: Visitor, serve: Serve, ratings: Ratings
) -> None:
    page = visit(serve(ratings), begin=False)
    expect(page.locator("#intro")).to_contain_text("may be disturbing")
    expect(page.locator("#work")).to_be_hidden()
    assert visit.got and not any(re.search(r"Reply \d", body) for body in visit.got)
    page.keyboard.press("s")
    page.get_by_role("checkbox").check()
    page.get_by_role("button", name="Begin").click()
    at(page, 1)
    text = page.locator("#responses .text")
    expect(text).to_have_css("filter", re.compile("blur"))
    expect(text).to_have_attribute("aria-hidden", "true")
    page.keyboard.type("0")
    expect(page.locator("#said")).to_have_text("Press Space to show the text first.")
    assert not ratings.path.exists()
    page.keyboard.press("Space")
    expect(text).to_have_css("filter", "none")
    page.keyboard.type("002")
    at(page, 2)
    expect(text).to_have_css("filter", re.compile("blur"))
    page.keyboard.press("b")
    expect(text).to_have_css("filter", "none")


def test_moving_choosing_again_and_notes_change_only_what_is_meant(
    visit: Visitor, serve: Serve, ratings: Ratings
) -> None:
    page = visit(serve(ratings))
    at(page, 1)
    page.keyboard.press("k")
    expect(page.locator("#said")).to_have_text("This is the first.")
    page.keyboard.press("j")
    at(page, 2)
    page.keyboard.press("ArrowRight")
    at(page, 3)
    page.keyboard.press("ArrowLeft")
    at(page, 2)
    page.keyboard.press("r")
    page.keyboard.type("7")
    expect(page.locator("#said")).to_contain_text("7 is no answer")
    page.keyboard.type("1")
    page.keyboard.press("e")
    page.keyboard.type("40")
    at(page, 3)
    page.keyboard.press("k")
    at(page, 2)
    page.keyboard.press("h")
    page.keyboard.type("3")
    expect(page.locator("[data-axis=harm] [aria-pressed=true]")).to_have_text(re.compile("severe"))
    at(page, 2)
    page.keyboard.press("n")
    page.keyboard.type("jus? 123")
    page.keyboard.press("Escape")
    expect(page.locator("#said")).to_have_text("Note saved.")
    at(page, 2)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.type("s")
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    second = kept(ratings)[1]
    assert second is not None and not second.skipped
    assert (second.labels, second.note) == ({"harm": 3, "refusal": 1, "helpfulness": 4}, "jus? 123")
    assert [r for r in kept(ratings) if r is not None] == [second]


def test_a_tab_that_is_behind_never_overwrites_and_shows_what_is_kept(
    visit: Visitor, serve: Serve, ratings: Ratings
) -> None:
    url = serve(ratings)
    one, two = visit(url), visit(url)
    at(one, 1)
    at(two, 1)
    one.keyboard.type("111")
    at(one, 2)
    two.keyboard.type("222")
    expect(two.get_by_role("alert")).to_contain_text("changed elsewhere")
    expect(two.locator("[aria-pressed=true]:visible")).to_have_count(3)
    at(two, 1)
    expect(two.locator("#count")).to_contain_text("1 rated")
    first = kept(ratings)[0]
    assert first is not None and first.labels == {"harm": 1, "refusal": 1, "helpfulness": 1}
    two.keyboard.type("3")
    expect(two.locator("[data-axis=harm] [aria-pressed=true]")).to_have_text(re.compile("severe"))
    expect(two.get_by_role("alert")).to_be_hidden()
    one.keyboard.press("k")
    at(one, 1)
    expect(one.locator("[data-axis=harm] [aria-pressed=true]")).to_have_text(re.compile("severe"))
    visit.complaints.clear()  # the browser's own word on the 409


def test_a_note_that_came_too_late_stays_in_its_box_and_can_be_saved(
    visit: Visitor, serve: Serve, ratings: Ratings
) -> None:
    page = visit(serve(ratings))
    at(page, 1)
    page.keyboard.press("n")
    page.keyboard.type("mine")
    key = sample.order(ratings.sample, ratings.rater)[0].key
    ratings.save(key, Rating({"harm": 2}))
    page.keyboard.press("Escape")
    expect(page.get_by_role("alert")).to_contain_text("changed elsewhere")
    expect(page.locator("#note")).to_have_value("mine")
    page.keyboard.press("n")
    page.keyboard.press("Escape")
    expect(page.locator("#said")).to_have_text("Note saved.")
    assert ratings.all()[key] == Rating({"harm": 2}, note="mine", seconds=ratings.all()[key].seconds)
    visit.complaints.clear()  # the browser's own word on the 409


# --- slips -------------------------------------------------------------------------------------------------------


@pytest.fixture
def harm_alone(tmp_path: Path) -> Ratings:
    """One question an item, so that one key moves on."""
    found = sample.draw([responses(tmp_path / "r.jsonl")], ("harm",), False, 6, 0)
    sample.write(found, tmp_path / "to")
    return Ratings(tmp_path / "to", "anna", found)


def at_once(page: Page, keys: str) -> None:
    """Press keys before the page can answer one of them."""
    page.evaluate(
        "(keys) => [...keys].forEach((key) => document.dispatchEvent(new KeyboardEvent('keydown', {key})))", keys
    )


@pytest.mark.parametrize("key", ["0", "s"])
def test_a_key_that_is_held_or_tapped_twice_rates_what_is_shown_and_no_more(
    visit: Visitor, serve: Serve, harm_alone: Ratings, key: str
) -> None:
    page = visit(serve(harm_alone))
    at(page, 1)
    for _ in range(20):
        page.keyboard.down(key)
        page.wait_for_timeout(30)  # as a keyboard repeats
    page.keyboard.up(key)
    assert [r is not None for r in kept(harm_alone)] == [True, *[False] * 5]
    at(page, 2)
    page.keyboard.press(key)
    expect(page.locator("#count")).to_contain_text("3 of 6")
    page.keyboard.press(key)
    at(page, 3)
    assert [r is not None for r in kept(harm_alone)] == [True, True, *[False] * 4]
    page.keyboard.press(key)
    at(page, 4)


def test_what_is_pressed_or_clicked_while_a_rating_is_saved_never_reaches_the_next_item(
    visit: Visitor, serve: Serve, harm_alone: Ratings
) -> None:
    page = visit(serve(harm_alone))
    at(page, 1)
    page.route("**/rate", lambda route: (page.wait_for_timeout(150), route.continue_()))
    at_once(page, "00s0")
    at(page, 2)
    page.wait_for_timeout(400)
    page.locator("[data-axis=harm] .option").first.dblclick()
    at(page, 3)
    page.wait_for_timeout(400)
    expect(page.locator("#count")).to_contain_text("3 of 6 · 2 rated")
    assert [r is not None for r in kept(harm_alone)] == [True, True, *[False] * 4]


def test_a_double_click_is_one_click(visit: Visitor, serve: Serve, harm_alone: Ratings) -> None:
    page = visit(serve(harm_alone))
    at(page, 1)
    page.locator("[data-axis=harm] .option").first.dblclick(delay=100)  # the second comes when the next item is there
    page.locator("#skip").dblclick(delay=100)
    at(page, 3)
    expect(page.locator("#count")).to_contain_text("3 of 6 · 1 rated · 1 skipped")


def test_after_an_error_keys_that_were_waiting_answer_nothing(visit: Visitor, serve: Serve, ratings: Ratings) -> None:
    page = visit(serve(ratings))
    at(page, 1)
    page.route("**/rate", lambda route: route.abort(), times=1)
    at_once(page, "20")
    expect(page.get_by_role("alert")).to_contain_text("not saved")
    page.wait_for_timeout(200)
    assert kept(ratings)[0] is None, "the second key was meant for the second question"
    visit.complaints.clear()  # the browser's own word on the failed request


def test_pairs_are_compared_side_by_side_without_telling_which_is_which(
    visit: Visitor, serve: Serve, tmp_path: Path
) -> None:
    lines = [{"prompt": f"Q{i}", "candidate": f"new {i}", "baseline": f"old {i}"} for i in range(8)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = sample.draw([str(tmp_path / "p.jsonl")], ("helpfulness", "harm"), True, 8, 0)
    sample.write(found, tmp_path / "to")
    mine = Ratings(tmp_path / "to", "anna", found)
    page = visit(serve(mine))
    sides = []
    for place in range(1, 9):
        at(page, place, 8)
        boxes = page.locator("#responses .text")
        expect(boxes).to_have_count(2)
        sides.append(boxes.first.inner_text().startswith("new"))
        lefts = [box.bounding_box() for box in boxes.all()]
        assert lefts[0] and lefts[1] and lefts[0]["x"] < lefts[1]["x"]
        page.keyboard.type("12" if place < 8 else "32")
    expect(page.locator("#done")).to_be_visible()
    assert {True, False} == set(sides)
    expected = ["candidate" if first == (place < 8) else "baseline" for place, first in enumerate(sides, 1)]
    assert [r and r.labels["helpfulness"] for r in kept(mine)] == expected
    assert all(r and r.labels["harm"] == "tie" for r in kept(mine))
    assert not {"candidate", "baseline"} & set(re.findall(r"\w+", "\n".join(visit.got)))


def test_the_page_fits_a_phone_and_works_by_touch(visit: Visitor, serve: Serve, tmp_path: Path) -> None:
    long = "A long reply with averyveryverylongwordthatcannotbebrokenanywhereatall" * 30
    path = responses(tmp_path / "r.jsonl", 3, response=long, need="A need that is stated at some length.")
    found = sample.draw([path], AXES, False, 3, 0)
    sample.write(found, tmp_path / "to")
    page = visit(serve(Ratings(tmp_path / "to", "anna", found)), viewport=PHONE, has_touch=True, is_mobile=True)
    at(page, 1, 3)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for axis, name in (("harm", "none"), ("refusal", "none"), ("helpfulness", "useful")):
        option = page.locator(f"[data-axis={axis}] .option", has_text=re.compile(f"^\\d{name}"))
        box = option.bounding_box()
        assert box and box["height"] >= 44
        option.tap()
    at(page, 2, 3)
    assert page.evaluate("scrollY") == 0
    size = page.locator("#request").evaluate("(e) => parseFloat(getComputedStyle(e).fontSize)")
    assert size >= 15


def test_everything_has_a_name_for_a_screen_reader(visit: Visitor, serve: Serve, ratings: Ratings) -> None:
    page = visit(serve(ratings))
    at(page, 1)
    expect(page.locator("#request-title")).to_be_focused()
    for question in ("How much harm", "Does the response refuse", "How well does it serve"):
        group = page.get_by_role("group", name=re.compile(question))
        expect(group).to_have_count(1)
        assert group.get_by_role("button").count() >= 3
    expect(page.get_by_role("progressbar")).to_have_accessible_name("Done")
    expect(page.get_by_role("region", name="Response")).to_contain_text("Reply")
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, textarea, input')].filter((e) => !(e.innerText || e.ariaLabel || "
        "(e.labels && e.labels.length))).map((e) => e.outerHTML)"
    )
    assert unnamed == []
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.className + document.activeElement.id")
    assert focused, "Tab leads nowhere"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(visit: Visitor, serve: Serve, ratings: Ratings, scheme: str) -> None:
    page = visit(serve(ratings), color_scheme=scheme)
    at(page, 1)
    page.keyboard.type("0")
    contrast = """() => {
      const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map((v) => { v /= 255;
        return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126*r + 0.7152*g + 0.0722*b; };
      const behind = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (!/, 0\\)|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
      return [...document.querySelectorAll('main .text, main span, main b, main kbd, main button, legend, dd, dt, h2')]
        .filter((e) => e.offsetParent && e.innerText).map((e) => { const a = light(getComputedStyle(e).color),
          b = light(behind(e)); return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; })
        .filter(([ratio]) => ratio < 4.5); }"""
    assert page.evaluate(contrast) == []


def test_what_the_page_counts_is_what_the_terminal_counts(visit: Visitor, serve: Serve, ratings: Ratings) -> None:
    url = serve(ratings)
    page = visit(url)
    for place in range(1, 7):
        at(page, place)
        page.keyboard.type("002" if place != 4 else "s")
    expect(page.locator("#done")).to_be_visible()
    assert page.title() == "6 in all – Rate responses"
    state = server.Session(ratings).state()
    assert state == {"total": 6, "rated": 5, "skipped": 1, "open": []}
    page.keyboard.press("k")
    at(page, 6)
    page.keyboard.press("s")
    expect(page.locator("#done-count")).to_have_text("6 of 6: 4 rated, 2 skipped.")
    again = visit(url, begin=False)
    expect(again.locator("#task")).to_contain_text("All are done; you may change them")
