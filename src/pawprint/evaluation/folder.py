"""A model on photographs that no data set names: a folder a class.

evaluation = evaluate("champion", "photographs/")
print(evaluation.accuracy, evaluation.confusion)
"""

import hashlib
from pathlib import Path

import numpy as np

from pawprint.data.class_folders import class_folders
from pawprint.errors import PawprintError
from pawprint.evaluation import metrics
from pawprint.evaluation.metrics import Evaluation, Scores
from pawprint.inference.classifier import Classifier, find_pictures


def evaluate(model: Classifier | str | Path, photographs: str | Path) -> Evaluation:
    """Measure a model on the pictures of `photographs`, whose folders are named as its classes.

    Args:
        model: a classifier, or what `Classifier.load` takes.
        photographs: holds a folder a class; a class may be missing.

    Raises:
        PawprintError: no folder, one that is no class of the model, none with pictures, or a file that is no picture.
    """
    classifier = model if isinstance(model, Classifier) else Classifier.load(model)
    classes, folder = classifier.info.classes, Path(photographs)
    if not folder.is_dir() or not (found := class_folders(folder)):
        raise PawprintError(f"{folder} holds no folders. Name a folder with a folder a class: {', '.join(classes)}.")
    labelled: list[tuple[int, Path]] = []
    for one in found:
        if one.name not in classes:
            raise PawprintError(
                f"{one} is no class of this model, which knows {', '.join(classes)}. Rename or move it."
            )
        labelled += [(classes.index(one.name), path) for path in find_pictures([one])]
    labels, paths = zip(*labelled, strict=True)
    results = []
    for result in classifier.classify_files(paths):
        if result.classification is None:
            raise PawprintError(f"{result.path}: {result.error}. Mend it or take it out of the folder.")
        results.append(result.classification)
    return metrics.measure(
        Scores(
            tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths),
            tuple(str(path.relative_to(folder)) for path in paths),
            np.array(labels, np.int64),
            np.array([list(one.probabilities.values()) for one in results]),
            classes,
            np.array([one.knn_similarity for one in results]),
            tuple(one.refusal for one in results),
        )
    )
