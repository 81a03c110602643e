"""Prices from the command line: they complete what a benchmark lacks, and a wrong one is refused."""

import json

import numpy as np
import pytest
from tests import toys


@pytest.fixture
def cell(tmp_path):
    """Arguments that name a cell on the toy benchmark, where the price of large is not known."""
    frames = toys.tables()
    for frame in frames.values():
        frame["cost/large"] = np.nan
    return named(tmp_path, frames)


def named(tmp_path, frames):
    bench = toys.write_bench(tmp_path / "bench", frames)
    plugin = toys.write_plugin(tmp_path / "plugin.py")
    names = ["--bench", bench, "--encoder", "numbers", "--router", "toy", "--protocol", "smoke"]
    return ["--plugin", plugin, *names, "--device", "cpu"]


def result_of(folder):
    return json.loads((folder / "toy" / "toy" / "numbers.json").read_text())


def test_the_board_says_which_models_have_no_price_and_what_cost_and_utility_are_over(rph, cell, tmp_path):
    code, output, _ = rph("eval", *cell, "--out", tmp_path / "results")
    result, flat = result_of(tmp_path / "results"), " ".join(output.split())
    assert code == 0 and "no costs" not in output
    # Of the others small is better on train; it is right on the 15 even ones of 30, middle on the 10 multiples of 3.
    assert (
        "No price is known of large: cost, utility and cost curves are of choices among the other 2 models"
        in flat
    )
    assert "of which the best single is small, 50.00 %; oracle 66.67 %." in flat
    assert result["blocks"]["prices"]["unpriced"] == ["large"]
    assert 0.001 <= result["cost"] <= 0.002 and None not in result["utility"].values()


def test_a_price_completes_what_is_not_known(rph, cell, tmp_path):
    code, output, _ = rph("eval", *cell, "--price", "large=0.01", "--out", tmp_path / "results")
    assert code == 0 and "No price is known" not in output
    completed = result_of(tmp_path / "results")
    assert "prices" not in completed["blocks"]
    assert completed["reference"]["model_cost"] == pytest.approx([0.001, 0.002, 0.01])


def test_some_prices_for_a_benchmark_without_any_are_enough(rph, tmp_path):
    cell = named(tmp_path, toys.tables(costs=False))
    _, output, _ = rph("eval", *cell)
    assert "Cost and utility: n/a (no costs)." in output
    code, output, _ = rph("eval", *cell, "--price", "small=1", "--price", "middle=2")
    assert code == 0 and "No price is known of large" in " ".join(output.split())


@pytest.mark.parametrize(
    ("price", "told"),
    [
        ("nonsense=3", ["'toy' has no such model", "its models: small, middle, large"]),
        ("lrge=3", ["'toy' has no such model", "did you mean 'large'?"]),
        ("small=3", ["'toy' has the costs of this model", "models without a price: large"]),
    ],
)
def test_a_price_of_no_model_or_of_one_that_has_costs_is_refused(rph, cell, tmp_path, price, told):
    for command in (["eval", *cell], ["export", *cell, "-o", tmp_path / "out"]):
        code, _, error = rph(*command, "--price", price)
        assert code == 2 and all(text in " ".join(error.split()) for text in told)
