"""Conditions on predicted columns, such as `band_gap > 1 and not formation_energy_per_atom >= -1`.

A condition is parsed as Python and holds names, numbers, comparisons, `and`, `or` and `not`; whatever else Python
knows is refused, so that a condition can never run code.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow.compute as pc

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}

MOST_CHARACTERS = 10_000
"""Longest condition; nesting beyond what the parser takes is refused as well."""


def condition(text: str, columns: Sequence[str]) -> pc.Expression:
    """A condition as an expression that filters an Arrow table; a row that lacks a value does not fulfil it.

    Args:
        text: the condition.
        columns: the columns that it may name.

    Raises:
        ConfigError: if it is not a condition, or names another column.
    """
    try:
        if len(text) > MOST_CHARACTERS:
            raise _unreadable(text[:60] + "...", f"it is longer than {MOST_CHARACTERS} characters")
        return _logical(ast.parse(text.strip(), mode="eval").body, columns)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _unreadable(text, str(error)) from error


def _logical(node: ast.expr, columns: Sequence[str]) -> Any:
    match node:
        case ast.BoolOp(op, values):
            joined = operator.and_ if isinstance(op, ast.And) else operator.or_
            return reduce(joined, [_logical(value, columns) for value in values])
        case ast.UnaryOp(ast.Not(), operand):
            return ~_logical(operand, columns)
        case ast.Compare(left, operators, others):
            terms = [_term(term, columns) for term in (left, *others)]
            found = [
                _comparison(op)(a, b) for op, a, b in zip(operators, terms[:-1], terms[1:], strict=True)
            ]  # 0 < a < 1 is 0 < a and a < 1
            return reduce(operator.and_, found)
    raise _unreadable(ast.unparse(node), "it compares nothing")


def _comparison(op: ast.cmpop) -> Callable[[Any, Any], Any]:
    if type(op) not in COMPARISONS:
        raise _unreadable(type(op).__name__, "the comparisons are <, <=, >, >=, == and !=")
    return COMPARISONS[type(op)]


def _term(node: ast.expr, columns: Sequence[str]) -> Any:
    import pyarrow.compute as pc

    match node:
        case ast.Name(name) if name in columns:
            return pc.field(name)
        case ast.Name(name):
            raise ConfigError(f"there is no column '{name}'; the columns are {', '.join(columns)}", where="condition")
        case ast.Constant(int() | float() as value) if not isinstance(value, bool):
            return pc.scalar(float(value))
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)) if not isinstance(value, bool):
            return pc.scalar(-float(value))
    raise _unreadable(ast.unparse(node), "it is neither a column nor a number")


def _unreadable(text: str, reason: str) -> ConfigError:
    remedy = (
        "write names of columns, numbers, <, <=, >, >=, ==, !=, and, or, not, as in 'band_gap > 1 and n_atoms < 20'"
    )
    return ConfigError(f"'{text}' is no condition ({reason})", where="condition", remedy=remedy)
