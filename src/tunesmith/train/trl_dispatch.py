"""What a trainer of TRL compares an argument with, read off its source."""

from __future__ import annotations

import ast
import functools
import inspect
from typing import NamedTuple


class Compared(NamedTuple):
    """The texts that a trainer compares an argument with, and whether it raises where none is equal."""

    texts: frozenset[str]
    raises: bool


@functools.cache
def compared_texts(trainer_class: type, name: str) -> Compared:
    """The texts that the trainer, or a class of TRL's that it inherits from, compares the argument with."""
    nodes = [node for tree in _trees(trainer_class) for node in ast.walk(tree)]
    texts = {
        each.value
        for node in nodes
        if isinstance(node, ast.Compare) and _is_about(node, name)
        for comparator in node.comparators
        for each in ast.walk(comparator)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }
    raises = any(isinstance(node, ast.If) and _raises_on_others(node, name) for node in nodes)
    return Compared(frozenset(texts), raises)


@functools.cache
def _trees(trainer_class: type) -> tuple[ast.Module, ...]:
    classes = [each for each in trainer_class.__mro__ if each.__module__.partition(".")[0] == "trl"]
    try:
        return tuple(ast.parse(inspect.getsource(each)) for each in classes)
    except (OSError, SyntaxError):  # installed without its source
        return ()


def _is_about(test: ast.expr, name: str) -> bool:
    """Whether a test is a comparison of `self.NAME`, or of `args.NAME`."""
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Attribute) and test.left.attr == name


def _raises_on_others(node: ast.If, name: str) -> bool:
    """Whether a chain of comparisons ends in `raise`."""
    if not _is_about(node.test, name):
        return False
    if isinstance(node.test, ast.Compare) and isinstance(node.test.ops[0], ast.NotIn):
        return isinstance(node.body[0], ast.Raise)
    last = node.orelse
    if len(last) == 1 and isinstance(last[0], ast.If):
        return _raises_on_others(last[0], name)
    return bool(last) and isinstance(last[0], ast.Raise)
