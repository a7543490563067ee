"""Texts cut short for a person to read, around what matters in them."""

import re
from collections.abc import Mapping
from types import MappingProxyType

Place = tuple[int, int]  # where something starts and stops, in characters


def excerpt(text: str, width: int, marks: Mapping[str, Place] = MappingProxyType({})) -> str:
    """``text`` in one line, cut to about ``width`` characters around what is marked, or its beginning.

    Args:
        marks: a place by the pair of brackets that it gets, such as "[]"; an empty place is none.
    """
    text = re.sub(r"\s", " ", text)
    marks = {brackets: (start, stop) for brackets, (start, stop) in marks.items() if stop > start >= 0}
    places = sorted(marks.values()) or [(0, 0)]
    pieces = [(0, len(text))] if len(text) <= width else around(text, places, width)
    shown = " … ".join(in_brackets(text, begin, end, marks) for begin, end in pieces)
    before, after = "… " * (pieces[0][0] > 0), " …" * (pieces[-1][1] < len(text))
    return " ".join(f"{before}{shown}{after}".split())


def around(text: str, places: list[Place], width: int) -> list[Place]:
    """The pieces of a text that are kept, around each place, of whole words where it has any."""
    seen = join(places, width // 2)  # places that one piece shows together
    pieces = []
    for start, stop in seen:
        room = max(width // len(seen), stop - start)
        begin = min(max(start - (room - (stop - start)) // 2, 0), len(text) - room)
        end = begin + room
        if begin > 0:
            begin = text.find(" ", begin, start) + 1 or begin
        if end < len(text) and (space := text.rfind(" ", stop, end + 1)) > 0:
            end = space
        pieces.append((begin, end))
    return join(pieces)


def join(places: list[Place], width: int = 0) -> list[Place]:
    """Those of the places, in their order, that meet, or lie within ``width`` characters, as one."""
    joined: list[Place] = []
    for start, stop in places:
        if joined and (start <= joined[-1][1] or stop - joined[-1][0] <= width):
            start, stop = joined[-1][0], max(stop, joined.pop()[1])
        joined.append((start, stop))
    return joined


def in_brackets(text: str, begin: int, end: int, marks: Mapping[str, Place]) -> str:
    """Part of a text, with brackets around the marked places in it: nested, unless the places cross."""
    signs = []
    for number, (brackets, (start, stop)) in enumerate(marks.items()):
        if begin <= start and stop <= end:
            signs += [(start, 1, -stop, number, brackets[0]), (stop, 0, -start, -number, brackets[1])]
    part = text[begin:end]
    for position, *_, sign in sorted(signs, reverse=True):  # from the end, so that positions still hold
        part = part[: position - begin] + sign + part[position - begin :]
    return part
