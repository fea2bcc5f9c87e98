"""The slotted page: what is packed comes back, and whatever is not a sound page is refused by name."""
import random
import struct
from pathlib import Path

import pytest
from enginelib._native.index.treedoor import NodeDoor
from enginelib._native.page.layout_door import check, limits, pack, unpack
from hypothesis import given, settings
from hypothesis import strategies as st

LEAF, INNER, GHOST, BLOB = 1, 2, 0x8000, 0x4000
FIELDS = {
    "type": (0, "B"), "level": (1, "B"), "count": (2, "<H"), "heap_low": (4, "<H"), "garbage": (6, "<H"), "prefix_len": (8, "<H"),
    "lower_off": (10, "<H"), "lower_len": (12, "<H"), "upper_off": (14, "<H"), "upper_len": (16, "<H"), "reserved": (18, "<H"),
    "keyspace": (20, "<I"), "pid": (24, "<Q"), "next": (32, "<Q"), "leftmost": (40, "<Q"),
}


def field(page, name):
    return struct.unpack_from(FIELDS[name][1], page, FIELDS[name][0])[0]


def with_field(page, name, value):
    out = bytearray(page)
    struct.pack_into(FIELDS[name][1], out, FIELDS[name][0], value)
    return bytes(out)


def slot(page, i):
    return struct.unpack_from("<IHH", page, 48 + 8 * i)


def with_slot(page, i, head=None, offset=None, length=None):
    old = slot(page, i)
    out = bytearray(page)
    new = (old[0] if head is None else head, old[1] if offset is None else offset, old[2] if length is None else length)
    struct.pack_into("<IHH", out, 48 + 8 * i, *new)
    return bytes(out)


def with_bytes(page, offset, data):
    return page[:offset] + data + page[offset + len(data):]


def leaf(size=4096, lower=b"app", upper=b"apx", keys=(b"app", b"apple", b"apply", b"apt", b"apw\0", b"apw\0\0")):
    node = NodeDoor(size, 0, lower, upper, pid=7, next=9, keyspace=3)
    for key in keys:
        assert node.put(key, b"<" + key + b">")
    return node.bytes()


def inner(size=4096):
    node = NodeDoor(size, 1, b"b", b"x", pid=8, next=9, keyspace=3, leftmost=20)
    for i, key in enumerate((b"c", b"cc", b"d\0", b"d\0\0", b"longer separator")):
        node.put_child(key, 21 + i)
    return node.bytes()


@pytest.mark.parametrize("size, max_key, max_inline", [(4096, 900, 1002), (8192, 2000, 2026), (16384, 4000, 4074), (32768, 8100, 8170)])
def test_limits_follow_the_page_size_and_leave_room_to_divide_any_node(size, max_key, max_inline):
    assert limits(size) == (max_key, max_inline)
    assert 2 * (max_inline + 10 + max_key) <= size - 48
    assert 4 * (max_inline + 10) <= size - 48
    assert max_key + 16 <= max_inline


def test_sound_pages_pass():
    assert check(leaf(), 7) is None
    assert check(inner(), 8) is None
    assert check(NodeDoor(8192).bytes(), 7) is None
    assert check(NodeDoor(32768, 0).bytes(), 7) is None


def test_the_prefix_is_stored_once_as_part_of_the_lower_fence():
    page = leaf()
    assert field(page, "prefix_len") == 2
    assert slot(page, 1)[2] == len(b"ple")


@pytest.mark.parametrize("unit", [1, 8, 512, 4096])
def test_what_is_packed_is_unpacked_with_its_middle_zeroed(unit):
    for page in leaf(), inner(), NodeDoor(4096).bytes(), NodeDoor(32768).bytes():
        packed = pack(page, unit)
        assert len(packed) % unit == 0
        front = 48 + 8 * field(page, "count")
        low = field(page, "heap_low")
        assert front + len(page) - low <= len(packed) < front + len(page) - low + unit
        assert unpack(packed, len(page)) == page[:18] + b"\0\0" + page[20:front] + bytes(low - front) + page[low:]


def test_a_full_page_packs_to_its_own_size():
    node = NodeDoor(4096)
    i = 0
    while node.put(b"%05d" % i, b"v" * 40):
        i += 1
    packed = pack(node.bytes(), 512)
    assert packed[18:20] == b"\0\0"
    assert len(packed) == 4096
    assert unpack(packed, 4096) is not None


@pytest.mark.parametrize("name, value", [
    ("reserved", 1), ("reserved", 256), ("count", 512), ("count", 65535), ("heap_low", 40), ("heap_low", 4097), ("heap_low", 65535), ("heap_low", 50),
])
def test_packed_pages_whose_header_cannot_be_are_refused(name, value):
    assert unpack(with_field(pack(leaf(), 1), name, value), 4096) is None


def test_packed_pages_cut_short_are_refused():
    packed = pack(leaf(), 1)
    for n in range(len(packed)):
        assert unpack(packed[:n], 4096) is None
    assert unpack(packed, 4096) is not None


BROKEN = {
    "type 0": ("type", 0, "type"),
    "type 3": ("type", 3, "type"),
    "an inner page on level 0": ("type", INNER, "level"),
    "a leaf on level 1": ("level", 1, "level"),
    "slots beyond the heap": ("count", 510, "overlap"),
    "a heap beyond the page": ("heap_low", 4097, "outside the page"),
    "a heap in the header": ("heap_low", 47, "overlap"),
    "a heap that starts too low": ("heap_low", 200, "add up"),
    "a heap that starts too high": ("heap_low", 4080, "outside the heap"),
    "too much garbage": ("garbage", 1, "add up"),
    "a longer prefix": ("prefix_len", 3, "common prefix"),
    "a shorter prefix": ("prefix_len", 1, "common prefix"),
    "a lower fence without a place": ("lower_off", 0, "no place"),
    "a lower fence in the header": ("lower_off", 20, "outside the heap"),
    "a lower fence past the end": ("lower_off", 4095, "outside the heap"),
    "a lower fence without length": ("lower_len", 0, "no length"),
    "a lower fence too long for a key": ("lower_len", 901, "longer than any key"),
    "an upper fence without a place": ("upper_off", 0, "no place"),
    "an upper fence in the header": ("upper_off", 20, "outside the heap"),
    "an upper fence past the end": ("upper_off", 4094, "outside the heap"),
    "an upper fence without length": ("upper_len", 0, "no length"),
    "an upper fence too long for a key": ("upper_len", 60000, "longer than any key"),
    "another page": ("pid", 6, "another page"),
    "a sibling of itself": ("next", 7, "own sibling"),
    "a leaf with children": ("leftmost", 5, "leftmost"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_leaf_is_refused_for(name):
    which, value, text = BROKEN[name]
    assert text in check(with_field(leaf(), which, value), 7)


@pytest.mark.parametrize("size", [0, 48, 2048, 5000, 65536])
def test_a_page_size_out_of_bounds_is_refused(size):
    assert "page size" in check((leaf() * 17)[:size], 7)


def test_an_inner_page_is_refused_for_its_children():
    page = inner()
    assert "leftmost" in check(with_field(page, "leftmost", 0), 8)
    assert "own child" in check(with_field(page, "leftmost", 8), 8)
    for child in 0, 8:
        assert "no page, or the page itself" in check(with_bytes(page, slot(page, 2)[1], struct.pack("<Q", child)), 8)
    assert "level" in check(with_field(page, "level", 24), 8)
    assert "level" in check(with_field(page, "level", 0), 8)


def test_fences_out_of_order_are_refused():
    page = leaf(keys=())
    low, high = field(page, "lower_off"), field(page, "upper_off")
    swapped = with_field(with_field(page, "lower_off", high), "upper_off", low)
    assert "out of order" in check(swapped, 7)
    same = with_field(with_field(page, "upper_off", low), "prefix_len", 3)
    assert "out of order" in check(same, 7)


def test_fences_that_overlap_are_refused():
    node = NodeDoor(4096, 0, b"ab", b"b")
    page = node.bytes()
    low = field(page, "lower_off")
    assert "overlap" in check(with_field(page, "upper_off", low + 1), 7)


def test_a_prefix_needs_two_fences():
    page = NodeDoor(4096, 0, b"abc", None).bytes()
    assert check(page, 7) is None
    assert "without two fences" in check(with_field(page, "prefix_len", 1), 7)


def test_slots_are_refused_for_their_heads():
    page = leaf()
    for i in range(field(page, "count")):
        assert "head" in check(with_slot(page, i, head=slot(page, i)[0] ^ 1), 7)


def test_records_outside_the_heap_are_refused():
    page = leaf()
    for offset in 0, 47, field(page, "heap_low") - 1, 4094, 4095, 65535:
        assert "outside the heap" in check(with_slot(page, 1, offset=offset), 7)
    assert check(with_slot(page, 1, length=4000), 7) is not None
    assert "outside the heap" in check(with_slot(page, 1, length=65535), 7)


def test_keys_longer_than_allowed_are_refused():
    node = NodeDoor(4096)
    assert node.put(b"k" * 900, b"")
    assert check(node.bytes(), 7) is None
    node = NodeDoor(4096)
    assert node.put(b"k" * 901, b"")
    assert "longer than allowed" in check(node.bytes(), 7)


def test_records_longer_than_allowed_are_refused():
    node = NodeDoor(4096)
    assert node.put(b"k", b"v" * 1001)
    assert check(node.bytes(), 7) is None
    node = NodeDoor(4096)
    assert node.put(b"k", b"v" * 1002)
    assert "longer than allowed" in check(node.bytes(), 7)


def test_values_outside_the_page_are_refused():
    page = leaf()
    last = max(range(field(page, "count")), key=lambda i: slot(page, i)[1])
    assert "value lies outside" in check(with_bytes(page, slot(page, last)[1], struct.pack("<H", 900)), 7)


def test_records_that_overlap_are_refused():
    page = leaf()
    offset = slot(page, 2)[1]
    assert "overlap" in check(with_bytes(page, offset, struct.pack("<H", 12)), 7)


def test_two_slots_of_one_record_are_refused():
    page = leaf()
    _, offset, length = slot(page, 1)
    assert "overlap" in check(with_slot(page, 2, slot(page, 1)[0], offset, length), 7)


def test_keys_out_of_order_are_refused():
    page = leaf()
    a, b = slot(page, 1), slot(page, 2)
    assert "ascending" in check(with_slot(with_slot(page, 1, *b), 2, *a), 7)


def test_equal_heads_are_ordered_by_length_and_the_bytes_that_follow():
    node = NodeDoor(4096)
    for key in (b"", b"\0", b"\0\0", b"\0\0\0", b"\0\0\0\0", b"\0\0\0\0\0", b"a", b"a\0", b"aaaa", b"aaaa\0", b"aaaab"):
        assert node.put(key, b"")
    page = node.bytes()
    assert check(page, 7) is None
    for i in range(field(page, "count") - 1):
        a, b = slot(page, i), slot(page, i + 1)
        assert "ascending" in check(with_slot(with_slot(page, i, *b), i + 1, *a), 7), i


@pytest.mark.parametrize("level", [0, 1])
def test_keys_outside_the_fences_are_refused(level):
    for key, text in ((b"ma", "below the lower"), (b"mb", None), (b"md", None), (b"me", "above the upper"), (b"mf", "above the upper")):
        node = NodeDoor(4096, level, b"mb", b"me", leftmost=99 if level else 0)
        if level:
            node.put_child(key, 98)
            text = text or ("below the lower" if key == b"mb" else None)     # a separator must leave keys to its left
        else:
            node.put(key, b"")
        fault = check(node.bytes(), 7)
        assert fault is None if text is None else text in fault


def test_a_separator_that_is_empty_is_refused():
    node = NodeDoor(4096, 1, leftmost=99)
    node.put_child(b"", 98)
    assert "below the lower" in check(node.bytes(), 7)


def test_ghosts_and_blobs_must_look_like_such():
    node = NodeDoor(4096)
    node.put(b"ghost", b"", GHOST)
    node.put(b"blob", struct.pack("<QQ", 5, 100000), BLOB)
    assert check(node.bytes(), 7) is None
    for value, flags, text in ((b"v", GHOST, "ghost"), (b"", GHOST | BLOB, "ghost"), (b"short", BLOB, "16 bytes"),
                               (struct.pack("<QQ", 0, 9), BLOB, "names no page")):
        node = NodeDoor(4096)
        node.put(b"k", value, flags)
        assert text in check(node.bytes(), 7)


@settings(max_examples=400)
@given(st.binary(max_size=5000), st.sampled_from([4096, 8192, 32768]), st.integers(0, 3))
def test_random_bytes_never_hurt(data, size, pid):
    page = unpack(data, size)
    if page is not None:
        check(page, pid)
    check((data + bytes(size))[:size], pid)


@settings(max_examples=600)
@given(st.data())
def test_damaged_pages_are_refused_or_sound_all_through(data):
    """What the check lets through can be read, compacted and packed without leaving the page."""
    page = bytearray(data.draw(st.sampled_from([leaf(), inner()])))
    low = field(bytes(page), "heap_low")
    count = field(bytes(page), "count")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 47 + 8 * count), st.integers(low, 4095)))
        page[at] = data.draw(st.integers(0, 255))
    page = bytes(page)
    pid = field(page, "pid")
    if check(page, pid) is not None:
        return
    assert unpack(pack(page, 512), 4096) is not None
    node = NodeDoor(4096)
    node.load(page)
    before = node.records()
    node.compact()
    assert node.records() == before
    assert check(node.bytes(), pid) is None
    for i in range(len(before) - 1, -1, -1):
        node.remove(i)
        assert check(node.bytes(), pid) is None


def test_every_single_changed_byte_is_survived():
    rng = random.Random(5)
    for page in leaf(), inner():
        low = field(page, "heap_low")
        for at in [*range(48 + 8 * field(page, "count")), *range(low, 4096)]:
            check(with_bytes(page, at, bytes([page[at] ^ rng.randrange(1, 256)])), field(page, "pid"))


def test_the_example_of_the_format_description_is_what_is_written():
    text = (Path(__file__).parents[3] / "docs" / "format-nodes.md").read_text()
    lines = text.split("```")[1].split("\n")[1:-1]
    example = bytes.fromhex("".join(line[6:] for line in lines))
    node = NodeDoor(8192, 0, b"user:ada", b"user:c", pid=7, next=9, keyspace=3)
    node.put(b"user:ada", b"1815")
    node.put(b"user:bob", b"", GHOST)
    node.put(b"user:al", struct.pack("<QQ", 12, 100000), BLOB)
    assert pack(node.bytes(), 512) == example + bytes(512 - len(example))
    assert check(unpack(example, 8192), 7) is None
