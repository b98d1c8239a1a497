"""What the site has beside the pages in docs: a hook of mkdocs.

- the README as its home, and the changelog;
- a page for each module of the library, from its docstrings; a public name that is missing there
  is a warning, and so an error of the strict build;
- the files of the repository that pages link to.
"""

import ast
import base64
import functools
import itertools
import json
import logging
import pathlib
import posixpath
import re

import griffe
from mkdocs.structure.files import File, InclusionLevel

ROOT = pathlib.Path(__file__).parents[1]
LIBRARY = ROOT / "dann_jax"
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(\]\()([^()\s#:]+)((?:#[^()\s]*)?\))")
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)

MARK = re.compile(r"^<!-- [\w-]+: (?:begin|end) -->\n", re.M)  # of tables that a program fills

DOCTEST = re.compile(r"^>>> .*(?:\n.+)*", re.M)

log = logging.getLogger("mkdocs.plugins.dann_jax")


def on_config(config):
    """Adds the reference to the navigation."""
    config.nav.append({"Reference": ["reference/index.md", *map(reference, pages())]})
    return config


def on_files(files, config):
    """Adds the pages that are not in docs, and what pages link to."""
    for source, page in PAGES.items():
        add(files, config, page, (ROOT / source).read_text("utf-8"))
    add(files, config, "reference/index.md", "\n".join(overview()))
    for name in pages():
        add(files, config, reference(name), "\n".join(module_page(name)))
    notebook(files, config, "first_model")
    linked = (
        in_repository(page, target)
        for page in files.documentation_pages()
        for _, target, _ in LINK.findall(FENCE.sub("", page.content_string))
    )
    for path in dict.fromkeys(linked):
        if in_site(path).startswith("source/") and (ROOT / path).is_file():
            if path.endswith(".py"):
                add(files, config, in_site(path), source_page(path), InclusionLevel.NOT_IN_NAV)
            else:
                file = File.generated(config, in_site(path), abs_src_path=str(ROOT / path))
                files.append(file)
    return files


def on_page_markdown(markdown, page, **_):
    """Makes links lead to where things are in the site."""
    if page.file.src_uri.startswith(("reference/", "source/")):
        return markdown

    def link(match):
        before, target, after = match.groups()
        path = in_site(in_repository(page.file, target))
        return before + posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or ".") + after

    ends = [0, *(end for match in FENCE.finditer(markdown) for end in match.span()), len(markdown)]
    parts = [markdown[a:b] for a, b in itertools.pairwise(ends)]  # every other one is code
    parts[::2] = [LINK.sub(link, MARK.sub("", text)) for text in parts[::2]]
    return "".join(parts)


def on_post_build(config):
    """Warns of public names that no page of the reference has."""
    for name, names in pages().items():
        html = (pathlib.Path(config.site_dir) / reference(name)).with_suffix("")
        html = (html / "index.html").read_text("utf-8")
        for place in names:
            if f'id="{place}"' not in html:
                log.warning("%s is public, and the reference lacks it", place)


class Docstrings(griffe.Extension):
    """Reads docstrings as they are written in the library."""

    def on_object(self, *, obj, **_):
        """Makes blocks of code of examples, which Markdown would quote."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_attribute(self, *, attr, **_):
        """Takes the comment on the line of a field or a constant for its docstring."""
        code, _, comment = attr.source.partition("  # ")
        if not attr.docstring and comment and "\n" not in code:
            attr.docstring = griffe.Docstring(comment.partition("\n")[0], parent=attr)


def in_repository(page, target):
    """Returns the path in the repository that a page links to."""
    sources = {page: source for source, page in PAGES.items()}
    here = sources.get(page.src_uri, f"docs/{page.src_uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), target))


def in_site(path):
    """Returns where a file of the repository is in the site."""
    if path in PAGES or path.startswith("docs/"):
        return PAGES.get(path, path.removeprefix("docs/"))
    return f"source/{path}.md" if path.endswith(".py") else f"source/{path}"


def add(files, config, path, text, inclusion=InclusionLevel.UNDEFINED):
    """Adds a page, or a picture."""
    files.append(File.generated(config, path, content=text, inclusion=inclusion))


def source_page(path):
    """Returns the page of a Python file, with a link to the reference of its public names."""
    name = ".".join(path.removesuffix(".py").split("/")[:2])
    up = "../" * path.count("/") + "../"
    link = f"Its public names: [{name}]({up}{reference(name)})\n\n" if name in pages() else ""
    code = (ROOT / path).read_text("utf-8")
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n{link}````python\n{code}````\n"


def notebook(files, config, name):
    """Adds a notebook as it was executed: a page, and its pictures."""
    parts, pictures = [], 0
    for cell in json.loads((ROOT / f"docs/{name}.ipynb").read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                pictures += 1
                path = f"{name}_{pictures}.png"
                add(files, config, path, base64.b64decode(data["image/png"]))
                parts.append(f"![Output of the program above]({path})")
            else:
                lines = output.get("text") or data["text/plain"]
                parts.append("```text\n" + "".join(lines).rstrip() + "\n```")
    parts.append(f"[The notebook]({name}.ipynb), to run and to change.")
    add(files, config, f"{name}.md", "\n\n".join(parts))


@functools.cache
def trees():
    """Returns the syntax tree of each module of the library, by its name."""
    paths = sorted(LIBRARY.rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    pairs = zip(names, paths, strict=True)
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for name, path in pairs
    }


@functools.cache
def imports(module):
    """Returns from which module each name that a module imports comes, and its name there."""
    nodes = (node for node in ast.walk(trees()[module]) if isinstance(node, ast.ImportFrom))
    return {
        name.asname or name.name: (node.module, name.name) for node in nodes for name in node.names
    }


def home(module, name):
    """Returns where a name is defined, ``dann_jax.objectives.discrepancy.mmd``."""
    source = imports(module).get(name)
    return home(*source) if source and source[0] in trees() else f"{module}.{name}"


def public(module):
    """Returns where the names in a module's ``__all__`` are defined."""
    for node in trees()[module].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [home(module, name) for name in ast.literal_eval(node.value)]
    return []


@functools.cache
def pages():
    """Returns all public names of the library, by the module or package that has a page."""
    names = {}
    for place in sorted({place for module in trees() for place in public(module)}):
        names.setdefault(".".join(place.split(".")[:2]), []).append(place)
    return names


def reference(name):
    """Returns the page of a module or package."""
    return f"reference/{name.partition('.')[2]}.md"


def module_page(name):
    """Yields the lines of a page of the reference."""
    yield f"# {name}\n"
    for module in trees():
        if module != name and not module.startswith(f"{name}."):
            continue
        members = [p.rpartition(".")[2] for p in pages()[name] if p.rpartition(".")[0] == module]
        if module == name or members:
            yield f"## {module}\n" if module != name else ""
            options = {"members": members, "heading_level": 2 if module == name else 3}
            yield f"::: {module}\n    options: {json.dumps(options)}\n"


def overview():
    """Yields the lines of the first page of the reference."""
    yield "# Reference\n\nThe names of `dann_jax` itself:\n\n| name | |\n| --- | --- |"
    for place in public("dann_jax"):
        module, _, name = place.rpartition(".")
        yield f"| [`{name}`][{place}] | {summary(module, name)} |"
    yield "\nThe modules:\n\n| module | |\n| --- | --- |"
    for name in pages():
        first = ast.get_docstring(trees()[name]).partition("\n\n")[0].replace("\n", " ")
        yield f"| [`{name}`]({name.partition('.')[2]}.md) | {first} |"


def summary(module, name):
    """Returns the first paragraph of a name's documentation."""
    body = trees()[module].body
    for node, after in itertools.pairwise([*body, None]):
        if getattr(node, "name", None) == name:
            return ast.get_docstring(node).partition("\n\n")[0].replace("\n", " ")
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            value = getattr(after, "value", None)
            if isinstance(after, ast.Expr) and isinstance(value, ast.Constant):
                return str(value.value).partition("\n\n")[0].replace("\n", " ")
    return ""
