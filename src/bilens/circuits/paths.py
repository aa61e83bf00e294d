"""Paths: how an output comes from embeddings, as trees. A head has one child, a bilinear layer two.

A tree is nested tuples of plain values, so that it compares, hashes and saves:

    ("write", name, t)                 all that a source writes at position t: a leaf, or not taken
                                       apart
    ("look", name, t, s, child)        a head at t looking at s, there reading child
    ("pair", name, t, left, right)     a bilinear layer at t fed with two things; both orders, where
                                       they differ
    ("stream", part, s)                everything that a part reads at s
    ("latent", name, t, what)          what a layer reads at t, by a dictionary: latent number
                                       ``what``, its BASE or ERROR
    ("1",)                             the constant that biases multiply
"""

import re
from collections.abc import Collection, Iterator

from bilens.nn.expandable import ONE

Tree = tuple
CONSTANT: Tree = (ONE,)
BASE, ERROR = "base", "error"  # of a dictionary: its decoder's bias, and what it misses
HEAD = re.compile(r"L(\d+)H(\d+)")
LAYER = re.compile(r"mlp(\d+)")


def text(tree: Tree) -> str:
    """A path as it is read: ``mlp1(L0H3@5→9(embed), mlp0(embed, embed))``, the look of a head as
    from→to.

    ``mlp1(f17, error)``: latent 17 of the dictionary at the layer's input, and what that dictionary
    misses.

    At 9, L0H3 looks at position 5 and reads the embedding there; other parts stand at the position
    of what reads them.
    """
    match tree:
        case ("write", name, _):
            return name
        case ("look", name, t, s, child):
            return f"{name}@{s}→{t}({text(child)})"
        case ("pair", name, _, left, right):
            return f"{name}({text(left)}, {text(right)})"
        case ("stream", _, _):
            return "x"
        case ("latent", _, _, what):
            return what if what in (BASE, ERROR) else f"f{what}"
    return ONE


def latex(tree: Tree) -> str:
    """A path in the note's notation: B for a bilinear layer, A for a pattern, W_OV for a head's
    weights.
    """
    match tree:
        case ("write", name, t):
            return _latex_write(name, t)
        case ("look", name, t, s, child):
            layer, head = _numbers(HEAD, name)
            at = f"{layer},{head}"
            return rf"A^{{{at}}}_{{{t},{s}}} W_{{OV}}^{{{at}}} {latex(child)}"
        case ("pair", name, _, left, right):
            (layer,) = _numbers(LAYER, name)
            factor = "" if left == right else "2 "
            return rf"{factor}\left( {latex(left)} \cdot_{{12}} B^{{{layer}}} \cdot_{{21}} {latex(right)} \right)"
        case ("stream", _, s):
            return f"x_{{{s}}}"
        case ("latent", name, t, what):
            (layer,) = _numbers(LAYER, name)
            return _latex_latent(layer, t, what)
    return ONE


def _latex_latent(layer: str, t: int, what: int | str) -> str:
    if what == BASE:
        return rf"b_{{\mathrm{{dec}}}}^{{{layer}}}"
    if what == ERROR:
        return rf"\varepsilon^{{{layer}}}_{{{t}}}"
    return rf"a^{{{layer}}}_{{{t},{what}}} w^{{{layer}}}_{{{what}}}"


def _latex_write(name: str, t: int) -> str:
    if name == "embed":
        return f"W_E t_{{{t}}}"
    if name == "pos":
        return rf"W_{{\mathrm{{pos}},{t}}}"
    return rf"\mathrm{{{name.replace('_', chr(92) + '_')}}}_{{{t}}}"


def _numbers(pattern: re.Pattern, name: str) -> tuple[str, ...]:
    found = pattern.fullmatch(name)
    return found.groups() if found else (rf"\mathrm{{{name}}}", "")[: pattern.groups]


def cut(tree: Tree, depth: int) -> Tree:
    """``tree`` down to ``depth`` levels; what is below stands as the whole write of its component."""
    match tree:
        case ("look", name, t, s, child):
            return ("look", name, t, s, cut(child, depth - 1)) if depth else ("write", name, t)
        case ("pair", name, t, left, right):
            return (
                ("pair", name, t, cut(left, depth - 1), cut(right, depth - 1))
                if depth
                else ("write", name, t)
            )
    return tree


def walk(tree: Tree) -> Iterator[Tree]:
    """The tree's nodes, each before those below it."""
    yield tree
    if tree[0] == "look":
        yield from walk(tree[4])
    if tree[0] == "pair":
        yield from walk(tree[3])
        yield from walk(tree[4])


def order(tree: Tree, ends: Collection[str]) -> int | None:
    """The degree in the embedding of the inputs: how often a path reads it. None where it is not
    taken apart to the
    ``ends``: the names of leaves and biases. A dictionary's latents and its error are read in the
    embedding's stead and count as it does; its base is a constant."""
    degree = 0
    for node in walk(tree):
        if node[0] == "stream" or (node[0] == "write" and node[1] not in ends):
            return None
        degree += node[:2] == ("write", "embed") or (node[0] == "latent" and node[3] != BASE)
    return degree


def constant(tree: Tree) -> bool:
    """Whether ``tree`` is the same whatever is read: the constant of biases, or a dictionary's
    base.
    """
    return tree == CONSTANT or (tree[0] == "latent" and tree[3] == BASE)


def positions(tree: Tree) -> tuple[int, ...]:
    """The positions at which a path starts, in order."""
    return tuple(
        sorted({node[2] for node in walk(tree) if node[0] in ("write", "stream", "latent")})
    )
