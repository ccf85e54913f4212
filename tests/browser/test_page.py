"""The page at `/` in a real browser. axe.min.js is axe-core (MPL-2.0), which checks what screen readers need."""

import base64
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from pawprint.serving.schema import About, Example, Interval
from service_process import checkout, serving

AXE = Path(__file__).with_name("axe.min.js")


@pytest.fixture
def page(browser: Browser, service: str) -> Iterator[Page]:
    """The page, open; at the end it must have asked nobody but its own server and said nothing to the console."""
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    page = context.new_page()
    elsewhere: list[str] = []
    output: list[str] = []
    page.on(
        "request",
        lambda request: None if request.url.startswith((service, "blob:", "data:")) else elsewhere.append(request.url),
    )
    page.on("console", lambda message: output.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: output.append(str(error)))
    page.goto(f"{service}/")
    yield page
    assert not elsewhere
    assert [text for text in output if "415" not in text and "503" not in text] == []
    context.close()


@pytest.fixture
def files(tmp_path: Path, pictures: dict[str, bytes]) -> dict[str, Path]:
    for name, data in pictures.items():
        (tmp_path / f"{name}.jpg").write_bytes(data)
    (tmp_path / "notes.txt").write_text("no photograph")
    return {path.stem: path for path in tmp_path.iterdir()}


def labels(page: Page) -> list[str]:
    expect(page.locator("#status")).to_have_text("All photographs are classified.")
    return page.locator(".answer .label").all_text_contents()


def test_it_says_what_it_can_tell_apart(page: Page) -> None:
    expect(page.locator("#classes")).to_have_text(
        "Distinguishes blue, red, and says when a photograph is unlike all of them."
    )
    page.get_by_text("Where the model comes from").click()
    expect(page.locator("#lineage")).to_contain_text("pawprint-colours, version 3")


def test_several_files_chosen(page: Page, files: dict[str, Path]) -> None:
    page.set_input_files("#files", [files["red"], files["blue"]])
    assert labels(page) == ["red", "blue"]  # in the order given
    assert page.locator(".answer").nth(1).locator("meter").count() == 2


def test_a_dropped_file(page: Page, pictures: dict[str, bytes]) -> None:
    transfer = page.evaluate_handle(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", {type: "image/jpeg"}));
            return transfer;
        }""",
        list(pictures["red"]),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    assert labels(page) == ["red"]
    expect(page.locator(".filename")).to_have_text("dropped.jpg")


def test_a_pasted_picture(page: Page, pictures: dict[str, bytes]) -> None:
    """As from a screenshot tool: the clipboard holds a picture, and no field has the focus."""
    page.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "image.png", {type: "image/png"}));
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
        }""",
        list(pictures["blue"]),
    )
    assert labels(page) == ["blue"]


def test_pasted_text_is_no_picture(page: Page) -> None:
    page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.setData("text/plain", "hello");
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
        }"""
    )
    assert page.locator(".answer").count() == 0


def test_the_camera_of_a_phone(page: Page, files: dict[str, Path]) -> None:
    assert page.get_attribute("#camera", "capture") == "environment"
    page.set_input_files("#camera", files["red"])
    assert labels(page) == ["red"]


def test_a_bad_file_among_good_ones(page: Page, files: dict[str, Path]) -> None:
    page.set_input_files("#files", [files["red"], files["notes"]])
    assert labels(page) == ["red", "No prediction"]
    expect(page.locator(".problem .reason")).to_contain_text("not a photograph")
    expect(page.locator(".problem img:visible, .problem .bars:visible")).to_have_count(0)  # nothing broken is shown


def test_unknown_is_explained(page: Page, files: dict[str, Path]) -> None:
    page.set_input_files("#files", [files["green"]])
    (label,) = labels(page)
    assert label.startswith("Not sure: looks most like ")
    expect(page.locator(".refused .reason")).to_contain_text("It is like none of the training photographs")
    colours = page.locator(".refused meter").first.evaluate(
        "one => [...document.styleSheets[0].cssRules].map(rule => rule.cssText)"
        ".filter(text => text.startsWith('.refused meter')).join()"
    )
    assert "var(--grey)" in colours


def test_the_heat_map_goes_on_and_off(page: Page, files: dict[str, Path]) -> None:
    page.set_input_files("#files", [files["red"]])
    button = page.get_by_role("button", name="Show activation map")
    button.click()
    overlay = page.locator(".overlay")
    expect(overlay).to_be_visible()
    assert overlay.evaluate("image => image.decode().then(() => image.naturalWidth)") == 300
    page.get_by_role("button", name="Hide activation map").click()
    expect(overlay).to_be_hidden()


def test_this_is_wrong_takes_one_click(page: Page, files: dict[str, Path]) -> None:
    page.set_input_files("#files", [files["red"]])
    with page.expect_response("**/feedback") as response:
        page.get_by_role("button", name="Wrong").click()
    assert response.value.json()["label"] == "blue"
    expect(page.locator(".noted span")).to_have_text("Thank you. Noted as: blue.")
    with page.expect_response("**/feedback") as response:
        page.get_by_role("button", name="Undo").click()
    assert response.value.ok and response.value.json()["label"] == ""
    expect(page.get_by_role("button", name="Wrong")).to_be_focused()
    with page.expect_response("**/feedback") as response:
        page.get_by_role("button", name="Correct").click()
    assert response.value.json()["label"] == "red"


def test_unknown_can_be_put_right(page: Page, files: dict[str, Path]) -> None:
    page.set_input_files("#files", [files["green"]])
    page.get_by_role("button", name="Wrong").click()
    page.get_by_label("It is").select_option("red")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".noted span")).to_have_text("Thank you. Noted as: red.")


def test_the_keyboard_alone(page: Page, files: dict[str, Path]) -> None:
    # Playwright catches choosers only while someone listens, and starts to a moment after it was asked: on a busy
    # machine the key came first. Whoever listens from the beginning does not race.
    page.on("filechooser", lambda chooser: None)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([files["red"]])
    expect(page.get_by_role("button", name="Wrong")).to_be_visible()
    page.get_by_role("button", name="Clear").focus()  # past the camera, the examples and the table's buttons
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Show activation map"
    page.keyboard.press("Enter")
    expect(page.locator(".overlay")).to_be_visible()
    for _ in range(2):
        page.keyboard.press("Tab")  # "Correct", then "Wrong"
    page.keyboard.press("Enter")
    expect(page.locator(".noted span")).to_have_text("Thank you. Noted as: blue.")
    assert page.evaluate("document.activeElement.textContent") == "Undo"


def test_a_busy_server_is_asked_again(page: Page, files: dict[str, Path]) -> None:
    turned_away: list[int] = []

    def busy_once(route) -> None:
        if turned_away:
            route.continue_()
        else:
            turned_away.append(503)
            route.fulfill(status=503, headers={"Retry-After": "1"}, json={"reason": "overloaded", "error": "busy"})

    page.route("**/predict", busy_once)
    page.set_input_files("#files", [files["red"]])
    expect(page.locator(".label")).to_contain_text("busy")
    assert labels(page) == ["red"]


def test_the_table_has_every_picture_in_order_and_clear_removes_them(page: Page, files: dict[str, Path]) -> None:
    page.set_input_files("#files", [files["red"], files["notes"], files["blue"]])
    labels(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()))
    assert [row["file"] for row in rows] == ["red.jpg", "notes.txt", "blue.jpg"]
    assert [row["label"] for row in rows] == ["red", "", "blue"]
    assert float(rows[0]["red"]) > 0.9 and "not a photograph" in rows[1]["problem"]
    page.get_by_role("button", name="Clear").click()
    assert page.locator(".answer").count() == 0
    expect(page.locator("#files")).to_be_focused()
    page.set_input_files("#files", [files["red"]])
    assert labels(page) == ["red"]


def test_a_model_of_drawings_says_so_and_shows_how_good_it_is(page: Page, files: dict[str, Path]) -> None:
    """about.json as the stage `package` writes it."""
    picture = "data:image/jpeg;base64," + base64.b64encode(files["red"].read_bytes()).decode()
    about = About(
        drawn=True, photographs=60, accuracy=Interval(value=0.95, low=0.86, high=0.98), confusion=[[28, 2], [1, 29]],
        card="# Model card", examples=[Example(label="red", picture=picture)],
    )  # fmt: skip
    page.route("**/model/about", lambda route: route.fulfill(json=about.model_dump()))
    page.reload()
    expect(page.locator("#drawn")).to_contain_text("learned from drawings")
    page.get_by_text("How good it is").click()
    expect(page.locator("#accuracy")).to_contain_text("95.0 % of 60 test photographs")
    assert page.locator("#confusion td").all_text_contents() == ["28", "2", "1", "29"]
    page.get_by_role("button", name="Example 1, red").click()
    assert labels(page) == ["red"]


def test_many_classes_have_five_bars_and_one_list(page: Page, files: dict[str, Path]) -> None:
    shares = {f"class {number}": 2.0**-number for number in range(1, 37)}
    model = {"name": "", "version": "", "digest": "", "bento": "", "dataset": "", "data_hash": "", "git_commit": ""}
    prediction = {"id": "1", "label": "class 1", "refusal": "", "reason": "", "probabilities": shares, "model": model}
    page.route("**/predict", lambda route: route.fulfill(json=prediction))
    page.set_input_files("#files", [files["red"]])
    assert labels(page) == ["class 1"]
    assert page.locator(".answer meter").count() == 5
    expect(page.locator(".more")).to_have_text("31 more classes, each at most 1.6 %")
    page.get_by_role("button", name="Wrong").click()
    assert page.get_by_label("It is").locator("option").count() == 36  # all others, and none of them


def test_the_api_s_documentation_needs_no_other_server(page: Page) -> None:
    page.get_by_role("link", name="API documentation").click()
    expect(page.get_by_text("/predict/batch")).to_be_visible(timeout=30_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1000, 360])
def test_axe_finds_nothing(page: Page, files: dict[str, Path], scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 800})
    page.set_input_files("#files", [files["green"], files["notes"], files["red"]])
    labels(page)
    page.get_by_role("button", name="Show activation map").first.click()
    for summary in page.locator("summary:visible").all():
        summary.click()
    expect(page.locator(".overlay").first).to_be_visible()
    page.evaluate(AXE.read_text())  # past the page's own policy, as a debugger may
    violations = page.evaluate("axe.run().then(result => result.violations)")
    assert [(found["id"], found["nodes"][0]["html"]) for found in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_service_with_tokens_asks_for_one(
    browser: Browser, toy_model: Path, tmp_path: Path, files: dict[str, Path]
) -> None:
    known = hashlib.sha256(b"open sesame").hexdigest()
    env = checkout(tmp_path, tokens={"read": [known], "feedback": [known], "admin": []})
    with serving(tmp_path / "log", {**env, "PAWPRINT_MODEL": str(toy_model)}, cwd=tmp_path) as (url, _):
        page = browser.new_page()
        page.goto(f"{url}/")
        field = page.get_by_label("This service answers to those who have a token")
        expect(field).to_be_focused()
        page.set_input_files("#files", [files["red"], files["blue"]])  # both wait for the token
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This token is not known here.")
        field.fill("open sesame")
        page.keyboard.press("Enter")
        assert labels(page) == ["red", "blue"]
        expect(field).to_be_hidden()
        expect(page.locator("#classes")).to_contain_text("Distinguishes blue, red")
        page.get_by_role("button", name="Wrong").first.click()
        expect(page.locator(".noted span").first).to_have_text("Thank you. Noted as: blue.")
        page.reload()  # the tab still knows it
        expect(page.locator("#classes")).to_contain_text("Distinguishes blue, red")
        page.close()
