"""README, CONTRIBUTING and docs/ keep their word: their Python runs, their commands, files and links are there."""

import ast
import contextlib
import dataclasses
import importlib
import io
import os
import re
import shlex

import pytest
from places import ROOT, matching

import hatebm
from hatebm.cli import parser

DOCS = matching(ROOT / "docs", "*.md")
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PATHS}
README = PAGES["README.md"]
FOLDERS = "hatebm|csrc|kernels|benchmarks|tests|docs|.ci"


def blocks(text, language):
    """The code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def programs(text):
    """The Python blocks, in order, each with what it prints: the block of text behind it, empty where there is none."""
    return re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE)


def timeless(said):
    """What was printed, without what the clock says."""
    return re.sub(r"\S+ steps/s", "N steps/s", said)


def prose(text):
    """All but the code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text):
    """What stands between backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def found(look):
    """What a look at each page finds: (page, thing), each once."""
    return [(page, thing) for page, text in PAGES.items() for thing in dict.fromkeys(look(text))]


def lines_of(text):
    return [line for block in blocks(text, "bash") for line in block.splitlines()]


def commands(text):
    """Commands of hatebm, in blocks and in the prose."""
    return [line for line in (*lines_of(text), *spans(text)) if line.startswith("hatebm ")]


def files(text):
    """Files and folders of the project, in the prose and in commands; <name> and * stand for any name."""
    words = [word for line in lines_of(text) for word in shlex.split(line, comments=True)]
    named = [word for word in (*spans(text), *words) if re.fullmatch(rf"(?:{FOLDERS})/[\w./<>*-]*", word)]
    return [re.sub(r"<\w+>", "*", word) for word in named]


def bare_files(text):
    """Python files without their folder, as tests are named: the folders may change, their names are unique."""
    return [span for span in spans(text) if re.fullmatch(r"\w+\.py", span)]


def links(text):
    """Where links and pictures point, within the project."""
    return [to for to in re.findall(r"\]\(([^()\s]+)\)", prose(text)) if not re.match(r"[a-z]+:", to)]


def anchors(text):
    """The headings of a page as a code host links them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages():
    assert DOCS


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks(text, "python")])
def test_the_python_runs_from_top_to_bottom(page):
    scope = {}
    for block, said in programs(PAGES[page]):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block, page, "exec"), scope)
        assert not said or timeless(printed.getvalue()) == timeless(said)


def test_what_blocks_print_is_compared():
    assert len([said for _, said in programs(README) if said]) == len(blocks(README, "text")) == 1


@pytest.mark.parametrize(("page", "command"), found(commands))
def test_the_commands_parse(page, command):
    parser().parse_args(shlex.split(command, comments=True)[1:])


def test_readme_alone_sets_up_and_pins_the_versions():
    setups = found(lambda text: [line for line in lines_of(text) if re.search(r'pip install.*"\.?\[', line)])
    assert [line.split(" && ")[-1] for page, line in setups if page == "README.md"] == ["hatebm train", "pytest"]
    assert all(page == "README.md" and "-c constraints.txt" in line for page, line in setups)


@pytest.mark.parametrize(("page", "name"), found(files))
def test_every_file_that_is_named_is_there(page, name):
    assert any(ROOT.glob(name.rstrip("/")))


@pytest.mark.parametrize(("page", "name"), found(bare_files))
def test_every_file_that_is_named_alone_is_one_of_the_tests(page, name):
    assert len(list((ROOT / "tests").rglob(name))) == 1


@pytest.mark.parametrize("script", [".ci/run", "benchmarks/gpu.sh"])
def test_the_scripts_of_contributing_can_be_run(script):
    assert any(line.startswith(script) for line in lines_of(PAGES["CONTRIBUTING.md"]))
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize(("page", "to"), found(links))
def test_every_link_and_picture_is_there(page, to):
    path, _, anchor = to.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.is_file()
    assert target.suffix != ".png" or target.stat().st_size > 1000
    assert not anchor or anchor in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_readme_links_every_page(page):
    assert page in [to.partition("#")[0] for to in links(README)]


@pytest.mark.parametrize(
    ("page", "name"), found(lambda text: re.findall(r"`(hatebm(?:\.[A-Za-z]\w*)+)[`(]", prose(text)))
)
def test_every_name_of_hatebm_is_there(page, name):
    value = hatebm
    for depth, part in enumerate(parts := name.split(".")[1:], 2):
        if not hasattr(value, part):
            importlib.import_module(".".join(["hatebm", *parts][:depth]))
        value = getattr(value, part)


def test_readme_is_short_below_its_first_screen():
    first_screen, below = re.split(r'(?<="\.\[test\]" -c constraints\.txt && pytest\n```\n)', README)
    assert first_screen.count("\n") == 18
    assert below.count("\n") <= 250


def test_every_field_of_the_law_is_written_down_with_its_default():
    rows = re.findall(r"(?m)^\| `(\w+)` \| `(.+?)` \| .+ \|$", PAGES["docs/law.md"])
    assert [(name, ast.literal_eval(default)) for name, default in rows] == [
        (field.name, field.default) for field in dataclasses.fields(hatebm.Dynamics)
    ]
