"""The page in a real browser, driven as a reader would."""

import base64
import json
import os
import re
import shutil
import zlib

import numpy as np
import pytest
from playwright import sync_api as playwright

from crosseai.boxes.rectangles import find_box
from crosseai.fusion import fuse
from crosseai.mapstore import enlarge
from crosseai.report.page import report

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("CI") != "true", reason="no Chromium on the path"
)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # As root, as in a container, Chromium has no sandbox.
        chromium = driver.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, run, config):
    """The page, which must neither complain nor ask for anything outside itself."""
    report(run, config, nih=True, panels=0)
    page = browser.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url))
    page.goto((run / "report.html").as_uri())
    yield page
    asked = [text for text in wrong if not re.match(r"data:|blob:|file:.*report\.html$", text)]
    page.close()
    assert not asked


def column(page, number):
    """Text of a column of the table that is shown."""
    cells = page.locator(f"[data-protocol]:visible tbody td:nth-child({number})")
    return cells.all_inner_texts()


def test_the_table_sorts_and_switches(opened):
    shown = opened.locator("[data-protocol]:visible")
    assert shown.count() == 1
    assert "one box" in shown.locator("h3").inner_text()
    opened.select_option("#protocol", "oracle")
    assert "best of all candidate boxes" in shown.locator("h3").inner_text()
    assert "control-prior" not in shown.inner_text()
    opened.select_option("#protocol", "single")
    opened.select_option("#labels", "eight")
    assert "Pneumonia" in column(opened, 2)
    before = [float(text.split()[0]) for text in column(opened, 4)]
    button = shown.locator("th button").nth(3)
    button.click()
    assert [float(text.split()[0]) for text in column(opened, 4)] == sorted(before)
    button.focus()
    opened.keyboard.press("Enter")
    assert [float(text.split()[0]) for text in column(opened, 4)] == sorted(before)[::-1]


def test_intervals_come_when_asked_for_and_are_told_on_hover(opened):
    cell = opened.locator("[data-protocol]:visible tbody td[title]").first
    assert re.fullmatch(r"95 % interval \d\.\d\d, \d\.\d\d", cell.get_attribute("title"))
    assert "[" not in cell.inner_text()
    opened.check("#intervals")
    assert "[" in cell.inner_text()


def test_charts_are_drawn(opened):
    charts = opened.locator(".chart")
    for number in range(charts.count()):
        charts.nth(number).scroll_into_view_if_needed()
        charts.nth(number).locator("svg.main-svg").first.wait_for()
    assert charts.count() >= 3


def test_the_gallery_filters_and_sorts(opened):
    cards = opened.locator("#cards .card")
    assert cards.count() == 24

    def overlaps():
        return [float(text) for text in opened.locator("#cards .caption b").all_inner_texts()]

    assert overlaps() == sorted(overlaps(), reverse=True)
    opened.select_option("#order", "worst")
    assert overlaps() == sorted(overlaps())
    opened.select_option("#label", "Mass")
    assert cards.count() == 6
    assert set(opened.locator("#cards .caption").all_inner_texts()) <= {
        f"Mass {value:.2f}" for value in overlaps()
    }
    opened.select_option("#label", "")
    opened.select_option("#outcome", "hit")
    opened.fill("#threshold-of-hits", "0.6")
    hits = cards.count()
    assert all(value >= 0.6 for value in overlaps())
    opened.select_option("#outcome", "miss")
    assert hits + cards.count() == 24
    opened.select_option("#of", "scalp")  # which has no box of any Mass
    opened.select_option("#label", "Mass")
    assert overlaps() == [0.0] * 6


def test_the_keyboard_opens_a_finding_and_moves_on(opened):
    opened.locator("#cards .card").first.focus()
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("Enter")
    assert opened.locator("#place").inner_text() == "2 of 24"
    title = opened.locator("#title").inner_text()
    opened.keyboard.press("ArrowRight")
    assert opened.locator("#place").inner_text() == "3 of 24"
    assert opened.locator("#title").inner_text() != title
    opened.keyboard.press("Escape")
    assert not opened.locator("#view").is_visible()


def test_the_workbench_finds_the_box_that_python_finds(opened):
    """For 20 findings, each with settings of its own, on the same maps in 8 bits."""
    gallery = json.loads(opened.locator("#gallery").inner_text())
    rng = np.random.default_rng(0)
    opened.locator("#cards .card").first.click()
    found = []
    for _ in range(20):
        name = opened.locator("#title").inner_text()
        image, label = name.split(" · ")
        finding = next(f for f in gallery["findings"] if (f["image"], f["label"]) == (image, label))
        heatmap, gradient = map(unpacked, finding["maps"])
        opened.locator("#workbench").wait_for()
        t, threshold = rng.integers(0, 101) / 100, rng.integers(0, 96) / 100
        candidates = int(rng.integers(0, 201))
        for name, value in [("t", t), ("threshold", threshold), ("candidates", candidates)]:
            opened.locator(f"#set-{name}").fill(str(value))
        fused = fuse(enlarge(heatmap, gradient.shape), gradient, t)
        expected = find_box(fused, threshold, candidates=candidates, smoothing=1.0)
        shown = json.loads(opened.locator("#workbench").get_attribute("data-box"))
        assert shown == (None if expected is None else list(expected))
        found.append(shown)
        opened.locator("#next").click()
    assert len({str(box) for box in found}) > 15


def unpacked(packed):
    """Map of a packed one, float32 [H, W]."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.frombuffer(data, "uint8").reshape(packed["height"], packed["width"]).astype("float32")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_dark_and_light(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": 390, "height": 800})
    for _ in range(50):  # charts shrink a moment later
        width = opened.evaluate("document.documentElement.scrollWidth")
        if width <= 390:
            break
        opened.wait_for_timeout(100)
    assert width <= 390
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 29)"}[scheme]
    opened.locator("#cards .card").first.click()
    view = opened.locator("#view").bounding_box()
    assert view["x"] >= 0
    assert view["x"] + view["width"] <= 390
