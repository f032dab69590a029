"""Lines as kills, power cuts and other tools leave them: each costs at most itself, and can be found again."""

from __future__ import annotations

import json
import re
import time
from typing import Any, get_args, get_origin

import msgspec
import orjson
import pytest
from builders import ABSENT, SESSION, agent_progress, assistant, chained, line, text, title, tool_result, usage, user
from hypothesis import given
from hypothesis import strategies as st

from indexer import record as record_module
from indexer.batch import OFFSET_BITS, RANK_SHIFT, RECOVERED, Batch
from indexer.lines import BLANK, BROKEN, NO_TYPE, NOT_AN_OBJECT, NUL_BYTES, TOO_DEEP, pieces, usable
from indexer.parser import Parser

MTIME = 1_700_000_000_000


def said(record: dict[str, Any]) -> bytes:
    return line(record).rstrip(b"\n")


def told(data: bytes) -> list[str]:
    """What a line is made of: the types of its records, and the reasons of what is none."""
    return [piece.reason if piece.record is None else piece.record["type"] for piece in pieces(data)]


def parse(data: bytes) -> Batch:
    parser = Parser(1, "the-file", MTIME)
    parser.look_ahead(data)
    return parser.feed(data, 0)


A, B = said(user("one")), said(assistant(text("two")))
KILLED = A[: len(A) // 2]
DEEP = 100_000


@pytest.mark.parametrize(
    ("story", "data", "expected"),
    [
        ("a record", A, ["user"]),
        ("spaces after colons", json.dumps(user()).encode(), ["user"]),
        ("keys in alphabetical order", json.dumps(user(), sort_keys=True).encode(), ["user"]),
        ("spaces around it", b" \t" + A + b" \t", ["user"]),
        ("a carriage return behind it", A + b"\r", ["user"]),
        ("a byte order mark", b"\xef\xbb\xbf" + A, ["user"]),
        ("a byte order mark alone", b"\xef\xbb\xbf", [BLANK]),
        ("nothing", b"", [BLANK]),
        ("spaces", b" \t ", [BLANK]),
        ("a carriage return", b"\r", [BLANK]),
        ("NUL bytes", b"\0" * 700, [NUL_BYTES]),
        ("NUL bytes before a record", b"\0" * 700 + A, ["user"]),
        ("NUL bytes behind a record", A + b"\0" * 9000, ["user"]),
        ("NUL bytes between two records", A + b"\0\0" + B, ["user", "assistant"]),
        ("NUL bytes inside a text", A.replace(b"one", b"o\0e"), ["user"]),
        ("NUL bytes in the place of a part of it", KILLED + b"\0" * 50 + B, [BROKEN, "assistant"]),
        ("two records", A + B, ["user", "assistant"]),
        ("two records with a space", A + b" " + B, ["user", "assistant"]),
        ("three records", A + B + A, ["user", "assistant", "user"]),
        ("killed while writing", KILLED, [BROKEN]),
        ("killed, and the next record behind it", KILLED + B, [BROKEN, "assistant"]),
        ("killed, and two records behind it", KILLED + A + B, [BROKEN, "user", "assistant"]),
        ("killed twice", KILLED + KILLED + B, [BROKEN, "assistant"]),
        ("killed behind the record that is whole", A + KILLED, ["user", BROKEN]),
        ("killed after one byte", b"{" + B, [BROKEN, "assistant"]),
        ("the beginning is missing", A[30:], [BROKEN]),
        ("words", b"Segmentation fault", [BROKEN]),
        ("words behind a record", A + b"oops", ["user", BROKEN]),
        ("words before a record", b"oops" + A, [BROKEN, "user"]),
        ("invalid UTF-8 in a text", A.replace(b"one", b"\xff\xfe\x80"), ["user"]),
        ("invalid UTF-8 outside of one", b"\xff" + A, [BROKEN, "user"]),
        ("a lone surrogate", A.replace(b"one", rb"\udcb2"), ["user"]),
        ("an array", b"[1,2]", [NOT_AN_OBJECT]),
        ("a record in an array", b"[" + A + b"]", [NOT_AN_OBJECT]),
        ("a number", b"5", [NOT_AN_OBJECT]),
        ("a text", b'"user"', [NOT_AN_OBJECT]),
        ("null", b"null", [NOT_AN_OBJECT]),
        ("not a number", b"NaN", [NOT_AN_OBJECT]),
        ("an empty object", b"{}", [NO_TYPE]),
        ("null for a type", b'{"type":null}', [NO_TYPE]),
        ("a number for a type", b'{"type":5}', [NO_TYPE]),
        ("a type nobody knows", b'{"type":"marble-origami"}', ["marble-origami"]),
        ("an empty type", b'{"type":""}', [""]),
        ("NaN and Infinity as values", b'{"type":"user","a":NaN,"b":-Infinity}', ["user"]),
        ("an integer beyond 64 bits", b'{"type":"user","a":123456789012345678901234567890}', ["user"]),
        ("100,000 brackets", b"[" * DEEP, [TOO_DEEP]),
        ("100,000 brackets that close", b"[" * DEEP + b"]" * DEEP, [TOO_DEEP]),
        ("100,000 brackets in a record", b'{"type":"user","a":' + b"[" * DEEP + b"]" * DEEP + b"}", [TOO_DEEP]),
        ("100,000 objects in each other", b'{"type":' * DEEP, [TOO_DEEP]),
    ],
)
def test_a_line_and_what_is_made_of_it(story, data, expected):
    assert told(data) == expected
    check_places(data)


def check_places(data: bytes) -> None:
    """Pieces stand in order, hold what they claim, and leave out nothing but what is blank."""
    end = 0
    for piece in pieces(data):
        assert end <= piece.start <= piece.end <= len(data)
        assert not data[end : piece.start].strip(b" \t\r\n\0\xef\xbb\xbf")
        if piece.record is not None:
            assert meant(data[piece.start : piece.end]) == piece.record
        end = piece.end
    assert not data[end:].strip(b" \t\r\n\0\xef\xbb\xbf")


def meant(data: bytes) -> Any:
    """What JSON means whose NUL bytes are blank, and whose broken characters are replaced."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        padded = data.replace(b"\0", b" ").removeprefix(b"\xef\xbb\xbf")
        return mend(json.loads(padded.decode("utf-8", "surrogateescape")))


def mend(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {mend(key): mend(item) for key, item in value.items()}
    return [mend(item) for item in value] if isinstance(value, list) else value


def test_the_offset_of_a_recovered_record_is_where_its_json_begins():
    data = KILLED + B
    broken, recovered = pieces(data)
    assert (broken.start, broken.end) == (0, len(KILLED))
    assert data[recovered.start : recovered.end] == B
    assert recovered.is_recovered


def test_offsets_count_bytes_and_not_characters():
    data = said(user("äöü€😀")) + b" \xff\xfe " + B
    *_, last = pieces(data)
    assert data[last.start : last.end] == B


def test_the_objects_inside_a_broken_record_are_no_records():
    whole = said(assistant(text("half a sentence"), {"type": "tool_use", "id": "t", "name": "Bash", "input": {}}))
    assert told(whole[:-5] + B) == [BROKEN, "assistant"]
    assert told(said(tool_result("t", [text("a"), {"type": "image", "source": {}}]))[:-5]) == [BROKEN]


def test_a_text_that_quotes_a_record_is_no_record():
    quoting = said(user(json.dumps(assistant(text("quoted")))))
    assert told(quoting[:-5]) == [BROKEN]
    assert told(quoting[:-5] + B) == [BROKEN, "assistant"]


def test_a_response_embedded_in_a_broken_record_is_recovered_as_a_sidechain_of_its_session():
    inner = assistant(usage=usage(output=77))
    broken = said(agent_progress(inner))[:-5]
    assert told(broken) == [BROKEN, "assistant", BROKEN]
    batch = parse(line(user()) + broken + b"\n")
    (row,) = batch.usage
    assert row[2] == inner["message"]["id"]
    assert row[8] == 77
    recovered = batch.records[1]
    context = batch.contexts[recovered[4]]
    assert recovered[6] & RECOVERED
    assert (batch.sessions[context[1]], context[-2]) == (SESSION, 1)


def test_a_type_nobody_knows_is_not_recovered_from_a_broken_line():
    assert told(KILLED + b'{"type":"marble-origami"}') == [BROKEN]


def test_a_lone_surrogate_becomes_a_replacement_character():
    (piece,) = pieces(A.replace(b"one", rb"a\udcb2b"))
    assert piece.record is not None
    assert piece.record["message"]["content"] == "a\N{REPLACEMENT CHARACTER}b"


def test_a_surrogate_pair_is_the_character_it_means():
    (piece,) = pieces(b'{"type":"user","a":"\\ud83d\\ude00","b":"\\udcb2"}')
    assert piece.record == {"type": "user", "a": "😀", "b": "\N{REPLACEMENT CHARACTER}"}


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":' * 20_000 + b"[",
        b'{"type":"user",' * 20_000,
        b'{"type":"user"}' * 20_000,
        b'{"type":"x' * 20_000,
        A[:-1] * 2_000,
        "ä".encode() * 500_000,
        b'{"type":"user"}\xff' * 5_000,
    ],
)
def test_no_line_takes_long(data):
    start = time.process_time()
    pieces(data)
    assert time.process_time() - start < 2


# Whether a last line without its newline may be used


@pytest.mark.parametrize("data", [A, A + B, b"[]", b"{}", b"\xef\xbb\xbf" + A, A + b"\0\0", A + KILLED])
def test_a_last_line_that_is_whole_or_begins_with_a_record_may_be_used(data):
    assert usable(data)


@pytest.mark.parametrize("data", [KILLED, KILLED + B, b"{}{", b"{", b" ", b"\0\0", b"[" * DEEP])
def test_a_last_line_that_is_not_whole_waits(data):
    assert not usable(data)


def test_of_a_last_line_with_a_torn_end_only_the_records_that_it_begins_with_are_used():
    assert usable(A + KILLED) == A
    assert usable(A + b'{"type":"progress","data":' + B) == A, "B may turn out to be part of a record"


def test_no_beginning_of_a_record_is_taken_for_a_whole_one():
    assert [cut for cut in range(1, len(A)) if usable(A[:cut])] == []


# What the parser makes of lines


def test_every_bad_line_is_counted_once_and_found_by_its_place():
    good = line(user())
    data = good + b"\n" + b"[1]\n" + KILLED + b"\n" + b"\0\0\n" + b"{}\n" + KILLED + B + b"\n" + good
    batch = parse(data)
    found = [(row[0] & (1 << OFFSET_BITS) - 1, *row[1:]) for row in batch.skipped]
    places = [len(good)]
    for length in (1, 4, len(KILLED) + 1, 3, 3):
        places.append(places[-1] + length)
    assert found == [
        (places[0], 2, 0, BLANK, 0),
        (places[1], 3, 3, NOT_AN_OBJECT, 0),
        (places[2], 4, len(KILLED), BROKEN, 0),
        (places[3], 5, 2, NUL_BYTES, 0),
        (places[4], 6, 2, NO_TYPE, 0),
        (places[5], 7, len(KILLED), BROKEN, 1),
    ]
    assert batch.indexed_lines == 3
    assert len(batch.records) == 3


@pytest.mark.parametrize("data", [b'{"a":1}{"b":2}\n', b"[1] [2] {} oops\n", KILLED + b'{"a":1}\n', b'5 {"a"\n'])
def test_a_line_with_several_useless_parts_is_one_skipped_line(data):
    batch = parse(data)
    assert batch.indexed_lines == 0
    assert sum(not row[4] for row in batch.skipped) == 1


@pytest.mark.parametrize(
    "record",
    [
        {"type": "assistant"},
        {"type": "user"},
        {"type": "progress"},
        {"type": "attachment"},
        {"type": "system", "content": None},
        assistant(usage=ABSENT),
        assistant(usage=None),
        assistant(usage={}),
        assistant(usage=[]),
        assistant(content=None),
        assistant(content="a text"),
        assistant(content=[None, 5, [], "x", {}, {"type": None}, {"type": "text"}, {"type": "text", "text": 5}]),
        assistant(model=None, id=None, stop_reason=5),
        assistant(uuid=None, sessionId=None, timestamp=None, requestId=None, id=None),
        assistant(uuid=5, sessionId={}, timestamp=[], requestId=True, cwd={}, gitBranch=[1], version=1.5),
        assistant(message=None),
        assistant(message=[]),
        user(message="x"),
        user(None),
        user([{"type": "tool_result"}]),
        tool_result("t", None, result=None),
        tool_result("t", [None, {"type": "text", "text": None}], result=[1]),
        tool_result("t", result={"searchCount": "x", "agentId": 5}),
        chained("progress", data=None),
        chained("progress", data={"type": "agent_progress", "message": None}),
        chained("progress", data={"type": "agent_progress", "message": {"type": "assistant", "message": None}}),
        chained("attachment", attachment=5),
        {"type": "summary", "summary": None},
        {"type": "x" * 10_000, "uuid": "\0", "timestamp": "now"},
        assistant(text("a\0b"), sessionId="a\0b", cwd="\x1b[2J"),
    ],
)
def test_missing_null_and_wrong_fields_cost_no_record(record):
    batch = parse(line(user()) + line(record) + line(user()))
    assert [row[1] for row in batch.records] == [1, 2, 3]
    assert batch.skipped == []
    check_rows(batch)


@pytest.mark.parametrize(
    "count",
    [None, "12", "x", "", -5, 1.5, True, [], {}, 10**30, "1e400", "nan", float("nan"), float("inf"), "9" * 5000],
)
def test_a_count_that_is_none_costs_no_record(count):
    data = json.dumps(assistant(usage=usage(output=count, cache_read=7))).encode()
    batch = parse(data + b"\n")
    (row,) = batch.usage
    assert row[11] == 7
    assert 0 <= row[8] <= 10**9
    check_rows(batch)


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [{"text": value}]
    return value


@pytest.mark.parametrize("depth", [50, 150, 300, 500, 600])
def test_a_deeply_nested_value_costs_at_most_its_record(depth):
    deep = nested(depth)
    for record in (
        tool_result("t", deep),
        user(deep),
        assistant(content=deep, usage=usage(service_tier=deep)),
        agent_progress(assistant(content=deep, id=None, requestId=None, uuid=ABSENT)),
        agent_progress(assistant({"type": "tool_use", "id": "t", "name": "Bash", "input": {"a": deep}})),
        chained("attachment", attachment=deep),
        user(cwd=deep),
    ):
        batch = parse(line(user()) + b"".join(deep_json(record)) + b"\n" + line(user()))
        assert len(batch.records) >= 2


def deep_json(value: Any) -> list[bytes]:
    """JSON of what the encoders of orjson and Python refuse to nest so deep."""
    parts: list[bytes] = []
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, bytes):
            parts.append(item)
        elif isinstance(item, dict):
            inner: list[Any] = [b"{"]
            for number, (key, found) in enumerate(item.items()):
                inner += [(b"," if number else b"") + orjson.dumps(key) + b":", found]
            stack += reversed([*inner, b"}"])
        elif isinstance(item, list):
            inner = [b"["]
            for number, found in enumerate(item):
                inner += [b"," if number else b"", found]
            stack += reversed([*inner, b"]"])
        else:
            parts.append(orjson.dumps(item))
    return parts


@pytest.mark.parametrize("at", ["9999-12-31T23:59:59.999Z", "2600-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_cannot_be_is_borrowed_and_makes_no_main_response_a_sidechain(at):
    batch = parse(line(assistant(timestamp=at)))
    (row,) = batch.usage
    assert row[6] >> RANK_SHIFT == 0
    assert batch.records[0][5] == MTIME


def test_a_file_older_than_1970_makes_no_main_response_a_sidechain():
    parser = Parser(1, "the-file", -5_000)
    (row,) = parser.feed(line(assistant(timestamp=None)), 0).usage
    assert row[6] >> RANK_SHIFT == 0


# Whatever there is


def check_rows(batch: Batch) -> None:
    """Rows that SQLite's STRICT tables take: 64-bit integers, and text that is UTF-8."""
    groups = [batch.records, batch.usage, batch.tool_uses, batch.tool_results, batch.skipped, batch.agents]
    groups += [batch.contexts.values(), batch.sessions.items(), batch.models.items()]
    groups += [[(key, *names) for key, names in batch.types.items()]]
    for row in (row for group in groups for row in group):
        for value in row:
            assert value is None or type(value) in (int, str)
            assert type(value) is not int or -(1 << 63) <= value < 1 << 63
            assert type(value) is not str or isinstance(value.encode(), bytes)


def check_batch(data: bytes) -> None:
    batch = parse(data)
    text = data.split(b"\n")
    count = len(text) - (not text[-1])
    starts = [0]
    for part in text:
        starts.append(starts[-1] + len(part) + 1)
    counted = {row[1] for row in batch.records} | {row[1] for row in batch.skipped}
    assert counted == set(range(1, count + 1))
    assert batch.indexed_lines + sum(not row[4] for row in batch.skipped) == count
    assert batch.indexed_lines == len({row[1] for row in batch.records})
    for identity, number, length, *_ in [*batch.records, *batch.skipped]:
        offset = identity - (1 << OFFSET_BITS)
        assert starts[number - 1] <= offset <= offset + length < starts[number]
    ids = [row[0] for row in [*batch.records, *batch.skipped]]
    assert len(ids) == len(set(ids))
    check_rows(batch)


PARTS = [A, B, KILLED, KILLED[:-20], B[25:], b"{}", b"[1]", b"null", b"\0\0", b" ", b"\r", b"\xef\xbb\xbf", b"\xff"]
PARTS += [b"{", b"}", b'"', b"\\", b"NaN", b'{"type":"user"', b'{"type":"zeta"}', said(title()), b"x", "ä€😀".encode()]


@given(st.binary(max_size=200))
def test_no_bytes_make_it_fail(data):
    check_places(data)
    usable(data)
    check_batch(data)


@given(st.lists(st.sampled_from([*PARTS, b"\n"]), max_size=12).map(b"".join))
def test_no_heap_of_parts_of_lines_makes_it_fail(data):
    for part in data.split(b"\n"):
        check_places(part)
    check_batch(data)


@given(st.sampled_from([A, B, said(agent_progress())]), st.data())
def test_no_damage_to_a_record_makes_it_fail_or_costs_the_records_around_it(record, data):
    start = data.draw(st.integers(0, len(record)))
    end = data.draw(st.integers(start, min(start + 40, len(record))))
    damaged = record[:start] + data.draw(st.binary(max_size=8)).replace(b"\n", b"") + record[end:]
    check_places(damaged)
    batch = parse(A + b"\n" + damaged + b"\n" + B + b"\n")
    assert {1, 3} <= {row[1] for row in batch.records}
    check_batch(A + b"\n" + damaged + b"\n" + B + b"\n")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("aä😀\0\x1b\ud800", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id"]), inner),
    max_leaves=6,
)
RECORDS = [
    assistant(tool_use_block) for tool_use_block in ({"type": "tool_use", "id": "t", "name": "Task", "input": {}},)
]
RECORDS += [assistant(usage=usage(iterations=[{"type": "advisor_message", "model": "m", "input_tokens": 1}]))]
RECORDS += [user([text()]), tool_result("t", [text()], result={"searchCount": 1, "agentId": "a"}), agent_progress()]
RECORDS += [chained("attachment", attachment={"type": "x", "prompt": "y"}), chained("system", subtype="x")]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


@given(st.sampled_from(RECORDS), st.data())
def test_no_value_in_the_place_of_another_makes_it_fail_or_costs_the_record(record, data):
    changed = json.loads(json.dumps(record))
    for _ in range(data.draw(st.integers(1, 2))):
        *path, last = data.draw(st.sampled_from([place for place in places(changed) if place != ("type",)]))
        target = changed
        for key in path:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = data.draw(ANYTHING)
        else:
            del target[last]
    encoded = json.dumps(changed).encode()
    assert len(parse(encoded + b"\n").records) == 1
    check_batch(encoded + b"\n")


@given(st.lists(st.sampled_from([*PARTS, b"\n", A + b"\n", B + b"\n"]), max_size=12).map(b"".join), st.data())
def test_it_does_not_matter_in_how_many_pieces_lines_arrive(data, draw):
    whole = data if data.endswith(b"\n") else data + b"\n"
    cuts = [index + 1 for index, byte in enumerate(whole) if byte == 10]
    chosen = sorted(draw.draw(st.sets(st.sampled_from(cuts))) | {len(whole)})
    one, parser = Parser(1, "the-file", MTIME), Parser(1, "the-file", MTIME)
    one.look_ahead(whole)
    parser.look_ahead(whole)
    at_once, start = one.feed(whole, 0), 0
    records: list[Any] = []
    skipped: list[Any] = []
    for cut in chosen:
        batch = parser.feed(whole[start:cut], start)
        records += batch.records
        skipped += batch.skipped
        start = cut
    assert (records, skipped) == (at_once.records, at_once.skipped)


OBJECT = said({"type": "system", "content": {"a": {}}})
# Together they have as many records as lines, or each begins and ends with a brace, though not each is one record.
MISLEADING = [
    A,
    A + B,
    A + b" " + B,
    b"",
    b" " + A,
    A + b"\r",
    A + b" ",
    A.replace(b",", b",\n", 1),
    OBJECT.replace(b"}", b"}\n", 1),
    OBJECT.replace(b"{", b"\n{"),
    b'{"type":"system","content":[{}\n,{}]}',
    b'{"type":"system","content":"}\n{"}',
    b"[" + A + b"]",
    b"{}",
    b"{" + A + b"}",
]


@given(st.lists(st.sampled_from(MISLEADING), min_size=1, max_size=6), st.booleans())
def test_every_line_counts_for_itself_whatever_stands_beside_it(shapes, is_ended):
    whole = b"\n".join(shapes) + (b"\n" if is_ended else b"")
    together, apart = Parser(1, "the-file", MTIME), Parser(1, "the-file", MTIME)
    at_once, start = together.feed(whole, 0), 0
    records, skipped = [], []
    for one in re.findall(rb"[^\n]*\n|[^\n]+", whole):
        batch = apart.feed(one, start)
        records += batch.records
        skipped += batch.skipped
        start += len(one)
    assert (at_once.records, at_once.skipped) == (records, skipped)


def test_a_torn_line_among_a_thousand_costs_only_itself():
    many = [said(user(str(number))) for number in range(1, 1001)]
    many[500] = KILLED
    batch = parse(b"\n".join(many) + b"\n")
    assert [(row[1], row[-1]) for row in batch.records] == [(n, str(n)) for n in range(1, 1001) if n != 501]
    assert [row[1] for row in batch.skipped] == [501]
    assert [row[0] & (1 << OFFSET_BITS) - 1 for row in batch.records][-1] == sum(len(one) + 1 for one in many[:-1])


_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5)
_ANY = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "id"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def _structs(draw, kind):
    """JSON of a kind of record: most fields as they are usually written, some as anything at all."""
    value = {}
    for name, written, hint in record_module._fields(kind):
        if draw(st.integers(0, 3)):
            value[written] = draw(_of(hint) if draw(st.integers(0, 9)) or name == "type" else _ANY)
    tag = kind.__struct_config__.tag
    return value | ({"type": tag} if tag else {})


def _of(hint):
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _structs(hint)
    if hint in (int, float, str, bool, type(None)):
        return {int: st.integers(-1, 2**40), float: st.floats(0, 9), str: st.text(max_size=8), bool: st.booleans()}.get(
            hint, st.none()
        )
    if hint is msgspec.Raw:
        return _ANY
    if get_origin(hint) is list:
        return st.lists(_of(get_args(hint)[0]), max_size=2)
    return st.one_of([_of(option) for option in get_args(hint)])


@given(_structs(record_module.Record))
def test_a_record_gives_the_same_rows_whether_or_not_its_fields_are_of_their_types(value):
    line = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    quick, careful = Parser(1, "the-file", MTIME), Parser(1, "the-file", MTIME)
    batch = quick.feed(line + b"\n", 0)
    careful._batch, careful._data = Batch(), line
    careful.line_count = 1
    careful._pieces(line, 0)
    for name in Batch.__slots__:
        assert getattr(batch, name) == getattr(careful._batch, name), name
