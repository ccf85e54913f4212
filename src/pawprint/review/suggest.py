"""Suggestions while a person labels pictures from nothing: a regression on features of the pretrained backbone.

    suggester = Suggester(root, {hash: file, ...}, params)
    suggester.learn(decided)                    # after each decision; returns at once
    suggester.says["9f86d0..."]                 # Says("dog", 0.97), once each class has FIRST pictures

A thread computes features in the order of the queue, and learns anew whenever there is more to learn from.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pawprint import image
from pawprint.config import Params
from pawprint.data.labels import Decision
from pawprint.review.queues import Says

FIRST = 20  # decided pictures of each class, before anything is suggested
AGAIN = 1.1  # times as many decisions, before it is learned anew
STRENGTH = 0.01  # of the regression's data against its penalty, as in the audit
CHUNK = 32  # pictures whose features are computed at a time


class Suggester:
    """Learns from what is decided of the pictures `files` (hash -> file)."""

    def __init__(self, files: Mapping[str, Path], params: Params, backbone: str) -> None:
        self.says: dict[str, Says] = {}
        self.learned = 0  # how often `says` has become another
        self._files, self._params, self._backbone = files, params, backbone
        self._features: dict[str, NDArray[np.float32]] = {}
        self._labels: dict[str, str] = {}
        self._learned, self._state = 0, f"The model suggests after {FIRST} photographs of each class."
        self._more, self._ending = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="suggest", daemon=True)
        self._thread.start()

    def learn(self, decided: Mapping[str, Decision]) -> None:
        """Learn from these, in the background."""
        self._labels = {digest: one.label for digest, one in decided.items() if one.label and digest in self._files}
        self._more.set()

    def state(self) -> str:
        """How far it is, as a sentence."""
        return self._state

    def close(self) -> None:
        self._ending = True
        self._more.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._suggest_until_closed()
        except Exception as error:  # without suggestions the page still takes decisions
            self._state = f"No suggestions: {error}"

    def _suggest_until_closed(self) -> None:
        from pawprint.models import registry
        from pawprint.training import devices
        from pawprint.training.feature_cache import Engine, FrozenPart

        network = registry.create_model(self._backbone, 2, self._params.preprocess.size)
        network.load_pretrained()
        engine = Engine(FrozenPart(network, 0), (network.features,), devices.resolve_precision(self._params))
        waiting = list(self._files)
        while not self._ending:
            if waiting:
                chunk, waiting = waiting[:CHUNK], waiting[CHUNK:]
                self._compute(engine.by_openvino, chunk)
            else:
                self._more.wait()
            self._more.clear()
            self._suggest(done=not waiting)

    def _compute(self, compute, chunk: list[str]) -> None:  # type: ignore[no-untyped-def]
        read = {}
        for digest in chunk:
            try:
                data = self._files[digest].read_bytes()
                how = self._params.preprocess
                read[digest] = image.load(data, how.fit, how.quality, size=how.size)
            except (OSError, image.BadImage):
                continue  # the page shows that there is no picture
        if read:
            self._features |= zip(read, compute(np.stack(list(read.values()))), strict=True)

    def _suggest(self, done: bool) -> None:
        labels = {digest: label for digest, label in self._labels.items() if digest in self._features}
        counts = Counter(labels.values())
        if len(counts) < 2 or min(counts.values()) < FIRST:
            least = ", ".join(f"{count} {label}" for label, count in sorted(counts.items()))
            self._state = (
                f"The model suggests after {FIRST} photographs of each class" + f" ({least})" * bool(least) + "."
            )
            return
        new = [digest for digest in self._features if digest not in self.says]
        if len(labels) < AGAIN * self._learned and not new:
            return
        from sklearn.linear_model import LogisticRegression  # here: a page without suggestions starts sooner
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        regression = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
        regression.fit(np.stack([self._features[digest] for digest in labels]), list(labels.values()))
        hashes = list(self._features)
        probabilities = regression.predict_proba(np.stack([self._features[digest] for digest in hashes]))
        best = probabilities.argmax(1)
        names = regression.classes_
        self.says = {
            digest: Says(str(names[index]), float(row[index]))
            for digest, index, row in zip(hashes, best, probabilities, strict=True)
        }
        self._learned, self.learned = len(labels), self.learned + 1
        self._state = f"Suggestions learned from {len(labels):,} decisions" + (
            "." if done else f", for {len(hashes):,} of {len(self._files):,} photographs so far."
        )
