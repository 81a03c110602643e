"""The command line, called in this process."""

import sys

import pytest

from rph.cli import main


@pytest.fixture
def rph(capsys, monkeypatch):
    """Call `rph ARGUMENTS` in this process: (exit code, stdout, stderr). A traceback fails the test."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["rph", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        output, error = capsys.readouterr()
        code = exit_.value.code or 0
        return code, output, error

    return call
