"""Every test runs offline and leaves the user's caches, runs and tokens alone."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

_USER_ENVIRONMENT = dict(os.environ)
# Workers of xdist inherit what is set below.
_USER_CACHE = os.environ.setdefault(
    "USER_CACHE_OF_TESTS",
    os.environ.get("TUNESMITH_CACHE")
    or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunesmith"),
)
# Libraries read these once, at import: they are set while pytest loads this file, before any test module.
_HOME = Path(tempfile.mkdtemp(prefix="tunesmith-tests-"))
os.environ.update(
    HF_HOME=str(_HOME / "huggingface"),
    TRACKIO_DIR=str(_HOME / "trackio"),
    TUNESMITH_CACHE=str(_HOME / "tunesmith"),
    XDG_CACHE_HOME=str(_HOME / "cache"),
    XDG_CONFIG_HOME=str(_HOME / "config"),
    XDG_DATA_HOME=str(_HOME / "data"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
)
_INHERITED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
for _name in (*_INHERITED, "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID"):
    os.environ.pop(_name, None)


if "PYTEST_XDIST_WORKER" in os.environ:
    # Two workers on two cores: more threads than cores make a step several times slower.
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a two-layer chat model (see tiny.py). Shared by all tests: read it, never write to it."""
    from tiny import write_tiny_model

    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny-chat")


@pytest.fixture
def user_environment() -> dict[str, str]:
    """The environment as the user has it, caches included, for the test that needs the demo's weights."""
    return dict(_USER_ENVIRONMENT)


@pytest.fixture(scope="session")
def user_cache() -> Path:
    """Where Tunesmith keeps the user's tools and weights, for tests that need these large files."""
    return Path(_USER_CACHE)
