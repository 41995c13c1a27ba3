"""Every Python block of the README and the documentation runs, in order, page by page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))  # so that a traceback names the line of the page
        exec(compile("\n" * above + block[1], str(page), "exec"), names)


def test_every_fence_is_one_that_runs():
    """A block in another spelling (```py, indented) would be skipped in silence."""
    for page in PAGES:
        for line in page.read_text().splitlines():
            if line.strip().startswith("```") and line.strip() != "```":
                assert line in ("```python", "```bash", "```text"), f"{page.name}: {line!r}"


def test_links_of_the_readme_exist():
    """mkdocs checks the links of the documentation; nothing else checks these."""
    for name in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)", (ROOT / name).read_text()):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{name}: {target}"
