"""A night as JUnit XML: what CI systems show as passed, failed and skipped tests.

A case for the gate, for each benchmark, for each guard rail and for each checkpoint that was left
out. The gate fails on *not better*, a guard rail where it is broken; *cannot tell* and what was
left out are skipped. A benchmark's case never fails by itself: the mean decides, and guard rails.
"""

from xml.etree import ElementTree

from soup.publishing.gate import BETTER, CANNOT_TELL
from soup.publishing.night import Night
from soup.publishing.page import headline, lines
from soup.words import plain

SUITE = "soup nightly"


def to_junit(night: Night) -> str:
    """The document, UTF-8."""
    suite = ElementTree.Element("testsuite", name=SUITE, timestamp=night.board.about.time[:19])
    gate = _case(suite, "gate", "better than the published soup")
    if night.verdict.word == CANNOT_TELL:
        _end(gate, "skipped", headline(night))
    elif night.verdict.word != BETTER:
        _end(gate, "failure", headline(night), "\n".join(lines(night)))
    _out(gate, "\n".join([headline(night), *night.verdict.facts]))
    for pair in night.verdict.pairs:
        case = _case(suite, "holdout" if pair.holdout else "benchmark", pair.benchmark)
        _out(case, f"{pair.new:.2f}, published {pair.published:.2f}")
    for rail in night.verdict.rails:
        case = _case(suite, "guard rail", f"{rail.benchmark} falls by at most {rail.allowed:g}")
        if rail.broken:
            _end(case, "failure", str(rail))
        _out(case, str(rail))
    for one in night.left_out:
        _end(_case(suite, "checkpoint", one.name), "skipped", f"{one.how}: {one.why}")
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    suite.set("errors", "0")
    return _written(suite)


def failed_to_junit(error: str, time: str) -> str:
    """The document of a night that failed."""
    suite = ElementTree.Element(
        "testsuite", name=SUITE, timestamp=time[:19], tests="1", failures="0", skipped="0"
    )
    suite.set("errors", "1")
    _end(_case(suite, "gate", "better than the published soup"), "error", error)
    return _written(suite)


def _written(suite: ElementTree.Element) -> str:
    whole = ElementTree.Element("testsuites")
    whole.append(suite)
    ElementTree.indent(whole)
    text = ElementTree.tostring(whole, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _case(suite: ElementTree.Element, kind: str, name: str) -> ElementTree.Element:
    found = ElementTree.SubElement(suite, "testcase", name=plain(name))
    found.set("classname", f"soup.{kind.replace(' ', '-')}")
    found.set("time", "0")
    return found


def _end(case: ElementTree.Element, how: str, message: str, text: str = "") -> None:
    end = ElementTree.SubElement(case, how, message=plain(message))
    if text:
        end.text = plain(text, lines=True)


def _out(case: ElementTree.Element, text: str) -> None:
    ElementTree.SubElement(case, "system-out").text = plain(text, lines=True)
