"""The model of a run that is done, on the Hub: one commit to main, and what is left to do where it fails."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from tunesmith.config.run_config import Hub
from tunesmith.errors import ConfigError, TunesmithError
from tunesmith.publish.allowed import CURVE
from tunesmith.publish.card import card, is_ours
from tunesmith.publish.causes import Cause, cause_of
from tunesmith.publish.curve import draw_losses
from tunesmith.publish.exported import Exported, stage_exported
from tunesmith.publish.hub import Held, check_rights, commit, held, repository_url
from tunesmith.publish.outbound import refuse_secrets
from tunesmith.publish.patience import upload_limit_s, within
from tunesmith.publish.remote import Sender, send
from tunesmith.publish.staging import STAGE, clean_model, put_aside, put_run_aside
from tunesmith.runs.files import write_text_whole
from tunesmith.runs.folder import CHECKPOINT, PUSH, RunFolder

MAIN = "main"
# Before the second and the third attempt; a Hub that asks for more than the longest has to be asked later.
_WAITS_S, _LONGEST_WAIT_S = (5.0, 30.0), 300.0
_CARD = "README.md"
# Another push may have left more shards there, or an adapter where now a whole model is.
_WEIGHTS = re.compile(r"[^/]+\.safetensors(?:\.index\.json)?|adapter_config\.json")


@dataclass(frozen=True)
class Pushed:
    """What became of a push: where to look, and whether anything had changed; what is left, and why."""

    url: str
    is_changed: bool
    pending: tuple[str, ...] = ()
    cause: Cause | None = None


def push_run(
    run: RunFolder,
    hub: Hub,
    *,
    ends: bool,
    sender: Sender | None = None,
    exported: Sequence[Exported] = (),
) -> Pushed:
    """Put the model of a run on main, and where the run `ends` its last state on its branch of checkpoints.

    Until each is there run.json says that it is pending, where that is the run's own repository; whatever
    fails is told by the cause. `sender` is who sent the run's checkpoints in this process; `exported` goes to
    main with the model.

    Raises:
        ConfigError: others see the repository than should.
    """
    before = run.pending()
    repo_id, is_changed = str(hub.repo_id), False
    own = (run.record.get("config") or {}).get("hub") or {}

    def mark(what: str, is_pending: bool) -> None:
        if own.get("repo_id") == repo_id:
            run.mark_pending(what, is_pending)

    sends: dict[str, Callable[[Path], bool]] = {PUSH: lambda stage: _push_model(run, hub, stage, exported)}
    if ends:
        sends[CHECKPOINT] = lambda stage: _send_end(run, repo_id, stage, sender)
    for what in sends:
        mark(what, True)
    for what, work in sends.items():
        try:
            changed = _sent(run, repo_id, work)
        except ConfigError:
            mark(what, what in before)
            raise
        if isinstance(changed, Cause):
            left = tuple(sends)[list(sends).index(what) :]
            return Pushed(repository_url(repo_id), is_changed, left, changed)
        is_changed |= changed
        mark(what, False)
    return Pushed(repository_url(repo_id), is_changed)


def _sent(run: RunFolder, repo_id: str, work: Callable[[Path], bool]) -> bool | Cause:
    """What `work` gives, after as many attempts as make sense while somebody waits; else why it failed."""
    waits = iter(_WAITS_S)
    while True:
        cause = _attempt(run, repo_id, work)
        if isinstance(cause, bool):
            return cause
        wait_s = next(waits, None)
        asked_s = cause.wait_s or 0.0
        if wait_s is None or not cause.passes or cause.is_silence or asked_s > _LONGEST_WAIT_S:
            return cause
        sleep(max(wait_s, asked_s))


def _attempt(run: RunFolder, repo_id: str, work: Callable[[Path], bool]) -> bool | Cause:
    stage = run.path / STAGE / secrets.token_hex(4)
    try:
        return within(upload_limit_s(_size(run.path)), lambda: work(stage))
    except ConfigError:
        raise
    except Exception as error:  # the Hub's, httpx's and the network's are many (test_push.py)
        cause = cause_of(error, repo_id)
        if cause is None:
            raise
        return cause
    finally:
        shutil.rmtree(run.path / STAGE, ignore_errors=True)


def _push_model(run: RunFolder, hub: Hub, stage: Path, exported: Sequence[Exported]) -> bool:
    from huggingface_hub import HfApi

    repo_id = str(hub.repo_id)
    cause = check_rights(repo_id, public=hub.public)
    if cause is not None:
        raise _Unreachable(cause)
    put_aside(run.model_path, stage)
    stage_exported(exported, stage)
    clean_model(stage)
    if _may_write_card(repo_id, held(HfApi(), repo_id, MAIN)):
        has_picture = draw_losses(run, stage / CURVE)
        write_text_whole(
            stage / _CARD,
            card(run, repo_id, has_picture=has_picture, exported=[each.entry for each in exported]),
        )
    files = {path.relative_to(stage).as_posix(): path for path in refuse_secrets(stage).files}

    def gone(names: Collection[str]) -> set[str]:
        ours = f"{run.path.name}-"
        stale = {name for name in names if name.startswith(ours) and name.endswith(".gguf")}
        stale |= {name for name in names if _WEIGHTS.fullmatch(name) or name.startswith("merged/")}
        return stale - set(files)

    return commit(repo_id, MAIN, files, gone, f"Model of run {run.record.get('id')}")


def _may_write_card(repo_id: str, there: Held | None) -> bool:
    """Whether there is no card, or one that Tunesmith wrote and nobody has changed since."""
    from huggingface_hub import HfApi

    if there is None or _CARD not in there.files:
        return True
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        path = HfApi().hf_hub_download(repo_id, _CARD, revision=there.commit, local_dir=folder)
        return is_ours(Path(path).read_bytes().decode("utf-8", "replace"))


def _send_end(run: RunFolder, repo_id: str, stage: Path, sender: Sender | None) -> bool:
    newest = run.newest_checkpoint()
    step = newest[1] if newest else 0
    put_run_aside(run.path, stage)
    if newest:
        put_aside(newest[0], stage / newest[0].name)
    return send(stage, repo_id, step, None, sender or Sender.of(run))


class _Unreachable(TunesmithError):
    """The Hub didn't say whether it may be written to."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.said, fix=cause.fix)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
