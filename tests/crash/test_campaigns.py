"""The campaigns of tools/, short enough for every run: crash states, failing calls, real kills, flipped bits."""


def test_nothing_acknowledged_is_lost_and_nothing_is_partial_in_5000_crash_states(campaign):
    (result,) = campaign("crash.py", "--states", 5000, "--seed", 11)
    assert result["failures"] == []
    assert result["states"] >= 5000
    assert result["twice"] > 500
    assert result["workloads"] >= 2


def test_every_call_may_fail_and_every_growth_may_find_the_disk_full(campaign):
    (result,) = campaign("crash.py", "--faults", "--states", 6000, "--seed", 11)
    assert result["failures"] == []
    assert result["cuts"] > 500


def test_ten_rounds_of_sigkill_lose_nothing(campaign):
    (result,) = campaign("kill.py", "--rounds", 10, "--seed", 11)
    assert result["found"] == ""
    assert result["rounds"] == 10
    assert result["acknowledged"] > 0


def test_a_flipped_bit_is_found_or_harmless(campaign):
    clean, crashed = campaign("bitflip.py", "--sample", 3000, "--seed", 11)
    for result in (clean, crashed):
        assert result["failures"] == []
        assert sum(result["outcomes"].values()) == 3000
        assert result["outcomes"]["dat found"] > 0
        assert result["outcomes"]["wal found"] > 0
        assert result["outcomes"]["sst found"] > 0
        assert not any("sst" in outcome and "found" not in outcome for outcome in result["outcomes"])
    assert not any("last group" in outcome for outcome in clean["outcomes"])
