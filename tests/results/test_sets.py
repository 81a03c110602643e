"""Identities of routers: alike ones stand together, and a pair is needed."""

from types import SimpleNamespace

import numpy as np
import pytest

from rph import UsageError
from rph.cli import tables
from rph.engine import evaluate
from rph.holes import DENSE
from rph.study import identities

LEVEL = np.array([0.0, 0.5, 1.0])  # the models' levels on train


def cell(router, scores, bench="b"):
    """Stands for a finished cell."""
    dataset = SimpleNamespace(level=LEVEL, mask=lambda split: DENSE)
    result = SimpleNamespace(bench=bench, encoder="e", router=router)
    scored = [np.asarray(scores, np.float32)]
    return evaluate.Finished(
        result=result, dataset=dataset, spec=None, inputs=None, test_scores=lambda: scored
    )  # what routers saw is not read here


A = [[0.9, 0.1, 0.2], [0.1, 0.8, 0.3], [0.2, 0.3, 0.4], [0.6, 0.5, 0.4]]
A_AGAIN = [[9, 1, 2], [1, 8, 3], [2, 3, 4], [6, 5, 4]]
B = [[0.1, 0.9, 0.2], [0.8, 0.1, 0.3], [0.2, 0.3, 0.4], [0.4, 0.5, 0.6]]
B_NEARLY = [[0.1, 0.9, 0.2], [0.8, 0.1, 0.3], [0.2, 0.3, 0.4], [0.6, 0.5, 0.4]]


def test_routers_that_route_alike_stand_together():
    (found,) = identities.identities([cell("a", A), cell("b", B), cell("a2", A_AGAIN), cell("b2", B_NEARLY)])
    order = "".join(router[0] for router in found.routers)
    assert order in ("aabb", "bbaa")
    at = {router: i for i, router in enumerate(found.routers)}
    assert found.disagreement[at["a"], at["a2"]] == 0
    assert found.disagreement[at["a"], at["b"]] == 0.75
    assert found.disagreement[at["b"], at["b2"]] == 0.25
    assert found.correlation[at["a"], at["a2"]] == pytest.approx(1)
    assert (found.disagreement == found.disagreement.T).all()


def test_ties_are_routed_by_the_protocols_rule():
    # equal scores go to the higher level, model 2: no disagreement with a router that says so
    (found,) = identities.identities([cell("tied", [[1, 1, 1]]), cell("third", [[0, 0, 1]])])
    assert found.disagreement[0, 1] == 0 and np.isnan(found.correlation[0, 1])


def test_each_benchmark_is_compared_on_its_own():
    found = identities.identities([cell(r, A, bench) for bench in ("b1", "b2") for r in ("x", "y")])
    assert [(one.bench, set(one.routers)) for one in found] == [("b1", {"x", "y"}), ("b2", {"x", "y"})]


def test_one_router_has_nothing_to_be_compared_with():
    with pytest.raises(UsageError, match="one finished router"):
        identities.identities([cell("a", A)])


def test_the_heat_map_names_every_router_and_leaves_no_markup_of_theirs():
    (found,) = identities.identities([cell("a[bold]", A), cell("b", B)])
    from rich.console import Console

    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(tables.heat_map(found))
    text = console.export_text()
    assert "a[bold]" in text and "75.0" in text
