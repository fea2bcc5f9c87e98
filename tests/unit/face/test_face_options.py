"""Options: defaults, bounds, and messages that say what is wrong and what to do."""

import pickle

import pytest

import enginelib
from enginelib.options import Durability, Isolation, Options, seconds

MIB = 1 << 20


def test_the_defaults_are_those_documented():
    assert Options().as_dict() == {
        "create": True,
        "read_only": False,
        "durability": "sync",
        "cache_size": 256 * MIB,
        "page_size": 8192,
        "segment_size": 16 * MIB,
        "log_buffer": MIB,
        "checkpoint_bytes": 256 * MIB,
        "version_budget": 1024 * MIB,
        "transaction_budget": 256 * MIB,
        "lazy_interval": 0.1,
        "lock_timeout": 5.0,
        "allow_damaged": False,
        "compaction_rate": 0,
        "max_prepared": 100,
        "prepared_warning": 3600.0,
        "archive": None,
    }


def test_options_survive_pickling_and_become_keywords_again():
    options = Options(durability="lazy", cache_size=2 * MIB, lock_timeout=1)
    assert pickle.loads(pickle.dumps(options)) == options
    assert Options.of(options.as_dict()) == options


def test_the_core_gets_durability_as_a_number():
    assert [Options(durability=name).for_core()["durability"] for name in ("lazy", "os", "sync")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("page_size", 5000, "4096, 8192, 16384, 32768"),
        ("cache_size", 1000, str(MIB)),
        ("cache_size", 1 << 60, "at most"),
        ("segment_size", 1024, str(MIB)),
        ("segment_size", 2 * MIB + 1, str(2 * MIB + 4096)),
        ("checkpoint_bytes", 0, "below its least"),
        ("version_budget", 0, "below its least"),
        ("transaction_budget", -1, "below its least"),
        ("lazy_interval", 0, "0.001"),
        ("lock_timeout", -1, "outside 0"),
        ("lock_timeout", float("inf"), "86400 seconds"),
        ("lock_timeout", float("nan"), "outside 0"),
        ("durability", "full", "'sync', 'os', 'lazy'"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_name_value_and_limit(option, value, says):
    with pytest.raises(ValueError) as caught:
        Options.of({option: value})
    assert f"{option}={value}" in str(caught.value) or f"{option}={value!r}" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("create", 1),
        ("read_only", "yes"),
        ("cache_size", 1e9),
        ("page_size", True),
        ("lock_timeout", "5"),
        ("lazy_interval", None),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(option, value):
    with pytest.raises(TypeError, match=option):
        Options.of({option: value})


def test_a_cache_holds_at_least_64_pages():
    assert Options(page_size=32768, cache_size=2 * MIB).cache_size == 2 * MIB
    with pytest.raises(ValueError, match=str(2 * MIB)):
        Options(page_size=32768, cache_size=MIB)


def test_an_unknown_option_suggests_its_nearest_relative():
    with pytest.raises(TypeError, match="did you mean 'cache_size'"):
        enginelib.open(":memory:", cachesize=MIB)
    with pytest.raises(TypeError, match="it has create, read_only"):
        enginelib.open(":memory:", zzz=1)


def test_levels_compare_and_print_as_their_names():
    assert Durability.SYNC == "sync" and str(Durability.OS) == "os"
    assert Isolation.of("snapshot") is Isolation.SNAPSHOT


def test_isolation_levels_have_the_numbers_that_the_core_knows():
    assert [level.level for level in Isolation] == [0, 1, 2, 3, 4]


def test_an_isolation_level_that_never_was_is_a_value_error():
    with pytest.raises(ValueError, match="'read_committed', 'snapshot'"):
        Isolation.of("chaos")


def test_seconds_become_floats():
    assert seconds("lock_timeout", 3) == 3.0
