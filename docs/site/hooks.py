"""What MkDocs does not do by itself: the home page, and links out of this folder.

``README.md`` of the repository becomes the home page. A link from a page to another file of the
repository brings that file onto the site, as a page if it is Markdown. The script that search needs
on pages from the disk is ours, so that nothing is loaded from another host. Marks for
tests, ``no-run`` and ``output``, are removed from blocks.
"""

import posixpath
import re
from pathlib import Path
from urllib.parse import unquote

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
SHIM = "https://unpkg.com/iframe-worker/shim"
WORKER = "assets/worker.js"
ROLE = re.compile(r":(?:func|mod|class|attr|meth|data):(?=<code>)")  # of Sphinx, in docstrings
HOME = {"README.md": "index.md"}  # paths in the repository, and on the site


def place_of(path):
    """Return the place on the site of a file of the repository."""
    inside = path.startswith("docs/")
    return HOME.get(path) or (path.removeprefix("docs/") if inside else f"repository/{path}")


def targets(path):
    """Return the files of the repository that a page links to."""
    text = (ROOT / path).read_text(encoding="utf-8")
    folder = posixpath.dirname(path)
    found = [posixpath.normpath(posixpath.join(folder, unquote(m[2]))) for m in LINK.finditer(text)]
    return [each for each in found if (ROOT / each).is_file()]


def on_files(files, config):
    """Add the home page, and all that pages link to, to the files of the site."""
    waiting = ["README.md", *(f"docs/{page.src_uri}" for page in files.documentation_pages())]
    seen = set(waiting)
    for path in waiting:  # which grows
        place = place_of(path)
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            new = [each for each in targets(path) if each not in seen]
            waiting += new
            seen |= set(new)
    worker = Path(__file__).with_name("worker.js")
    files.append(File.generated(config, WORKER, abs_src_path=str(worker)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Point links to where the files are on the site."""
    source = Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
    here, folder = posixpath.dirname(page.file.src_uri), posixpath.dirname(source)

    def moved(link):
        target = posixpath.normpath(posixpath.join(folder, unquote(link[2])))
        if not (ROOT / target).is_file():
            return link[0]
        place = posixpath.relpath(place_of(target), here or ".")
        return f"{link[1]}{place}{link[3] or ''}{link[4]}"

    return re.sub(
        r"^( *```\w+) (no-run|output)$", r"\1", LINK.sub(moved, markdown), flags=re.MULTILINE
    )


def on_page_content(html, page, config, files):
    """Remove the marks of roles from docstrings; their words are shown as code."""
    return ROLE.sub("", html)


def on_post_page(output, page, config):
    """Load the script for search from the site."""
    here = posixpath.dirname(page.file.dest_uri) or "."
    return output.replace(SHIM, posixpath.relpath(WORKER, here))


def on_post_template(output_content, template_name, config):
    """Do the same on the page for addresses that do not exist."""
    return output_content.replace(SHIM, f"/{WORKER}")


def on_post_build(config):
    """Refuse a site with a script, style or font of another host."""
    for path in Path(config.site_dir).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        found = re.search(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?https?:[^>]*>", text)
        if found:
            raise PluginError(f"{path}: is loaded from another host: {found[0]}")
