"""Every Python block of the README and the documentation runs, in order, page by page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK, OUTPUT = (re.compile(rf"^```{kind}\n(.*?)^```$", re.MULTILINE | re.DOTALL) for kind in ("python", "text"))


@pytest.mark.slow  # for `make docs`
@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem)
def test_blocks_run_and_print_what_the_page_says(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    names = {"__name__": page.stem}
    for block in BLOCK.finditer(text):
        above = text.count("\n", 0, block.start(1))  # so that a traceback names the line of the page
        exec(compile("\n" * above + block[1], str(page), "exec"), names)
    printed = capsys.readouterr().out
    for output in OUTPUT.findall(text):
        assert output in printed


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
