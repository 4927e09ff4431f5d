from __future__ import annotations

from xml.etree import ElementTree

from bench.plot import bars

SVG = "{http://www.w3.org/2000/svg}"


def test_a_bar_is_as_long_as_its_number_and_names_are_no_markup() -> None:
    root = ElementTree.fromstring(
        bars("Rates", "per second", {"1 & 2": {"<a>": 10.0, "b": 5.0}, "3": {"b": 2.5}})
    )
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect")]
    assert widths[0] == 2 * widths[1] == 4 * widths[2]
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert words == ["Rates", "per second", "1 & 2", "<a>", "10", "b", "5.0", "3", "b", "2.5"]


def test_one_name_has_one_colour_in_all_groups() -> None:
    root = ElementTree.fromstring(bars("Rates", "per second", {"1": {"a": 1.0, "b": 1.0}, "2": {"b": 1.0}}))
    first, second, third = (bar.attrib["fill"] for bar in root.iter(f"{SVG}rect"))
    assert second == third != first


def test_everything_is_inside_the_picture() -> None:
    root = ElementTree.fromstring(
        bars("Rates", "per second", {str(n): {"a": 1.0, "b": 3.0} for n in range(5)})
    )
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for bar in root.iter(f"{SVG}rect"):
        assert float(bar.attrib["x"]) + float(bar.attrib["width"]) < width
        assert float(bar.attrib["y"]) + float(bar.attrib["height"]) < height
