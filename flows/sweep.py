"""Many trainings of one candidate over the ranges of params.yaml, each a child run in MLflow.

python -m flows.sweep                                  # what `sweep` in params.yaml says
python -m flows.sweep --candidate deep_cnn --trials 30
python -m flows.sweep --jobs 2                         # two processes, on one journal
PAWPRINT_ENGINE=ray python -m flows.sweep              # a task of the cluster a trial (docs/cluster.md)
"""

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial

import optuna
import torch
import yaml
from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from flows import ROOT
from flows.tasks import flow, run, step
from flows.train import check_prepared
from pawprint import files, parallel
from pawprint.config import load_params
from pawprint.data.dataset import PreparedDataset
from pawprint.errors import PawprintError
from pawprint.tracking.journal import JournaledRun
from pawprint.tracking.run import FINISHED, ending
from pawprint.tracking.tracker import PARENT, Tracker
from pawprint.training import devices, tune
from pawprint.training.train import warm

FOLDER = ROOT / "cache" / "sweeps"
RUN = "run_id"  # attribute of the study, and of a trial: its MLflow run


@flow(name="sweep", flow_run_name="sweep {name}")
def search(name: str, trials: int, jobs: int) -> None:
    """Train the candidate `trials` times with sampled parameters; a sweep that was killed resumes."""
    # 1. the ranges
    params = load_params(ROOT / "params.yaml")
    if not params.sweep.ranges:
        raise PawprintError("params.yaml: `sweep.ranges` is empty. Name a parameter of the candidate and its range.")
    data = PreparedDataset.open(ROOT / "prepared")
    check_prepared(data)
    study = tune.open_study(FOLDER, name, params, data)

    busy = "Another sweep of this candidate is running. Wait for it, or end it."
    with files.lock(FOLDER / f"{study.study_name}.lock", busy):
        # 2. trials that were killed run again, first
        if tune.killed(study):
            end_children(study)

        # 3. one MLflow run over all trials; features are computed once
        begin_parent(study, name, data)
        try:
            warm(name, params, data)

            # 4. the trials
            before = tune.done(study)
            if parallel.on_ray():
                on_cluster(study, name, trials)
            elif jobs == 1:
                work(name, trials, worker=0)
            elif before < trials:
                run_workers(name, trials, jobs)
        except BaseException as error:
            end_children(study)  # of workers, which end with their pipe
            parent_run(study).status(ending(error))
            raise

        # 5. the result
        print(f"{tune.done(study) - before} trials now, {tune.done(study)} in all")
        show(study)
        end_parent(study)


@step(retries=2, delay=2)
def begin_parent(study: optuna.Study, name: str, data: PreparedDataset) -> None:
    """The run that the trials are children of, begun once a study."""
    known = str(study.user_attrs.get(RUN, ""))
    run_name, tags = f"{name} · sweep", {"sweep": study.study_name, "candidate": name}
    parent = Tracker(ROOT).begin(run_name, data.dataset, resume=known, tags=tags)
    parent.artifact(ROOT / "params.yaml")
    study.set_user_attr(RUN, parent.id)


def work(name: str, trials: int, worker: int) -> None:
    """Run trials until there are enough in all."""
    study, one = open_trials(name, worker)
    while tune.done(study) < trials:
        study.optimize(one, n_trials=1)


def open_trials(name: str, worker: int) -> tuple[optuna.Study, Callable[[optuna.Trial], float]]:
    """The sweep's study as `worker` sees it, and what runs a trial of it."""
    params = load_params(ROOT / "params.yaml")
    data = PreparedDataset.open(ROOT / "prepared")
    study = tune.open_study(FOLDER, name, params, data, worker)
    parent, tracker = str(study.user_attrs[RUN]), Tracker(ROOT)

    def one(trial: optuna.Trial) -> float:
        trial.set_user_attr(tune.WORKER, worker)
        label = f"{name} · trial {trial.number}"
        child = tracker.begin(label, data.dataset, tags={PARENT: parent, "candidate": name})
        trial.set_user_attr(RUN, child.id)
        child.params(tune.suggest(trial, params))
        try:
            loss = tune.value(trial, name, params, data, child)
        except optuna.TrialPruned as pruned:
            child.tags({"pruned": str(pruned)})
            child.status(FINISHED)
            raise
        except BaseException as error:
            child.status(ending(error))
            raise
        child.status(FINISHED)
        return loss

    return study, one


def on_cluster(study: optuna.Study, name: str, trials: int) -> None:
    """A task of the cluster for each trial that is missing, by a seed of its own. One whose node dies runs again."""
    gpus = int(devices.resolve(load_params(ROOT / "params.yaml").training).type == "cuda")
    first = 1 + max((one.user_attrs.get(tune.WORKER, 0) for one in study.trials), default=0)
    missing = trials - tune.done(study)
    list(parallel.map(partial(_Trial, name), range(first, first + missing), gpus))
    end_children(study)  # of nodes that died


class _Trial:
    """Runs the one trial of a worker, in a process of a cluster."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, worker: int) -> None:
        study, one = open_trials(self.name, worker)
        tune.killed(study, worker)  # its node died, in the middle of it or just behind its end
        if not tune.done(study, worker):
            study.optimize(one, n_trials=1)


def run_workers(name: str, trials: int, jobs: int) -> None:
    """`jobs` processes that share the cores and GPUs; they end when this one does, however it does."""
    command = [sys.executable, "-m", "flows.sweep", "--candidate", name, "--trials", str(trials), "--worker"]
    threads = max(1, torch.get_num_threads() // jobs)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    workers = []
    for number in range(1, jobs + 1):
        if "CUDA_VISIBLE_DEVICES" not in os.environ and (gpus := torch.cuda.device_count()) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(number % gpus)
        one = [*command, str(number)]  # in a session of its own: Ctrl-C is for this process
        workers.append(subprocess.Popen(one, cwd=ROOT, env=environment, stdin=subprocess.PIPE, start_new_session=True))
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.communicate()
    if any(codes):
        raise PawprintError("A worker of the sweep failed; the lines above say why. The same command resumes.")


def show(study: optuna.Study) -> None:
    """The best trials, and what to write into params.yaml."""
    ended, pruned = tune.with_state(study, TrialState.COMPLETE), tune.with_state(study, TrialState.PRUNED)
    trials = sorted(ended, key=lambda trial: trial.value or 0)
    if not trials:
        print("No trial has ended yet.")
        return
    table = Table("trial", "log loss", *trials[0].params)
    for trial in trials[:10]:
        shown = [f"{one:.4g}" if isinstance(one, float) else str(one) for one in trial.params.values()]
        table.add_row(str(trial.number), f"{trial.value:.5f}", *shown)
    Console(width=120).print(table)
    print(f"{len(trials)} trials ended, {len(pruned)} were pruned. The best, for params.yaml:\n")
    print(yaml.safe_dump(trials[0].params, sort_keys=False))


def end_children(study: optuna.Study) -> None:
    """A trial that was killed leaves a run that says it is running."""
    below = f"tags.`{PARENT}` = '{study.user_attrs.get(RUN)}' and attributes.status = 'RUNNING'"
    tracker = Tracker(ROOT)
    tracker.sync()  # the tag of one that was killed at once waits in its journal
    for run_id in tracker.search_runs(below):
        tracker.run(run_id).status("KILLED")


@step(retries=2, delay=2)
def end_parent(study: optuna.Study) -> None:
    """Log the best parameters to the sweep's own run."""
    parent = parent_run(study)
    if tune.with_state(study, TrialState.COMPLETE):
        parent.tags({f"best.{key}": value for key, value in study.best_params.items()} | {"best": study.best_value})
    parent.status(FINISHED)


def parent_run(study: optuna.Study) -> JournaledRun:
    """The run that the trials are children of."""
    return JournaledRun(Tracker(ROOT), str(study.user_attrs[RUN]))


def main() -> None:
    """The command line; `--worker` is how one process starts the others."""
    sweep_params = load_params(ROOT / "params.yaml").sweep
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidate", default=sweep_params.candidate, help="a name under `candidates` in params.yaml")
    parser.add_argument("--trials", type=int, default=sweep_params.trials, help="how many in all, earlier ones too")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; on Ray a core a trial")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()  # the parent is gone
        work(arguments.candidate, arguments.trials, arguments.worker)
    else:
        run(search, arguments.candidate, arguments.trials, arguments.jobs)


if __name__ == "__main__":
    main()
