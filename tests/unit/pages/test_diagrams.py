"""Diagrams of states have the arrows of their table, and no other."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from shmlease.cli.reference import lease_diagram, segment_diagram
from shmlease.core.transitions import LEASE_TRANSITIONS, SEGMENT_TRANSITIONS
from shmlease.pages.diagrams import Box, diagram_of

PLACES = {"a": (0.0, 0.0), "b": (1.0, 0.0), "c": (2.0, 0.0), "d": (1.0, 1.0)}
OFTEN = [("a", "broke", "d"), ("b", "broke", "d"), ("c", "broke", "d")]


def nearest(point: tuple[float, float], boxes: Mapping[str, Box]) -> str:
    """The box whose border is nearest to `point`."""

    def distance(box: Box) -> float:
        return max(abs(point[0] - box.x) - box.width / 2, abs(point[1] - box.y) - box.height / 2)

    return min(boxes, key=lambda name: distance(boxes[name]))


def test_each_transition_is_an_arrow_from_its_state_to_the_next() -> None:
    table = [*OFTEN, ("a", "moved", "b"), ("b", "went back", "a")]
    diagram = diagram_of("t", table, PLACES, {})
    boxes = {box.name: box for box in diagram.boxes}
    assert [(nearest(arrow.start, boxes), nearest(arrow.end, boxes)) for arrow in diagram.arrows] == [
        (before, after) for before, _, after in table
    ]


def test_what_happens_often_is_explained_once_and_the_rest_where_it_happens() -> None:
    diagram = diagram_of("t", [*OFTEN, ("a", "moved", "b")], PLACES, {})
    assert [words for _, words, _ in diagram.legend] == ["broke"]
    assert [arrow.words for arrow in diagram.arrows] == ["", "", "", "moved"]
    assert len({arrow.colour for arrow in diagram.arrows}) == 2


def test_arrows_there_and_back_do_not_lie_on_one_another() -> None:
    one, other = diagram_of("t", [("a", "moved", "b"), ("b", "went back", "a")], PLACES, {}).arrows
    assert abs(one.words_at[1] - other.words_at[1]) > 20


def test_state_without_a_place_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        diagram_of("t", [("a", "moved", "nowhere")], PLACES, {})


@pytest.mark.parametrize(("svg", "table"), [(segment_diagram(), SEGMENT_TRANSITIONS), (lease_diagram(), LEASE_TRANSITIONS)])
def test_pictures_of_the_documentation_have_all_states_and_all_words(
    svg: str, table: Mapping[tuple[str, str], str]
) -> None:
    assert len(re.findall(r'<path d="M\S+ \S+Q', svg)) == len(table)
    words = set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))
    assert words == {
        *map(str, (word for key in table for word in key)),
        *(str(after or "ended") for after in table.values()),
    }
