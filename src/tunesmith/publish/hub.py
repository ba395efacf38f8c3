"""A repository on the Hub: who may write to it, what it holds, and one commit at a time that is verified."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import ConfigError, HubError
from tunesmith.publish.causes import Cause, cause_of

# Others may write to the branch at the same moment: then what it holds is looked at again.
_ATTEMPTS = 3
_WRITTEN_MEANWHILE = (409, 412)
_TOO_MANY = 429


@dataclass(frozen=True)
class Held:
    """What a branch holds: its commit, and each file with its size and hash (SHA-256 or git's SHA-1)."""

    commit: str
    files: Mapping[str, tuple[int, str]]


def repository_url(repo_id: str) -> str:
    """Where a person looks at it."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo_id}"


def check_rights(repo_id: str, *, public: bool) -> Cause | None:
    """Make sure that this login may write to the repository, which is made where there is none.

    A cause comes back where that couldn't be asked, for the Hub may be there again when it counts.

    Raises:
        HubError: there is no login, or it may not write there.
        ConfigError: the repository is public and shouldn't be, or the other way round.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise HubError(
            f"{repo_id} can't be written to: there is no login for the Hub here",
            where="hub.repo_id",
            fix="hf auth login, or set HF_TOKEN, or leave hub.repo_id out",
        )
    api = HfApi()
    try:
        api.create_repo(repo_id, private=not public, exist_ok=True)
        api.auth_check(repo_id, write=True)
        is_private = bool(api.repo_info(repo_id).private)
    except Exception as error:  # the Hub's, httpx's and the network's are many (test_push.py)
        cause = cause_of(error, repo_id)
        if cause is None:
            raise
        if cause.passes or cause.status is None:
            return cause
        raise HubError(cause.said, where="hub.repo_id", fix=cause.fix) from None
    refuse_other_visibility(repo_id, is_private=is_private, public=public)
    return None


def refuse_other_visibility(repo_id: str, *, is_private: bool, public: bool) -> None:
    """Make sure that a repository is seen by those who should see it.

    Raises:
        ConfigError: it is public without being told so, or private though it was to be public.
    """
    if is_private == public:
        raise ConfigError(
            f"{repo_id} on the Hub is {'private' if is_private else 'public'}, and the model was to be "
            f"{'public' if public else 'private'}",
            where="hub.public",
            fix=f"change it at {repository_url(repo_id)}/settings, choose another repository, or "
            + ("leave hub.public out" if is_private else "set hub.public: true"),
        )


def held(api: Any, repo_id: str, branch: str) -> Held | None:
    """What the branch holds, or None where there is no such branch or repository."""
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    try:
        commit = api.repo_info(repo_id, revision=branch).sha
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return None
    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    files = [each for each in entries if isinstance(each, RepoFile)]
    return Held(
        commit, {each.path: (each.size, each.lfs.sha256 if each.lfs else each.blob_id) for each in files}
    )


def commit(
    repo_id: str,
    branch: str,
    files: Mapping[str, Path],
    gone: Callable[[Collection[str]], Collection[str]],
    message: str,
    check: Callable[[Held], None] = lambda held: None,
) -> bool:
    """Put `files` on the branch in one commit, and take away what `gone` names of what it holds.

    False comes back where the branch held all of it already. What the Hub holds afterwards is compared, hash
    by hash. `check` looks at the branch before, and may raise. A branch that there is not is made from main.

    Raises:
        HubError: the Hub says that it took the files, and holds others.
        Exception: huggingface_hub's and the network's own; `causes.cause_of` reads them.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    failure: Exception | None = None
    for _ in range(_ATTEMPTS):
        before = held(api, repo_id, branch)
        if before is None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
            before = held(api, repo_id, branch)
            if before is None:
                raise HubError(f"{repo_id} has no branch {branch}, and none can be made", where=repo_id)
        if failure is not None and _agrees(before, files) and not set(gone(before.files)):
            return True  # the commit was made, and only the answer was lost
        check(before)
        try:
            return _commit_once(api, repo_id, branch, before, files, gone, message)
        except Exception as error:  # whatever the attempt ended with, another may find it done (test_push.py)
            cause = cause_of(error, repo_id)
            if isinstance(error, HubError) or cause is None or not cause.passes or cause.status == _TOO_MANY:
                raise
            if failure is not None and cause.status not in _WRITTEN_MEANWHILE:
                raise
            failure = error
    assert failure is not None
    raise failure


def _commit_once(
    api: Any,
    repo_id: str,
    branch: str,
    before: Held,
    files: Mapping[str, Path],
    gone: Callable[[Collection[str]], Collection[str]],
    message: str,
) -> bool:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    changed = {name: path for name, path in files.items() if not _same(before.files.get(name), path)}
    deleted = sorted(set(gone(before.files)) - set(files))
    if not changed and not deleted:
        return False
    added = [CommitOperationAdd(name, str(path)) for name, path in changed.items()]
    for each in added:
        # One by one: of several at once huggingface_hub makes a pool of threads, which a process that gives
        # up would wait for at its exit.
        api.preupload_lfs_files(repo_id, [each], revision=branch, free_memory=False)
    operations = [*added, *(CommitOperationDelete(name, is_folder=False) for name in deleted)]
    api.create_commit(
        repo_id, operations, commit_message=message, revision=branch, parent_commit=before.commit
    )
    after = held(api, repo_id, branch)
    if after is None or not _agrees(after, files):
        raise HubError(
            f"the Hub holds other files in {repo_id} than those that were sent",
            where=repo_id,
            fix="give the same command again",
        )
    return True


def _agrees(held: Held, files: Mapping[str, Path]) -> bool:
    return all(_same(held.files.get(name), path) for name, path in files.items())


def _same(there: tuple[int, str] | None, path: Path) -> bool:
    """Whether the Hub's file is this one, by size and by the hash that it has there."""
    told = path.stat()
    if there is None or there[0] != told.st_size:
        return False
    return _hash(path, told.st_size, told.st_mtime_ns, is_git=len(there[1]) == 40) == there[1]


@functools.lru_cache(maxsize=1000)
def _hash(path: Path, size: int, changed_at: int, *, is_git: bool) -> str:
    hashed = hashlib.sha1(f"blob {size}\0".encode()) if is_git else hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            hashed.update(block)
    return hashed.hexdigest()
