"""What the pages need to be a site: the README as its first page, and links to the repository."""

import pathlib
import re

# Links out of docs/: to code, results and notebooks.
_OUT = re.compile(r"\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown, page, config, **_):
    """The text of a page, its links as they are on the site."""
    blob = f"{config.repo_url}/blob/main/"
    if page.file.src_uri == "index.md":
        markdown = (pathlib.Path(config.docs_dir).parent / "README.md").read_text(encoding="utf-8")
        markdown = re.sub(r"\]\((?!https?:|docs/|#)([^)]+)\)", rf"]({blob}\1)", markdown)
        return markdown.replace("](docs/", "](")
    return _OUT.sub(rf"]({blob}\1)", markdown)
