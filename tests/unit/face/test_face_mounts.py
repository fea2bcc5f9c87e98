"""Which file system a path lies on, from the system's table of mounts."""

import pytest

import enginelib
from enginelib import database, mounts

TABLE = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /srv rw shared:2 - nfs4 server:/export rw
31 30 0:31 / /srv/local\040disk rw shared:3 - xfs /dev/sdb1 rw
32 22 0:32 / /data rw - tmpfs tmpfs rw
33 32 0:33 / /data rw - cifs //server/share rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/app.db", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/app.db", "nfs4"),
        ("/srv/local disk/app.db", "xfs"),
        ("/srvice/app.db", "ext4"),
        ("/data/app.db", "cifs"),
    ],
)
def test_the_deepest_and_newest_mount_decides(tmp_path, path, kind):
    table = tmp_path / "mountinfo"
    table.write_text(TABLE)
    assert mounts.file_system(path, str(table)) == kind


def test_without_a_table_nothing_is_known(tmp_path):
    assert mounts.file_system("/", str(tmp_path / "absent")) is None


def test_opening_on_a_network_file_system_warns(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "network_file_system", lambda path: "nfs4")
    with pytest.warns(RuntimeWarning, match=r"network file system \(nfs4\)"):
        enginelib.open(tmp_path / "app.db").close()


def test_a_database_in_memory_lies_on_no_file_system(monkeypatch):
    monkeypatch.setattr(database, "network_file_system", lambda path: "nfs4")
    enginelib.open(":memory:").close()
