"""Which cases are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from bench.case import SIZE_CLASSES, size_class


@dataclass(frozen=True)
class Selection:
    sizes: tuple[int, ...]
    """Elements, for cases that exist at any size."""
    classes: frozenset[str]
    """For cases of given shapes."""
    only: tuple[str, ...] = ()
    """Substrings or globs of case names; empty: all."""


def parse_sizes(text: str) -> tuple[tuple[int, ...], frozenset[str]]:
    """ "small,cache" or "100000" or a mixture; a number stands for the class it falls in.

    >>> parse_sizes("small,5000000")
    ((4096, 5000000), frozenset({'small', 'memory'}))
    """
    sizes: list[int] = []
    classes: set[str] = set()
    for word in text.split(","):
        if word in SIZE_CLASSES:
            sizes.append(SIZE_CLASSES[word])
            classes.add(word)
        elif word.isdigit() and int(word) > 0:
            sizes.append(int(word))
            classes.add(size_class(int(word)))
        else:
            names = ", ".join(SIZE_CLASSES)
            raise ValueError(f"{word!r} is not a size: expected {names} or a number of elements")
    return tuple(sizes), frozenset(classes)
