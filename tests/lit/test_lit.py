"""LIT on five trained folds: asked over HTTP, its numbers checked; guarded; and in a real browser."""

import gc
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import requests
from lit_nlp.api import types
from lit_nlp.lib import validation
from PIL import Image
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from utils.lit import run
from utils.lit import server
from utils.machine import runtime
from utils.runs import run
from utils import tasks
from utils.config import Config, InputError
from utils.lit.explain import Explainer
from utils.runs.fold import fit_fold
from utils.lit.spec import Excerpts, Regressor

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HELD, MODEL, SCORE = "fold 0 held out", "fold 0 averaged", "predicted target"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Five tiny folds that have learnt something."""
    output = str(tmp_path_factory.mktemp("lit") / "output")
    config = Config.make(
        "tiny", precision="fp32", output_dir=output, epochs=12, swa_start=6, lr=3e-3, max_rows=0, max_length=96
    )
    table = tasks.add_folds(tasks.load_table(config), config)
    for fold in range(5):
        fit_fold(replace(config, fold=fold), table)
    return run.open_run(config)


@pytest.fixture(scope="module")
def lit(trained):
    yield run.start(trained, texts=24)
    run.stop()


@pytest.fixture(scope="module")
def rows(lit):
    return lit.ask("get_dataset", dataset_name=HELD)


@pytest.fixture(scope="module")
def predicted(lit, rows):
    return np.array([row[SCORE] for row in preds(lit, rows, SCORE)])


@pytest.fixture(scope="module")
def explainer(trained):
    return Explainer(trained.folders[0], "swa", trained.config)


def preds(lit, inputs, fields, model=MODEL, texts=HELD):
    return lit.ask("get_preds", {"inputs": inputs}, model=model, dataset_name=texts, requested_fields=fields)


def text_of(row):
    return row["data"]["excerpt"]


# --- the contract ------------------------------------------------------------------------------------------------


def test_five_models_stand_beside_five_data_sets(lit, trained):
    info = lit.ask("get_info")
    assert list(info["models"]) == [f"fold {fold} averaged" for fold in range(5)]
    for about in info["models"].values():
        assert [name for name in about["datasets"] if name[0] != "_"] == [f"fold {fold} held out" for fold in range(5)]
        assert {"umap", "pca", "LIME", "tcav", "nearest neighbors", "Salience Clustering"} <= set(about["interpreters"])
        assert about["generators"] == ["Ablation Flip", "HotFlip", "Word Replacer", "Scrambler"]
    for fold in range(5):
        name, own = f"fold {fold} held out", f"fold {fold} averaged"
        rows = lit.ask("get_dataset", dataset_name=name)
        assert len(rows) == 24
        written = trained.predictions.set_index("id")["swa"]
        found = [row[SCORE] for row in preds(lit, rows, SCORE, own, name)]
        np.testing.assert_allclose(found, written[[row["data"]["id"] for row in rows]], atol=1e-5)
    other = [row[SCORE] for row in preds(lit, rows, SCORE, "fold 1 averaged", name)]
    assert np.abs(np.subtract(found, other)).max() > 0.01


def test_the_rows_are_the_tables(rows, trained):
    table = trained.table.set_index("id")
    for row in rows:
        original = table.loc[row["data"]["id"]]
        assert text_of(row) == original["excerpt"]
        assert row["data"]["target"] == pytest.approx(original["target"])
        assert row["data"]["standard_error"] == pytest.approx(float(original["standard_error"]))
        assert (row["data"]["fold"], row["data"]["topic"]) == ("0", original["topic"])
        assert row["data"]["band"] == ("higher" if original["target"] > table["target"].median() else "lower")


def test_lits_own_validation_is_content(trained, explainer):
    """But for the gradients which TCAV asks for: LIT's validation wants tokens where its TCAV wants a class."""
    texts = Excerpts(trained.table.head(4), trained.config, -1.0)
    validation.validate_dataset(texts, report_all=True)
    model = Regressor(explainer, -1.0)
    spec = {name: kind for name, kind in model.output_spec().items() if not isinstance(kind, types.Gradients)}
    model.output_spec = lambda: spec
    validation.validate_model(model, texts, report_all=True)


def test_columns_that_lit_cannot_show_are_left_out(trained):
    table = trained.table.head(6).assign(standard_error=["0.1", ""] * 3, note=[None, "a"] * 3, band="mine", link="x")
    texts = Excerpts(table, trained.config, -1.0)
    assert list(texts.spec()) == ["excerpt", "id", "target", "topic", "fold", "note", "band"]
    assert {row["note"] for row in texts.examples} == {"", "a"}
    validation.validate_dataset(texts, report_all=True)


def test_an_edited_text_is_read_anew(lit, rows, explainer):
    changed = dict(rows[0]["data"], excerpt="A cat sat on\na mat.", _id="")
    (row,) = lit.ask("annotate_new_data", {"inputs": [{"data": changed, "id": "", "meta": {}}]}, dataset_name=HELD)
    assert row["id"] not in {one["id"] for one in rows}
    (found,) = preds(lit, [row], f"{SCORE},tokens")
    assert found[SCORE] == pytest.approx(explainer.scores(["A cat sat on a mat."])[0, 0], abs=1e-5)
    assert "".join(found["tokens"]).replace("##", "") == "acatsatonamat."


# --- numbers -----------------------------------------------------------------------------------------------------


def test_metrics_of_all_and_of_a_slice(lit, rows, predicted):
    target = np.array([row["data"]["target"] for row in rows])
    chosen = np.array([row["data"]["band"] == "higher" for row in rows])
    for part in (np.full(len(rows), True), chosen):
        body = {"inputs": [row for row, take in zip(rows, part, strict=True) if take]}
        (found,) = lit.ask("get_metrics", body, model=MODEL, dataset_name=HELD)["regression"]
        error = predicted[part] - target[part]
        assert found["metrics"]["mse"] == pytest.approx((error**2).mean(), rel=1e-5)
        assert found["metrics"]["pearsonr"] == pytest.approx(np.corrcoef(predicted[part], target[part])[0, 1], rel=1e-5)
        assert found["metrics"]["spearmanr"] == pytest.approx(
            stats.spearmanr(predicted[part], target[part])[0], rel=1e-5
        )
    results = lit.interpret("regression", MODEL, HELD)
    errors = [result[SCORE]["error"] for result in results]
    np.testing.assert_allclose(errors, predicted - target, atol=1e-5)


def test_maps_and_neighbours(lit, rows, explainer):
    pooled = np.array([one.pooled for one in explainer.read([text_of(row) for row in rows])])
    expected = PCA(3).fit_transform(pooled)
    found = lit.project("pca", MODEL, HELD)
    for axis in range(2):
        assert abs(np.corrcoef(expected[:, axis], found[:, axis])[0, 1]) > 0.999
    points = lit.project("umap", MODEL, HELD)
    assert points.shape == (24, 3)
    assert np.isfinite(points).all()
    settings = {"dataset_name": HELD, "embedding_name": "pooled", "num_neighbors": 4}
    (answer,) = lit.interpret("nearest neighbors", MODEL, HELD, rows[:1], **settings)
    nearest = np.argsort(cdist(pooled[:1], pooled)[0])[:4]
    assert [one["id"] for one in answer["nearest_neighbors"]] == [rows[i]["id"] for i in nearest]


def test_gradient_salience_fills_its_range(lit, rows, explainer):
    one = explainer.read([text_of(rows[0])])[0]
    for method, expected in (
        ("Grad L2 Norm", np.linalg.norm(one.gradients, axis=1)),
        ("Grad ⋅ Input", (one.gradients * one.embeddings).sum(axis=1)),
    ):
        ((tokens, found),) = lit.salience(method, MODEL, HELD, rows[:1])
        assert tokens == one.tokens
        np.testing.assert_allclose(found, expected / np.abs(expected).max(), atol=1e-4)
    ((_, found),) = lit.salience("Model-provided salience", MODEL, HELD, rows[:1])
    raised = one.attention - one.attention.min()
    np.testing.assert_allclose(found, raised / raised.max(), atol=1e-4)


def test_an_emptied_text_has_a_score_and_nothing_to_explain(lit, rows):
    empty = dict(rows[0]["data"], excerpt="", _id="")
    (row,) = lit.ask("annotate_new_data", {"inputs": [{"data": empty, "id": "", "meta": {}}]}, dataset_name=HELD)
    (found,) = preds(lit, [row], f"{SCORE},tokens")
    assert np.isfinite(found[SCORE])
    assert found["tokens"] == []
    for method in ("Grad L2 Norm", "Grad ⋅ Input", "Integrated Gradients", "Model-provided salience"):
        ((_, values),) = lit.salience(method, MODEL, HELD, [row])
        assert not len(values)


def test_integrated_gradients_are_complete(lit, rows, explainer):
    for row, (tokens, values) in zip(
        rows[:6], lit.salience("Integrated Gradients", MODEL, HELD, rows[:6], Normalize=False), strict=True
    ):
        whole = explainer.scores([text_of(row)])[0, 0]
        nothing = explainer.read([text_of(row)], [np.zeros((len(tokens), 1))])[0].scores[0]
        assert values.sum() == pytest.approx(whole - nothing, rel=0.02, abs=0.005)
    ((_, scaled),) = lit.salience("Integrated Gradients", MODEL, HELD, rows[:1])
    assert np.abs(scaled).max() == pytest.approx(1)


def test_lime_finds_what_leaving_words_out_does(lit, rows, explainer):
    row = min(rows, key=lambda row: len(text_of(row)))
    ((words, values),) = lit.salience("LIME", MODEL, HELD, [row])
    assert words == text_of(row).split()
    assert np.abs(values).max() == pytest.approx(1)
    mask = explainer.tokenizer.mask_token
    without = [" ".join([*words[:i], mask, *words[i + 1 :]]) for i in range(len(words))]
    effect = explainer.scores([text_of(row)])[0, 0] - explainer.scores(without)[:, 0]
    assert stats.spearmanr(values, effect)[0] > 0.4


def test_counterfactuals_are_new_texts_with_their_own_scores(lit, rows, predicted, explainer):
    place = int(np.argsort(predicted)[len(rows) // 2])
    row, before = rows[place], predicted[place]
    up = before + 0.05
    fields = {f"Fields to {verb}": ["excerpt"] for verb in ("ablate", "replace", "scramble")}
    settings = {**fields, "Fields to flip tokens in": ["tokens"], "Prediction key": SCORE,
                "Regression threshold": f"{up:.4f}",
                "Substitutions": f"{text_of(row).split()[1]} -> zebra"}  # fmt: skip
    words = text_of(row).split()
    for generator in ("Ablation Flip", "HotFlip", "Word Replacer", "Scrambler"):
        (made,) = lit.generate(generator, MODEL, HELD, [row], **settings)
        assert made, generator
        made = lit.ask("annotate_new_data", {"inputs": made}, dataset_name=HELD)  # as the page does
        assert len({one["id"] for one in made} | {row["id"]}) == len(made) + 1, "the cache must not answer for them"
        found = [one[SCORE] for one in preds(lit, made, SCORE)]
        np.testing.assert_allclose(found, explainer.scores([text_of(one) for one in made])[:, 0], atol=1e-5)
        for one, score in zip(made, found, strict=True):
            now = text_of(one).split()
            if generator in ("Ablation Flip", "HotFlip"):
                assert score > up, "over the threshold"
            if generator == "Ablation Flip":
                assert len(now) < len(words)
                assert set(now) <= set(words)
            if generator == "HotFlip":
                assert len(now) == len(words)
                assert "##" not in text_of(one)
                assert text_of(one) != text_of(row)
            if generator == "Word Replacer":
                assert "zebra" in text_of(one)
            if generator == "Scrambler":
                assert sorted(now) == sorted(words)


def test_tcav_knows_that_high_scores_come_from_what_high_texts_share(lit, rows, predicted):
    order = np.argsort(-predicted)
    settings = {"class_to_explain": "higher", "dataset_name": HELD}
    top = lit.interpret("tcav", MODEL, HELD, rows, concept_set_ids=[rows[i]["id"] for i in order[:8]],
                        grad_layer="pooled gradient", **settings)  # fmt: skip
    bottom = lit.interpret("tcav", MODEL, HELD, rows, concept_set_ids=[rows[i]["id"] for i in order[-8:]],
                           grad_layer="layer 1 gradient", **settings)  # fmt: skip
    assert top[0]["result"]["score"] > 0.8 > 0.2 > bottom[0]["result"]["score"]
    assert len(top[0]["result"]["cos_sim"]) == len(rows)
    assert 0 <= top[0]["p_val"] <= 1


def test_tcav_says_when_no_text_is_of_the_band(lit, rows, predicted):
    lowest = [rows[i] for i in np.argsort(predicted)[:8]]
    with pytest.raises(RuntimeError, match="scores none of these texts as higher; explain the other band"):
        lit.interpret("tcav", MODEL, HELD, lowest, concept_set_ids=[row["id"] for row in lowest[:4]],
                      class_to_explain="higher", grad_layer="pooled gradient", dataset_name=HELD)  # fmt: skip


def test_texts_cluster_by_their_salient_words(lit, rows):
    mapper = {"Salience Mapper": "Grad ⋅ Input", "Number of clusters": 3}
    found = lit.interpret("Salience Clustering", MODEL, HELD, rows, **mapper)
    assert len(found["cluster_ids"]["token_gradients"]) == len(rows)
    assert set(found["cluster_ids"]["token_gradients"]) == {0, 1, 2}


# --- serving -----------------------------------------------------------------------------------------------------


def asked(lit, headers, path="get_info"):
    return requests.get(lit.url + path, headers=headers, timeout=30).status_code


def test_other_sites_pages_are_refused(lit):
    own = f"127.0.0.1:{lit.port}"
    assert asked(lit, {}) == asked(lit, {"Host": f"localhost:{lit.port}"}) == 200
    assert asked(lit, {"Origin": f"http://{own}"}) == 200
    assert asked(lit, {"Origin": f"http://localhost:{lit.port}"}) == 403
    assert asked(lit, {"Origin": "https://evil.example"}) == 403
    assert asked(lit, {"Origin": "null"}) == 403
    assert asked(lit, {"Host": "evil.example"}) == asked(lit, {"Host": f"evil.example:{lit.port}"}) == 403
    assert asked(lit, {"Host": "127.0.0.1.evil.example"}) == 403
    guard = server.Guard(None, "Hub.example:8888, .lab.example")
    for host in ("me.lab.example:8888", "hub.example", "HUB.example:1", "LOCALHOST:4", "[::1]:5432", "10.0.0.7"):
        assert guard.knows(host), host
    for host in ("evilab.example", "hub.example.evil", "", "."):
        assert not guard.knows(host), host
    assert guard.trusts("https://hub.example:8888", "localhost:5432"), "a proxy that writes its own Host"
    assert not guard.trusts("http://localhost:9999", "localhost:5432"), "another server of this machine"
    with pytest.raises(InputError, match="would let in every page"):
        server.Guard(None, ".,hub.example")


def test_colabs_proxies_are_known(monkeypatch):
    monkeypatch.setenv("COLAB_RELEASE_TAG", "x")
    guard = server.Guard(None)
    assert guard.knows("abc123-5432-colab.googleusercontent.com")
    assert not guard.knows("colab.googleusercontent.com.evil.example")


def test_nothing_can_be_written_or_loaded_from_the_page(lit, rows, tmp_path):
    lit.ask("save_datapoints", {"inputs": rows[:1]}, dataset_name=HELD, path=str(tmp_path / "stolen"))
    assert not list(tmp_path.iterdir())
    for question, names in (("create_model", {"model_name": MODEL}), ("create_dataset", {"dataset_name": HELD})):
        with pytest.raises(RuntimeError, match="No loader information"):
            lit.ask(question, {"config": {"new_name": "x"}}, **names)
    assert "Path not safe" in requests.get(lit.url + "static/..%2f..%2f..%2f..%2fapp.py", timeout=30).text


@pytest.fixture
def alone(monkeypatch):
    """A server that is none of the module's."""
    monkeypatch.setattr(run, "_current", {})
    yield
    run.stop()


def test_a_second_start_keeps_the_server_until_the_weights_change(trained, tmp_path, alone, capsys):
    copy = replace(trained, folders={0: shutil.copytree(trained.folders[0], tmp_path / "fold-0")})
    first = run.start(copy, texts=3)
    assert "1 models, 3 texts, about" in capsys.readouterr().out
    assert run.start(copy, texts=3) is first
    before = [row[SCORE] for row in preds(first, first.ask("get_dataset", dataset_name=HELD), SCORE)]
    shutil.copytree(tmp_path / "fold-0" / "last", tmp_path / "fold-0" / "swa", dirs_exist_ok=True)
    second = run.start(copy, texts=3)
    assert second is not first
    assert not first.running
    after = [row[SCORE] for row in preds(second, second.ask("get_dataset", dataset_name=HELD), SCORE)]
    assert np.abs(np.subtract(before, after)).max() > 1e-4, "kept for other weights"


def test_of_several_targets_the_one_asked_for_is_explained(tmp_path, alone):
    table = pd.read_csv(runtime.ROOT / "data" / "sample" / "train.csv").assign(
        hardness=lambda rows: 10 - rows["target"]
    )
    table.to_csv(tmp_path / "two.csv", index=False)
    config = Config.make("tiny", precision="fp32", output_dir=str(tmp_path / "output"), data=str(tmp_path / "two.csv"),
                         target_columns="target,hardness", lr=3e-3, epochs=6, swa_start=3)  # fmt: skip
    fit_fold(config, tasks.add_folds(tasks.load_table(config), config))
    run = run.open_run(config, at_least=1)
    lit = run.start(run, texts=4, target="hardness")
    rows = lit.ask("get_dataset", dataset_name=HELD)
    explainer = Explainer(run.folders[0], "swa", run.config, target=1)
    found = preds(lit, rows, "predicted target,predicted hardness")
    expected = explainer.scores([text_of(row) for row in rows])
    for place, name in enumerate(("predicted target", "predicted hardness")):
        np.testing.assert_allclose([row[name] for row in found], expected[:, place], atol=1e-4)
    middle = run.table["hardness"].median()
    assert [row["data"]["band"] == "higher" for row in rows] == [row["data"]["hardness"] > middle for row in rows]
    one = explainer.read([text_of(rows[0])])[0]
    ((_, slopes),) = lit.salience("Grad L2 Norm", MODEL, HELD, rows[:1])
    norms = np.linalg.norm(one.gradients, axis=1)
    np.testing.assert_allclose(slopes, norms / norms.max(), atol=1e-4)
    ((_, own),) = lit.salience("LIME", MODEL, HELD, rows[:1])
    ((_, other),) = lit.salience("LIME", MODEL, HELD, rows[:1], _salience_target={"field": "predicted target"})
    ((_, asked),) = lit.salience("LIME", MODEL, HELD, rows[:1], _salience_target={"field": "predicted hardness"})
    np.testing.assert_allclose(own, asked)
    assert np.abs(own - other).max() > 0.1


def test_stop_frees_the_port_at_once(trained, alone):
    one = replace(trained, folders={0: trained.folders[0]})
    lit = run.start(one, texts=2)
    with pytest.raises(InputError, match=rf"port {lit.port} of 127\.0\.0\.1 cannot be had; it may be in use"):
        run.Lit(None, "127.0.0.1", lit.port)
    inside = weakref.ref(lit._guard.app)
    lit.stop()
    with socket.socket() as again:
        again.bind(("127.0.0.1", lit.port))
        again.listen()
        gc.collect()
        assert inside() is None, "its models would pile up"
        with pytest.raises(InputError, match="cannot be had"):
            run.start(one, port=lit.port)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": "sw"}, "weights='sw' are not there; did you mean 'swa'?"),
        ({"weights": ""}, "weights='' are not there; choose one of: best, last, swa."),
        ({"target": "score"}, "target='score' is none of the run's; choose one of: target."),
        ({"texts": "ten"}, "texts='ten' cannot be used; it must be a whole number from 0 to"),
        ({"port": 70000}, "port=70000 cannot be used; it must be a whole number from 0 to 65535."),
        ({"host": "no.such.host.invalid"}, "host='no.such.host.invalid' is no address of this machine"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(trained, alone, options, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        run.start(trained, **options)


def test_the_page_in_a_notebook_holds_no_address_that_could_leak(lit, monkeypatch):
    monkeypatch.setattr(runtime, "progress_wanted", lambda: False)
    assert "Nobody watches" in lit.show().data
    monkeypatch.setattr(runtime, "progress_wanted", lambda: True)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    shown = lit.show(height=700).data
    assert f"const port = {lit.port}" in shown
    assert "https://" not in shown
    assert 'height="700"' in shown


def test_the_shell_serves_until_ctrl_c(trained, tmp_path):
    own = trained.config
    options = {"preset": "tiny", "output_dir": own.output_dir, "epochs": own.epochs, "max_rows": 0}
    command = [sys.executable, "-m", "utils.serve", "--port", "0", "--texts", "2"]
    command += [word for name, value in options.items() for word in ("-p", name, str(value))]
    with subprocess.Popen(
        command, cwd=runtime.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        said = ""
        while "LIT is at" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        address = re.search(r"http://127\.0\.0\.1:\d+/", said)[0]
        assert requests.get(address, timeout=30).ok
        process.send_signal(signal.SIGINT)
        assert "Stopping." in process.stdout.read()
    assert process.returncode == 0


# --- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture
def page(lit):
    if not CHROMIUM:
        pytest.skip("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        page.route("**/*", lambda route: route.continue_() if lit.url in route.request.url else route.abort())
        page.set_default_timeout(60_000)
        page.goto(f"{lit.url}?models=fold+0+averaged,fold+1+averaged")
        page.wait_for_selector("lit-data-table tbody tr")
        yield page
        browser.close()


def drawn(canvas, unlike=None):
    """The pixels of a canvas once something is on it, it stands still, and it no longer looks as `unlike`."""
    last = None
    for _ in range(200):
        now = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"))
        still, empty = np.array_equal(now, last), (now != now[0, 0]).any(axis=-1).sum() < 200
        if still and not empty and not np.array_equal(now, unlike):
            return now
        last = now
        canvas.page.wait_for_timeout(300)
    raise AssertionError("the canvas " + ("moves on" if not still else "stays empty" if empty else "looks as before"))


def shows_score(module, expected):
    """Waits until a module of scores shows the expected one, to its three decimals; fails after a minute."""
    cell = module.locator("lit-data-table tbody td").nth(2)
    for _ in range(120):
        shown = cell.inner_text()
        if re.fullmatch(r"-?\d+\.\d+", shown) and float(shown) == pytest.approx(expected, abs=1e-3):
            return
        module.page.wait_for_timeout(500)
    raise AssertionError(f"the page shows {shown}, not {expected:.3f}")


def test_the_page_shows_edits_colours_points_and_two_models(page, rows, explainer):
    from playwright.sync_api import expect

    canvas, table_rows = page.locator("embeddings-module canvas").first, page.locator("lit-data-table tbody tr")
    nothing_chosen = drawn(canvas)
    table_rows.nth(1).click()
    other = drawn(canvas, unlike=nothing_chosen)
    table_rows.first.click()
    drawn(canvas, unlike=other)  # the chosen text's point shows on the map
    scores = page.locator("regression-module:visible")
    scores.nth(1).locator("lit-data-table tbody tr").first.wait_for()
    assert scores.count() == 2, "a module for each model"
    editor = page.locator("datapoint-editor-module textarea").first
    text = text_of(rows[0])
    expect(editor).to_have_value(text, timeout=60_000)
    shows_score(scores.first, explainer.scores([text])[0, 0])

    # Edited and predicted again.
    editor.fill("")
    editor.press_sequentially("A cat sat on a mat. It was a fat cat.")
    page.locator("datapoint-editor-module").get_by_text("Add", exact=True).click()
    shows_score(scores.first, explainer.scores(["A cat sat on a mat. It was a fat cat."])[0, 0])

    # Words in colour.
    page.get_by_text("Explanations", exact=True).first.click()
    chips = page.locator("salience-map-module .text-token, salience-map-module .salient-token")
    chips.first.wait_for()
    colours = chips.evaluate_all("chips => chips.map(chip => getComputedStyle(chip).backgroundColor)")
    assert len(set(colours)) > 5
