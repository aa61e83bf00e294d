"""Texts of several documents."""

from bilens.base.documents import END


def joined(*documents):
    return f"\n{END}\n".join(documents)


def stories(count=400, end="."):
    """Short ones, of cats and dogs: a text on which commands and training take a second."""
    every = range(count)
    return joined(
        *(f"Once upon a time there were {n} cats. They saw {n + 1} dogs{end}" for n in every)
    )
