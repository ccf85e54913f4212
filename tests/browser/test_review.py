"""The review page in a real browser, by keyboard: a decision is on disk before the next picture appears."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import make_sample
import pytest
from playwright.sync_api import Browser, Page, expect

from pawprint.config import load_params
from pawprint.data import ingest
from pawprint.data.build import prepare
from pawprint.data.labels import TESTED, Labels

PROJECT = Path(__file__).resolve().parents[2]
AXE = Path(__file__).with_name("axe.min.js")


@contextmanager
def reviewing(root: Path, *words: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(address with its token, process) of `pawprint review` in `root`; ended as a person ends it."""
    command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "review", "--no-browser", *words]
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout or ():
            if found := re.search(r"http://\S+", line):
                yield found[0], process
                break
        else:
            raise AssertionError("it printed no address")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """A project whose pipeline has run: 70 photographs of each class, and a champion."""
    root = tmp_path_factory.mktemp("project")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    make_sample.write(root / "data", per_class=35)
    prepare(ingest.dataset(root / "data"), root / "data", root / "prepared", load_params(PROJECT / "params.yaml"))
    shutil.copytree(toy_model, root / "champion")
    return root


@pytest.fixture
def root(prepared: Path) -> Path:
    (prepared / "labels.csv").unlink(missing_ok=True)
    return prepared


@pytest.fixture
def page(browser: Browser, root: Path) -> Iterator[Page]:
    """The page, open on all photographs; it asks nobody but its own server and says nothing to the console."""
    with reviewing(root, "--as", "Ann") as (url, _):
        context = browser.new_context(viewport={"width": 1100, "height": 900})
        page = context.new_page()
        elsewhere, output = [], []  # type: list[str], list[str]
        ours = (url.partition("#")[0], "blob:")
        page.on("request", lambda request: None if request.url.startswith(ours) else elsewhere.append(request.url))
        page.on("console", lambda message: output.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: output.append(str(error)))
        page.goto(url)
        expect(page.locator(".item").first).to_be_focused()
        yield page
        assert not elsewhere and not output
        context.close()


def decided(root: Path) -> dict[str, str]:
    """File -> outcome, from the disk."""
    from pawprint.review.queues import everything

    files = {item.hash: item.file for item in everything(root).items}
    return {files[digest]: one.outcome for digest, one in Labels(root / "labels.csv").standing().items()}


def focused(page: Page) -> str:
    return page.locator(".item:focus .name").inner_text().partition(" · ")[2]


def test_one_key_a_decision_and_each_is_on_disk_before_the_next_picture(page: Page, root: Path) -> None:
    assert "token" not in page.url  # not in the tab's history
    for number, key in enumerate("k2du"):
        assert focused(page) == f"cat/00{number}.jpg"
        page.keyboard.press(key)
        expect(page.locator(f'.item[data-index="{number + 1}"]')).to_be_focused()
        assert f"cat/00{number}.jpg" in decided(root)
    assert list(decided(root).values()) == ["class cat", "class dog", "dropped", "unsure"]
    expect(page.locator("#count")).to_have_text("4 of 70, 2 changed")
    expect(page.locator("#status")).to_contain_text("cat/003.jpg: unsure (Ann). 4 of 70, 2 changed.")
    for _ in range(2):
        page.keyboard.press("z")
    expect(page.locator("#count")).to_have_text("2 of 70, 1 changed")
    assert focused(page) == "cat/002.jpg"
    assert set(decided(root)) == {"cat/000.jpg", "cat/001.jpg"}


def test_a_hundred_keys_at_once_are_a_hundred_decisions(page: Page, root: Path) -> None:
    """Faster than the disk: none is lost, and the next page comes by itself."""
    for _ in range(70):
        page.keyboard.press("k")
    expect(page.locator("#count")).to_have_text("70 of 70, 0 changed")
    assert len(decided(root)) == 70


def test_many_at_once_and_a_class_that_is_typed(page: Page, root: Path) -> None:
    page.keyboard.press("x")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowRight")
    expect(page.locator('.item[aria-selected="true"]')).to_have_count(3)
    page.keyboard.press("t")
    expect(page.get_by_label("Name", exact=True)).to_be_focused()
    page.keyboard.type("red fox")  # none of these letters decides anything meanwhile
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_have_text("3 of 70, 3 changed")
    assert set(decided(root).values()) == {"class red fox"}
    expect(page.get_by_role("button", name="red fox 3")).to_be_visible()  # and has a key from now on
    page.keyboard.press("z")
    expect(page.locator("#count")).to_have_text("0 of 70, 0 changed")
    page.keyboard.press("a")
    page.keyboard.press("k")
    expect(page.locator("#count")).to_have_text("60 of 70, 0 changed")


def test_filters_and_what_is_not_decided_yet(page: Page) -> None:
    page.keyboard.press("k")
    page.locator("#label").select_option("dog")
    expect(page.locator("#place")).to_have_text("1 to 35 of 35")
    page.locator("#label").select_option("")
    page.locator("#state").select_option("open")
    expect(page.locator("#place")).to_have_text("1 to 60 of 69")
    page.get_by_role("button", name="Next page").click()
    expect(page.locator("#place")).to_have_text("61 to 69 of 69")
    page.get_by_label("Name or reason").fill("cat/03")
    page.keyboard.press("Enter")
    expect(page.locator(".item")).to_have_count(5)
    page.get_by_label("Name or reason").fill("nothing")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("No photograph is like that.")


def test_zoom_and_heat_map_and_decisions_there(page: Page, root: Path) -> None:
    page.locator("#split").select_option("train")
    expect(page.locator("#place")).to_contain_text("1 to ")
    first = focused(page)
    page.keyboard.press("Enter")
    expect(page.locator("#zoom-picture")).to_have_attribute("alt", f"The photograph {first}")
    page.keyboard.press("h")
    expect(page.locator("#zoom-picture")).to_have_attribute("alt", re.compile("Heat map"), timeout=30_000)
    page.keyboard.press("d")
    expect(page.locator("#zoom-title")).not_to_contain_text(first)
    assert decided(root) == {first: "dropped"}
    page.get_by_role("button", name="Keep").click()  # also where there is no keyboard
    expect(page.locator("#count")).to_have_text("2 of 70, 1 changed")
    page.keyboard.press("Escape")
    expect(page.locator("#zoom")).to_be_hidden()
    expect(page.locator(".item:focus")).to_have_count(1)


def test_of_a_test_photograph_the_model_s_word_is_hidden(page: Page) -> None:
    page.locator("#split").select_option("test")
    item = page.locator(".item").first
    expect(item).to_contain_text(TESTED)
    expect(item).to_contain_text("hidden until you decide")
    page.keyboard.press("k")
    expect(item).not_to_contain_text(TESTED)


def test_from_nothing_a_folder_of_pictures_becomes_a_data_set_and_the_model_suggests(
    browser: Browser, tmp_path: Path
) -> None:
    """Names that say nothing; 20 of each class are named by a person, then K takes what the page shows."""
    root, pile, truth = tmp_path / "project", tmp_path / "pile", {}
    root.mkdir()
    pile.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, cwd=root, check=True)
    make_sample.write(tmp_path / "drawn", per_class=32)
    drawn = sorted((tmp_path / "drawn").glob("*/*.jpg"), key=lambda path: (path.name, path.parent.name))
    for number, path in enumerate(drawn):
        shutil.copy(path, pile / f"IMG_{number:04}.jpg")
        truth[f"IMG_{number:04}.jpg"] = path.parent.name
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    with reviewing(root, str(pile), "--as", "Ann") as (url, _):
        page.goto(url)
        expect(page.locator(".item").first).to_be_focused()
        expect(page.locator("#suggestions")).to_have_text("The model suggests after 20 photographs of each class.")
        for name in ("cat", "dog"):  # a class has a key once it has a name
            page.keyboard.press("t")
            expect(page.get_by_label("Name", exact=True)).to_be_focused()
            page.keyboard.type(name)
            page.keyboard.press("Enter")
            expect(page.get_by_role("button", name=name)).to_be_visible()
        expect(page.locator(".item:focus")).to_contain_text("IMG_0002")
        for number in range(2, 40):
            page.keyboard.press("1" if truth[focused(page)] == "cat" else "2")
            expect(page.locator("#count")).to_have_text(f"{number + 1} of 64, {number + 1} changed")
        other = browser.new_page()  # another look, while nobody decides: has it learned, for all of them?
        other.goto(url)
        deadline = time.monotonic() + 120
        while not re.fullmatch(r"Suggestions learned from 40 decisions\.", other.locator("#suggestions").inner_text()):
            assert time.monotonic() < deadline
            other.goto("about:blank")
            other.goto(url)
            expect(other.locator("#count")).to_have_text("40 of 64, 40 changed")
        other.close()
        assert "model: cat" not in page.locator("#grid").inner_text()  # what this page shows is of before
        page.keyboard.press("1" if truth[focused(page)] == "cat" else "2")
        expect(page.locator("#count")).to_have_text("41 of 64, 41 changed")
        decided = 41
        # photographs that are on the page already say so, those on the next one too
        kept = 0
        while decided < 64:
            expect(page.locator(".item:focus .decided")).to_be_hidden()
            said = page.locator(".item:focus .facts").inner_text()
            if "hidden" in said:  # of a test photograph nothing is suggested, and K takes nothing
                page.keyboard.press("k")
                expect(page.locator("#problem")).to_contain_text("name a class")
                page.keyboard.press("1" if truth[focused(page)] == "cat" else "2")
            else:
                suggested = re.match(r"model: (cat|dog) [\d.]+ %", said)
                assert suggested, said
                right = suggested[1] == truth[focused(page)]
                page.keyboard.press("k" if right else "1" if suggested[1] == "dog" else "2")
                kept += right
            decided += 1
            expect(page.locator("#count")).to_have_text(f"{decided} of 64, {decided} changed")
        assert kept >= 8
        page.close()
    command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "photos", "apply"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "32 new cat, 32 new dog." in done.stdout, done.stdout + done.stderr
    assert {file.name: file.parent.name for file in (root / "data").glob("*/*.jpg")} == truth
    prepare(ingest.dataset(root / "data"), root / "data", root / "prepared", load_params(PROJECT / "params.yaml"))


def test_without_the_token_nothing_is_shown_until_it_is_given(browser: Browser, root: Path) -> None:
    with reviewing(root) as (url, _):
        address, _, token = url.partition("#token=")
        page = browser.new_page()
        page.goto(address)
        field = page.get_by_label("This page answers to who has its token")
        expect(field).to_be_focused()
        assert page.locator(".item").count() == 0
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#unlock-problem")).to_have_text("This token is not known here.")
        field.fill(token)
        page.keyboard.press("Enter")
        expect(page.locator(".item").first).to_be_visible()
        page.close()


def test_a_server_that_has_ended_decides_nothing_and_the_page_says_so(browser: Browser, root: Path) -> None:
    page = browser.new_page()
    with reviewing(root) as (url, process):
        page.goto(url)
        expect(page.locator(".item").first).to_be_focused()
        page.keyboard.press("k")
        expect(page.locator("#count")).to_have_text("1 of 70, 0 changed")
        process.kill()  # no time to write anything
        process.wait()
        page.keyboard.press("d")
        expect(page.locator("#problem")).to_contain_text("The server does not answer. Nothing more is decided")
        expect(page.locator("#count")).to_have_text("1 of 70, 0 changed")
    assert list(decided(root).values()) == ["class cat"]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_axe_finds_nothing(page: Page, scheme: str, width: int) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 800})
    page.keyboard.press("d")
    expect(page.locator("#count")).to_have_text("1 of 70, 1 changed")
    page.evaluate(AXE.read_text())
    for key in ("", "Enter", "t", "?"):
        if key:
            page.keyboard.press("Escape")
            page.keyboard.press(key)
            expect(page.locator("dialog[open]")).to_have_count(1)
        violations = page.evaluate("axe.run().then(result => result.violations)")
        assert [(found["id"], found["nodes"][0]["html"]) for found in violations] == [], key
    assert page.evaluate("document.documentElement.scrollWidth") <= width
