"""The page in a browser: every path through it, wide and narrow, light and dark, without any other host."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from itertools import product
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from served import EXAMPLES, entry, running

from crystalformers import load_model
from crystalformers.io import read_crystal
from crystalformers.prediction.several import Models

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("NOT TESTED: the page, since chromium is not installed", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="NOT TESTED: the page, without playwright")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NOT TESTED: the page, without axe")

ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
"""A drawing of three dimensions in software."""

SIZES = {"wide": (1400, 900), "narrow": (390, 844)}
VIEWS = {
    f"{name} {scheme}": {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    for name, (width, height) in SIZES.items()
    for scheme in ("light", "dark")
}

BAD = {"name": "broken.cif", "mimeType": "text/plain", "buffer": b"data_x\n_cell_length_a 3\n"}
Page = Any


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=("wide light", "narrow dark"))
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Page]:
    """The page in one of the views; errors of its scripts and requests to other hosts fail the test."""
    yield from opened(browser, address, **VIEWS[request.param])


@pytest.fixture
def wide(browser: Any, address: str) -> Iterator[Page]:
    yield from opened(browser, address, **VIEWS["wide light"])


def opened(browser: Any, address: str, **options: Any) -> Iterator[Page]:
    context = browser.new_context(**options, accept_downloads=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)

    def check_host(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"blob", "data"} and f"{parts.scheme}://{parts.netloc}" != address:
            wrong.append(f"request to {request.url}")

    page.on("request", check_host)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector("#examples button")
    yield page
    context.close()
    wrong = [text for text in wrong if "GPU stall" not in text]
    assert wrong == []


def add_example(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector(f"#title:has-text('{name}')")
    page.wait_for_selector("#images tbody tr")


def drawn(page: Page) -> bytes:
    """The picture of the 3D view."""
    page.wait_for_timeout(200)
    return bytes(page.locator("#viewer canvas").first.screenshot())


def accessible(page: Page) -> None:
    found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    assert found.violations_count == 0, found.generate_report()


def test_an_example_is_predicted_drawn_and_explained(page: Page) -> None:
    accessible(page)
    add_example(page, "SrTiO3")
    text = page.locator("#predictions").inner_text()
    [expected] = load_model().predict(EXAMPLES / "SrTiO3.cif")
    assert f"{expected.values['formation_energy_per_atom']:#.4g} eV/atom".replace("-", "−") in text
    ends = (f"{end['formation_energy_per_atom']:#.4g}".replace("-", "−") for end in (expected.low, expected.high))
    assert f"90 % interval: {' to '.join(ends)} eV/atom" in text
    assert "held-out crystals are nearer" in text
    assert "5 atoms" in page.locator("#title").inner_text()
    first = drawn(page)
    page.select_option("#atom", "1")
    page.wait_for_selector("#attention-note:has-text('Atom 2 (Ti)')")
    assert drawn(page) != first, "lines from another atom"


def test_known_crystals_that_are_nearest_are_listed(page: Page) -> None:
    add_example(page, "NaCl")
    page.wait_for_selector("#known tbody tr")
    rows = [row.split("\t") for row in page.locator("#known tbody tr").all_inner_texts()]
    assert len(rows) == 5
    assert rows[0][:3] == ["NaCl", "NaCl.cif", "0.00"]
    distances = [float(row[2]) for row in rows]
    assert distances == sorted(distances)
    assert distances[1] > 0
    [salt] = load_model().predict(EXAMPLES / "NaCl.cif")
    assert rows[0][3] == f"{salt.values['formation_energy_per_atom']:.4g}".replace("-", "−")
    add_example(page, "Cu")
    page.wait_for_selector("#known tbody tr:first-child:has-text('Cu.cif')")


@pytest.mark.parametrize("page", VIEWS, indirect=True)
def test_all_views_are_accessible_and_fit_the_screen(page: Page) -> None:
    add_example(page, "NaCl")
    page.set_input_files("#files", files=[BAD])
    page.wait_for_selector(".failed")
    page.wait_for_selector("#known tbody tr")
    page.evaluate("document.getElementById('status').textContent = ''")  # as it is after some seconds
    width = page.viewport_size["width"]
    for view in ("structures", "table", "elements"):
        page.click(f"#tab-{view}")
        if view == "elements":
            page.wait_for_selector("#periodic button")
            page.click("#periodic button[aria-label^='Fe,']")
            page.wait_for_selector("#element h3:has-text('Could replace it')")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        accessible(page)
    page.goto(page.url.split("#")[0] + "docs")
    page.wait_for_selector("details")
    page.click("summary >> nth=0")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    accessible(page)


def test_the_theme_follows_the_system_and_the_switch(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    dark, light = "rgb(20, 23, 28)", "rgb(245, 246, 248)"
    before = page.evaluate(ground)
    assert before == (dark if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else light)
    page.click("#theme")
    after = page.evaluate(ground)
    assert {before, after} == {dark, light}
    assert page.get_attribute("#theme", "aria-pressed") == str(after == dark).lower()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate(ground) == after, "it is remembered"


def test_files_that_are_dropped_or_pasted(page: Page) -> None:
    files = [{"name": f"{name}.cif", "text": entry(name)["text"]} for name in ("NaCl", "Si")]
    files.append({"name": "note.txt", "text": "hello"})
    transfer = page.evaluate_handle(
        """files => { const data = new DataTransfer();
        for (const { name, text } of files) data.items.add(new File([text], name));
        return data; }""",
        files,
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    assert "dropping" in page.get_attribute("body", "class")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector("#list li >> nth=2")
    assert page.locator("#list .failed").inner_text().startswith("note.txt\nnot a structure file by its name")
    page.click("#paste-open")
    page.fill("#paste-text", (EXAMPLES / "ZnO.cif").read_text(encoding="utf-8"))
    page.click("#paste button")
    page.wait_for_selector("#title:has-text('ZnO')")
    assert page.locator("#tab-table .count").inner_text() == "4"
    page.click("#clear")
    page.wait_for_selector("#welcome", state="visible")
    assert page.locator("#list li").count() == 0


def test_the_table_is_sorted_opened_and_downloaded(page: Page) -> None:
    frames = "".join(f'1\nLattice="{a} 0 0 0 {a} 0 0 0 {a}" \nPo 0 0 0\n' for a in (3.2, 3.3, 3.4))
    files = [
        {"name": f"{name}.cif", "mimeType": "text/plain", "buffer": entry(name)["text"].encode()}
        for name in ("NaCl", "Cu", "SrTiO3")
    ]
    files += [{"name": "three.extxyz", "mimeType": "text/plain", "buffer": frames.encode()}, BAD]
    page.set_input_files("#files", files=files)
    page.wait_for_selector(".failed")
    page.click("#tab-table")
    names = "[...document.querySelectorAll('#rows tbody tr td:first-child')].map(cell => cell.innerText)"
    header = page.get_by_role("button", name="band gap (eV)")
    header.click()
    up = page.evaluate(names)
    cells = "[...document.querySelectorAll('#rows tbody tr')].map(row => row.cells[6]?.innerText ?? '')"
    gaps = [float(text.replace("−", "-")) for text in page.evaluate(cells) if text]
    assert len(gaps) == 6
    assert gaps == sorted(gaps)
    assert page.get_attribute("#rows th:has-text('band gap')", "aria-sort") == "ascending"
    header = page.get_by_role("button", name="band gap (eV)")
    header.click()
    down = page.evaluate(names)
    assert up[-1] == down[-1] == "broken.cif", "what has no value comes last"
    assert down[:-1] == up[:-1][::-1]
    assert "the CIF lists no atoms" in page.locator("#rows .error").inner_text()
    assert "no training crystal holds Po" in page.locator("#rows .flagged").first.inner_text()
    with page.expect_download() as download:
        page.click("#download")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
    assert [row["name"] for row in rows] == down
    assert float(rows[0]["band_gap (eV)"]) > float(rows[1]["band_gap (eV)"])
    assert "lists no atoms" in rows[-1]["error"]
    page.get_by_role("button", name="Cu.cif").click()
    page.wait_for_selector("#title:has-text('Cu')", state="visible")
    page.click("#tab-table")
    page.get_by_role("button", name="three.extxyz#2").click()
    page.wait_for_selector(".flag:has-text('Unlike the training data')")


def test_heads_blocks_and_atoms_change_what_is_drawn(page: Page) -> None:
    add_example(page, "NaCl")
    seen = [drawn(page)]
    for slider, key in (("#block", "ArrowLeft"), ("#head", "ArrowRight"), ("#head", "ArrowRight")):
        before = page.locator("#images").inner_text()
        page.focus(slider)
        page.keyboard.press(key)
        assert page.locator("#images").inner_text() != before
        seen.append(drawn(page))
    assert len(set(seen)) == len(seen)
    assert page.locator("#block-value").inner_text() == "3 of 4"
    assert page.locator("#head-value").inner_text() == "2 of 8"
    assert "Å wide" in page.locator("#attention-note").inner_text()
    page.locator("#viewer").scroll_into_view_if_needed()
    box = page.locator("#viewer").bounding_box()
    before = page.input_value("#atom")
    for x, y in product(range(20, 80, 3), (0.3, 0.4, 0.5)):  # until another atom is hit
        page.mouse.click(box["x"] + box["width"] * x / 100, box["y"] + box["height"] * y)
        page.wait_for_timeout(60)
        if page.input_value("#atom") != before:
            break
    assert page.input_value("#atom") != before, "an atom that is clicked is chosen"


def test_the_view_turns_by_keyboard(wide: Page) -> None:
    add_example(wide, "TiO2")
    wide.focus("#viewer")
    seen = [drawn(wide)]
    for key in ("ArrowLeft", "ArrowUp", "+", "-"):
        wide.keyboard.press(key)
        seen.append(drawn(wide))
    assert len(set(seen[:4])) == 4
    wide.select_option("#cells", "2")
    more = drawn(wide)
    assert more not in seen


def test_the_page_works_without_a_mouse(wide: Page) -> None:
    wide.keyboard.press("Tab")
    assert wide.evaluate("document.activeElement.className") == "skip"
    wide.focus("#tab-structures")
    wide.keyboard.press("ArrowRight")
    assert wide.locator("#table").is_visible()
    wide.keyboard.press("ArrowRight")
    wide.wait_for_selector("#periodic button")
    wide.focus("#periodic button[aria-label^='H,']")
    for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
        wide.keyboard.press(key)
    wide.keyboard.press("Enter")
    wide.wait_for_selector("#element .big:has-text('Mg')")
    assert wide.get_attribute("#periodic button[aria-label^='Mg,']", "aria-pressed") == "true"


def test_elements_are_coloured_by_what_is_chosen(page: Page) -> None:
    page.click("#tab-elements")
    page.wait_for_selector("#periodic button")
    colours = "[...document.querySelectorAll('#periodic button')].map(tile => tile.style.backgroundColor).join()"
    page.click("#periodic button[aria-label^='O,']")
    seen = set()
    options = page.eval_on_selector_all("#colour option", "options => options.map(option => option.value)")
    assert {"family", "block", "crystals", "similarity", "electronegativity"} <= set(options)
    for option in options:
        page.select_option("#colour", option)
        seen.add(page.evaluate(colours))
    assert len(seen) == len(options)
    page.select_option("#colour", "electronegativity")
    assert "3.44" in page.get_attribute("#periodic button[aria-label^='O,']", "aria-label")
    first = page.locator("#element ol strong").first.inner_text()
    page.select_option("#vectors", "crystalformer-mp36k-seed0")
    page.wait_for_selector("#element:has-text('Choose an element')")
    page.click("#periodic button[aria-label^='O,']")
    assert page.locator("#element ol strong").count() == 10
    assert first


def test_a_crystal_in_a_notebook_is_drawn_and_turned_without_a_network(browser: Any) -> None:
    context = browser.new_context(viewport={"width": 600, "height": 500}, offline=True)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.set_content(read_crystal(EXAMPLES / "SrTiO3.cif")._repr_html_())
    inner = page.frame_locator("iframe")
    inner.locator("body[data-ready] canvas").first.wait_for()
    page.wait_for_timeout(200)
    seen = [page.locator("iframe").screenshot()]
    assert len(set(Image.open(io.BytesIO(seen[0])).convert("RGB").get_flattened_data())) > 200, "shaded atoms"
    box = page.locator("iframe").bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 220, box["y"] + 170, steps=4)
    page.mouse.up()
    page.wait_for_timeout(200)
    seen.append(page.locator("iframe").screenshot())
    assert seen[0] != seen[1]
    assert [url for url in requests if not url.startswith(("about:", "blob:", "data:"))] == []
    context.close()


def test_a_server_that_has_stopped_is_told(browser: Any, models: Models) -> None:
    with running(models) as address:
        pages = opened(browser, address, **VIEWS["wide light"])
        page = next(pages)
    page.get_by_role("button", name="NaCl", exact=True).click()
    page.wait_for_selector(".failed:has-text('The server does not answer')")
    page.context.close()


def test_a_token_is_asked_for_until_it_is_right(browser: Any, models: Models) -> None:
    with running(models, token="t" * 20) as address:
        page = browser.new_page()
        page.goto(address)
        for token in ("wrong", "t" * 20):
            page.wait_for_selector("#token-dialog[open]")
            page.fill("#token", token)
            page.click("#token-dialog button")
        page.wait_for_selector("body[data-ready]")
        add_example(page, "NaCl")
        assert page.locator("#token-dialog[open]").count() == 0
        assert page.locator("#known-card").is_hidden(), "this server has no index"
        page.close()
