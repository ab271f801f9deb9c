"""Which tensors does every path from a network's input to its output run through?"""

from __future__ import annotations

from typing import Any

__all__ = ["on_every_path"]


def on_every_path(source: Any, ends: list[Any]) -> set[Any]:
    """Nodes of the autograd graph that lie on every path from the ends back to the source.

    Args:
        source: the autograd node of the input.
        ends: the autograd nodes of the outputs.

    A node is on every path exactly when (paths from the source to it) x (paths from it to an end) equals the
    number of all paths; the counts are exact, as Python's integers do not overflow.
    """
    order: list[Any] = []
    state: dict[Any, bool] = {}
    stack = [(end, False) for end in ends]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in state:
            state[node] = True
            stack.append((node, True))
            stack.extend((nxt, False) for nxt, _ in node.next_functions if nxt is not None and nxt not in state)
    down: dict[Any, int] = {}
    for node in order:
        below = sum(down[nxt] for nxt, _ in node.next_functions if nxt is not None)
        down[node] = 1 if node is source else below
    up = dict.fromkeys(order, 0)
    for end in ends:
        up[end] += 1
    for node in reversed(order):
        for nxt, _ in node.next_functions:
            if nxt is not None:
                up[nxt] += up[node]
    paths = sum(down[end] for end in ends)
    return {node for node in order if down[node] and up[node] * down[node] == paths}
