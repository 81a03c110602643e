"""The driver of a sweep against executors and cells that are made up; what travels to workers; worker processes."""

import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st
from rph_plugins.executors import processes
from rph_plugins.executors.local import Local
from rph_plugins.executors.processes import Processes
from tests import moments, toys

from rph.api import Labelled, Queries, Trial
from rph.engine import executors, trials
from rph.engine.executors import Lost, Task
from rph.engine.inputs import Inputs, Texts, with_shared_texts
from rph.engine.sweep import TRIES, Driver
from rph.errors import RphError
from rph.registry import installed
from rph.results.outcomes import Failed, Scored

DEAD, SLOW = Lost(reason="it died\nof\tsomething"), Lost(reason="took too long", final=True)


@dataclass(frozen=True)
class Config:
    number: int


def grid(numbers, seed):
    return [Trial(variant=Config(number), seed=seed) for number in numbers]


def done(task):
    empty = np.zeros((0, 2), np.float32)
    return [(trial, Scored(val=empty, test=empty, seconds=0.0)) for trial in task.trials]


class Job:
    """A cell whose stages are given, and which writes down what happens to it."""

    def __init__(self, title, *stages, together=False, held=0, error=None, broken=()):
        self.title, self.stages, self.held, self.broken = title, stages, held, broken
        self.plugin = SimpleNamespace(name="toy", spec=SimpleNamespace(fit_many=together or None))
        self.inputs_name, self.error, self.raises = "inputs", None, error
        self.recorded, self.released, self.ended = [], 0, False

    @property
    def inputs(self):
        if "inputs" in self.broken:
            raise RphError("no inputs")
        return "what routers see"

    def hold(self, seconds):
        if self.held:
            self.held -= 1
            return None
        return self.release

    def release(self):
        self.released += 1

    def steps(self):
        for stage in self.stages:
            yield list(stage)
            assert set(stage) <= {trial for trial, _ in self.recorded}
        if self.raises is not None:
            raise self.raises
        self.ended = True

    def record(self, outcomes):
        if "record" in self.broken:
            raise RphError("no room")
        self.recorded += outcomes

    @property
    def failed(self):
        return {trial: outcome for trial, outcome in self.recorded if isinstance(outcome, Failed)}


class Made:
    """An executor that gives back what `fate(task, try)` says, in the order of `choose`."""

    def __init__(self, slots=1, fate=lambda task, tries: done(task), choose=lambda n: 0):
        self.slots, self.fate, self.choose = slots, fate, choose
        self.shared, self.submitted, self.closed = {}, [], 0
        self._inside, self._tries = [], Counter()

    def share(self, name, inputs):
        assert name not in self.shared
        self.shared[name] = inputs

    def submit(self, task):
        assert not self.closed and task.inputs in self.shared
        self.submitted.append(task)
        self._inside.append(task)
        assert len(self._inside) <= self.slots

    def wait(self, seconds):
        place = self.choose(len(self._inside) + 1)
        if place == len(self._inside):
            return []
        task = self._inside.pop(place)
        self._tries[task.trials] += 1
        outcome = self.fate(task, self._tries[task.trials])
        if isinstance(outcome, BaseException):
            raise outcome
        return [(task, outcome)]

    def close(self):
        self.closed += 1

    @property
    def numbers(self):
        """Of the variants of each task, as they were submitted."""
        return [[trial.variant.number for trial in task.trials] for task in self.submitted]


def drive(executor, *jobs):
    heard = []
    Driver(executor, waiting=heard.append).run(iter(jobs))
    assert executor.closed == 1
    assert all(job.released == 1 for job in jobs)
    return heard


# --- the driver -------------------------------------------------------------------------------------


def test_trials_go_out_in_the_order_asked_for_and_the_second_stage_after_all_of_the_first():
    executor = Made()
    jobs = Job("a", grid([3, 1, 2], 0), grid([1], 7)), Job("b", grid([5, 4], 0))
    drive(executor, *jobs)
    assert executor.numbers == [[3], [1], [2], [1], [5], [4]]
    assert executor.submitted[3].trials[0].seed == 7
    assert all(job.ended for job in jobs)


def test_cells_stand_side_by_side_so_that_no_slot_is_empty():
    executor = Made(slots=3)
    drive(executor, Job("a", grid([1, 2], 0), grid([3], 0)), Job("b", grid([4, 5], 0)))
    # 4 goes out while the first cell still waits for 1 and 2, and 3 when both are back.
    assert executor.numbers == [[1], [2], [4], [5], [3]]


def test_a_cell_is_begun_only_when_there_is_room_for_it():
    begun = []

    def jobs():
        for name in "abc":
            begun.append(name)
            yield Job(name, grid([1, 2], 0))

    def fate(task, tries):
        seen.append("".join(begun))
        return done(task)

    seen = []
    Driver(Made(slots=2, fate=fate), waiting=print).run(jobs())
    assert seen == ["a", "ab", "ab", "abc", "abc", "abc"]


def test_inputs_are_shared_once_and_before_their_first_task():
    executor = Made(slots=2)  # it checks the order itself
    other = Job("c", grid([1], 0))
    other.inputs_name = "others"
    drive(executor, Job("a", grid([1], 0)), Job("b", grid([1], 0)), other)
    assert executor.shared == {"inputs": "what routers see", "others": "what routers see"}


def test_nothing_is_shared_for_a_cell_that_has_all_it_needs():
    executor = Made()
    job = Job("a", broken=["inputs"])
    drive(executor, job)
    assert executor.shared == {} and job.ended and job.error is None


def test_trials_of_one_seed_go_together_only_where_the_router_can_share_work():
    wanted = [*grid([1, 2], 0), *grid([1, 2, 3], 7)]
    together, alone = Made(), Made()
    drive(together, Job("a", wanted, together=True))
    drive(alone, Job("a", wanted))
    assert together.numbers == [[1, 2], [1, 2, 3]]
    assert alone.numbers == [[1], [2], [1], [2], [3]]


@pytest.mark.parametrize(
    ("loss", "sent"), [(DEAD, [[1, 2, 3], [1], [2], [2], [3]]), (SLOW, [[1, 2, 3], [1], [2], [3]])]
)
def test_a_group_that_is_lost_is_tried_trial_by_trial(loss, sent):
    def fate(task, tries):
        bad = any(trial.variant.number == 2 for trial in task.trials)
        return loss if bad else done(task)

    executor = Made(fate=fate)
    job = Job("a", grid([1, 2, 3], 0), together=True)
    drive(executor, job)
    assert executor.numbers == sent
    assert [trial.variant.number for trial in job.failed] == [2]
    assert len(job.recorded) == 3 and job.ended


def test_a_trial_whose_worker_dies_has_two_tries_and_then_failed_with_its_reason():
    executor = Made(fate=lambda task, tries: DEAD)
    job = Job("a", grid([1], 7))
    drive(executor, job)
    assert executor.numbers == [[1]] * TRIES
    (failed,) = job.failed.values()
    assert failed == Failed(reason="toy number=1 seed 7: it died of something", traceback="", seconds=0.0)
    assert job.ended  # the protocol goes on without it


def test_a_trial_that_is_lost_once_is_not_failed():
    executor = Made(fate=lambda task, tries: DEAD if tries == 1 else done(task))
    job = Job("a", grid([1, 2], 0))
    drive(executor, job)
    assert executor.numbers == [[1], [1], [2], [2]] and job.failed == {}


def test_a_final_loss_is_not_tried_again():
    executor = Made(fate=lambda task, tries: SLOW)
    job = Job("a", grid([1], 0))
    drive(executor, job)
    assert executor.numbers == [[1]] and len(job.failed) == 1


def test_cells_that_another_process_has_are_told_and_waited_for():
    executor = Made()
    jobs = Job("a", grid([1], 0), held=1), Job("b", grid([2], 0), held=4), Job("c", grid([3], 0))
    heard = drive(executor, *jobs)
    assert heard == ["a", "b"]  # each once
    assert executor.numbers == [[3], [1], [2]]
    assert all(job.ended for job in jobs)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_exception_closes_the_executor_and_lets_others_into_all_cells(error):
    executor = Made(slots=2, fate=lambda task, tries: error if task.trials[0].seed == 7 else done(task))
    jobs = [Job(name, grid([1], 7 if name == "b" else 0)) for name in "abcd"]
    with pytest.raises(type(error)):
        drive(executor, *jobs)
    assert executor.closed == 1
    assert [job.released for job in jobs] == [1, 1, 1, 0]  # the last was not begun yet
    assert len(jobs[0].recorded) == 1  # what was finished is kept


def test_what_cannot_be_stored_ends_the_sweep():
    executor, job = Made(), Job("a", grid([1, 2], 0), broken=["record"])
    with pytest.raises(RphError, match="no room"):
        drive(executor, job)
    assert executor.closed == job.released == 1


def test_the_error_of_a_cell_stops_no_other():
    jobs = [
        Job("a", grid([1], 0), error=RphError("no variant finished")),
        Job("b", grid([2], 0), broken=["inputs"]),
        Job("c", error=RphError("not in the store")),
        Job("d", grid([3], 0)),
    ]
    jobs[1].inputs_name = "broken"
    drive(Made(slots=2), *jobs)
    assert [str(job.error) for job in jobs] == [
        "no variant finished",
        "no inputs",
        "not in the store",
        "None",
    ]
    assert jobs[3].ended


@given(st.data())
def test_every_trial_is_recorded_once_whatever_is_lost(data):
    chance = data.draw(st.randoms(use_true_random=False))
    jobs = []
    for name in "abcd"[: data.draw(st.integers(1, 4))]:
        stages, numbers = [], itertools.count()
        for _ in range(data.draw(st.integers(0, 3))):
            seeds = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=5).map(sorted))
            stages.append([Trial(variant=Config(next(numbers)), seed=seed) for seed in seeds])
        held = data.draw(st.integers(0, 2))
        jobs.append(Job(name, *stages, together=data.draw(st.booleans()), held=held))
    lost = Counter()

    def fate(task, tries):
        kind = chance.choice([None, None, DEAD, SLOW])
        if kind is not None and len(task.trials) == 1:
            lost[id(task)] += TRIES if kind is SLOW else 1
        return done(task) if kind is None else kind

    executor = Made(data.draw(st.integers(1, 4)), fate, chance.randrange)
    drive(executor, *jobs)
    for job in jobs:
        assert Counter(trial for trial, _ in job.recorded) == Counter(
            t for stage in job.stages for t in stage
        )
        assert job.ended
    assert sum(len(job.failed) for job in jobs) == sum(times >= TRIES for times in lost.values())


# --- what travels -----------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # halves of characters too


@given(st.lists(ANY_TEXT))
def test_texts_are_the_list_they_were_made_from(texts):
    shared = Texts.of(texts)
    assert len(shared) == len(texts) and list(shared) == texts
    for place in range(-len(texts), len(texts)):
        assert shared[place] == shared[np.int64(place)] == texts[place]
    for place in (len(texts), -len(texts) - 1):
        with pytest.raises(IndexError):
            shared[place]
    for cut in (slice(1, -1), slice(None, None, -2), slice(len(texts), 0, -1)):
        assert shared[cut] == texts[cut]
    assert list(reversed(shared)) == texts[::-1]
    assert all(text in shared for text in texts)


@pytest.fixture
def toy(tmp_path):
    return router(tmp_path)


def router(folder, grid=toys.GRID, **more):
    registry = installed()
    registry.add_file(toys.write_plugin(folder / "plugin.py", grid, **more))
    return registry.load("router", "toy")


def inputs(costs=True, n=60):
    rng = np.random.default_rng(5)

    def queries(n):
        return Queries(
            X=rng.normal(size=(n, 5)).astype(np.float32), texts=[f"number {i} \u00e9" for i in range(n)]
        )

    def labelled(part):
        Y = rng.random((len(part.texts), 3)).astype(np.float32)
        return Labelled(X=part.X, texts=part.texts, Y=Y, C=Y / 100 if costs else None, models=("a", "b", "c"))

    train, val, test = queries(n), queries(24), queries(30)
    return Inputs(train=labelled(train), val=labelled(val), val_queries=val, test_queries=test, device="cpu")


def same(outcome, other):
    return (
        type(outcome) is type(other) is Scored
        and np.array_equal(outcome.val, other.val)
        and np.array_equal(outcome.test, other.test)
    )


def test_a_parcel_is_small_and_gives_the_trials_own_outcomes_in_its_order(toy):
    asked = [Trial(variant=v, seed=seed) for v in toy.spec.grid[::-1] for seed in (3, 1)]
    parcel = executors.pack(Task(router=toy, trials=tuple(asked), inputs="a"))
    travelled = pickle.loads(pickle.dumps(parcel))
    assert travelled == parcel
    assert (
        len(pickle.dumps(replace(parcel, file=None))) < 500
    )  # no arrays, and nothing of the plugin's classes
    found = executors.perform(travelled, with_shared_texts(inputs()))
    for trial, outcome in zip(asked, found, strict=True):
        ((_, alone),) = next(trials.run(toy.spec, [trial], inputs()))
        assert same(outcome, alone)


def test_a_parcel_for_other_software_than_is_here_is_refused(toy):
    parcel = executors.pack(Task(router=toy, trials=(Trial(variant=toy.spec.grid[0], seed=1),), inputs="a"))
    packages = {**parcel.software.packages, "numpy": "1.0", "jax": "2"}
    other = replace(parcel.software, router="other", packages=packages)
    with pytest.raises(
        RphError, match=r"toy: .* has another jax and numpy and code of the router than the sweep"
    ):
        executors.perform(replace(parcel, software=other), inputs())


def test_sys_exit_in_a_router_is_its_failure_and_no_reason_has_two_lines(tmp_path):
    toy = router(tmp_path, '(Config(fault="exit"), Config(fault="raise"))')
    found = dict(pair for batch in trials.run(toy.spec, grid_of(toy), inputs()) for pair in batch)
    assert [outcome.reason for outcome in found.values()] == [
        "toy noise=0,fault=exit seed 1: SystemExit: enough",
        "toy noise=0,fault=raise seed 1: RuntimeError: this variant is broken in two lines",
    ]


def grid_of(plugin):
    return [Trial(variant=variant, seed=1) for variant in plugin.spec.grid]


# --- worker processes -------------------------------------------------------------------------------


def collect(executor, tasks, before=()):
    """Submit and wait for all, and for those submitted before: trial -> outcome or Lost."""
    for task in tasks:
        executor.submit(task)
    found = {}

    def all_back():
        for task, outcome in executor.wait(1.0):
            pairs = [(t, outcome) for t in task.trials] if isinstance(outcome, Lost) else outcome
            assert not found.keys() & dict(pairs).keys()
            found.update(pairs)
        return len(found) == sum(len(task.trials) for task in [*before, *tasks])

    moments.until(all_back, "all tasks come back")
    return found


def tasks(plugin):
    return [Task(router=plugin, trials=(trial,), inputs="a") for trial in grid_of(plugin)]


@pytest.fixture
def start():
    """Makes `Processes` that end with the test."""
    made = []

    def make(*arguments, **more):
        made.append(Processes(*arguments, **more))
        made[-1].share("a", inputs())
        return made[-1]

    yield make
    for executor in made:
        executor.close()
        assert multiprocessing.active_children() == [] and not executor.spool.exists()


def test_worker_processes_give_what_this_process_gives(toy, start):
    local = Local()
    local.share("a", inputs())
    ours, theirs = collect(local, tasks(toy)), collect(start(2, None), tasks(toy))
    assert len(ours) == len(toy.spec.grid)
    assert all(same(ours[trial], theirs[trial]) for trial in ours)


@pytest.mark.parametrize("costs", [True, False])
def test_shared_inputs_are_the_inputs_and_nobody_can_change_them(tmp_path, costs):
    given = inputs(costs)
    whole = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (114, 5))
    for part, rows in ((given.train, slice(0, 60)), (given.val, slice(60, 84))):
        whole[rows] = part.X
    whole.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    given = replace(given, train=replace(given.train, X=mapped[:60]), val=replace(given.val, X=mapped[60:84]))
    processes._write(with_shared_texts(given), tmp_path / "spool")
    assert not list((tmp_path / "spool").glob("train.X*"))  # it is mapped where it lies
    read = processes._read(str(tmp_path / "spool"))
    for part in ("train", "val"):
        old, new = getattr(given, part), getattr(read, part)
        for name in ("X", "Y", "C"):
            array = getattr(new, name)
            np.testing.assert_array_equal(array, getattr(old, name))
            assert array is None or not array.flags.writeable
        assert list(new.texts) == old.texts and new.models == old.models
    for part in ("val_queries", "test_queries"):
        np.testing.assert_array_equal(getattr(read, part).X, getattr(given, part).X)
        assert list(getattr(read, part).texts) == getattr(given, part).texts
    assert read.device == "cpu"


def test_a_share_that_failed_half_way_can_be_tried_again(tmp_path):
    shared = with_shared_texts(inputs())
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "train.Y").write_bytes(b"half")
    processes._write(shared, tmp_path / "spool")
    np.testing.assert_array_equal(processes._read(str(tmp_path / "spool")).train.Y, inputs().train.Y)


def test_two_sweeps_that_begin_at_once_leave_each_others_folder_alone(monkeypatch):
    asked, removed = [], []
    made, acquire, original = threading.Event(), FileLock.acquire, tempfile.mkdtemp

    def told(lock, *arguments, **more):
        asked.append(lock.lock_file)
        return acquire(lock, *arguments, **more)

    def slow(**where):
        folder = original(**where)  # it is not locked yet
        if not made.is_set():
            made.set()
            moments.until(lambda: len(asked) == 2, "the second sweep comes to a lock")
        return folder

    monkeypatch.setattr(FileLock, "acquire", told)
    monkeypatch.setattr(tempfile, "mkdtemp", slow)
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: removed.append(folder))
    first = []
    thread = threading.Thread(target=lambda: first.append(Processes(1, None)))
    thread.start()
    assert made.wait(moments.PATIENCE)
    second = Processes(1, None)
    thread.join()
    assert removed == []
    for executor in (*first, second):
        executor.close()


def test_each_end_of_a_worker_is_told_apart_and_the_next_takes_its_place(tmp_path, start, monkeypatch):
    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("TOY_LOG", str(log))
    faults = ("", "segfault", "_exit", "raise", "hang", "exit", "")
    grid = f"({','.join(f'Config(noise={i}, fault={fault!r})' for i, fault in enumerate(faults))},)"
    plugin = router(tmp_path, grid)
    executor, given = start(1, moments.LIMIT), tasks(plugin)
    with monkeypatch.context() as patch:
        patch.setattr(processes, "time", moments.Clock(lambda: "hang" in log.read_text()))
        found = collect(executor, given[:5])  # up to the one that hangs
    found |= collect(executor, given[5:])
    outcomes = [found[trial] for trial in grid_of(plugin)]
    assert [type(outcome) for outcome in outcomes] == [Scored, Lost, Lost, Failed, Lost, Failed, Scored]
    assert outcomes[1] == Lost(reason="its process died (signal 11, Segmentation fault)")
    assert outcomes[2] == Lost(reason="its process died (exit code 3)")
    assert outcomes[4] == Lost(reason="took longer than 3600 s (--trial-limit)", final=True)


def test_the_limit_of_a_group_grows_with_it(tmp_path, start):
    # This time really passes, and no trial has to be faster.
    plugin = router(tmp_path, '(Config(fault="hang"), Config(noise=1.0), Config(noise=2.0))', together=True)
    task = Task(router=plugin, trials=tuple(grid_of(plugin)), inputs="a")
    found = collect(start(1, 0.25), [task])
    assert set(found.values()) == {Lost(reason="took longer than 0.75 s (--trial-limit)", final=True)}


def test_a_trial_that_wants_more_memory_than_its_share_fails_alone(tmp_path, start):
    plugin = router(tmp_path, '(Config(), Config(fault="eat"), Config(noise=1.0))')
    found = collect(start(1, None, memory=3 << 30), tasks(plugin))
    first, eater, last = (found[trial] for trial in grid_of(plugin))
    assert isinstance(first, Scored) and isinstance(last, Scored)
    assert isinstance(eater, Failed) and "MemoryError" in eater.reason


def test_no_memory_limit_where_it_would_leave_next_to_nothing(toy, start):
    found = collect(start(1, None, memory=1 << 20), tasks(toy))
    assert all(isinstance(outcome, Scored) for outcome in found.values())


@pytest.mark.parametrize("at_once", [True, False])
def test_workers_killed_while_they_have_nothing_to_do_cost_nothing(toy, start, at_once):
    executor = start(2, None)
    collect(executor, tasks(toy)[:2])
    for child in multiprocessing.active_children():
        child.kill()
        if not at_once:
            child.join()
    found = collect(executor, tasks(toy)[2:]).values()
    # One that is given a task in the moment of its death takes it along.
    assert all(isinstance(outcome, Scored) for outcome in found) or at_once
    assert all(isinstance(outcome, Scored) for outcome in collect(executor, tasks(toy)).values())


def test_a_worker_killed_while_it_starts_loses_its_task_once(toy, tmp_path, start, monkeypatch):
    gate = moments.Gate(tmp_path / "gate")
    gate.close()  # the task is not done before the kill, whoever sleeps meanwhile
    monkeypatch.setenv("TOY_GATE", str(gate.folder))
    executor = start(1, None)
    first, second = tasks(toy)[:2]
    executor.submit(first)
    (starting,) = multiprocessing.active_children()
    starting.kill()
    gate.open()
    found = collect(executor, [second], before=[first])
    assert found[first.trials[0]] == Lost(reason="its process died (signal 9, Killed)")
    assert isinstance(found[second.trials[0]], Scored)


def test_a_worker_killed_in_the_middle_of_its_answer_stands_in_no_others_way(toy, tmp_path):
    executor = Processes(2, None)
    many = np.zeros((300_000, 5), np.float32)  # an answer of 3.6 MB, which no pipe takes at once
    given = inputs()
    given = replace(given, test_queries=Queries(X=many, texts=["number 1"] * len(many)))
    executor.share("a", given)
    try:
        one, other = tasks(toy)[:2]
        executor.submit(one)
        (worker,) = executor._workers
        moments.until(lambda: executor.wait(1.0) == [] and worker.ready, "the worker is ready")
        moments.until(worker.pipe.poll, "it begins to answer")
        os.kill(worker.process.pid, signal.SIGKILL)
        ((task, outcome),) = executor.wait(moments.PATIENCE)
        assert task is one and outcome == Lost(reason="its process died (signal 9, Killed)")
        assert all(isinstance(outcome, Scored) for outcome in collect(executor, [other, one]).values())
    finally:
        executor.close()
