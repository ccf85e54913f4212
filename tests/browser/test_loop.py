"""The road of a correction: serve, feedback, harvest, review by keyboard, apply, trace, reload under load.

The pipeline between apply and reload is tests/integration/test_pipeline.py's; here another model stands for its result.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from playwright.sync_api import Browser, expect

from pawprint import dvc, image
from pawprint.data import origins
from pawprint.data.ingest import ingest
from pawprint.data.labels import Labels
from photo_sources import contents
from service_process import checkout, serving
from toy import build_toy_model

PROJECT = Path(__file__).resolve().parents[2]
TOKEN = "open sesame"


def colours(seed: int, count: int) -> list[tuple[str, bytes]]:
    """(class, JPEG) of red and blue pictures of many shades."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        bright, others = rng.integers(170, 255), rng.integers(0, 110, 2)
        shade = (bright, *others) if number % 2 else (others[0], others[1], bright)
        noise = rng.integers(-30, 30, (60, 80, 1))
        pixels = (np.array(shade) + noise).clip(0, 255).astype(np.uint8)
        found.append(("red" if number % 2 else "blue", image.encode(pixels)))
    return found


def test_what_people_correct_becomes_the_next_version_of_the_data(
    browser: Browser, tmp_path: Path, empty_runs: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    known = hashlib.sha256(TOKEN.encode()).hexdigest()
    served = checkout(root, keep_pictures=True, tokens={"read": [], "feedback": [], "admin": [known]})
    served["PAWPRINT_TRAFFIC"] = str(tmp_path / "traffic")
    environment = os.environ | served | {"PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "250"}

    def pawprint(*words: str) -> str:
        command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", *words]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # a project with its photographs under DVC and git, and a champion
    shutil.copy(PROJECT / "dvc.yaml", root)
    shutil.copy(PROJECT / ".gitattributes", root)
    shutil.copy(empty_runs, root / "mlflow.db")
    build_toy_model(root / "champion")
    for number, (label, picture) in enumerate(colours(1, 60)):
        (tmp_path / "start" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "start" / label / f"{number}.jpg").write_bytes(picture)
    ingest(tmp_path / "start", root / "data", "colours")
    for words in (["git", "init", "-q"], ["git", "config", "user.name", "Ann"], [sys.executable, "-m", "dvc", "init"]):
        subprocess.run(words, cwd=root, check=True, capture_output=True)
    dvc.add(root)
    before = contents(root / "data")

    with serving(tmp_path / "log", served, cwd=root) as (url, _), httpx.Client(base_url=url) as client:
        # 1. 200 requests; clients say what each picture is, and of every tenth the opposite
        truth = {}
        for number, (label, picture) in enumerate(colours(2, 200)):
            answer = client.post("/predict", content=picture).json()
            truth[answer["id"]] = label
            said = label if number % 10 else {"red": "blue", "blue": "red"}[label]
            assert client.post("/feedback", json={"id": answer["id"], "label": said}).status_code == 200

        # 2. harvest
        taken = pawprint("harvest", "--feedback", "10", "--random", "10")
        count = int(re.match(r"(\d+) photographs taken", taken)[1])  # type: ignore[index]
        assert count >= 10 and "feedback" in taken

        # 3. a person decides on each, by keyboard
        command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "review", "harvest"]
        review = subprocess.Popen(
            [*command, "--no-browser"], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            address = re.search(r"http://\S+", review.stdout.readline())[0]  # type: ignore[union-attr, index]
            page = browser.new_page()
            page.goto(address)
            expect(page.locator("#about")).to_contain_text("Photographs that are not in data/ yet: ")
            for number in range(count):
                item = page.locator(".item:focus")
                answer_id = item.locator(".name").inner_text().partition(" · ")[2]
                page.keyboard.press("1" if truth[answer_id] == "blue" else "2")
                expect(page.locator("#count")).to_have_text(re.compile(f"^{number + 1} of {count}, "))
            page.close()
        finally:
            review.send_signal(signal.SIGINT)
            ended, _ = review.communicate(timeout=30)
        assert f"{count} of {count} decided, " in ended and "Next: pawprint photos apply" in ended
        decided = Labels(root / "labels.csv").standing()
        assert len(decided) == count and {one.who for one in decided.values()} == {"Ann"}

        # 4. apply: what would be on the test side waits for a version of its own
        first = pawprint("photos", "apply")
        added = set(contents(root / "data")) - set(before)
        waiting = re.search(r"(\d+) decisions on test photographs wait", first)
        assert len(added) + (int(waiting[1]) if waiting else 0) == count
        if waiting:
            assert "on the test side" in pawprint("photos", "apply", "--test-side")
        new = [row for row in origins.read_rows(root / "data") if row.source.startswith("traffic pawprint-colours/3")]
        assert len(new) == count
        assert {row.name: row.label for row in new} == {row.name: truth[row.name] for row in new}
        assert all(b"Exif" not in (root / "data" / row.file).read_bytes() for row in new)
        assert '"' not in pawprint("harvest", "--feedback", "0", "--refused", "0", "--unsure", "0", "--novel", "0",
                                   "--random", "0")  # fmt: skip

        # 5. trace, both ways
        down = pawprint("trace", new[0].hash)
        assert f"answer {new[0].name}" in down and f"decision class {new[0].label} (Ann, " in down
        up = pawprint("trace", new[0].name)
        assert "picture" in up and "(Ann, " in up

        # 6. the next model, under load: no request fails
        failed, versions, ending = [], set(), threading.Event()

        def ask() -> None:
            picture = colours(3, 1)[0][1]
            with httpx.Client(base_url=url) as own:
                while not ending.is_set():
                    answer = own.post("/predict", content=picture)
                    failed.extend([answer.text] * (answer.status_code != 200))
                    versions.add(answer.json().get("model", {}).get("version"))

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for one in clients:
            one.start()
        try:
            time.sleep(0.5)
            shutil.rmtree(root / "champion")
            build_toy_model(root / "champion", version="4", scale=40)
            reloaded = client.post("/admin/reload", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60)
            assert reloaded.json()["version"] == "4", reloaded.text
            time.sleep(0.5)
        finally:
            ending.set()
            for one in clients:
                one.join()
        assert not failed and versions == {"3", "4"}
