"""Documentation runs: the Python blocks of README and tutorial, and the command line reference."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shmlease
import shmlease.testing

ROOT = Path(__file__).resolve().parents[2]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


# Runs each script as the program itself, with a namespace of its own, one after another.
EACH_ALONE = """
import runpy, sys
for script in sys.argv[1:]:
    print(script, file=sys.stderr, flush=True)
    runpy.run_path(script, run_name="__main__")
"""


def run(script: Path) -> None:
    run_python(script.parent, str(script))


def run_each_block(page: str, directory: Path) -> None:
    """Run the blocks of `page`, each as if it were a file of its own; in one process, which is quicker."""
    scripts = []
    for number, block in enumerate(python_blocks(page)):
        scripts.append(directory / f"block{number}.py")
        scripts[-1].write_text(block)
    assert scripts
    run_python(directory, "-c", EACH_ALONE, *map(str, scripts))


def run_python(directory: Path, *arguments: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env=os.environ,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("number", range(len(python_blocks("README.md"))))
def test_each_block_of_the_readme_runs_by_itself(number: int, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(python_blocks("README.md")[number])
    run(script)


@pytest.mark.parametrize("page", ["tutorial", "from-what-you-have", "dask"])
def test_each_block_of_a_page_runs_without_the_blocks_before_it(page: str, tmp_path: Path) -> None:
    run_each_block(f"docs/{page}.md", tmp_path)


@pytest.mark.parametrize("number", range(len(python_blocks("docs/recipes.md"))))
def test_each_recipe_runs_by_itself(number: int, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(python_blocks("docs/recipes.md")[number])
    run(script)


def test_every_public_name_is_in_the_reference() -> None:
    listed = re.findall(
        r"^\.\. auto(?:class|function|exception):: (\S+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE
    )
    public = {f"shmlease.{name}" for name in shmlease.__all__} - {"shmlease.__version__"}
    public |= {f"shmlease.testing.{name}" for name in shmlease.testing.__all__}
    assert sorted(listed) == sorted(public)


def test_every_page_is_in_one_table_of_contents() -> None:
    """Sphinx says so as well; the tests do without it."""
    docs = ROOT / "docs"
    text = "\n".join(page.read_text() for page in docs.glob("*.md"))
    trees = "\n".join(re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    entries = [line for line in trees.splitlines() if line and not line.startswith(":")]
    pages = {path.stem for path in docs.glob("*.md")} - {"index"}
    assert sorted(entries) == sorted([*pages, "decisions/README", "decisions/0*"])


@pytest.mark.parametrize("page", ["cli.md", "rules.md", "states.md"])
def test_reference_pages_are_what_the_code_says(page: str) -> None:
    from shmlease.cli.reference import PAGES

    assert (ROOT / "docs" / page).read_text() == PAGES[page](), "run: python -m shmlease.cli.reference docs"


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(page: str) -> None:
    place = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", re.sub(r"(`+).*?\1", "", (ROOT / page).read_text(), flags=re.S)):
        assert link.startswith("http") or (place / link).exists(), f"{page} links to {link}"


def test_every_decision_is_in_the_index_with_its_title_and_date() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    numbers = [path.name[:4] for path in folder.glob("0*.md")]
    assert len(set(numbers)) == len(numbers)
    for path in sorted(folder.glob("0*.md")):
        number, title = path.read_text().splitlines()[0].removeprefix("# ").split(" ", 1)
        assert re.search(
            rf"\| {number} \| \[{re.escape(title)}\]\({re.escape(path.name)}\) \| \d{{4}}-\d\d-\d\d \|", index
        ), path.name


def walks() -> list[list[str]]:
    """The modules that each walk in docs/architecture.md names; a name alone is in the folder of the one before it."""
    found: list[list[str]] = []
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        if line == "| where | what happens |":
            found.append([])
        elif line.startswith("| `") and found and ".py`" in line:
            folder = ""
            for name in re.findall(r"`([\w/]+\.py)`", line):
                folder = name.rpartition("/")[0] if "/" in name else folder
                found[-1].append(f"{folder}/{name.rpartition('/')[2]}")
    return found


def test_walks_through_the_code_name_files_that_are_there_and_count_them() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    assert len(walks()) == 5
    for files in walks():
        assert [file for file in files if not (ROOT / "src/shmlease" / file).is_file()] == []
    told = [int(count) for count in re.findall(r"through (\d+) files", text)]
    assert told == [len(set(files)) for files in walks()]
