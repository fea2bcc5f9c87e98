"""Every interleaving of every anomaly's script, at every level, over both trees: docs/guarantees.md's table."""

import pytest
from anomalies import ANOMALIES, LEVELS
from interleave import Runner, orders, serial_outcomes

EXPECTED_ENDS = {"committed", "aborted", "write_conflict", "serialization_failure", "deadlock_detected"}


@pytest.fixture
def runner(db, ks):
    runner = Runner(db, ks)
    yield runner
    runner.close()


def unserializable(outcome, script, setup):
    """Whether what was seen and left by the sessions that committed is what no serial order of them gives."""
    committed = [i for i, end in enumerate(outcome.ends) if end == "committed"]
    got = (tuple(outcome.seen[i] for i in committed), outcome.final)
    return got not in serial_outcomes(script, setup, committed)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("anomaly", ANOMALIES, ids=lambda each: each.name)
def test_anomaly_happens_where_it_may_and_nowhere_else(runner, anomaly, level):
    happened = None
    for order in orders([len(steps) + 1 for steps in anomaly.script]):
        outcome = runner.run(anomaly.script, anomaly.setup, [{"isolation": level}] * len(anomaly.script), order)
        assert set(outcome.ends) <= EXPECTED_ENDS, (order, outcome)
        if unserializable(outcome, anomaly.script, anomaly.setup):
            happened = (order, outcome)
            if level not in anomaly.possible:
                break
    if level in anomaly.possible:
        assert happened, "no order of the steps shows it: the test could not fail"
    else:
        assert not happened, happened
