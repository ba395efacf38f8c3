"""A seeded sample of a data set's rows, for what needn't see all of them."""

from __future__ import annotations

import random
from pathlib import Path

from tunesmith.config.run_config import RunConfig
from tunesmith.data.sources import open_dataset
from tunesmith.errors import ConfigError


def sampled(config: RunConfig, number: int, folder: Path) -> tuple[RunConfig, int, int]:
    """The configuration with `number` rows of its data, drawn with its seed and written into `folder`; how
    many those are, and of how many. Nothing of them is held out.

    Raises:
        ConfigError: the data is a mixture, or its evaluation rows are another split of it.
        DataError: it can't be read.
        DownloadError: the Hub can't be reached, or refuses.
    """
    sources = config.sources()
    if len(sources) > 1 or config.dataset_test_split:
        raise ConfigError(
            "--sample reads one data set, without a split to evaluate on",
            where="command line",
            fix="leave --sample out: all rows are read then",
        )
    dataset = open_dataset(sources[0])
    total = min(len(dataset), config.max_rows or len(dataset))
    drawn = sorted(random.Random(config.seed).sample(range(total), min(number, total)))
    path = folder / "sample.parquet"
    dataset.select(drawn).to_parquet(path)
    changes = {
        "dataset": str(path),
        "map": sources[0].map,
        "dataset_config": None,
        "dataset_train_split": "train",
        "max_rows": None,
    }
    return config.model_copy(update=changes | {"test_size": None}), len(drawn), total
