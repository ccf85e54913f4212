"""Many trainings of one candidate with parameters from the ranges of params.yaml: a study of Optuna.

    study = open_study(Path("cache/sweeps"), "efficientnet_lite0", params, data)
    study.optimize(lambda trial: value(trial, "efficientnet_lite0", params, data, logger), n_trials=20)
    study.best_params

The study is a journal on disk, to which several processes may write. It is for one candidate, its ranges, the other
parameters and these photographs: with any of them changed another study begins.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from torch.nn import functional as F

from pawprint.config import Candidate, Params, flatten
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import DivergedError, PawprintError
from pawprint.training import devices
from pawprint.training.temperature import fit_temperature
from pawprint.training.train import fit
from pawprint.training.trainer import OBJECTIVE, RunLogger

STARTUP = 5  # trials before any is pruned
WORKER = "worker"  # attribute of a trial: the number of the worker that runs it


def open_study(folder: Path, name: str, params: Params, data: PreparedDataset, worker: int = 0) -> optuna.Study:
    """The study of the candidate `name`, resumed where there is one.

    Each trial's value is the log loss on the validation split. One worker repeats the same trials.
    """
    if not len(data.split("validation").labels):
        raise PawprintError("A sweep compares on the validation split, which is empty. Set `split.validation` above 0.")
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it warns of an error, with a traceback, before it raises it
    about = {
        "candidate": params.candidate(name).model_dump(mode="json"),
        "ranges": params.sweep.model_dump(mode="json", include={"ranges"}),
        "shared": [params.seed, flatten(params.preprocess), flatten(devices.resolve_precision(params).training)],
        "photographs": data.digest,
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / f"{name}-{digest}.journal"))),
        study_name=f"{name}-{digest}",
        sampler=optuna.samplers.TPESampler(seed=params.seed + worker, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(STARTUP, n_warmup_steps=params.candidate(name).epochs // 10),
        load_if_exists=True,
    )


def killed(study: optuna.Study, worker: int | None = None) -> list[FrozenTrial]:
    """End the unfinished trials of processes that were killed, and put their parameters first in the queue.

    Only the process that holds the sweep's lock may call it, or a `worker` in place of one that was killed.
    """
    left = with_state(study, TrialState.RUNNING, worker=worker)
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, skip_if_exists=False)
    return left


def with_state(study: optuna.Study, *states: TrialState, worker: int | None = None) -> list[FrozenTrial]:
    """The trials in one of these states; those of one `worker`."""
    found = study.get_trials(deepcopy=False, states=states)
    return [one for one in found if worker in (None, one.user_attrs.get(WORKER))]


def done(study: optuna.Study, worker: int | None = None) -> int:
    """Trials that ran to their end or were pruned."""
    return len(with_state(study, TrialState.COMPLETE, TrialState.PRUNED, worker=worker))


def suggest(trial: optuna.Trial, params: Params) -> dict[str, Any]:
    """A number for each range."""
    chosen: dict[str, Any] = {}
    for name, range_ in params.sweep.ranges.items():
        if range_.choices:
            chosen[name] = trial.suggest_categorical(name, list(range_.choices))
        elif isinstance(range_.low, int) and isinstance(range_.high, int):
            chosen[name] = trial.suggest_int(name, range_.low, range_.high, log=range_.log)
        else:
            assert range_.low is not None and range_.high is not None  # config.py checks it
            chosen[name] = trial.suggest_float(name, range_.low, range_.high, log=range_.log)
    return chosen


def value(trial: optuna.Trial, name: str, params: Params, data: PreparedDataset, logger: RunLogger) -> float:
    """Train with the numbers of `trial`; the log loss on the validation split, at the temperature fitted there.

    Raises:
        optuna.TrialPruned: It does worse than most did at the same epoch, or its loss is no number.
    """
    labels = data.split("validation").labels
    try:
        candidate = Candidate.model_validate(params.candidate(name).model_dump() | suggest(trial, params))
        sampled = params.model_copy(update={"candidates": {**params.candidates, name: candidate}})
        trained = fit(name, sampled, data, _Pruning(logger, trial, candidate.epochs), objective=calibrated_loss)
    except DivergedError as error:
        raise optuna.TrialPruned(str(error)) from None
    loss = calibrated_loss(trained.validation.logits, labels)
    logger.metrics({"validation_log_loss": loss})
    return loss


def calibrated_loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The log loss at the temperature that is fitted to `logits` [n, classes] and `labels` [n]: what a sweep makes
    small, and what a trial is pruned by."""
    scaled = torch.from_numpy(logits).double() / fit_temperature(logits, labels)
    return float(F.cross_entropy(scaled, torch.from_numpy(labels)))


class _Pruning:
    """Passes metrics on to a logger, and ends a trial that does worse than most.

    Ten points of a curve are logged: a head's epoch takes less time than to log it.
    """

    def __init__(self, logger: RunLogger, trial: optuna.Trial, epochs: int) -> None:
        self.logger, self.trial, self.every = logger, trial, max(1, epochs // 10)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        if step is None or step % self.every == 0:
            self.logger.metrics(values, step)
        if step is not None and OBJECTIVE in values:
            self.trial.report(values[OBJECTIVE], step)
            if self.trial.should_prune():
                raise optuna.TrialPruned(f"worse than most at epoch {step}")
