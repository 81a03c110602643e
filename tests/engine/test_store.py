"""The run store: whole trials or none, damage seen, failures never done, two processes side by side."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from tests.moments import PATIENCE

from rph.engine.store import Identity, Store, digest
from rph.errors import RphError
from rph.results.outcomes import Failed, Scored


def identity(seed=0, cell="cell"):
    return Identity(cell=cell, decided_by={"router": "toy", "seed": seed})


def scored(value=0.5):
    return Scored(
        val=np.full((3, 2), value, np.float32), test=np.full((4, 2), value + 0.25, np.float32), seconds=1.5
    )


FAILED = Failed(reason="toy: ValueError: no", traceback="Traceback ...\nValueError: no", seconds=0.1)


def test_a_finished_trial_comes_back_as_it_was(tmp_path):
    Store(tmp_path).put([(identity(), scored())])
    again = Store(tmp_path).get(identity())
    assert again is not None
    np.testing.assert_array_equal(again.val, scored().val)
    np.testing.assert_array_equal(again.test, scored().test)
    assert again.seconds == 1.5


def test_what_a_killed_writer_left_of_the_same_trial_is_swept_away(tmp_path):
    path = tmp_path / "scores" / identity().key[:2] / f"{identity().key}.npz"
    path.parent.mkdir(parents=True)
    (path.parent / f".{path.name}.m9s9t1qp").write_bytes(b"half")
    Store(tmp_path).put([(identity(), scored())])
    assert list(path.parent.iterdir()) == [path]


def test_the_key_changes_with_anything_that_decides_the_result():
    assert identity(0).key != identity(1).key
    assert identity(0, cell="another").key == identity(0).key  # the cell groups, it decides nothing
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_a_failed_trial_is_recorded_with_its_traceback_and_is_not_done(tmp_path):
    store = Store(tmp_path)
    store.put([(identity(), FAILED)])
    assert store.get(identity()) is None
    assert store.counts() == {"done": 0, "failed": 1}
    row = sqlite3.connect(tmp_path / "trials.sqlite").execute("SELECT traceback, decided_by FROM trials")
    traceback, decided_by = row.fetchone()
    assert traceback == f"{FAILED.traceback}\n{FAILED.reason}"
    assert json.loads(decided_by) == identity().decided_by


def test_success_after_failure_counts_as_done_and_counts_the_attempts(tmp_path):
    store = Store(tmp_path)
    store.put([(identity(), FAILED)])
    store.put([(identity(), scored())])
    assert store.get(identity()) is not None
    assert store.counts() == {"done": 1, "failed": 0}
    rows = sqlite3.connect(tmp_path / "trials.sqlite").execute("SELECT attempts, traceback FROM trials")
    assert rows.fetchall() == [(2, None)]


def test_test_scorings_are_counted_per_cell_over_all_versions(tmp_path):
    store = Store(tmp_path)
    store.put([(identity(0), scored()), (identity(1), scored()), (identity(2), FAILED)])
    store.put([(identity(3, cell="other"), scored())])
    assert store.times_test_was_scored("cell") == 2
    assert store.times_test_was_scored("other") == 1
    assert store.times_test_was_scored("none") == 0


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_scores_are_said_and_count_as_not_done(tmp_path, damage):
    store = Store(tmp_path)
    store.put([(identity(), scored())])
    (path,) = tmp_path.glob("scores/*/*.npz")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-200] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    assert len(store.problems()) == 1
    assert store.get(identity()) is None
    assert "damaged" in store.notices[0]
    assert store.counts()["done"] == 0
    store.put([(identity(), scored())])
    assert store.problems() == []


def test_a_database_that_is_none_is_refused_with_the_way_out(tmp_path):
    (tmp_path / "trials.sqlite").write_bytes(
        b"this is not a database, and long enough to be read as one" * 40
    )
    with pytest.raises(RphError, match=r"(?s)damaged or not a run store.*move it away"):
        Store(tmp_path)


def test_a_database_damaged_in_the_middle_is_found(tmp_path):
    store = Store(tmp_path)
    store.put([(identity(seed), scored()) for seed in range(200)])
    store.close()
    path = tmp_path / "trials.sqlite"
    content = bytearray(path.read_bytes())
    for at in range(8192, len(content), 4096):
        content[at : at + 2000] = os.urandom(2000)
    path.write_bytes(content)
    try:
        found = Store(tmp_path).problems()
    except RphError as error:
        found = [str(error)]
    assert found


def test_a_store_of_an_older_schema_is_brought_up_to_date_with_all_that_is_in_it(tmp_path):
    store = Store(tmp_path)
    store.put([(identity(0), scored()), (identity(1), FAILED)])
    store.close()
    database = sqlite3.connect(tmp_path / "trials.sqlite", isolation_level=None)
    database.execute("DROP TABLE results")  # as version 1 was
    database.execute("PRAGMA user_version = 1")
    database.close()
    store = Store(tmp_path)
    assert store.counts() == {"done": 1, "failed": 1} and store.problems() == []
    np.testing.assert_array_equal(store.get(identity(0)).val, scored().val)
    store.keep_result("cell", "key", "{}")
    assert Store(tmp_path).result("cell", "key") == "{}"


def test_a_migration_that_is_cut_short_leaves_the_old_store(tmp_path, monkeypatch):
    from rph.engine import store as module

    Store(tmp_path).close()
    monkeypatch.setattr(module, "STEPS", (*module.STEPS, "CREATE TABLE more (a)", "no SQL"))
    with pytest.raises(RphError):
        Store(tmp_path)
    database = sqlite3.connect(tmp_path / "trials.sqlite")
    assert database.execute("PRAGMA user_version").fetchone() == (module.SCHEMA,)
    assert database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'more'").fetchone() == (0,)


@pytest.mark.parametrize(
    "change", ["another trial", "trained again", "file gone", "file rewritten", "nothing"]
)
def test_a_kept_result_holds_until_a_trial_of_its_cell_changes(tmp_path, change):
    store = Store(tmp_path)
    store.put([(identity(0), scored())])
    store.keep_result("cell", "key", "{}")
    store.put([(identity(7, cell="elsewhere"), scored())])
    assert store.result("cell", "another key") is None and store.result("elsewhere", "key") is None
    (file,) = [path for path in (tmp_path / "scores").rglob("*.npz") if identity(0).key in path.name]
    if change == "another trial":
        store.put([(identity(1), FAILED)])
    elif change == "trained again":
        store.put([(identity(0), scored())])
    elif change == "file gone":
        file.unlink()
    elif change == "file rewritten":
        os.utime(file, ns=(0, 0))
    assert store.result("cell", "key") == ("{}" if change == "nothing" else None)


def test_a_store_of_another_schema_is_refused(tmp_path):
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "trials.sqlite") as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(RphError, match="schema version 99"):
        Store(tmp_path)


def test_a_batch_is_recorded_whole_or_not_at_all(tmp_path, monkeypatch):
    store = Store(tmp_path)
    row = store._row
    calls = []

    def second_fails(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return row(*arguments)

    monkeypatch.setattr(store, "_row", second_fails)
    with pytest.raises(KeyboardInterrupt):
        store.put([(identity(0), scored()), (identity(1), scored())])
    assert store.counts() == {"done": 0, "failed": 0}


def run_python(code, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


WRITER = """
    import itertools
    import sys
    import numpy as np
    from pathlib import Path
    from rph.engine.store import Identity, Store
    from rph.results.outcomes import Scored
    store = Store(Path(sys.argv[1]))
    n = int(sys.argv[2])
    for seed in itertools.count():
        scores = np.full((50, 4), seed, np.float32)
        print(seed, flush=True)
        store.put([(Identity(cell="c", decided_by={"process": n, "seed": seed}),
                    Scored(val=scores, test=scores, seconds=0.0))])
"""


def test_a_killed_writer_leaves_a_sound_store(tmp_path):
    for round_, after in enumerate((1, 4, 9)):
        process = run_python(WRITER, tmp_path, round_)
        for _ in range(after):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        process.stderr.close()
        store = Store(tmp_path)
        assert store.problems() == []
        done = [
            store.get(Identity(cell="c", decided_by={"process": round_, "seed": s})) for s in range(after)
        ]
        assert all(d is not None and d.val[0, 0] == s for s, d in enumerate(done[:-1]))


def test_two_processes_write_to_one_store(tmp_path):
    code = WRITER.replace("itertools.count()", "range(25)")
    processes = [run_python(code, tmp_path, n) for n in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, error
    store = Store(tmp_path)
    assert store.counts()["done"] == 50
    assert store.problems() == []


def test_processes_that_open_a_new_store_at_once_take_turns(tmp_path):
    opener = """
        import sys
        from pathlib import Path
        from rph.engine.store import Store
        print("opening", flush=True)
        Store(Path(sys.argv[1]))
        print("open", flush=True)
    """
    (tmp_path / "locks").mkdir()
    with FileLock(tmp_path / "locks" / "open.lock"):
        process = run_python(opener, tmp_path)
        assert process.stdout.readline() == "opening\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
    output, error = process.communicate(timeout=PATIENCE)
    assert output == "open\n", error


def test_a_cell_is_held_by_one_process_until_it_lets_go_or_dies(tmp_path):
    store = Store(tmp_path)
    other = """
        import sys
        from pathlib import Path
        from rph.engine.store import Store
        held = Store(Path(sys.argv[1])).hold("cell", seconds=float(sys.argv[2]))
        print("mine" if held else "taken", flush=True)
        sys.stdin.read()
    """
    held = store.hold("cell", seconds=0)
    assert store.hold("another", seconds=0) is not None
    output, _ = run_python(other, tmp_path, 0.1, stdin=subprocess.PIPE).communicate(timeout=PATIENCE)
    assert output == "taken\n"
    held.release()
    process = run_python(other, tmp_path, 0.1, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "mine\n"
    assert store.hold("cell", seconds=0.1) is None
    process.kill()
    process.communicate()
    assert store.hold("cell", seconds=PATIENCE) is not None


def test_the_store_knows_how_a_trial_failed_how_many_are_done_and_how_long_they_took(tmp_path):
    def trial(seed, router="knn", bench="b"):
        return Identity(cell="c", decided_by={"router": router, "benchmark": bench, "seed": seed})

    store = Store(tmp_path)
    store.put([(trial(0), scored()), (trial(1), replace(scored(), seconds=2.5)), (trial(2), FAILED)])
    store.put([(trial(0, "mlp"), replace(scored(), seconds=9.0))])
    assert store.done([trial(seed) for seed in range(4)]) == 2
    assert store.failure(trial(2)) == FAILED
    assert store.failure(trial(0)) is store.failure(trial(3)) is None
    assert store.seconds_per_trial() == {("knn", "b"): 2.0, ("mlp", "b"): 9.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_hold_is_refused_with_the_variant(tmp_path, value):
    odd = Identity(cell="c", decided_by={"router": "knn", "variant": {"k": value}})
    store = Store(tmp_path)
    with pytest.raises(RphError, match=rf"(?s)cannot be kept.*'k': {value}.*fix: .*finite"):
        store.put([(odd, scored())])
    assert store.counts()["done"] == 0


def test_a_row_that_is_no_json_is_left_out_of_the_times(tmp_path):
    store = Store(tmp_path)
    decided_by = {"router": "knn", "benchmark": "b"}
    store.put([(Identity(cell="c", decided_by={**decided_by, "seed": seed}), scored()) for seed in range(2)])
    store._db.execute(
        "UPDATE trials SET decided_by = replace(decided_by, '\"seed\":1', '\"seed\":NaN'), seconds = 99"
        " WHERE decided_by LIKE '%\"seed\":1%'"
    )
    assert store.seconds_per_trial() == {("knn", "b"): 1.5}


def test_no_room_is_said_and_nothing_half_written_counts(tmp_path):
    code = """
        import resource, sys
        import numpy as np
        from pathlib import Path
        from rph.errors import RphError
        from rph.engine.store import Identity, Store
        from rph.results.outcomes import Scored
        store = Store(Path(sys.argv[1]))
        big = np.zeros((100_000, 4), np.float32)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        try:
            store.put([(Identity(cell="c", decided_by={"seed": 0}), Scored(val=big, test=big, seconds=0.0))])
        except RphError as error:
            print(error)
            sys.exit(error.exit_code)
    """
    process = run_python(code, tmp_path)
    output, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, error
    assert "no room to write" in output and "free some space" in output
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    store = Store(tmp_path)
    assert store.counts() == {"done": 0, "failed": 0}
    assert [p for p in tmp_path.rglob("*") if p.is_file() and ".npz" in p.name] == []
