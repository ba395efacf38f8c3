"""The installed packages against the ranges in Tunesmith's own metadata; nothing here repeats a range."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from tunesmith.errors import MissingPackageError, VersionError

DISTRIBUTION = "tunesmith"


class PackageRange(NamedTuple):
    """A package that Tunesmith needs: its installed version, None when it is missing, and its range."""

    name: str
    found: str | None
    needed: str

    @property
    def fits(self) -> bool:
        """True when the package is installed in its range; a version that can't be read is outside of it."""
        if self.found is None:
            return False
        try:
            return SpecifierSet(self.needed).contains(Version(self.found), prereleases=True)
        except InvalidVersion:
            return False


def package_ranges(extra: str = "train") -> tuple[PackageRange, ...]:
    """Every package that `tunesmith[extra]` needs here, by name.

    Empty when Tunesmith runs from a source tree that was never installed: no metadata says what it needs.
    """
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ()
    wanted = [Requirement(line) for line in lines]
    return tuple(
        PackageRange(each.name, _installed(each.name), str(each.specifier))
        for each in sorted(wanted, key=lambda each: each.name)
        if each.marker is None or each.marker.evaluate({"extra": extra})
    )


def check_versions(extra: str = "train") -> None:
    """Make sure that every package of `tunesmith[extra]` is installed, and in the range it was tested with.

    A range has a floor and mostly no ceiling: newer versions than the tested ones are let through.

    Raises:
        MissingPackageError: a package isn't installed.
        VersionError: a package is outside its range. Both say what was found, what is needed and the command.
    """
    wrong = [each for each in package_ranges(extra) if not each.fits]
    if not wrong:
        return
    named = ", ".join(
        f"{each.name} {each.found or 'is missing'} (needs {each.needed or 'any version'})" for each in wrong
    )
    kind = MissingPackageError if any(each.found is None for each in wrong) else VersionError
    raise kind(f"installed packages do not fit: {named}", where=sys.executable, fix=install_command(wrong))


def install_command(wrong: Sequence[PackageRange]) -> str:
    """The pip command that brings the packages into their ranges, in the Python that runs."""
    return " ".join(["python -m pip install", *(f"'{each.name}{each.needed}'" for each in wrong)])


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
