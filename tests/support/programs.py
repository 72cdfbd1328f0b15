"""Random logging programs, as lines of Python, for the real SDK.

Lists of keys and metric names are short, so that steps, merges, definitions and the summary meet.
Globs do not overlap, and a step metric has no step metric of its own: there wandb-core's result
depends on the random order of Go's maps.
"""

from __future__ import annotations

from hypothesis import strategies as st


def _dict(items: dict[str, str]) -> str:
    return "{" + ", ".join(f"{key!r}: {value}" for key, value in items.items()) + "}"


FLAT = ["a", "b", "a.b", "a/b", "g/x", "g/y", "h.z", "s", "recall@5", "recall_5", "ü", "a b"]
_numbers = st.sampled_from(
    ["0", "1", "-2", "7", "2**53", "-2**63", "1.5", "0.1", "-0.0", "1e-300", "1e300", "nan", "inf",
     "-inf", "True", "False", "np.float32(0.1)", "np.int64(3)", "np.float64('nan')",
     "np.array(2.5)", "np.array([4])", "np.bool_(True)", "10**30"]
)  # fmt: skip
_others = st.sampled_from(
    ["None", "'text'", "''", "'nan'", "'1.5'", "[1, nan, 'x']", "[]", "{}", "(1, 2)", "b'raw'",
     "np.arange(3)", "'emoji \\U0001f600'", "np.arange(50.0)"]
)  # fmt: skip
_scalars = st.one_of(_numbers, _numbers, _numbers, _others)
_labels = st.sampled_from(["u", "v", "b", "c.d", "x"])
_nested = st.recursive(
    _scalars,
    lambda inner: st.dictionaries(_labels, inner, min_size=1, max_size=2).map(_dict),
    max_leaves=3,
)
_keys = st.sampled_from(FLAT)
_branches = st.dictionaries(_labels, _scalars, min_size=1, max_size=2).map(_dict)


_rows = st.dictionaries(_keys, st.one_of(_scalars, _scalars, _nested), max_size=4).map(_dict)


def _timed(row: str, second: int) -> str:
    return row if row == "{}" else f"{row[:-1]}, '_timestamp': {second}.25}}"


@st.composite
def _logs(draw: st.DrawFn) -> str:
    row = draw(_rows)
    if draw(st.integers(0, 3)) == 0:
        row = _timed(row, draw(st.integers(0, 2_000_000_000)))
    step = draw(st.one_of(st.none(), st.none(), st.integers(0, 12)))
    commit = draw(st.sampled_from(["", "", "", ", commit=True", ", commit=False", ", commit=None"]))
    return f"run.log({row}{'' if step is None else f', step={step}'}{commit})"


_statistics = st.lists(
    st.sampled_from(["min", "max", "mean", "last", "first"]), max_size=3, unique=True
)


@st.composite
def _definitions(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(["a", "b", "s", "g/*", "recall@5", "h.z", "h\\.z", "a.u"]))
    arguments = [repr(name)]
    if draw(st.booleans()) and name not in ("s", "b"):
        arguments.append(f"step_metric={draw(st.sampled_from(['s', 'b', 'b.v']))!r}")
        sync = draw(st.sampled_from([None, True, False]))
        arguments += [] if sync is None else [f"step_sync={sync}"]
    summary = draw(st.one_of(st.just(["none"]), _statistics))
    arguments += [f"summary={','.join(summary)!r}"] if summary else []
    arguments += draw(st.sampled_from([[], [], ["hidden=True"], ["overwrite=True"]]))
    return f"run.define_metric({', '.join(arguments)})"


_summaries = st.one_of(
    st.tuples(_keys, _scalars).map(lambda pair: f"run.summary[{pair[0]!r}] = {pair[1]}"),
    st.tuples(_keys, _branches).map(lambda pair: f"run.summary[{pair[0]!r}] = {pair[1]}"),
    _rows.map(lambda row: f"run.summary.update({row})"),
    _keys.map(lambda key: f"del run.summary[{key!r}]"),
)
_configs = st.one_of(
    st.tuples(_keys, _nested).map(lambda pair: f"run.config[{pair[0]!r}] = {pair[1]}"),
    _rows.map(lambda row: f"run.config.update({row}, allow_val_change=True)"),
)


@st.composite
def programs(draw: st.DrawFn) -> list[str]:
    """Lines that log; definitions stand anywhere among them, as does what sets the summary."""
    lines = draw(st.lists(st.one_of(_logs(), _logs(), _logs(), _configs), min_size=1, max_size=12))
    for line in draw(st.lists(st.one_of(_definitions(), _summaries), max_size=5)):
        lines.insert(draw(st.integers(0, len(lines))), line)
    return lines
