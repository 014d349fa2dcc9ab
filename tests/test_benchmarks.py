"""Benchmarks run: small sizes, all methods."""

import json

import pytest

from benchmarks import conditioning


@pytest.mark.slow
def test_the_benchmark_of_conditioning_has_a_row_for_each_method_and_law():
    result = json.loads(json.dumps(conditioning.measure(size=64, steps=3)))
    rows = conditioning.table(result).splitlines()[2:]
    assert len(rows) == len(result["rows"]) / len(conditioning.LAWS)
    assert all(row["nfe"] >= 3 and row["mean"] >= 0 for row in result["rows"])
