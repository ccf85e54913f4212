"""The loop on a team's servers: drift starts a review, decisions start a training, and what it gives is served.

PAWPRINT_SCREENSHOTS=docs/images pytest tests/stack/test_loop.py      # takes docs/loop.md's pictures too
"""

import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import cv2
import httpx
import make_sample
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from pawprint import image
from team import MISSING, Team, started

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(1800),
]
SHOTS = os.environ.get("PAWPRINT_SCREENSHOTS")  # a folder for the pictures; none are taken without it
Pictures = list[tuple[str, bytes]]  # (class, JPEG)


def drawn(seed: int, count: int, dark: bool = False) -> Pictures:
    """As many cats as dogs of the kind that the sample has; `dark`: as in the night, out of focus."""
    found = []
    for name, jpeg in make_sample.sample(seed, count // 2):
        if dark:
            pixels = (255 * (image.decode(jpeg) / 255.0) ** 2.2).astype(np.uint8)
            jpeg = image.encode(cv2.GaussianBlur(pixels, (0, 0), 2))
        found.append((name.partition("/")[0], jpeg))
    return found


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    def change(params: Any) -> None:
        params["serving"]["keep_pictures"] = True
        params["loop"]["photographs"] = 100
        params["training"]["folds"] = 0
        params["gate"]["max_accuracy_loss"] = 0.05  # of some 40 test photographs
        params["candidates"] = {"efficientnet_lite0": {
            "architecture": "efficientnet_lite0", "train": "head", "epochs": 200, "optimizer": "lbfgs",
            "weight_decay": "auto", "augment": "none",
        }}  # fmt: skip

    with started(tmp_path_factory.mktemp("team"), change=change, photographs=60) as team:
        team.shell("git", "config", "receive.denyCurrentBranch", "updateInstead")  # the worker pushes to it
        team.start("worker")
        (run,) = team.until(team.runs, "worker")
        assert team.ended(run["id"], seconds=900) == "Completed", team.log("worker")[-4000:]
        yield team


@pytest.fixture(scope="module")
def truth() -> dict[str, str]:
    """What each answer's photograph shows."""
    return {}


def send(team: Team, pictures: Pictures, truth: dict[str, str]) -> None:
    """Ask the service, and tell it of every third photograph what it shows."""
    with httpx.Client(base_url=f"http://127.0.0.1:{team.ports['service']}", timeout=60) as client:
        for number, (label, picture) in enumerate(pictures):
            answer = client.post("/predict", content=picture).raise_for_status().json()
            truth[answer["id"]] = label
            if number % 3 == 0:
                client.post("/feedback", json={"id": answer["id"], "label": label}).raise_for_status()


def night(team: Team) -> str:
    """What the log of the worker's next run says; the run is complete."""
    run = team.begin()
    assert team.ended(run, seconds=900) == "Completed", team.flow_log(run) + team.log("worker")[-4000:]
    return str(team.flow_log(run))


def state(team: Team) -> tuple[list[str], str, str]:
    """(the data that trainings learned from, versions of the registry, the branch's head)."""
    trained = "select value from tags where key = 'data_hash'"
    versions = team.query("mlflow", "select count(*) from model_versions")[0]
    return sorted(team.query("mlflow", trained)), versions, team.shell("git", "rev-parse", "HEAD")


def asked(team: Team) -> list[dict[str, str]]:
    return [one for one in team.notifications if "review what" in one["title"]]


def test_too_little_traffic_and_traffic_like_the_held_out_photographs_start_nothing(
    team: Team, truth: dict[str, str]
) -> None:
    before = state(team)
    send(team, drawn(1, 40), truth)
    few = "no drift was looked for: the champion saw 40 photographs of 7 days, and loop.photographs is 100"
    assert few in night(team)
    send(team, drawn(2, 80), truth)
    assert "no drift by the rule (loop in params.yaml) on 120 photographs of 7 days: " in night(team)
    assert state(team) == before and asked(team) == []


def test_drift_starts_a_review_whose_reason_stands_in_its_run(team: Team, truth: dict[str, str]) -> None:
    before = state(team)
    send(team, drawn(3, 300, dark=True), truth)
    drift = re.search(r"drift: told apart in \d+% of pairs \(p = 0\.001\).* on 420 photographs of 7 days", night(team))
    assert drift
    (told,) = asked(team)
    assert told["message"].startswith(f"{drift[0]}. ") and "photographs wait in" in told["message"]
    reasons = team.query("mlflow", "select value from params where key = 'reason'")
    assert reasons == [drift[0]]
    assert state(team) == before  # the same photographs would give the same model


def test_what_people_decide_then_is_trained_on_for_that_reason_and_served(
    team: Team, truth: dict[str, str], browser: Browser
) -> None:
    before, service = state(team), f"http://127.0.0.1:{team.ports['service']}"
    page = browser.new_context(
        viewport={"width": 1000, "height": 700}, http_credentials={"username": "admin", "password": "mlflow-password"}
    ).new_page()
    page.set_default_timeout(60_000)
    classify(page, service, team.folder / "night.jpg")
    shot(page, "loop-service.png")

    decide(team, truth, page)
    failed: list[str] = []
    with asking(service, failed):
        said = night(team)
    assert not failed
    reason = re.search(r"(\d+ decisions of Ann; drift: .* photographs of 7 days): ", said)
    assert reason, said
    trained, versions, head = state(team)
    assert len(trained) > len(before[0]) and int(versions) > int(before[1]) and head != before[2]
    because = f"select run_uuid from tags where key = 'reason' and value = '{reason[1]}'"
    (run_id,) = team.query("mlflow", f"{because} and run_uuid in (select run_uuid from tags where key = 'data_hash')")
    commit = team.shell("git", "log", "-1", "--format=%an: %B")
    assert commit.startswith(f"pawprint: {reason[1]}")
    if SHOTS:
        terminal(page, "git log -1 --stat", team.shell("git", "log", "-1", "--stat"), "loop-commit.png")

    # What was decided on test photographs a person applies, as a data version of its own: now the dark ones count.
    for one in team.runs():  # the run that the new data.dvc started, too: until its end the clone is the worker's
        team.ended(one["id"], seconds=900)
    apply_test_side(team)
    with asking(service, failed):
        night(team)
    assert not failed
    champion = team.champion()
    assert champion["version"] != "1" and team.served() == champion["model_digest"]

    if SHOTS:
        page.set_viewport_size({"width": 1280, "height": 900})
        beside = {"x": 198, "y": 0, "width": 752, "height": 900}  # the menu, and an assistant
        mlflow = f"http://127.0.0.1:{team.ports['mlflow']}"
        home = team.query("mlflow", f"select experiment_id from runs where run_uuid = '{run_id}'")[0]
        page.goto(f"{mlflow}/#/experiments/{home}/runs/{run_id}")
        expect(page.get_by_text(reason[1]).first).to_be_attached(timeout=60_000)
        page.wait_for_timeout(8000)  # what stands beside the words comes later
        page.get_by_text(reason[1]).first.scroll_into_view_if_needed()
        shot(page, "loop-run.png", clip=beside)
        terminal(page, "cat reports/gate.md", (team.workspace / "reports" / "gate.md").read_text(), "loop-gate.png")
        page.goto(f"{mlflow}/#/models/{champion['model']}/versions/{champion['version']}")
        expect(page.get_by_text("promoted_because").first).to_be_attached(timeout=60_000)
        page.wait_for_timeout(8000)
        shot(page, "loop-promotion.png", clip=beside)
        page.set_viewport_size({"width": 1000, "height": 700})
        classify(page, service, team.folder / "night.jpg")
        shot(page, "loop-reload.png")
    page.context.close()


def apply_test_side(team: Team) -> None:
    """Ann's `photos apply --test-side` in the worker's clone, committed and pushed."""
    ann = ("git", "-c", "user.name=Ann", "-c", "user.email=ann@example.org")
    for words in (
        (sys.executable, "-c", "from pawprint.cli.main import main; main()", "photos", "apply", "--test-side"),
        (sys.executable, "-m", "dvc", "push", "-q", "data.dvc"),
        (*ann, "commit", "-qm", "What people decided on test photographs", "labels.csv", "data.dvc"),
        ("git", "push", "-q", "origin", "HEAD:main"),
    ):
        subprocess.run(words, cwd=team.workspace, env=team.worker, check=True)


def classify(page: Page, service: str, picture: Path) -> None:
    """A photograph of the night on the service's page, and what lies behind the model's name."""
    picture.write_bytes(drawn(4, 2, dark=True)[0][1])
    page.goto(service)
    page.set_input_files("#files", picture)
    expect(page.locator("#status")).to_have_text(re.compile("classified"))
    page.get_by_text("Where the model comes from").click()


def decide(team: Team, truth: dict[str, str], page: Page) -> None:
    """Ann looks at what the worker harvested: one key a photograph."""
    command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "review", "harvest", "--no-browser"]
    with subprocess.Popen(
        [*command, "--as", "Ann"], cwd=team.workspace, env=team.client, stdout=subprocess.PIPE, text=True
    ) as review:
        try:
            first = review.stdout.readline()  # type: ignore[union-attr]
            count, address = int(first.split()[0]), re.search(r"http://\S+", first)[0]  # type: ignore[index]
            page.goto(address)
            shown = page.locator("#count")
            for number in range(count):
                name = page.locator(".item:focus .name").inner_text().partition(" · ")[2]
                if number == 3:
                    page.evaluate("scrollTo(0, 0)")
                    shot(page, "loop-review-before.png")
                page.keyboard.press("1" if truth[name] == "cat" else "2")
                expect(shown).to_have_text(re.compile(f"^{number + 1} of {count}, "))
                if number == 3:
                    page.evaluate("scrollTo(0, 0)")
                    shot(page, "loop-review-after.png")
        finally:
            review.send_signal(signal.SIGINT)


class asking:
    """Four clients that ask all the time; what failed is in the list."""

    def __init__(self, service: str, failed: list[str]) -> None:
        self.ending = threading.Event()
        self.clients = [threading.Thread(target=self._ask, args=(service, failed)) for _ in range(4)]

    def __enter__(self) -> None:
        for one in self.clients:
            one.start()

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for one in self.clients:
            one.join()

    def _ask(self, service: str, failed: list[str]) -> None:
        picture = drawn(5, 2)[0][1]
        with httpx.Client(base_url=service, timeout=60) as client:
            while not self.ending.wait(0.5):
                answer = client.post("/predict", content=picture)
                failed.extend([answer.text] * (answer.status_code != 200))


def terminal(page: Page, command: str, output: str, name: str) -> None:
    """A picture of what a command printed."""
    page.set_content(
        f"<pre style='margin: 16px; font-size: 14px; white-space: pre-wrap'>$ {escape(command)}\n{escape(output)}</pre>"
    )
    shot(page, name)


def shot(page: Page, name: str, **part: Any) -> None:
    if SHOTS:
        taken = Image.open(io.BytesIO(page.screenshot(animations="disabled", **part)))
        taken.convert("RGB").quantize(256).save(Path(SHOTS) / name, optimize=True)
