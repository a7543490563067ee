"""LIT's page in a real browser, and what other pages can make of it. Skipped where there is no Chromium."""

import io
import re
import shutil
import threading
from dataclasses import replace
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

from tests import hostile
from tests.lit.conftest import predict, text_of
from tests.lit.label_runs import random_run
from utils.lit.guard import Guard
from utils.lit.run import start

#: A notebook's frame, and the windows of laptops and desktops, in pixels.
WIDTHS = [1000, *(pytest.param(width, marks=pytest.mark.full) for width in (1280, 1440, 1920))]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def page():
    """An empty page, for which evil.example is this machine. It may not break the policy of any other."""
    if not CHROMIUM:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    options = {"executable_path": CHROMIUM, "timeout": 120_000}
    options["args"] = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**options)
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        page.set_default_timeout(60_000)
        page.messages, page.addresses = [], []
        page.on("console", lambda message: page.messages.append(message.text))
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("request", lambda request: page.addresses.append(request.url))
        yield page
        browser.close()


def violations(page):
    return [message for message in page.messages if "Content Security Policy" in message]


def messages(page):
    """What the browser's console shows, without the graphics driver's hints on speed."""
    return [message for message in page.messages if "GL Driver Message" not in message]


def open_lit(page, lit, parameters):
    page.goto(f"{lit.url}?{parameters}")
    page.wait_for_selector("lit-data-table tbody tr")


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
    """Wait until a module of scores shows the expected one, to its three decimals; fail after a minute.

    A text without a truth has no column for it.
    """
    cells = module.locator("lit-data-table tbody td")
    for _ in range(120):
        shown = [text for text in cells.all_inner_texts() if re.fullmatch(r"-?\d+\.\d+", text)]
        if any(float(text) == pytest.approx(expected, abs=1e-3) for text in shown):
            return
        module.page.wait_for_timeout(500)
    raise AssertionError(f"the page shows {shown}, not {expected:.3f}")


def open_tab(page, name):
    page.locator("lit-modules .tab").get_by_text(name, exact=True).click()


def is_within(page, element):
    """Whether a person can see all of an element."""
    box, size = element.bounding_box(), page.viewport_size
    return box and box["x"] >= 0 and box["x"] + box["width"] <= size["width"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_shows_edits_colours_points_and_two_models(page, lit, rows, explainer, capfd, width):
    """The tour. Nothing is asked of the internet, and neither the page nor the server complains."""
    from playwright.sync_api import expect

    page.set_viewport_size({"width": width, "height": 900})
    capfd.readouterr()
    open_lit(page, lit, "models=fold+0+·+averaged,fold+1+·+averaged")
    if is_narrow := width < 1300:
        open_tab(page, "Map")
    canvas = page.locator("embeddings-module canvas").first
    nothing_chosen = wait_until_drawn(canvas)
    if is_narrow:
        open_tab(page, "Texts")
    table_rows = page.locator("lit-data-table tbody tr")
    table_rows.first.click()
    if is_narrow:
        open_tab(page, "Map")
    wait_until_drawn(canvas, unlike=nothing_chosen)  # the chosen text's point shows on the map
    if is_narrow:
        open_tab(page, "Texts")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("Copy Link", "Clear selection", "Add and compare"):
        assert is_within(page, page.locator("button:visible").filter(has_text=name)), name
    icons = page.locator("lit-widget .icon-button:visible")
    assert icons.count() > 4
    assert max(icon.bounding_box()["width"] for icon in icons.all()) < 40, "a word in place of an icon"
    scores = page.locator("regression-module:visible")
    scores.nth(1).locator("lit-data-table tbody tr").first.wait_for()
    assert scores.count() == 2, "a module for each model"
    editor = page.locator("datapoint-editor-module textarea").first
    text = text_of(rows[0])
    expect(editor).to_have_value(text, timeout=60_000)
    expected = explainer.scores([text])[0, 0]
    wait_for_score(scores.first, expected)
    shown = table_rows.first.inner_text().split()
    assert f"{expected:.3f}" in shown, "the table has predictions"

    # Edited and predicted again.
    editor.fill("")
    editor.press_sequentially("A cat sat on a mat. It was a fat cat.")
    page.locator("datapoint-editor-module").get_by_text("Add", exact=True).click()
    wait_for_score(scores.first, explainer.scores(["A cat sat on a mat. It was a fat cat."])[0, 0])

    # Words in colour.
    open_tab(page, "Explanations")
    chips = page.locator("salience-map-module .text-token, salience-map-module .salient-token")
    chips.first.wait_for()
    colours = chips.evaluate_all("chips => chips.map(chip => getComputedStyle(chip).backgroundColor)")
    assert len(set(colours)) > 5

    # The other questions: each tab draws something.
    for tab in ("Predictions", "Scalars", "Salience Clustering", "Metrics", "Counterfactuals", "TCAV"):
        open_tab(page, tab)
        page.wait_for_timeout(500)
    assert messages(page) == []
    assert all(address.startswith((lit.url, "data:", "blob:")) for address in page.addresses)
    assert capfd.readouterr() == ("", "")


@pytest.mark.full
def test_ten_edits_leave_every_plot_its_context(page, lit):
    open_lit(page, lit, "")
    open_tab(page, "Scalars")
    wait_until_drawn(page.locator("scalar-module canvas").first)
    page.locator("lit-data-table tbody tr").first.click()
    editor = page.locator("datapoint-editor-module textarea").first
    for number in range(10):
        editor.fill(f"A cat sat on mat number {number}.")
        page.locator("datapoint-editor-module").get_by_text("Add", exact=True).click()
        page.get_by_text(f"of {120 + number + 1} datapoints").wait_for()
        page.wait_for_timeout(1000)
    wait_until_drawn(page.locator("scalar-module canvas").first)
    assert messages(page) == []


def test_attention_by_hand(page, lit, explainer):
    """From LIT's page: another text, a layer, a head; the heads by what masking them does; back to LIT."""
    from playwright.sync_api import expect

    open_lit(page, lit, "")
    page.get_by_text("Attention", exact=True).click()
    page.locator("#text").fill("<b>Rain</b> fell on the harbour.")
    page.get_by_text("Read", exact=True).click()
    tokens, attention = explainer.attentions("<b>Rain</b> fell on the harbour.")
    expect(page.locator("#rollout .token")).to_have_text(tokens[1:-1], timeout=60_000)
    for name, index in (("#layer", 1), ("#head", 1)):  # the second layer; the first head, after their mean
        with page.expect_response("**/attention/head"):
            page.locator(name).select_option(index=index)
    canvas = page.locator("#matrix")
    wait_until_drawn(canvas)
    label, side = canvas.evaluate("canvas => [canvas.labels, canvas.side]")
    canvas.hover(position={"x": label + 2.5 * side, "y": label + 1.5 * side})
    expect(page.locator("#under")).to_have_text(f"{tokens[1]} → {tokens[2]}: {attention[1, 0, 1, 2]:.3f}")
    page.get_by_text("Mask each head in turn").click()
    expect(page.locator("#heads td")).to_have_count(attention.shape[0] * attention.shape[1], timeout=60_000)
    expect(page.locator("#heads td.chosen")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    page.get_by_text("back to LIT").click()
    page.wait_for_selector("lit-data-table tbody tr")
    assert messages(page) == []


@pytest.mark.full
def test_labels_on_the_page(page, tmp_path, alone):
    """Probabilities, the class to explain, metrics, confusion matrix; a reload with an edited text."""
    from playwright.sync_api import expect

    run = random_run("binary", tmp_path)
    lit = start(run, texts=14)
    open_lit(page, lit, "models=fold+0+·+averaged")
    page.locator("lit-data-table tbody tr").first.click()
    results = page.locator("classification-module:visible lit-data-table tbody tr")
    expect(results).to_have_count(2, timeout=60_000)
    (row,) = lit.ask("get_dataset", dataset_name="fold 0 held out")[:1]
    (answer,) = predict(lit, [row], "predicted suitable")
    for number, share in enumerate(answer["predicted suitable"]):
        expect(results.nth(number)).to_contain_text(f"{share:.3f}", timeout=60_000)

    open_tab(page, "Explanations")
    chips = page.locator("salience-map-module [id='grad ⋅ input'] .salient-token")
    chips.first.wait_for()
    choice, colours = page.locator("salience-map-module select").nth(1), []
    for label in ("no", "yes"):
        choice.select_option(value=label)
        page.wait_for_timeout(3000)
        colours.append(chips.evaluate_all("chips => chips.map(c => getComputedStyle(c).backgroundColor)"))
    assert len(colours[0]) == len(colours[1]) > 10
    assert colours[0] != colours[1]

    open_tab(page, "Metrics")
    accuracy = page.locator("metrics-module lit-data-table tbody tr").filter(has_text="dataset")
    expect(accuracy).to_contain_text("predicted suitable", timeout=60_000)
    before = accuracy.inner_text().split()[-6:]
    open_tab(page, "Classes")
    expect(page.locator("confusion-matrix").first).to_contain_text("Dataset (14)")
    page.locator("datapoint-editor-module textarea").first.fill("A cat sat on a mat.")
    page.locator("datapoint-editor-module").get_by_text("Add", exact=True).click()
    expect(page.locator("confusion-matrix").first).to_contain_text("Dataset (15)", timeout=60_000)
    page.goto(page.url)
    open_tab(page, "Metrics")
    expect(accuracy).to_contain_text("15", timeout=60_000)
    assert accuracy.inner_text().split()[-6:] == before
    assert not [message for message in page.messages if "500" in message or "Uncaught" in message]


#: Every element of a page with an attribute that would run a script, or that loads what a text names.
FOREIGN = """() => {
  const found = [], look = root => root.querySelectorAll("*").forEach(element => {
    const names = element.getAttributeNames();
    const own = !element.matches("img:not([src^=static]), iframe, object, b, form");
    if (!own || names.some(name => name.startsWith("on")))
      found.push(element.outerHTML);
    if (element.shadowRoot) look(element.shadowRoot);
  });
  look(document);
  return found;
}"""


@pytest.mark.full
def test_texts_labels_and_columns_are_text_on_the_page(page, trained, alone):
    """LIT takes long names of columns, and the labels that points are coloured by, for Markdown."""
    column = f"{hostile.STRINGS[1]} and a long name that is cut off and shown in full under the mouse"
    labels = [hostile.STRINGS[i % len(hostile.STRINGS)] for i in range(len(trained.table))]
    texts = [f"{label} {text}" for label, text in zip(labels, trained.table["excerpt"], strict=True)]
    table = trained.table.assign(**{"excerpt": texts, column: labels})
    lit = start(replace(trained, table=table, folders={0: trained.folders[0]}), texts=24)
    dialogs = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message) or dialog.dismiss())
    open_lit(page, lit, f"models=fold+0+·+averaged&color_by={quote(column)}")
    page.locator("color-legend").get_by_text("hostile").first.wait_for(state="attached")
    assert page.locator("lit-tooltip .tooltip-text").filter(has_text="hostile").count() >= 6
    assert page.evaluate(FOREIGN) == []
    assert not dialogs
    assert not violations(page)


@pytest.fixture
def elsewhere():
    """A server on another port. It answers everything with ``elsewhere.page``."""

    def app(environ, start_response):
        return Response(server.page, content_type="text/html")(environ, start_response)

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


ATTACK = """<body><script>
const lit = "%LIT%", script = "<script>(opener || parent).postMessage('ran', '*')</scr" + "ipt>";
const error = `${lit}get_preds?dataset_name=x&model=${encodeURIComponent(script)}`;
window.caught = [];
window.onmessage = event => window.caught.push(event.data);
for (const [name, url] of Object.entries({page: lit, error, data: `${lit}get_dataset?dataset_name=%DATA%`})) {
  const frame = document.body.appendChild(document.createElement("iframe"));
  Object.assign(frame, {name, src: url, width: 1500, height: 900});
}
const code = document.body.appendChild(document.createElement("script"));
code.src = `${lit}get_info`;
const form = document.body.appendChild(document.createElement("form"));
Object.assign(form, {action: error, method: "post", enctype: "text/plain", target: "posted"});
document.body.appendChild(document.createElement("iframe")).name = "posted";
form.submit();
window.open(error);
fetch(error, {method: "post", mode: "no-cors"});
fetch(`${lit}get_dataset?dataset_name=%DATA%`, {method: "post"}).then(
  answer => answer.text()).then(text => window.caught.push(text)).catch(() => 0);
</script>"""


@pytest.mark.parametrize("name", ["localhost", "evil.example"])
def test_a_page_elsewhere_can_open_the_page_and_read_and_run_nothing(page, lit, elsewhere, monkeypatch, name):
    """A page of another site, under this machine's name or one that an attacker made to mean it."""
    elsewhere.page = ATTACK.replace("%LIT%", lit.url).replace("%DATA%", "fold+0+held+out")
    came, original = [], Guard._refusal

    def watched(guard, request):
        refusal = original(guard, request)
        came.append((request.method, request.path, bool(refusal)))
        return refusal

    monkeypatch.setattr(Guard, "_refusal", watched)
    page.goto(f"http://{name}:{elsewhere.port}/")
    if name == "localhost":  # as a notebook's server on another port
        page.frame_locator("iframe[name=page]").locator("lit-data-table tbody tr").first.wait_for()
    page.wait_for_timeout(2000)
    framed = page.locator("iframe[name=page]").element_handle().content_frame()
    assert framed.url.startswith(lit.url if name == "localhost" else "chrome-error:")
    assert page.evaluate("window.caught") == []
    refused = {(method, path) for method, path, refusal in came if refusal}
    sent = {"GET": ("get_preds", "get_dataset", "get_info"), "POST": ("get_preds", "get_dataset")}
    assert refused == {(method, f"/{path}") for method, paths in sent.items() for path in paths}
    if name == "evil.example":  # and a name that comes to mean this machine once its page is open
        assert page.goto(f"http://{name}:{lit.port}/").status == 403
