"""LIT's page in a real browser. Skipped where there is no Chromium."""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.lit.conftest import text_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page(lit):
    if not CHROMIUM:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        # In a narrower window, a bare machine's fallback fonts hide the editor's buttons.
        page = browser.new_page(viewport={"width": 2200, "height": 1400})
        page.route("**/*", lambda route: route.continue_() if lit.url in route.request.url else route.abort())
        page.set_default_timeout(60_000)
        page.goto(f"{lit.url}?models=fold+0+averaged,fold+1+averaged")
        page.wait_for_selector("lit-data-table tbody tr")
        yield page
        browser.close()


def wait_until_drawn(canvas, unlike=None):
    """The pixels of a canvas once something is drawn, nothing moves, and it no longer looks like `unlike`."""
    last = None
    for _ in range(200):
        now = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"))
        still, empty = np.array_equal(now, last), (now != now[0, 0]).any(axis=-1).sum() < 200
        if still and not empty and not np.array_equal(now, unlike):
            return now
        last = now
        canvas.page.wait_for_timeout(300)
    problem = "keeps moving" if not still else "stays empty" if empty else "looks as before"
    raise AssertionError(f"the canvas {problem}")


def wait_for_score(module, expected):
    """Wait until a module of scores shows the expected one, to its three decimals; fail after a minute."""
    cell = module.locator("lit-data-table tbody td").nth(2)
    for _ in range(120):
        shown = cell.inner_text()
        if re.fullmatch(r"-?\d+\.\d+", shown) and float(shown) == pytest.approx(expected, abs=1e-3):
            return
        module.page.wait_for_timeout(500)
    raise AssertionError(f"the page shows {shown}, not {expected:.3f}")


def test_the_page_shows_edits_colours_points_and_two_models(page, rows, explainer):
    from playwright.sync_api import expect

    canvas = page.locator("embeddings-module canvas").first
    table_rows = page.locator("lit-data-table tbody tr")
    nothing_chosen = wait_until_drawn(canvas)
    table_rows.nth(1).click()
    other = wait_until_drawn(canvas, unlike=nothing_chosen)
    table_rows.first.click()
    wait_until_drawn(canvas, unlike=other)  # the chosen text's point shows on the map
    scores = page.locator("regression-module:visible")
    scores.nth(1).locator("lit-data-table tbody tr").first.wait_for()
    assert scores.count() == 2, "a module for each model"
    editor = page.locator("datapoint-editor-module textarea").first
    text = text_of(rows[0])
    expect(editor).to_have_value(text, timeout=60_000)
    wait_for_score(scores.first, explainer.scores([text])[0, 0])

    # Edited and predicted again.
    editor.fill("")
    editor.press_sequentially("A cat sat on a mat. It was a fat cat.")
    page.locator("datapoint-editor-module").get_by_text("Add", exact=True).click()
    wait_for_score(scores.first, explainer.scores(["A cat sat on a mat. It was a fat cat."])[0, 0])

    # Words in colour.
    page.get_by_text("Explanations", exact=True).first.click()
    chips = page.locator("salience-map-module .text-token, salience-map-module .salient-token")
    chips.first.wait_for()
    colours = chips.evaluate_all("chips => chips.map(chip => getComputedStyle(chip).backgroundColor)")
    assert len(set(colours)) > 5
