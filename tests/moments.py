"""Moments: a test waits for the event that it is about and holds the rest until then, however slow the machine is.

- `until` waits for an event;
- a `Gate` holds whoever comes to it, in the middle of its work, until the test lets it go on or kills it;
- `DYING` is rph in a process that kills itself at its n-th write;
- a `Clock` lets the limit of trials pass when only one that never ends is left.
"""

import os
import signal
import time
from pathlib import Path

PATIENCE = 300.0  # seconds until a test has failed that waits for what does not happen; pytest itself waits for longer
LIMIT = 3600  # seconds that a trial may take where a `Clock` runs: no honest one takes as long


def until(happened, what, process=None):
    """Wait for the first true value of `happened()` and return it.

    AssertionError says that it did not happen: in all the time there is, or before the end of the process (a Popen)
    that was to do it. `what` is a sentence.
    """
    ends = time.monotonic() + PATIENCE
    while not (found := happened()):
        if process is not None and process.poll() is not None:
            found = happened()  # it may have been the last thing that the process did
            assert found, (
                f"exit code {process.returncode} came before this: {what}\n{process.communicate()[1]}"
            )
            break
        assert time.monotonic() < ends, f"in {PATIENCE:g} s this did not happen: {what}"
        time.sleep(0.01)
    return found


def end(processes):
    """Kill what still runs of these (Popen): a test that failed leaves nothing behind that waits for it."""
    for process in processes:
        if process.poll() is None:
            process.kill()
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            pipe.close()
        process.wait()


def pass_gate(folder, work):
    """Where this folder exists, lay down a file named by this process and its work, and wait until it is gone."""
    here, ends = Path(folder, f"{os.getpid()} {work}"), time.monotonic() + PATIENCE
    try:
        here.touch()
    except FileNotFoundError:
        return
    while here.exists():
        if time.monotonic() > ends:
            raise TimeoutError(f"nobody opened the gate {folder}")
        time.sleep(0.01)


class Gate:
    """A folder that is closed while it exists; a process that works calls `pass_gate` with its path."""

    def __init__(self, folder):
        self.folder = folder

    def close(self):
        self.folder.mkdir()

    def open(self):
        """For those who wait and for all who come; it may be open already."""
        if self.folder.exists():
            self.folder.rename(self.folder.with_name(f"{self.folder.name} of {time.monotonic_ns()}"))

    def waiting(self):
        """The processes that stand there: their numbers, and what each works at."""
        names = (file.name.split(" ", 1) for file in self.folder.glob("*"))
        return {int(process): work for process, work in names}

    def let(self, process):
        """Let one go on, up to the next time that it comes here."""
        (here,) = self.folder.glob(f"{process} *")
        here.unlink()

    def let_through(self, times, process=None):
        """Let so many go on, one after the other, whoever comes."""
        for _ in range(times):
            self.let(self.next(process))

    def next(self, process=None):
        """Wait until one stands there: its number. `process` as in `until`."""
        return min(until(self.waiting, f"somebody comes to {self.folder}", process))

    def kill(self, process):
        """Kill one that stands there."""
        os.kill(process, signal.SIGKILL)
        self.let(process)


class Clock:
    """Stands in for an executor's `time`: LIMIT passes from look to look while `hung()`, that is, while only a trial
    that never ends is left."""

    def __init__(self, hung):
        self.hung, self.later = hung, 0

    def monotonic(self):
        if self.hung():
            self.later += LIMIT
        return time.monotonic() + self.later


# `python -c DYING n ARGUMENTS` is `rph ARGUMENTS`, killed just before its n-th write in RPH_HOME, that is:
# a file opened for writing, renamed or removed, a folder made or removed, or a statement of the store that begins,
# changes or ends something. The workers of a sweep are processes of their own, and their writes are not counted.
DYING = """
import os, runpy, signal, sqlite3, sys

folder, left = os.environ["RPH_HOME"], int(sys.argv.pop(1))
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")

def write():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def statement(text):
    if text.split()[0].upper() not in ("SELECT", "PRAGMA"):
        write()

def heard(event, about):
    if event in CHANGES or event == "open" and about[2] & (os.O_WRONLY | os.O_RDWR):
        if str(about[0]).startswith(folder):
            write()

def connect(*arguments, connect=sqlite3.connect, **more):
    connection = connect(*arguments, **more)
    connection.set_trace_callback(statement)
    return connection

sys.addaudithook(heard)
sqlite3.connect = connect
runpy.run_module("rph", run_name="__main__", alter_sys=True)
"""
