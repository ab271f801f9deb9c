import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amint.graph import on_every_path


class Node:
    """Looks like an autograd node; None stands for an input that needs no gradient."""

    def __init__(self, inputs=()):
        self.next_functions = tuple((node, 0) for node in inputs)


def inputs(node):
    return [nxt for nxt, _ in node.next_functions if nxt is not None]


def reaches(ends, source, removed=None):
    seen, stack = set(), [end for end in ends if end is not removed]
    while stack:
        node = stack.pop()
        if node is source:
            return True
        if node not in seen:
            seen.add(node)
            stack.extend(nxt for nxt in inputs(node) if nxt is not removed)
    return False


def by_removal(nodes, source, ends):
    """The slow, obvious version: without the node, no end sees the source any more."""
    return {node for node in nodes if reaches(ends, source) and not reaches(ends, source, removed=node)}


@st.composite
def graphs(draw):
    """Random nodes in execution order, the source somewhere among them, with parallel edges and several ends."""
    nodes = []
    for i in range(draw(st.integers(1, 14))):
        earlier = st.sampled_from([None, *nodes[-4:], *nodes])
        nodes.append(Node(draw(st.lists(earlier, max_size=3)) if i else [None]))
    source = draw(st.sampled_from(nodes))
    return nodes, source, draw(st.lists(st.sampled_from(nodes), min_size=1, max_size=3))


@given(graphs())
def test_equals_removing_each_node_in_turn(graph):
    nodes, source, ends = graph
    assert on_every_path(source, ends) == by_removal(nodes, source, ends)


def test_the_slow_version_by_hand():
    source = Node()
    left, right = Node([source]), Node([source, None])
    join = Node([left, right, left])
    nodes = [source, left, right, join]
    assert by_removal(nodes, source, [join]) == {source, join}
    assert by_removal(nodes, source, [left, join]) == {source}
    assert by_removal(nodes, left, [join]) == {left, join}
    assert by_removal(nodes, join, [left]) == set()


def test_counts_stay_exact_where_paths_are_more_than_any_float_can_count():
    source = joint = Node()
    joints, branches = [source], []
    for _ in range(2_000):
        branches.append(Node([joint]))
        joint = Node([joint, branches[-1]])
        joints.append(joint)
    assert on_every_path(source, [joint]) == set(joints)
    # One more path out of 2**2000 beside a joint, and it is on every path no longer.
    assert joints[1000] not in on_every_path(source, [Node([joint, joints[999]])])


def test_a_source_with_a_past_is_where_paths_end():
    older = Node()
    source = Node([older])
    end = Node([source, older])
    assert on_every_path(source, [end]) == {source, end}


def test_nothing_lies_on_the_way_to_a_source_out_of_reach():
    assert on_every_path(Node(), [Node([Node()])]) == set()


@pytest.mark.parametrize("inplace", [False, True])
def test_a_residual_block_of_real_autograd(inplace):
    x = torch.randn(2, 3, requires_grad=True)
    source = x.clone()
    stem = source * 2
    inner = torch.exp(stem)
    joined = stem + inner
    nodes = {"stem": stem.grad_fn, "inner": inner.grad_fn, "joined": joined.grad_fn}
    out = torch.nn.functional.relu(joined, inplace=inplace)
    found = on_every_path(source.grad_fn, [out.grad_fn])
    assert [name for name, node in nodes.items() if node in found] == ["stem", "joined"]
    both = on_every_path(source.grad_fn, [out.grad_fn, inner.grad_fn])
    assert [name for name, node in nodes.items() if node in both] == ["stem"]
