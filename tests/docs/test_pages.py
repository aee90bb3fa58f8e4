"""Links and commands of README, docs and cards: each leads somewhere, and names options that exist."""

import re
import shlex

import pytest
from PIL import Image
from typer.main import get_command

from daa_diffusers.cli.app import app
from daa_diffusers.training.config.command_line import typed_options

from ..conftest import PROJECT_ROOT

README = PROJECT_ROOT / "README.md"
FOLDERS = ("docs", "model_cards", "benchmarks/results")
PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *(page for f in FOLDERS for page in (PROJECT_ROOT / f).rglob("*.md"))])
LINK = re.compile(r"""\]\(\s*<?([^()\s>]+)>?[^()]*\)|<(?:img|a)\s[^>]*?(?:src|href)="([^"]+)\"""")


def name(page):
    return page.relative_to(PROJECT_ROOT).as_posix()


def prose(page):
    """The page without its code: a bracket there is no link, a number sign no heading."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", lambda code: re.sub(r"[][()<>]", " ", code[0]), text)


def anchors(page):
    """The anchors of the page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading_of_the_project(page):
    wrong = []
    for link in (markdown or html for markdown, html in LINK.findall(prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(PROJECT_ROOT) or not target.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and anchor not in anchors(target):
            wrong.append(f"{link}: no such heading")
    assert wrong == []


def test_every_page_of_the_docs_is_found_from_their_index():
    index = PROJECT_ROOT / "docs" / "index.md"
    linked = {link.partition("#")[0] for link, _ in LINK.findall(prose(index))}
    pages = {page.relative_to(index.parent).as_posix() for page in index.parent.rglob("*.md")} - {"index.md"}
    assert pages - linked == set()


def test_the_readme_is_short_and_shows_its_picture_first():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert text.splitlines()[2].startswith("![")


def commands(page):
    """The commands in the page's code blocks, joined where they go on, without comments, split as a shell would."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for block in (text for language, text in blocks if not language):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(daa|python|accelerate) ", line):
                yield shlex.split(line, comments=True)


def check_command(words):
    """Fails on a command of `daa`, a training run or a program of the project that the parser does not take."""
    if words[:1] == ["daa"]:
        command = get_command(app)
        if len(words) > 1 and not words[1].startswith("-"):
            command = command.get_command(None, words[1])
            assert command is not None, f"daa {words[1]}"
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        known |= {"-h", "--help", "--install-completion"}
        used = {word.partition("=")[0] for word in words[1:] if re.fullmatch(r"--?[a-z].*", word)}
        assert used <= known, f"{' '.join(words)}: {sorted(used - known)}"
    elif "examples/train_daa.py" in words:
        given = words[words.index("examples/train_daa.py") + 1 :]
        typed_options([word for word in given if word != "..."])
    elif words[:1] == ["python"]:
        assert (PROJECT_ROOT / words[1]).is_file(), " ".join(words)


@pytest.mark.parametrize("page", [README, *sorted((PROJECT_ROOT / "docs").glob("*.md"))], ids=name)
def test_every_command_of_the_pages_is_taken_by_its_parser(page):
    for words in commands(page):
        check_command(words)


def test_the_commands_of_make_that_the_readme_names_exist():
    targets = re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README.read_text(encoding="utf-8"), re.MULTILINE)) <= set(targets)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (33, 21), "gray").save("photo.jpg")
    exec(compile(code, "README.md", "exec"), {})
    assert Image.open("restored.png").size == (33, 21)
