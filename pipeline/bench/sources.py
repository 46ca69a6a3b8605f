"""Where a benchmark's code comes from: a path, a git URL, a version of a package, or an archive."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.bench.recipe import GitSource, Origin, SdistSource
from pipeline.bench.repository import clean
from pipeline.bench.sdist import Index, project_of, sha256_of, unpack
from pipeline.exceptions import InputError
from pipeline.snapshot import Snapshot
from pipeline.workspace import export_snapshot
from pipeline.workspace.clone import is_url, without_password

_PINNED = re.compile(r"([A-Za-z0-9][\w.-]*)\s*==\s*([\w.+!-]+)")
_ARCHIVES = (".tar.gz", ".tgz", ".tar.bz2", ".zip")


@dataclass(frozen=True)
class Library:
    """Fetches sources, each once, into one folder."""

    folder: Path  # of trees
    sdists: Path  # of archives
    clone_cache: Path
    index: Index

    def resolve(self, spec: str) -> Origin:
        """Return the source that a user means by a path, a URL, NAME==VERSION or an archive.

        Raises:
            InputError: it is none of these, or there is no such thing.
            EnvironmentBrokenError: the index does not answer.
        """
        if pinned := _PINNED.fullmatch(spec.strip()):
            return self._pinned(*pinned.groups())
        if is_url(spec):
            return self._git(spec, _last_name(spec))
        path = Path(spec).expanduser()
        if path.is_file() and path.name.endswith(_ARCHIVES):
            return self._archive(path)
        if path.is_dir():
            return self._git(str(path.resolve()), path.resolve().name)
        hint = "give a git repository's path or URL, NAME==VERSION of a package, or an sdist's path"
        if path.is_file():
            raise InputError(f"{spec} is a file and no archive of sources", hint=hint)
        if re.fullmatch(r"[A-Za-z0-9][\w.-]*", spec):
            hint = f"for a package name the version too: {spec}==1.0"
        raise InputError(f"there is no {spec}", hint=hint)

    def tree(self, origin: Origin) -> Snapshot:
        """Return the source's tree, clean of byte code and of git; it is shared, so it must not be changed.

        Raises:
            InputError: it is no longer what it was.
            EnvironmentBrokenError: it cannot be fetched.
        """
        folder = self._place(origin)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=_made(self.folder)) as scratch:
                if isinstance(origin, SdistSource):
                    archive = self.index.fetch(origin.project, origin.filename, self.sdists, origin.sha256)
                    self._keep(unpack(archive, Path(scratch)), origin)
                else:
                    tree = Path(scratch) / "tree"
                    export_snapshot(origin.repo, origin.commit, tree, clone_cache=self.clone_cache)
                    self._keep(tree, origin)
        return Snapshot(folder, "")

    def _pinned(self, project: str, version: str) -> SdistSource:
        filename = self.index.find(project, version)
        archive = self.index.fetch(project, filename, self.sdists)
        return SdistSource(
            project=project_of(filename)[0], version=version, filename=filename, sha256=sha256_of(archive)
        )

    def _archive(self, path: Path) -> SdistSource:
        project, version = project_of(path.name)
        self.sdists.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.sdists / path.name)
        return SdistSource(project=project, version=version, filename=path.name, sha256=sha256_of(path))

    def _git(self, repo: str, name: str) -> GitSource:
        """Return HEAD of a repository; what is not committed is no part of it, because nobody else has it."""
        with tempfile.TemporaryDirectory(dir=_made(self.folder)) as scratch:
            tree = Path(scratch) / "tree"
            commit = export_snapshot(repo, "HEAD", tree, clone_cache=self.clone_cache).commit
            origin = GitSource(project=_project(name), repo=without_password(repo), commit=commit)
            self._keep(tree, origin)  # at once: the URL without its password may not be enough
        return origin

    def _keep(self, tree: Path, origin: Origin) -> None:
        place = self._place(origin)
        if not place.is_dir():
            clean(tree)
            tree.rename(_made(place.parent) / place.name)

    def _place(self, origin: Origin) -> Path:
        version = origin.sha256 if isinstance(origin, SdistSource) else origin.commit
        return self.folder / "trees" / f"{_project(origin.project)}-{version[:16]}"


def _last_name(url: str) -> str:
    return re.split(r"[/:]", re.sub(r"(\.git)?/*$", "", url))[-1]


def _project(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower() or "repository"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
