"""The exceptions for problems a user can act on. Anything else that escapes is our bug."""


class RphError(Exception):
    """Says what happened, why, and what to do. The CLI prints it without a traceback.

    >>> print(RphError("router 'knnn' is not installed", why="closest name: knn", fix="rph list routers"))
    router 'knnn' is not installed
      why: closest name: knn
      fix: rph list routers
    """

    exit_code = 1  # the run failed

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        lines = [what, f"  why: {why}" if why else "", f"  fix: {fix}" if fix else ""]
        super().__init__("\n".join(line for line in lines if line))


class UsageError(RphError):
    """The call or the input it names is wrong: nothing was run."""

    exit_code = 2
