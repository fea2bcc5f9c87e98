"""What the tests of LSM keyspaces share."""

SMALL = {"memtable_size": 64 << 10, "table_size": 64 << 10}
