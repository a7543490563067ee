"""The committed notebooks in a real browser: nothing overflows, is clipped or is missing. Needs Chromium."""

import shutil

import nbformat
import pytest
from nbconvert import HTMLExporter

from utils.machine import runtime

NOTEBOOKS = sorted((runtime.ROOT / "notebooks").glob("[0-9]*.ipynb"))
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTH, HEIGHT = 1100, 900
OTHERS = [(width, theme) for width in (900, 1100, 1400) for theme in ("light", "dark")]
OTHERS.remove((WIDTH, "light"))

#: What is wrong with a page, a sentence each. An element that scrolls is neither clipped nor too wide; images
#: of other sites, such as badges, are not loaded here.
PROBLEMS = """() => {
  const problems = [], name = (node) => `${node.tagName} “${node.textContent.trim().slice(0, 60)}”`;
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth + 1)
    problems.push(`the page is ${page.scrollWidth} pixels wide, in a window of ${page.clientWidth}`);
  for (const image of document.images) {
    if (image.src.startsWith("http")) continue;
    if (!image.complete || !image.naturalWidth) problems.push(`a broken image, ${image.alt}`);
    const box = image.getBoundingClientRect();
    if (box.right > page.clientWidth + 1) problems.push(`an image that ends at ${box.right} pixels`);
  }
  for (const node of document.querySelectorAll("p, li, h1, h2, h3, td, th, pre, code, blockquote")) {
    const style = getComputedStyle(node);
    if (style.overflowX === "hidden" && node.scrollWidth > node.clientWidth + 2)
      problems.push(`clipped text in ${name(node)}`);
  }
  return problems;
}"""


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        yield browser
        browser.close()


def problems_of(browser, html, folder, width=WIDTH):
    """What is wrong with a page in a window of this width; nothing is fetched from other sites."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": HEIGHT})
    page.route("http*://**/*", lambda route: route.abort())
    page.goto(path.as_uri())
    found = page.evaluate(PROBLEMS)
    page.close()
    return found


def rendered(path, theme="light"):
    return HTMLExporter(theme=theme).from_notebook_node(nbformat.read(path, as_version=4))[0]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_fits_its_window(path, browser, tmp_path):
    assert problems_of(browser, rendered(path), tmp_path) == []


@pytest.mark.full
@pytest.mark.parametrize(("width", "theme"), OTHERS)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_fits_other_windows(path, width, theme, browser, tmp_path):
    assert problems_of(browser, rendered(path, theme), tmp_path, width) == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>fits</p>", None),
        ('<div style="width: 3000px">wide</div>', "the page is 3"),
        ('<img src="data:image/png;base64,AAAA" alt="plot">', "a broken image, plot"),
        (
            '<p style="width: 40px; overflow: hidden; white-space: nowrap">far too long</p>',
            "clipped text in P",
        ),
        ('<pre style="width: 40px; overflow: auto">this one may be scrolled</pre>', None),
        ('<img src="https://example.org/badge.svg">', None),
    ],
)
def test_the_check_sees_what_is_wrong(body, expected, browser, tmp_path):
    found = problems_of(browser, f"<!doctype html><html><body>{body}</body></html>", tmp_path)
    assert [problem[: len(expected or "")] for problem in found] == ([expected] if expected else [])
