"""Results as JUnit XML, the form in which CI systems show tests: a suite for each file, a case for each test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree as XML

from gateway.core.errors import Problem
from gateway.testing.told import FileResult, difference

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(told: Sequence[FileResult], broken: Sequence[Problem] = ()) -> bytes:
    """The document. Files that do not load are suites with an error, so that they are not taken for no tests."""
    root = XML.Element("testsuites", name="pointsman")
    for tested in told:
        suite = XML.SubElement(
            root, "testsuite", name=_text(tested.file.doc.policy), file=_text(str(tested.path)),
            tests=str(len(tested.results)), failures=str(tested.failed), errors="0",
        )  # fmt: skip
        for result in tested.results:
            case = XML.SubElement(
                suite, "testcase", classname=_text(tested.file.doc.policy), name=_text(result.name),
                file=_text(str(tested.path)), line=str(tested.line(result.path)),
            )  # fmt: skip
            if not result.passed:
                first = _text(str(result.mismatches[0]))
                XML.SubElement(case, "failure", message=first).text = _text("\n".join(difference(result)))
    files: dict[str, list[Problem]] = {}
    for problem in broken:
        files.setdefault(problem.file, []).append(problem)
    for name, problems in files.items():
        suite = XML.SubElement(root, "testsuite", name=_text(name), tests="1", failures="0", errors="1")
        case = XML.SubElement(suite, "testcase", classname=_text(name), name="the file loads", file=_text(name))
        said = "\n".join(map(str, problems))
        XML.SubElement(case, "error", message=_text(problems[0].what)).text = _text(said)
    XML.indent(root)
    made: bytes = XML.tostring(root, encoding="utf-8", xml_declaration=True)
    return made + b"\n"


def _text(raw: str) -> str:
    """What XML can hold of a text."""
    return _NOT_XML.sub("?", raw)
