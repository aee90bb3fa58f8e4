"""Pages of the site that docs/ does not hold: the repository's other texts, and the options of training.

mkdocs calls these functions (`hooks` in mkdocs.yml). The site's root is docs/; the repository's other texts keep their
paths below it, and links are rewritten to match.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = Path(__file__).resolve().parent.name
ADDED = ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "NOTICE", "model_cards/*", "benchmarks/results/**/*")
ADDED += ("examples/*.ipynb", "examples/slurm/*", "examples/*.py", "examples/configs/*")
LINK = re.compile(r"(\]\(|<img src=\")([^()\s\"]+)")


def on_files(files, config):
    """Adds the files of `ADDED`."""
    for path in sorted({path for pattern in ADDED for path in ROOT.glob(pattern) if path.is_file()}):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files of the repository become links between pages; the mark for options becomes their table."""
    site_path = page.file.src_uri
    here = posixpath.dirname(site_path if page.file.generated_by else posixpath.join(DOCS, site_path))

    def on_site(link):
        start, target = link.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return link[0]
        path = posixpath.normpath(posixpath.join(here, path)).removeprefix(f"{DOCS}/")
        return start + posixpath.relpath(path, posixpath.dirname(site_path) or ".") + mark + anchor

    markdown = LINK.sub(on_site, markdown)
    return markdown.replace("<!-- options of training -->", _options()) if site_path == "api/training.md" else markdown


def _options() -> str:
    """Every field of TrainingConfig as a row: name, default, help."""
    from dataclasses import MISSING, fields

    from daa_diffusers.training.config.field import facts
    from daa_diffusers.training.config.options import TrainingConfig

    rows = ["| option | default | |", "|---|---|---|"]
    for field in fields(TrainingConfig):
        default = field.default if field.default is not MISSING else field.default_factory()
        help_text = " ".join(facts(field).help.split()).replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{default!r}` | {help_text} |")
    return "\n".join(rows)
