"""The report in a browser without a network."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from pipeline.report.page import write_report
from tests.browser import MISSING, find_browser
from tests.reports import make_images, make_report_data


@pytest.fixture(scope="module")
def browser():
    path = find_browser() or pytest.fail(MISSING)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report with content in every section."""
    path = tmp_path_factory.mktemp("reports") / "demo.html"
    images = make_images()
    images.loc[[3, 7], "label_error_score"] = 0.4
    write_report(path, make_report_data(images=images))
    return path


@pytest.fixture
def opened(browser, report):
    """The page; fails on any error while it was open."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url[:80]))
    page.on("request", lambda request: wrong.append(request.url[:80]) if request.url.startswith("http") else None)
    page.goto(report.as_uri())
    yield page
    context.close()
    assert wrong == []


def test_every_picture_loads(opened: Page):
    opened.wait_for_load_state("load")
    widths = opened.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) > 25
    assert min(widths) > 0


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_no_wider_than_the_window(opened: Page, width):
    opened.set_viewport_size({"width": width, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    boxes = opened.evaluate(
        "[...document.querySelectorAll('section')].map((each) => each.getBoundingClientRect().right)"
    )
    assert max(boxes) <= width


def test_a_heading_sorts_its_column_by_value_and_a_second_click_reverses_it(opened: Page):
    table = opened.locator("#folds table")
    heading = table.locator("th", has_text="seconds")
    column = table.locator("tbody td:nth-child(4)")
    assert column.all_inner_texts() == ["1:15", "1:20", "1:01:15"]
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column.all_inner_texts() == ["1:01:15", "1:20", "1:15"]


def test_an_empty_cell_stays_last(opened: Page):
    table = opened.locator("#folds table")
    for _ in range(2):
        table.locator("th button", has_text="oof").click()
        assert table.locator("tbody td:nth-child(3)").all_inner_texts()[-1] == "–"


def test_the_gallery_opens_and_closes_by_click(opened: Page):
    lightbox = opened.locator("#lightbox")
    assert not lightbox.is_visible()
    opened.locator("#worst .tile").first.click()
    assert lightbox.is_visible()
    assert lightbox.locator("h3").inner_text() == opened.locator("#worst .name").first.inner_text()
    assert lightbox.locator("img").count() == 3
    assert opened.evaluate("[...document.querySelectorAll('#lightbox img')].every((each) => each.naturalWidth > 0)")
    opened.locator("#close").click()
    assert not lightbox.is_visible()
    opened.locator("#worst .tile").first.click()
    opened.mouse.click(3, 3)  # beside it
    assert not lightbox.is_visible()


def test_the_gallery_opens_steps_and_closes_by_keyboard(opened: Page):
    names = opened.locator("#label-errors .name").all_inner_texts()
    tiles, lightbox = opened.locator("#label-errors .tile"), opened.locator("#lightbox")
    tiles.first.focus()
    opened.keyboard.press("Enter")
    assert lightbox.locator("h3").inner_text() == names[0]
    for name in (names[1], names[0]):  # from the last to the first again
        opened.keyboard.press("ArrowRight")
        assert lightbox.locator("h3").inner_text() == name
    opened.keyboard.press("ArrowLeft")
    opened.keyboard.press("Escape")
    assert not lightbox.is_visible()
    expect(tiles.nth(1)).to_be_focused()  # waits: the dialog's event `close` comes after the dialog is hidden


def test_the_scatter_plot_has_logarithmic_axes_on_demand(opened: Page):
    linear, log = (opened.locator("#coverage img").nth(number) for number in (0, 1))
    assert (linear.is_visible(), log.is_visible()) == (True, False)
    opened.get_by_label("log").check()
    assert (linear.is_visible(), log.is_visible()) == (False, True)


# Brightness of the first chart, 0 to 255: the red channel weighted by opacity.
INK = """() => {
    const pen = Object.assign(document.createElement("canvas"), { width: 400, height: 250 }).getContext("2d");
    pen.drawImage(document.querySelector("#learning img"), 0, 0, 400, 250);
    const { data } = pen.getImageData(0, 0, 400, 250);
    let [sum, weight] = [0, 0];
    for (let i = 0; i < data.length; i += 4) {
        sum += data[i] * data[i + 3];
        weight += data[i + 3];
    }
    return sum / weight;
}"""


def test_charts_follow_the_dark_colour_scheme(opened: Page):
    before = opened.evaluate(INK)
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"
    # Lines and text get lighter; the grid lines, which were nearly white, get darker.
    opened.wait_for_function(f"Math.abs(({INK})() - {before}) > 20")
