"""A thousand generated configurations, wrong or odd: sentences and nothing else."""

import random

from tunesmith.config.loading import OWNED_TRL_KEYS, load_config
from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError

ODD = [
    "", " ", "null", "~", "true", "0", "-1", "3.5", "nan", ".nan", "inf", "1e999", "x", "é🙂", "[]", "[1, x]",
    "{}", "{a: 1}", "{path: x}", "[{path: x, weight: nan}]", "'", '"', "a: b", "*a", "&a x", "!!python/x y",
    "!t [1]", "2024-01-01", "2024-99-99", "0x", "0b2", "1_000", "!!int x", "!!set {a}", "!!binary zzz=", "|",
    "a\0b", "\ud800", "---", "%", "@", "`", "[" * 50, "9" * 400, "sft", "dpo", "train[:", "/" * 300,
]  # fmt: skip


def odd_keys(chosen: random.Random) -> str:
    fields = list(RunConfig.model_fields)
    name = chosen.choice(
        [*fields, *fields, *OWNED_TRL_KEYS, "lr", "trl.x", "trl.", "trl.a.b", "", "? [a]", "1"]
    )
    if chosen.random() < 0.2 and name:
        at = chosen.randrange(len(name))
        name = name[:at] + chosen.choice("xX_. ") + name[at + 1 :]
    return name


def odd_file(chosen: random.Random) -> bytes:
    lines = ["model: m", "dataset: d"] if chosen.random() < 0.7 else []
    for _ in range(chosen.randrange(4)):
        lines.append(f"{odd_keys(chosen)}: {chosen.choice(ODD)}")
        if chosen.random() < 0.2:
            lines += ["trl:", f"  {odd_keys(chosen)}: {chosen.choice(ODD)}"]
    chosen.shuffle(lines)
    raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    return raw[: chosen.randrange(len(raw) + 1)] if chosen.random() < 0.1 else raw


def test_a_thousand_odd_configurations_raise_sentences_and_nothing_else(tmp_path):
    chosen = random.Random(20261122)
    messages = []
    for _ in range(1000):
        path = tmp_path / "odd.yaml"
        path.write_bytes(odd_file(chosen))
        flags = {
            chosen.choice(list(RunConfig.model_fields)): chosen.choice(ODD)
            for _ in range(chosen.randrange(2))
        }
        sets = [f"{odd_keys(chosen)}={chosen.choice(ODD)}" for _ in range(chosen.randrange(2))]
        environ = (
            {f"TUNESMITH_{odd_keys(chosen).upper()}": chosen.choice(ODD)} if chosen.random() < 0.3 else {}
        )
        try:
            load_config(run_yaml=path, flags=flags, assignments=sets, environ=environ)
        except ConfigError as error:
            messages.append(error.message)
    assert all(message.strip() for message in messages)
    assert 500 < len(messages) < 1000
