"""What the documents say exists."""

import re
import runpy
from pathlib import Path

from tunesmith.cli.app import VERBS
from tunesmith.data.findings import CODES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "scripts/README.md"]
PAGES += ROOT.glob("docs/*.md")


def test_cli_page_is_what_make_docs_writes():
    made = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["page"]()
    assert (ROOT / "docs" / "cli.md").read_text() == made, "run make docs"


def test_findings_page_is_what_make_docs_writes_and_has_every_code():
    made = runpy.run_path(str(ROOT / "docs" / "make_findings.py"))["page"]()
    assert (ROOT / "docs" / "findings.md").read_text() == made, "run make docs"
    assert all(f"| {code} |" in made for code in CODES)


def test_documents_name_only_verbs_that_exist():
    for page in PAGES:
        code = re.findall(r"`([^`]+)`|^(?:\$ )?(tunesmith .*)$", page.read_text(), re.MULTILINE)
        for text in (part for pair in code for part in pair if part):
            for verb in re.findall(r"(?:^|\s)tunesmith ([a-z]+)", text):
                assert verb in VERBS, f"{page.name}: {text}"


def test_documents_name_only_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)$", page.read_text(), re.MULTILINE):
            assert "".join(target) in targets, f"{page.name}: make {''.join(target)}"


def test_links_between_documents_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
