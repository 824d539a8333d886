"""What the pages need to be a site: the README as its first page, and links to the repository."""

import pathlib
import re

# Links to what the site does not have: code and notebooks outside of docs/, results inside.
_OUT = re.compile(r"\]\(\.\./([^)]+)\)")
_RESULTS = re.compile(r"\]\((results/[^)]+)\)")


def on_page_markdown(markdown, page, config, **_):
    """The text of a page, its links as they are on the site."""
    blob = f"{config.repo_url}/blob/main/"
    if page.file.src_uri == "index.md":
        markdown = (pathlib.Path(config.docs_dir).parent / "README.md").read_text(encoding="utf-8")
        markdown = re.sub(r"\]\((?!https?:|docs/|#)([^)]+)\)", rf"]({blob}\1)", markdown)
        return markdown.replace("](docs/", "](")
    markdown = _RESULTS.sub(rf"]({blob}docs/\1)", markdown)
    return _OUT.sub(rf"]({blob}\1)", markdown)
