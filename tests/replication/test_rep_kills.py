"""The campaign of tools/follow.py, short enough for every run: leader, relay and follower are killed, copied anew, compared, promoted."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import follow as campaign


def test_whichever_is_killed_the_follower_shows_a_prefix(capsys):
    assert campaign.main(["--count", "6", "--seed", "7"]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert said.startswith("6 rounds") and "1 times compared, 1 promotions" in said
