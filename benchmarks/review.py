"""The review page over many photographs: seconds until its first page shows, and milliseconds a decision takes.

    python benchmarks/review.py --photographs 100000

Makes a prepared set of so many photographs (a hundred drawings, each many times: every row has its own hash and its own
place in a shard), starts `pawprint review` on it and opens it in Chromium. Seconds are from the start of the command to
the address, and from there until the first row of thumbnails is painted; a decision is from the key to the next
photograph's focus, with its line on disk by then (fsync). labels.csv has `--decided` lines before. Prints median, 95th
percentile and maximum.
"""

import argparse
import hashlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import make_sample
from playwright.sync_api import sync_playwright

from pawprint import image
from pawprint.data import manifest, shards
from pawprint.data.labels import HEADER, Decision

ROOT = Path(__file__).parents[1]
SEEN = "[...document.querySelectorAll('.item img')].slice(0, 5).every(picture => picture.naturalWidth)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--photographs", type=int, default=100_000)
    parser.add_argument("--decided", type=int, default=10_000)
    parser.add_argument("--decisions", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        hashes = prepared(Path(folder), given.photographs)
        lines = (
            Decision(one, "keep", "cat", "Bob", "2026-01-01T00:00:00.000Z", "data").line() for one in reversed(hashes)
        )
        with (Path(folder) / "labels.csv").open("w") as file:
            file.writelines([f"{HEADER}\n", *(line for line, _ in zip(lines, range(given.decided), strict=False))])
        measure(Path(folder), given.decisions)


def prepared(root: Path, count: int) -> list[str]:
    """prepared/ of `count` photographs; their hashes."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root)
    folder = root / "prepared" / "shards"
    folder.mkdir(parents=True)
    members = [shards.member("x", image.pack(jpeg)) for _, jpeg in make_sample.sample(per_class=50)]
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    rows = []
    for start in range(0, count, 1000):
        name, place = f"{start // 1000:05}.tar", 0
        with (folder / name).open("wb") as file:
            for number in range(start, min(start + 1000, count)):
                member = members[number % len(members)]
                file.write(member)
                length, label = int(member[124:135], 8), ("cat", "dog")[number % 2]
                split = ("train", "train", "train", "validation", "test")[number % 5]
                origin = f"{label}/{number:06}.jpg"
                where = (name, place + 512, length, "", origin, "", "")
                rows.append(manifest.ManifestRow(hashes[number], label, split, *where))
                place += len(member)
    manifest.write(root / "prepared" / manifest.FILE, sorted(rows))
    return hashes


def measure(root: Path, decisions: int) -> None:
    """Start the command, open the page, decide."""
    command = [sys.executable, "-c", "from pawprint.cli.main import main; main()", "review", "--no-browser"]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        print(f"from the command to its address: {time.perf_counter() - began:.2f} s")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            opened = time.perf_counter()
            page.goto(found[0])
            page.wait_for_function(SEEN)
            print(f"from there to the first thumbnails: {time.perf_counter() - opened:.2f} s")
            # in the page, so that the browser driver's own time does not count
            times = page.evaluate(
                """async (count) => {
                    const times = [];
                    for (let number = 0; number < count; number += 1) {
                        const before = document.activeElement;
                        const began = performance.now();
                        document.dispatchEvent(new KeyboardEvent("keydown", { key: "k", bubbles: true }));
                        while (document.activeElement === before || !document.activeElement.matches(".item")) {
                            await new Promise((resolve) => setTimeout(resolve, 1));
                            if (performance.now() - began > 5000) throw new Error("no next photograph");
                        }
                        times.push(performance.now() - began);
                    }
                    return times;
                }""",
                decisions,
            )
            browser.close()
        process.send_signal(signal.SIGINT)
        print(process.stdout.read().strip())
    times.sort()
    print(
        f"{decisions} decisions: median {statistics.median(times):.1f} ms, 95 % {times[int(0.95 * decisions)]:.1f} ms, "
        f"maximum {times[-1]:.1f} ms"
    )


if __name__ == "__main__":
    main()
