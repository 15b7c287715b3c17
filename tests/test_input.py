"""What is given to the call: bad input is refused and leaves nothing, good input comes back as it was."""

# ruff: noqa: ARG005 - a signature is all that some of these functions have

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import itertools
import json
import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workerbee import WorkerbeeError, postgres_jobset
from workerbee.options import check_job_function, check_limits, check_node

RELATIONS = "SELECT relname::text FROM pg_class WHERE relname LIKE 'wb\\_%' ORDER BY 1"


@pytest.fixture(scope="module")
def empty(server):
    """Arguments of a database in which no test of this module leaves anything, and what is found there."""
    name = f"wb_input_{os.getpid()}"
    admin = psycopg2.connect(**server)
    admin.autocommit = True
    admin.cursor().execute(f"CREATE DATABASE {name} TEMPLATE template0")
    connection = psycopg2.connect(**{**server, "dbname": name})
    connection.autocommit = True

    def relations():
        with connection.cursor() as cursor:
            cursor.execute(RELATIONS)
            return cursor.fetchall()

    yield {**{key: value for key, value in server.items() if key != "dbname"}, "database": name}, relations
    connection.close()
    admin.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
    admin.close()


def nothing(_job_id, _data):
    """A job."""


def refused(empty, kind, said, *arguments, **options):
    """The call raises an error of ours that is a `kind` too, says all of `said` on one line, and leaves nothing."""
    address, relations = empty
    with pytest.raises(WorkerbeeError) as caught:
        postgres_jobset(*arguments, **{**address, "verbose": False, **options})
    assert isinstance(caught.value, kind)
    for part in said:
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000
    assert caught.value.__cause__ is None
    assert relations() == []


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no repr")


# `==` of it is an array, and `if` of that an error.
ARRAY = np.array(["fork", "auto"])

JOBSET_IDS = [
    ("", ValueError, "''"),
    ("a-b", ValueError, "'a-b'"),
    ("Upper", ValueError, "'Upper'"),
    ("a b", ValueError, "'a b'"),
    ("é", ValueError, "'é'"),
    ("٣", ValueError, "'٣'"),
    ("new\n", ValueError, r"'new\n'"),
    ("x'; DROP TABLE wb_jobsets; --", ValueError, "DROP"),
    ("%s", ValueError, "'%s'"),
    ("{jobs}", ValueError, "'{jobs}'"),
    ("a\0", ValueError, r"\x00"),
    ("\ud800", ValueError, r"\ud800"),
    ("a" * 53, ValueError, "53 characters"),
    ("a" * 10**6, ValueError, "1000000 characters"),
    (None, TypeError, "None"),
    (b"bytes", TypeError, "b'bytes'"),
    (7, TypeError, "7"),
    (Unshowable(), TypeError, "Unshowable"),
]


@pytest.mark.parametrize(("jobset_id", "kind", "said"), JOBSET_IDS, ids=itertools.count())
def test_bad_jobset_id(empty, jobset_id, kind, said):
    refused(empty, kind, ["jobset_id", "1 to 52 characters of a-z, 0-9 and _", said], jobset_id, nothing, ["a"])


def test_longest_jobset_id(address, sql):
    names = ["a" * 52, "a" * 51 + "b", "_", "0"]
    for name in names:
        assert postgres_jobset(name, nothing, ["x"], **address, verbose=False).ok
    assert {name for (name,) in sql("SELECT jobset_id FROM wb_jobsets")} == set(names)


CIRCULAR: dict = {}
CIRCULAR["self"] = CIRCULAR
DEEP = functools.reduce(lambda inner, _: {"d": inner}, range(100_000), {})
MANY = 20_000

# What is given, the error's other class, what it says besides naming the argument.
JOB_IDS = {
    "str": ("abc", TypeError, ["'abc'", "(str)", "iterable of str"]),
    "bytes": (b"abc", TypeError, ["b'abc'", "iterable of str"]),
    "number": (3, TypeError, ["3", "(int)"]),
    "array without a dimension": (np.array("abc"), TypeError, ["array('abc'", "0-d"]),
    "no str inside": (["a", 3], TypeError, ["3", "(int)", "str(...)"]),
    "None inside": (["a", None], TypeError, ["None"]),
    "bytes inside": ([b"a"], TypeError, ["b'a'", "decode"]),
    "path inside": ([Path("/vol/lenna.png")], TypeError, ["PosixPath('/vol/lenna.png')", "str(...)"]),
    "numbers of NumPy": (np.arange(3), TypeError, ["int64", "str(...)"]),
    "plain Enum": ([enum.Enum("Colour", ["RED"]).RED], TypeError, ["Colour.RED"]),
    "no repr": ([Unshowable()], TypeError, ["<Unshowable>"]),
    "list for a pair": ([["a", {}]], TypeError, ["['a', {}]", "tuple"]),
    "triple": ([("a", {}, 1)], TypeError, ["('a', {}, 1)", "pairs"]),
    "single": ([("a",)], TypeError, ["('a',)", "pairs"]),
    "pair without id": ([({}, "a")], TypeError, ["{}", "(dict)"]),
    "empty": ([], ValueError, ["empty", "at least one"]),
    "empty generator": (iter(()), ValueError, ["empty", "at least one"]),
    "empty id": (["a", ""], ValueError, ["''", "at least one character"]),
    "twice": (["a", "b", "a"], ValueError, ["'a'", "twice"]),
    "twice, far later": (map(str, [*range(MANY), 7]), ValueError, ["'7'", "twice"]),
    "twice, as a pair": ([("a", {"x": 1}), "a"], ValueError, ["'a'", "twice"]),
    "twice, odd": (["x)=(\n.*'\"\\", "b", "x)=(\n.*'\"\\"], ValueError, [repr("x)=(\n.*'\"\\"), "twice"]),
    "NUL": (["a\0b"], ValueError, [r"'a\x00b'", "NUL"]),
    "surrogate": (["a\ud800b"], ValueError, [r"'a\ud800b'", "surrogate"]),
    "undecodable file name": ([os.fsdecode(b"\xff.png")], ValueError, [r"'\udcff.png'", "surrogate"]),
    "too long": (["a" * 2601], ValueError, ["'aaaa", "2601 bytes", "at most 2600"]),
    "too long in bytes": (["é" * 1301], ValueError, ["'éééé", "2602 bytes", "at most 2600"]),
    "late in a stream": (itertools.chain(map(str, range(MANY)), [b"x"]), TypeError, ["b'x'"]),
    "dict with data": ({"a": {"x": 1}}, ValueError, ["{'a': {'x': 1}}", "items()"]),
}


@pytest.mark.parametrize(("job_ids", "kind", "said"), JOB_IDS.values(), ids=JOB_IDS)
def test_bad_job_ids(empty, job_ids, kind, said):
    refused(empty, kind, ["job_ids", *said], "bad", nothing, job_ids)


JOB_DATA = {
    "ids not given": ({"a": {}, "x": {}}, ValueError, ["'x'", "not in job_ids"]),
    "many ids not given": ({str(n): {} for n in range(9)}, ValueError, ["'0'", "and 6 more", "not in job_ids"]),
    "keys of another type": ({1: {}}, ValueError, ["1", "not in job_ids"]),
    "list": ([("a", {})], TypeError, ["[('a', {})]", "dict"]),
    "str": ("a", TypeError, ["'a'", "dict"]),
    "data no dict": ({"a": [1]}, TypeError, ["'a'", "[1]", "dict"]),
    "data str": ({"a": "{}"}, TypeError, ["'a'", "'{}'", "dict"]),
    "set": ({"a": {"x": {1}}}, TypeError, ["'a'", "{1}", "set"]),
    "bytes": ({"a": {"x": b"1"}}, TypeError, ["'a'", "b'1'", "bytes"]),
    "NaN": ({"a": {"x": float("nan")}}, ValueError, ["'a'", "nan"]),
    "infinity": ({"a": {"x": [float("-inf")]}}, ValueError, ["'a'", "-inf"]),
    "tuple": ({"a": {"x": (1, 2)}}, ValueError, ["'a'", "(1, 2)", "lists in place of tuples"]),
    "int key": ({"a": {"x": {1: 2}}}, ValueError, ["'a'", "{1: 2}", "str keys"]),
    "tuple key": ({"a": {(1, 2): 2}}, TypeError, ["'a'", "(1, 2)"]),
    "colliding keys": ({"a": {1: 2, "1": 3}}, ValueError, ["'a'", "str keys"]),
    "circular": ({"a": CIRCULAR}, ValueError, ["'a'", "{...}", "ircular"]),
    "deep": ({"a": DEEP}, ValueError, ["'a'", "recursion"]),
    "huge int": ({"a": {"x": 10**5000}}, ValueError, ["'a'", "digit"]),
    "NumPy array": ({"a": {"x": np.arange(3)}}, TypeError, ["'a'", "array([0, 1, 2])", "ndarray"]),
    "path": ({"a": {"x": Path("/x")}}, TypeError, ["'a'", "PosixPath('/x')"]),
    "no repr": ({"a": {"x": Unshowable()}}, TypeError, ["'a'", "Unshowable"]),
}


@pytest.mark.parametrize(("job_data", "kind", "said"), JOB_DATA.values(), ids=JOB_DATA)
def test_bad_job_data(empty, job_data, kind, said):
    refused(empty, kind, ["job_data", *said], "bad", nothing, ["a", "b"], job_data)


def test_bad_data_in_pairs_names_its_id(empty):
    refused(empty, TypeError, ["job_data", "'{x}%s'", "{1}"], "bad", nothing, [("{x}%s", {"x": {1}})])


def test_job_data_without_ids_or_beside_pairs(empty):
    refused(empty, ValueError, ["job_data", "job_ids"], "bad", nothing, job_data={"a": {}})
    refused(empty, ValueError, ["job_data", "pairs"], "bad", nothing, [("a", {})], {"a": {}})


def test_no_jobset_and_no_ids(empty):
    refused(empty, LookupError, ["'bad'", "job_ids"], "bad", nothing)


class Asynchronous:
    async def __call__(self, job_id, data):
        """Never run."""


class Awkward:
    def method(self, job_id, data):
        """A job."""

    async def slow(self, job_id, data):
        """Never run."""


async def coroutine(_job_id, _data):
    """Never run."""


async def asynchronous_generator(_job_id, _data):
    yield


def generator(_job_id, _data):
    yield


FUNCTIONS = {
    "None": (None, ["None"]),
    "str": ("print", ["'print'"]),
    "one argument": (lambda job_id: None, ["too many positional arguments"]),
    "three arguments": (lambda job_id, data, more: None, ["missing a required argument: 'more'"]),
    "keyword only": (lambda job_id, data, *, more: None, ["missing a required", "'more'"]),
    "unbound method": (Awkward.method, ["missing a required argument: 'data'"]),
    "builtin of one argument": (len, ["too many positional arguments"]),
    "coroutine": (coroutine, ["coroutine function"]),
    "coroutine method": (Awkward().slow, ["coroutine function"]),
    "coroutine object": (Asynchronous(), ["coroutine function"]),
    "coroutine partial": (functools.partial(coroutine), ["coroutine function"]),
    "coroutine object partial": (functools.partial(functools.partial(Asynchronous())), ["coroutine function"]),
    "generator": (generator, ["generator function"]),
    "asynchronous generator": (asynchronous_generator, ["asyncgen function"]),
}


@pytest.mark.parametrize(("function", "said"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_bad_job_function(empty, function, said):
    refused(empty, TypeError, ["job_function(job_id, job_data)", *said], "bad", function, ["a"])


@pytest.mark.parametrize(
    "function",
    [
        print,
        max,
        {}.__setitem__,
        dict,
        Awkward().method,
        functools.partial(Awkward.method, Awkward()),
        functools.partial(lambda a, b, c: None, 1),
        lambda job_id, data, more=1: None,
        lambda *arguments: None,
        functools.lru_cache(nothing),
        dataclasses.make_dataclass("Job", ["job_id", "data"], namespace={"__call__": Asynchronous.__call__}),
        np.frompyfunc(nothing, 2, 1),
    ],
)
def test_good_job_function(function):
    check_job_function(function)


WHOLE = [0, -1, True, False, "4", 2.5, 2.0, None, 10**5000, -(10**5000), float("nan"), [1], Unshowable(), ARRAY]
SECONDS = [-1, True, "30", float("nan"), float("inf"), 10**400, None, [1], 1j, ARRAY]
SECRET = ("database", "password")
SECRET_URI = "postgresql://u:secret@h/d"
MEMORY = [0, -1, True, 2.5, "", "4", "4G", "GB", "-4GB", "4 XB", "0GB", "1e3GB", "4GBs", b"4GB", math.inf, "\u0664GB"]
BAD_OPTIONS = {
    "processes": [0, -1, True, False, "four", "", "4", 2.5, 10**6, 10**5000, b"auto", [4], np.bool_(True), ARRAY],
    "max_attempts": [*WHOLE, 32001],
    "max_crashes": [*WHOLE, 32001],
    "claim": [0, -1, True, 4097, "", "two", "1", 2.5, None, b"auto", [1]],
    "job_timeout": [*[value for value in SECONDS if value is not None], 0, 0.05],
    "memory_limit": MEMORY,
    "node_memory": [*MEMORY, None],
    "max_failures": [0, -1, True, 2.5, "", "5", "%", "0%", "101%", "-5%", "five%", b"5%", "5 %%", math.inf],
    "stop_after": [value for value in SECONDS if value is not None],
    "db_patience": SECONDS,
    "max_jobs_per_bee": [value for value in WHOLE if value is not None],
    "threads_per_bee": WHOLE,
    "grace": SECONDS,
    "lease": [*SECONDS, 0, 0.99],
    "start_method": ["thread", "", 1, ["fork"], ARRAY, True],
    "log_dir": ["", 3, b"logs", "a\0b", "\ud800", "/dev/null/logs", Unshowable()],
    "port": [
        "54x",
        0,
        "0",
        65536,
        -1,
        True,
        5432.0,
        " 5432",
        "\uff15\uff14\uff13\uff12",
        "5432,5433",
        10**5000,
        "9" * 5000,
        [1],
        ARRAY,
    ],
    "host": [["localhost"], 1, b"localhost", Path("/tmp"), "a\0b", "\ud800", SECRET_URI],
    "user": [1, b"me", "a\0b", "\udcff"],
    "database": [1, b"postgres", "a\0b", "\ud800"],
    "password": [1, b"secret", "a\0b", "\ud800"],
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_option(empty, name):
    for value in BAD_OPTIONS[name]:
        try:
            said = [repr(value)[:20]]
        except (ValueError, RuntimeError):  # too many digits; Unshowable
            said = []
        if isinstance(value, np.ndarray) or name in SECRET or value == SECRET_URI:
            said = []
        refused(empty, (ValueError, TypeError), [name, *said], "bad", nothing, ["a"], **{name: value})


def test_secrets_are_not_shown(empty):
    for option in ({"password": b"secret"}, {"database": b"secret"}, {"host": SECRET_URI}):
        with pytest.raises(WorkerbeeError) as caught:
            postgres_jobset("bad", nothing, ["a"], **{**empty[0], **option})
        assert "secret" not in str(caught.value)


def test_good_options(tmp_path):
    limits = check_limits(np.int64(2), 32000)
    assert (limits.max_attempts, type(limits.max_attempts), limits.max_crashes) == (2, int, 32000)
    options = node_options(
        processes=np.int32(3), max_jobs_per_bee=10**6, grace=0, lease=np.float32(1.5), log_dir=tmp_path / "deep" / "er"
    )
    assert (options.bees, options.grace, options.lease, type(options.lease)) == (3, 0.0, 1.5, float)
    assert (tmp_path / "deep" / "er").is_dir()
    options = node_options(grace=Fraction(1, 2), lease=10**8, start_method="fork", log_dir=str(tmp_path))
    assert (options.bees, options.grace) == (None, 0.5)
    sizes = (("4GB", 4 * 10**9), ("512MiB", 2**29), ("1.5 kB", 1500), (np.int64(7), 7), ("10b", 10))
    for size, meant in sizes:
        assert node_options(processes=1, memory_limit=size).memory_limit == meant
        assert node_options(node_memory=size).node_memory == meant
    assert node_options().node_memory is None
    assert node_options(max_failures="5%").max_failures == 0.05
    assert node_options(max_failures=np.int8(5)).max_failures == 5


def node_options(**given):
    """As `postgres_jobset` would have them, with its defaults."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(postgres_jobset).parameters.items()
        if name in inspect.signature(check_node).parameters
    }
    return check_node(**(defaults | given))


class TestNothingIsLeft:
    """Beside other jobsets, and whatever the caller's own code raises."""

    @pytest.fixture(autouse=True)
    def other(self, address, sql):
        assert postgres_jobset("other", nothing, ["a"], **address, verbose=False).ok
        before = sql(RELATIONS), sql("SELECT jobset_id FROM wb_jobsets")
        yield
        assert (sql(RELATIONS), sql("SELECT jobset_id FROM wb_jobsets")) == before
        assert before[1] == [("other",)]

    def test_after_bad_input(self, address):
        for job_ids, kind, _ in JOB_IDS.values():
            if not hasattr(job_ids, "__next__"):  # those are spent
                with pytest.raises(kind):
                    postgres_jobset("bad", nothing, job_ids, **address, verbose=False)
        for job_data, kind, _ in JOB_DATA.values():
            with pytest.raises(kind):
                postgres_jobset("bad", nothing, ["b", "a"], job_data, **address, verbose=False)

    def test_after_the_generators_own_exception(self, address):
        class Own(BaseException):
            """Not even an Exception."""

        def ids(count):
            yield from map(str, range(count))
            raise error

        for kind, count in itertools.product([ValueError, KeyboardInterrupt, SystemExit, Own], [1, MANY]):
            error, cause = kind("mine \ud800"), KeyError("its cause")
            error.__cause__ = cause
            with pytest.raises(kind) as caught:
                postgres_jobset("bad", nothing, ids(count), **address, verbose=False)
            assert caught.value is error
            assert caught.value.__cause__ is cause
            assert caught.value.__context__ is None


HOSTILE = [
    "'; DROP TABLE wb_jobsets; --",
    '"; SELECT 1; --',
    "%s",
    "%(jobset_id)s",
    "%",
    "{jobs}",
    "{}",
    "{0.__class__}",
    "\\",
    "\\.",
    "\\N",
    "\\n",
    "a\\",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "a\nb",
    "\\x41",
    "\x01\x02\x7f\x80\x9f",
    "\x1b[31mred",
    "\u202egnp.exe",
    "\u2028",
    "\ufeff",
    "\ufffe\uffff\U0010ffff",
    " ",
    " a",
    "a ",
    "A",
    "a",
    "é",
    "e\u0301",
    "👩\u200d🚀",
    "日本語/画像.png",
    "NULL",
    "None",
    "C:\\new\\table",
    "/vol/atlas/lenna.png",
    "é" * 1300,
    "\\" * 2600,
]


def test_hostile_ids_come_back(address, sql):
    seen = []
    data = {job_id: {job_id: [job_id]} for job_id in HOSTILE[::2]}
    summary = postgres_jobset("hostile", lambda *job: seen.append(job), HOSTILE, data, **address)
    assert summary.complete == len(HOSTILE)
    assert sorted(seen) == sorted((job_id, data.get(job_id, {})) for job_id in HOSTILE)
    assert {job_id for (job_id,) in sql("SELECT job_id FROM wb__hostile")} == set(HOSTILE)


def test_odd_data_comes_back(address):
    data = {
        "empty": {},
        "nested": {"": {"a": [None, True, False, [], {}]}, "b": [[[]]]},
        "numbers": {"big": 10**4000, "negative": -(2**63), "float": 1e308, "tiny": 5e-324, "zero": -0.0},
        "text": {"nul": "\0", "surrogate": "\ud800", "emoji": "👩\u200d🚀", "line": "\u2028", "\0": "\\\\.\n"},
        "long": {"x": "é" * 3_000_000},
        "none": None,
    }
    seen = {}
    assert postgres_jobset("odd", seen.__setitem__, data, data, **address, verbose=False).ok
    for job_id, given_data in data.items():
        assert seen[job_id] == (given_data or {})
    assert str(seen["numbers"]["zero"]) == "-0.0"


def test_kinds_of_iterables(address):
    class Colour(str, enum.Enum):
        RED = "red"

    class Name(str):
        __slots__ = ()

    iterables = {
        "tuple": ("a", "b"),
        "set": {"a", "b"},
        "keys": {"a": 1, "b": 2},
        "view": {"a": 1, "b": 2}.keys(),
        "pairs": {"a": {}, "b": None}.items(),
        "mixed": ["a", ("b", {})],
        "map": map(str.lower, "AB"),
        "array": np.array(["a", "b"]),
        "objects": np.array(["a", "b"], dtype=object),
        "lines": iter(["a", "b"]),
        "names": [Name("a"), Name("b")],
    }
    for name, job_ids in iterables.items():
        seen = []
        postgres_jobset(name, lambda job_id, data: seen.append((job_id, data)), job_ids, **address, verbose=False)  # noqa: B023
        assert sorted(seen) == [("a", {}), ("b", {})], name
        assert {type(job_id) for job_id, _ in seen} == {str}
    seen = []
    postgres_jobset("enum", lambda *job: seen.append(job), [Colour.RED], {Colour.RED: {"x": 1}}, **address)
    assert seen == [("red", {"x": 1})]
    assert type(seen[0][0]) is str


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
DATA = st.dictionaries(st.text(max_size=10), JSON, max_size=4)
JOBS = st.lists(st.tuples(TEXT.filter(bool), DATA), min_size=1, max_size=25).map(dict)
NUMBERS = itertools.count()


@settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(jobs=JOBS, pairs=st.booleans())
def test_any_text_and_json_come_back(address, jobs, pairs):
    seen = {}
    given_jobs = (jobs.items(), None) if pairs else (list(jobs), jobs)
    summary = postgres_jobset(f"any{next(NUMBERS)}", seen.__setitem__, *given_jobs, **address, verbose=False)
    assert summary.complete == len(jobs)
    # As text, so that the order of keys counts, and 1 is not 1.0.
    assert {job_id: json.dumps(data) for job_id, data in seen.items()} == {
        job_id: json.dumps(data) for job_id, data in jobs.items()
    }
