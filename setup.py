"""The description of the package for an index: the README, without links that lead nowhere there.

All else is in setup.cfg.
"""

import configparser
import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent


def description(source: str | None) -> str:
    """Returns the README with links that work outside the repository.

    Args:
        source: address of the repository, to which links to its files are made absolute; None to
            leave their text alone.
    """

    def link(match):
        text, target = match.groups()
        if re.match("https?:", target):
            return match[0]
        return f"[{text}]({source}/blob/main/{target})" if source else text

    readme = (ROOT / "README.md").read_text("utf-8")
    return re.sub(r"(?<!!)\[([^]\n]+)\]\(([^()\s]+)\)", link, readme)


def source() -> str | None:
    """Returns the address of the repository in setup.cfg, if it is there."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    addresses = re.findall(r"^Source *= *(\S+)", config["metadata"]["project_urls"], re.M)
    return addresses[0].rstrip("/") if addresses else None


if __name__ == "__main__":
    setuptools.setup(long_description=description(source()))
