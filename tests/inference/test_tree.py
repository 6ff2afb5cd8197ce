"""Nested dicts as flat vectors: every operation has an inverse."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inference.tree import Layout, flatten_names, nest_names

keys = st.text("abc_", min_size=1, max_size=3)
trees = st.recursive(
    st.integers(), lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3)
).filter(lambda tree: isinstance(tree, dict))
shapes = st.lists(st.integers(0, 3), max_size=3).map(torch.Size)


@given(trees)
def test_nesting_undoes_flattening(tree):
    assert nest_names(flatten_names(tree)) == tree


def test_flat_names_join_keys_with_dots_in_order_of_insertion():
    tree = {"b": {"w": 1, "a": {"x": 2}}, "a": 3}
    assert list(flatten_names(tree).items()) == [("b.w", 1), ("b.a.x", 2), ("a", 3)]


@given(
    shapes=st.dictionaries(keys, shapes, min_size=1, max_size=4),
    batch=st.lists(st.integers(1, 3), max_size=2),
)
def test_joining_undoes_splitting_for_any_batch(shapes, batch):
    layout = Layout(shapes)
    size = math.prod((*batch, layout.dim))
    vector = torch.arange(float(size)).reshape(*batch, layout.dim)
    parts = layout.split(vector)
    assert {name: part.shape for name, part in parts.items()} == {
        name: torch.Size((*batch, *shape)) for name, shape in shapes.items()
    }
    assert torch.equal(layout.join(parts), vector)


def test_the_vector_follows_the_order_of_the_layout():
    layout = Layout({"w": torch.Size((2, 1)), "b": torch.Size(())})
    assert layout.dim == 3
    joined = layout.join({"b": torch.tensor(3.0), "w": torch.tensor([[1.0], [2.0]])})
    assert joined.tolist() == [1, 2, 3]
    parts = layout.split(torch.tensor([1.0, 2.0, 3.0]))
    assert parts["w"].tolist() == [[1], [2]]
    assert parts["b"].tolist() == 3


def test_splitting_and_joining_work_under_vmap():
    layout = Layout({"w": torch.Size((2,)), "b": torch.Size(())})
    vectors = torch.arange(15.0).reshape(5, 3)
    joined = torch.func.vmap(lambda v: layout.join(layout.split(2 * v)))(vectors)
    assert torch.equal(joined, 2 * vectors)


def test_a_missing_tensor_is_an_error():
    with pytest.raises(KeyError, match="b"):
        Layout({"b": torch.Size(())}).join({})
