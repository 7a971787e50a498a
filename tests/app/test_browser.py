"""The pages in Chromium: by pointer and by keyboard, at the width of a desk and of a phone."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time
from contextlib import closing

import pytest

pytest.importorskip("starlette", reason="the extra `app` is not installed")
pytest.importorskip("av", reason="the extra `app` is not installed")
pytest.importorskip("playwright", reason="needs playwright")

import numpy as np
from PIL import Image
from playwright import sync_api as playwright
from processes import LIMIT

from app.browser import FLAGS, chromium, serving
from app.indexes import SCRIPT, clips_of, write_films, write_index
from mcn_lightning.search.explore.points import map_file
from mcn_lightning.search.explore.stills import STILLS

pytestmark = pytest.mark.slow
VIDEO = "document.querySelector('video')"
expect = playwright.expect


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with serving(write_index(folder / "index", clips_of(write_films(folder / "media")))) as address:
        yield address


@pytest.fixture(scope="module")
def started():
    expect.set_options(timeout=1000 * LIMIT)
    with playwright.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(started):
    browser = started.chromium.launch(executable_path=chromium(), args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture(autouse=True)
def ending(browser):
    """End a browser that hangs: a script that a page never answers to is waited for without a limit."""
    session = browser.new_browser_cdp_session()
    found = {each["type"]: each["id"] for each in session.send("SystemInfo.getProcessInfo")["processInfo"]}
    session.detach()
    timer = threading.Timer(2 * LIMIT, os.kill, (found["browser"], signal.SIGKILL))
    timer.daemon = True
    timer.start()
    yield
    timer.cancel()


@pytest.fixture
def page(browser, address):
    """A page that fails the test if a script fails, or if it asks anything of another server."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(1000 * LIMIT)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(address) else None)
    page.on("console", lambda message: wrong.append(message.text) if "Security Policy" in message.text else None)
    yield page
    context.close()
    assert not wrong


def until(page, condition: str) -> None:
    """Wait for a condition. Playwright's own way is one that the page's policy forbids: it evaluates text there."""
    end = time.monotonic() + LIMIT
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


def cards(page) -> list[str]:
    expect(page.locator(".card").first).to_be_visible()
    return page.locator(".card .caption").all_inner_texts()


def test_a_query_is_typed_and_cards_come(page):
    page.goto("/")
    box = page.get_by_role("combobox", name="What you look for")
    box.fill("pluck the guitar")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**/?q=pluck+the+guitar")
    asked = page.request.get("/api/search?q=pluck+the+guitar").json()["clips"]
    expect(page.locator(".card")).to_have_count(12)
    assert cards(page) == [clip["text"] for clip in asked]
    first = page.locator(".card").first
    assert [text for text in first.locator("dt").all_inner_texts()] == ["score", "picture", "sound", "words"]


def test_what_is_typed_before_the_page_knows_the_index_stays(page):
    held = []
    page.route("**/api/about", lambda route: held.append(route))
    page.goto("/?q=eggs&per_video=1")
    page.locator("summary", has_text="Filters").click()
    page.get_by_label("Cluster").fill("2")
    page.locator("#q").fill("pluck the guitar")
    until(page, "document.querySelectorAll('.card').length > 0")
    held[0].continue_()
    expect(page.locator("#modality option")).not_to_have_count(1)
    assert page.locator("#q").input_value() == "pluck the guitar"
    assert page.locator("[name=cluster]").input_value() == "2" and page.locator("[name=per_video]").input_value() == "1"


def test_suggestions_come_from_captions_and_are_chosen_by_keyboard(page):
    page.goto("/")
    while not page.locator("#q:focus").count():  # the page may be there before it listens to keys
        page.keyboard.press("/")
    page.keyboard.type("san pla")
    expect(page.locator("#suggestions li")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    expect(page.locator("#suggestions li[aria-selected=true]")).to_have_text("sand the plank until smooth")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"q=sand\+the\+plank"))
    assert page.locator("#q").input_value() == "sand the plank until smooth"


def test_escape_closes_the_suggestions(page):
    page.goto("/")
    page.locator("#q").press_sequentially("guitar")
    expect(page.locator("#suggestions li").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#suggestions")).to_be_hidden()
    assert page.locator("#q").input_value() == "guitar"


def test_the_score_along_the_video_is_drawn(page):
    page.goto("/?q=eggs+pan&video=guitar&k=1")
    page.get_by_role("button", name="Score along the video").click()
    curve = page.locator(".moments svg")
    expect(curve).to_have_attribute("aria-label", re.compile("Score along the video, from .* to "))
    points = [tuple(map(float, each.split(","))) for each in curve.locator("polyline").get_attribute("points").split()]
    assert len(points) == 6 and points[0][0] == 0 and points[-1][0] == 100
    assert {min(y for _, y in points), max(y for _, y in points)} == {1, 29}
    expect(page.locator(".moments a")).to_be_focused()
    page.locator(".moments a").click()
    expect(page.locator("article")).to_have_count(1)
    page.goto("/?q=eggs&by=words")
    expect(page.locator("article").first).to_be_visible()
    assert page.get_by_role("button", name="Score along the video").count() == 0


WATCH = """
window.seen = [];
const keep = event => event.target.paused || window.seen.push(event.target.currentTime);
document.addEventListener("timeupdate", keep, true);
document.addEventListener("seeking", keep, true);
"""
"""Keeps the times that are played: a look at the page may come too late on a busy machine."""

HOLD = "{ const start = performance.now(); while (performance.now() < start + 5000); }"
"""Keeps the page busy beyond the end of the clip, of which it then hears late."""


def test_a_clip_plays_from_its_start_and_stops_at_its_end(page):
    page.goto("/?clip=eggs%2F1")  # seconds 4 to 8 of 12
    page.evaluate(WATCH)
    page.get_by_role("button", name="Play eggs 0:04–0:08").click()
    until(page, "window.seen.some(time => time > 0)")
    assert 4.0 <= page.evaluate("window.seen.find(time => time > 0)") < 8.0
    until(page, f"{VIDEO}.paused && !{VIDEO}.seeking")
    assert 7.9 <= page.evaluate(f"{VIDEO}.currentTime") < 11.0
    page.evaluate(f"window.seen = []; {VIDEO}.play()")
    until(page, "window.seen.some(time => time > 4)")
    page.evaluate(HOLD)
    until(page, f"{VIDEO}.paused && !{VIDEO}.seeking")
    assert 4.0 <= page.evaluate("Math.min(...window.seen)") < 4.5
    assert page.evaluate(f"{VIDEO}.currentTime") >= 7.9
    page.evaluate(f"window.seen = []; {VIDEO}.play()")
    until(page, "window.seen.some(time => time > 4)")
    assert 4.0 <= page.evaluate("Math.min(...window.seen)") < 4.5


def test_the_last_clip_of_a_file_plays_again_from_its_start(page):
    page.goto("/?clip=eggs%2F2")  # seconds 8 to 12 of 12
    page.evaluate(WATCH)
    page.get_by_role("button", name="Play eggs 0:08–0:12").click()
    until(page, "window.seen.some(time => time > 8)")
    page.evaluate(f"{VIDEO}.playbackRate = 4")
    until(page, f"{VIDEO}.paused && {VIDEO}.currentTime > 11.5")
    page.evaluate(f"window.seen = []; {VIDEO}.play()")
    until(page, "window.seen.length > 2")
    assert page.evaluate("Math.min(...window.seen.slice(1))") >= 8.0  # the browser itself begins at 0


def test_links_hold_query_and_filters_and_the_back_button_works(page):
    page.goto("/?q=eggs&video=guitar&from=4")
    assert cards(page) and {text.split(" ")[0] for text in cards(page)} == {"pluck", "strum"}
    assert page.locator("#filters").get_attribute("open") is not None
    assert page.locator("[name=video]").input_value() == "guitar" and page.locator("[name=from]").input_value() == "4"
    page.get_by_role("link", name="sound").first.click()
    page.wait_for_url("**/?like=guitar*")
    expect(page.locator(".chip")).to_contain_text("by sound")
    page.go_back()
    page.wait_for_url("**/?q=eggs&video=guitar&from=4")
    assert {text.split(" ")[0] for text in cards(page)} == {"pluck", "strum"}


def test_filters_are_set_in_the_form(page):
    page.goto("/")
    page.locator("summary", has_text="Filters").click()
    page.get_by_label("Cluster").fill("2")
    page.get_by_label("Compare with").select_option(label="sound")
    page.locator("#q").fill("plank")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=plank&modality=a&cluster=2")
    expect(page.locator(".card")).to_have_count(3)


def test_everything_is_reached_by_keyboard(page):
    page.goto("/?q=eggs")
    cards(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.locator(".card .play").first.focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    second = page.locator("#results > li").nth(1)
    assert second.evaluate("item => item.contains(document.activeElement)")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.tagName === 'VIDEO'")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_a_caption_cannot_script_the_page(page):
    for place in ("/?clip=lost%2F0", "/?q=eggs", "/clusters#0", "/map"):
        page.goto(place)
        page.wait_for_load_state("networkidle")
        assert "owned" not in page.title() and page.locator("img[src=x]").count() == 0
    page.goto("/?clip=lost%2F0")
    assert cards(page) == [SCRIPT]
    expect(page.locator(".none")).to_have_text("The video is not at hand.")


def test_unknown_words_and_nothing_found_are_told(page):
    page.goto("/?q=zyzzyva")
    expect(page.locator("#notice")).to_contain_text("The model does not know: zyzzyva")
    page.goto("/?q=eggs&video=nobody")
    expect(page.locator("#notice")).to_contain_text("Nothing was found")
    page.goto("/?q=eggs&k=24&modality=x")
    expect(page.locator("#notice.bad")).to_be_visible()


def test_a_sound_is_chosen_as_the_query(page):
    held = []
    page.route("**/api/search*", lambda route: held.append(route))
    page.goto("/")
    expect(page.locator("#drop")).to_be_visible()  # until then no file can be chosen
    page.locator("#file").set_input_files({"name": "x.txt", "mimeType": "text/plain", "buffer": b"no sound"})
    expect(page.locator("#notice.bad")).to_contain_text("expected sound")
    held[0].continue_()
    page.unroute("**/api/search*")
    expect(page.locator(".card")).to_have_count(12)
    expect(page.locator("#notice.bad")).to_contain_text("expected sound")  # clips that come later leave it
    page.locator("#file").set_input_files({"name": "x.wav", "mimeType": "audio/wav", "buffer": b"x" * 1_000_001})
    expect(page.locator("#notice.bad")).to_contain_text("more than 1 MB")
    page.locator("#file").set_input_files({"name": "x.wav", "mimeType": "audio/wav", "buffer": noise()})
    page.wait_for_url("**/?file=*&use=a")
    expect(page.locator(".chip")).to_contain_text("your file, by sound")
    expect(page.locator(".card")).to_have_count(12)


def noise() -> bytes:
    """Return a WAV file of two seconds."""
    import io
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(np.random.default_rng(0).integers(-9000, 9000, 32_000, dtype=np.int16).tobytes())
    return file.getvalue()


def test_the_map_is_drawn_hovered_lassoed_and_linked(page):
    page.goto("/map?colour=cluster")
    canvas = page.locator("#canvas")
    expect(page.locator("#canvas")).to_have_attribute("data-drawn", re.compile(r"\d+"))
    expect(page.locator("#legend li")).to_have_count(3)
    box = canvas.bounding_box()
    points = page.request.get("/api/map?modality=va").body()
    where = places(points, box)
    page.mouse.move(*where[3])
    expect(page.locator("#tip")).to_contain_text("guitar")
    expect(page.locator("#tip img")).to_be_visible()
    page.get_by_role("button", name="Lasso").click()
    inside = where[3:6]
    left, right = min(x for x, _ in inside) - 12, max(x for x, _ in inside) + 12
    top, bottom = min(y for _, y in inside) - 12, max(y for _, y in inside) + 12
    page.mouse.move(left, top)
    page.mouse.down()
    for corner in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(*corner, steps=5)
    page.mouse.up()
    expect(page.locator("#listed")).to_have_text("3 clips")
    assert set(page.locator("#results a").all_inner_texts()) == {clip["text"] for clip in clips_of(None)[3:6]}
    page.mouse.click(*where[6])
    page.wait_for_url("**/?clip=plank*")


def places(content: bytes, box: dict[str, float]) -> list[tuple[float, float]]:
    """Return where points of the map are on the page when all of it is shown."""

    points = np.frombuffer(content, "<f4").reshape(-1, 2)
    wide, high = np.abs(points).max(axis=0)
    least = min(box["width"] / wide, box["height"] / high) / 2 * 0.95
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    return [(float(middle[0] + x * least), float(middle[1] - y * least)) for x, y in points]


def test_the_map_by_keyboard_and_by_group(page):
    page.goto("/map")
    expect(page.locator("#canvas")).to_have_attribute("data-drawn", re.compile(r"\d+"))
    page.locator("#canvas").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#listed")).to_have_text("12 clips")
    page.locator("#legend button").nth(1).click()
    assert "only=1" in page.url
    page.get_by_role("button", name="List the clips in view").click()
    expect(page.locator("#listed")).to_have_text("3 clips")
    page.get_by_label("Place by").select_option(label="sound")
    page.wait_for_url("**modality=a*")
    page.get_by_role("button", name="List the clips in view").click()
    expect(page.locator("#listed")).to_have_text("9 clips")  # three have no sound
    page.locator("#canvas").focus()
    for _ in range(30):
        page.keyboard.press("+")
    page.keyboard.press("Enter")
    expect(page.locator("#listed")).not_to_have_text("9 clips")


def test_the_map_tells_that_webgl_is_missing(started, address):
    browser = started.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-3d-apis"])
    page = browser.new_page()
    page.goto(f"{address}/map")
    expect(page.locator("#notice.bad")).to_contain_text("needs WebGL")
    browser.close()


def test_the_page_of_clusters_opens_the_linked_one(page):
    page.goto("/clusters#2")
    details = page.locator("details[open]")
    expect(details).to_have_count(1)
    expect(details).to_contain_text("plank")
    expect(details.locator("ol").first.locator("li")).to_have_count(3)
    page.get_by_label("Find").fill("guitar")
    expect(page.locator("#clusters details")).to_have_count(1)
    page.locator("#clusters summary").click()
    page.get_by_role("link", name="Search in this cluster").click()
    page.wait_for_url("**/?cluster=1")
    expect(page.locator(".card")).to_have_count(3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(browser, address, scheme):
    page = browser.new_page(base_url=address, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    for place, shown in (
        ("/?q=eggs&video=s", ".card"),
        ("/map", "#canvas[data-drawn]"),
        ("/clusters#0", "details[open] li"),
    ):
        page.goto(place)
        expect(page.locator(shown).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
        red = page.evaluate("getComputedStyle(document.body).backgroundColor").removeprefix("rgb(").split(",")[0]
        assert (int(red) < 100) == (scheme == "dark")
    page.close()


def test_fields_have_labels(page):
    for place in ("/", "/map", "/clusters"):
        page.goto(place)
        page.wait_for_load_state("networkidle")
        bare = page.evaluate(
            "[...document.querySelectorAll('input, select, button, canvas:not([aria-hidden]), video')].filter(each =>"
            " !each.labels?.length && !each.getAttribute('aria-label') && !each.textContent.trim()).length"
        )
        assert bare == 0, place
        assert page.evaluate("document.querySelectorAll('img:not([alt])').length") == 0


def test_kept_pictures_stand_for_lost_videos_and_an_old_map_is_told(browser, tmp_path):
    folder = write_index(tmp_path / "index", clips_of(None))
    Image.fromarray(np.full((90, 160, 3), 200, np.uint8)).save(tmp_path / "grey.jpg")
    with closing(sqlite3.connect(folder / STILLS)) as table, table:
        table.execute("CREATE TABLE stills (id TEXT PRIMARY KEY, jpeg BLOB NOT NULL)")
        table.execute("INSERT INTO stills VALUES ('eggs/1', ?)", [(tmp_path / "grey.jpg").read_bytes()])
    np.save(map_file(folder, "va"), np.zeros((11, 2), np.float32))
    with serving(folder) as address:
        page = browser.new_page(base_url=address)
        page.goto("/?clip=eggs%2F1")
        expect(page.locator(".screen .none")).to_have_text("The video is not at hand.")
        until(page, "document.querySelector('.screen img').naturalWidth === 160")
        assert page.locator(".play").count() == 0
        page.goto("/map")
        expect(page.locator("#notice")).to_contain_text("Clips were added since the map was made.")
        page.close()


def test_a_server_that_is_gone_is_told(browser, tmp_path):
    with serving(write_index(tmp_path / "index", clips_of(None))) as address:
        page = browser.new_page(base_url=address)
        page.goto("/map")
        expect(page.locator("#canvas")).to_have_attribute("data-drawn", re.compile(r"\d+"))
    page.get_by_label("Place by").select_option(label="sound")
    expect(page.locator("#notice.bad")).to_contain_text("Is `lightning app` still running?")
    page.close()


def test_the_token_opens_the_page_once_and_for_all(browser, tmp_path):
    with serving(write_index(tmp_path / "index", clips_of(None)), token="the-token") as address:
        page = browser.new_context(base_url=address).new_page()
        page.goto("/")
        expect(page.locator("body")).to_contain_text("needs its token")
        page.goto("/?token=the-token")
        expect(page.locator(".card")).to_have_count(12)
        assert "token" not in page.url
        page.goto("/map")
        expect(page.locator("#canvas")).to_have_attribute("data-drawn", re.compile(r"\d+"))
        page.context.close()
