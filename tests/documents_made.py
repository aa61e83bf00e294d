"""Texts of several documents."""

from bilens.base.documents import END


def joined(*documents):
    return f"\n{END}\n".join(documents)
