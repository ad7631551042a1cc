"""Trees of arrays as lists: None and arrays without elements are left out, and are found again in what is put back."""

from __future__ import annotations

from typing import Any

import jax

from onepass.jax._ffi import as_array, check_shape


def _is_none(x: Any) -> bool:
    return x is None


class Leaves:
    """The arrays of a tree, checked. `arrays` are those that a step is made for."""

    def __init__(self, name: str, tree: Any) -> None:
        self.name = name
        self._tree = tree
        self._structure: Any
        found, self._structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none)
        self._paths = [jax.tree_util.keystr(path) for path, _ in found]
        self._all: list[Any] = [
            None if leaf is None else as_array(name + path, leaf)
            for path, (_, leaf) in zip(self._paths, found, strict=True)
        ]
        self._at = [i for i, leaf in enumerate(self._all) if leaf is not None and leaf.size > 0]

    def __len__(self) -> int:
        return len(self._at)

    @property
    def tree(self) -> Any:
        return jax.tree.unflatten(self._structure, self._all)

    @property
    def arrays(self) -> list[Any]:
        return [self._all[i] for i in self._at]

    def leave_out_none(self, name: str, other: Any) -> None:
        """No step for arrays that `other` has None for."""
        found = self._flat(name, other)
        self._at = [i for i in self._at if found[i] is not None]

    def like(self, name: str, other: Any) -> list[Any]:
        """The arrays of another tree at the same places, of the same shapes."""
        found = self._flat(name, other)
        arrays = []
        for i in self._at:
            arrays.append(as_array(name + self._paths[i], found[i]))
            check_shape(name + self._paths[i], arrays[-1], tuple(self._all[i].shape), f"that of {self.name}")
        return arrays

    def prefix(self, name: str, tree: Any) -> list[bool]:
        """For each array what a tree of flags, or its beginning, or a function of the tree, has for it."""
        if callable(tree):
            tree = tree(self._tree)
        try:
            whole = jax.tree.map(
                lambda flag, below: jax.tree.map(lambda _: bool(flag), below, is_leaf=_is_none), tree, self._tree
            )
        except jax.errors.TracerBoolConversionError:
            raise TypeError(f"{name}: expected True or False for each array, got a traced value") from None
        except ValueError as error:
            raise ValueError(f"{name}: does not fit the structure of {self.name}: {error}") from None
        found = self._flat(name, whole)
        return [found[i] for i in self._at]

    def put_back(self, tree: Any, arrays: list[Any]) -> Any:
        """The tree with these arrays in place of its own."""
        found = self._flat("tree", tree)
        for i, array in zip(self._at, arrays, strict=True):
            found[i] = array
        return jax.tree.unflatten(self._structure, found)

    def _flat(self, name: str, tree: Any) -> list[Any]:
        try:
            return list(self._structure.flatten_up_to(tree))
        except ValueError as error:
            raise ValueError(f"{name}: expected the structure of {self.name}: {error}") from None
