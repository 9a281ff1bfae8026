"""The README and the pages of docs/: their links exist, and so do the make targets and modules that they name."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CURRENT = [
    page for page in PAGES if page.name not in ("CHANGELOG.md", "log.md")
]  # the others name what no longer exists


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_point_to_existing_files_and_headings(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in [anchor(each) for each in headings], link


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = re.findall(
        r"^(?:- |\| )?`?make ([a-z-]+)|`make ([a-z-]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert {first or second for first, second in named} <= targets


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_modules_exist(page):
    for name in re.findall(r"`((?:pipeline/)?(?:[a-z_]+/)+[a-z_]+\.py)`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists() or (ROOT / "pipeline" / name).exists(), name


def test_the_readme_has_fewer_than_200_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
