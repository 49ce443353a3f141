"""Sections 6.3 to 6.5: the roots of lists, histories and states, and what a proof of each leads to."""

from __future__ import annotations

from tests.chain.specification.notation import Record, h, number, u64


def list_root(items: list[bytes]) -> bytes:
    level = [h("list leaf", item) for item in items]
    while len(level) > 1:
        pairs = [level[index : index + 2] for index in range(0, len(level), 2)]
        level = [h("list node", *pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return h("list", u64(len(items)), level[0]) if items else h("empty")


def history_root(block_ids: list[bytes]) -> bytes:
    return h("history", u64(len(block_ids)), *history_peaks(block_ids))


def history_peaks(block_ids: list[bytes]) -> list[bytes]:
    peaks: list[bytes] = []
    start = 0
    for height in reversed(range(len(block_ids).bit_length())):
        if len(block_ids) >> height & 1:
            level = [h("history leaf", block_id) for block_id in block_ids[start : start + (1 << height)]]
            start += 1 << height
            while len(level) > 1:
                level = [h("history node", level[index], level[index + 1]) for index in range(0, len(level), 2)]
            peaks += level
    return peaks


def state_root(entries: dict[bytes, bytes]) -> bytes:
    leaves = [(number(path := h("path", key)), h("leaf", path, h("value", value))) for key, value in entries.items()]
    return join(leaves) if leaves else h("empty")


def join(leaves: list[tuple[int, bytes]]) -> bytes:
    """The node over some leaves, each with its path."""
    if len(leaves) == 1:
        return leaves[0][1]
    paths = [path for path, _ in leaves]
    depth = 256 - (min(paths) ^ max(paths)).bit_length()
    sides: tuple[list[tuple[int, bytes]], ...] = ([], [])
    for path, leaf in leaves:
        sides[path >> (255 - depth) & 1].append((path, leaf))
    return h("branch", bytes([depth]), join(sides[0]), join(sides[1]))


def follow_list(item: bytes, proof: Record) -> bytes:
    """The root of the list that a proof leads to."""
    node, index, last, siblings = h("list leaf", item), proof["index"], proof["count"] - 1, list(proof["siblings"])
    assert 0 <= index <= last
    while last:
        if index & 1 or index < last:
            node = h("list node", *((siblings.pop(0), node) if index & 1 else (node, siblings.pop(0))))
        index, last = index >> 1, last >> 1
    assert not siblings
    return h("list", u64(proof["count"]), node)


def follow_history(block_id: bytes, proof: Record) -> bytes:
    """The root of the history that a proof leads to."""
    node, height, count = h("history leaf", block_id), len(proof["siblings"]), proof["count"]
    mountains = [bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]
    position, offset = mountains.index(height), proof["index"] - (count >> (height + 1) << (height + 1))
    assert 0 <= offset < 1 << height
    for level, sibling in enumerate(proof["siblings"]):
        node = h("history node", *((sibling, node) if offset >> level & 1 else (node, sibling)))
    return h("history", u64(count), *proof["peaks"][:position], node, *proof["peaks"][position:])


def follow_state(key: bytes, value: bytes | None, proof: Record) -> bytes:
    """The root of the state that a proof leads to."""
    path, other, above = h("path", key), proof["conflicting"], 256
    if value is not None:
        assert other is None
        node = h("leaf", path, h("value", value))
    elif other is not None:
        assert other["path"] != path
        node = h("leaf", other["path"], other["value"])
    else:
        assert not proof["branches"]
        node = h("empty")
    for branch in proof["branches"]:
        above, depth = branch["depth"], above
        bit = number(path) >> (255 - above) & 1
        assert above < depth
        assert other is None or number(other["path"]) >> (255 - above) & 1 == bit
        node = h("branch", bytes([above]), *((branch["sibling"], node) if bit else (node, branch["sibling"])))
    return node
