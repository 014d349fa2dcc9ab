"""A training killed thirty times is the one that was never interrupted."""

import kill
import pytest

pytest.importorskip("tensorflow_datasets")


@pytest.mark.slow
def test_killed_thirty_times_and_resumed_equals_uninterrupted(tmp_path):
    result = kill.main(["--kills", "30", "--out", str(tmp_path / "kill")])
    assert not result.failures
    assert not result.differences
    assert result.kills.total() >= 30 and result.resumes == result.kills.total()
    assert result.kills["before any"] >= 5 and result.kills["save"] >= 10 and result.kills["restore"] >= 3
