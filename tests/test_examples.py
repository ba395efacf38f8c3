"""Every example is a run that loads."""

from pathlib import Path

import pytest

from tunesmith.config.loading import load_config

EXAMPLES = sorted(Path(__file__).parent.parent.joinpath("examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_loads_and_says_where_its_values_stand(path):
    loaded = load_config(run_yaml=path, environ={})
    assert loaded.config.learning_rate is not None
    assert loaded.provenance["model"].startswith(f"{path}:")


def test_examples_page_names_every_example():
    page = EXAMPLES[0].with_name("README.md").read_text()
    assert len(EXAMPLES) >= 4
    assert all(f"`{path.name}`" in page for path in EXAMPLES)
