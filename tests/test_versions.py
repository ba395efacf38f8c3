"""Version skew: installed packages against their ranges, both tested ends, and renamed arguments."""

from __future__ import annotations

import dataclasses
import importlib
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from running import tunesmith

from tunesmith.config.run_config import RunConfig
from tunesmith.errors import ConfigError, MissingPackageError, VersionError
from tunesmith.train.renamed import OF_TRANSFORMERS, OF_TRL, explain, new_name
from tunesmith.train.trl_settings import check_trl_keys
from tunesmith.train.versions import check_versions, package_ranges

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# What `make venv` installs; the other extras are for those who need them.
RANGES = {
    canonicalize_name(each.name): each
    for each in map(Requirement, [*PROJECT["dependencies"], *EXTRAS["train"], *EXTRAS["dev"]])
}
TO_TRAIN = {
    canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *EXTRAS["train"]]
}
FLOORS = {
    name: next(bound.version for bound in each.specifier if bound.operator == ">=")
    for name, each in RANGES.items()
}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(package): version for package, version in pairs}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Writes the metadata of packages where Python finds it before the real ones."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, version: str, requires: list[str] | None = None) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {line}" for line in requires or []]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()

    return write


@pytest.fixture
def needs(install):
    """Makes Tunesmith's metadata need exactly these packages to train."""
    return lambda *lines: install("tunesmith", "0.0.1", [f"{line} ; extra == 'train'" for line in lines])


def test_the_packages_of_this_environment_fit():
    check_versions()
    assert {each.name for each in package_ranges()} >= {"torch", "transformers", "trl", "peft", "trackio"}


def test_ranges_are_those_of_pyproject():
    found = {canonicalize_name(each.name): each.needed for each in package_ranges()}
    assert found == {name: str(RANGES[name].specifier) for name in TO_TRAIN}, "run make venv"


@pytest.mark.parametrize(
    "name", ["torch", "transformers", "trl", "peft", "accelerate", "datasets", "trackio"]
)
@pytest.mark.parametrize(
    ("shift", "fits"),
    [("floor", True), ("floor+cpu", True), ("later", True), ("earlier", False), ("dev", False), ("?", False)],
)
def test_a_version_below_the_floor_is_refused_and_a_newer_one_is_not(install, needs, name, shift, fits):
    floor = Version(FLOORS[name])
    found = {
        "floor": str(floor),
        "floor+cpu": f"{floor}+cpu",
        "later": f"{floor.major}.{floor.minor + 40}.1",
        "earlier": f"{floor.major}.{floor.minor - 1}.99" if floor.minor else f"{floor.major - 1}.99",
        "dev": f"{floor}.dev0",
        "?": "unknown",
    }[shift]
    needs(str(RANGES[name]))
    install(name, found)
    if fits:
        check_versions()
        return
    with pytest.raises(VersionError) as caught:
        check_versions()
    assert "\n" not in caught.value.message
    assert f"{name} {found} (needs {RANGES[name].specifier})" in caught.value.message
    assert f"pip install '{RANGES[name].name}{RANGES[name].specifier}'" in caught.value.fix
    assert (caught.value.code, caught.value.exit_code) == ("versions", 2)
    assert isinstance(caught.value, ImportError)


def test_the_ceiling_of_a_range_holds(install, needs):
    needs("trl>=1.16,<2")
    install("trl", "2.0.0")
    with pytest.raises(VersionError, match=r"trl 2\.0\.0"):
        check_versions()


def test_every_misfit_is_named_at_once_and_a_missing_package_is_a_missing_package(install, needs):
    needs("peft>=0.19", "torch>=2.11", "not-installed-anywhere>=1.2", "psutil>=1")
    install("peft", "0.18.1")
    install("torch", "2.9.1+cu130")
    with pytest.raises(MissingPackageError) as caught:
        check_versions()
    assert caught.value.message == (
        "installed packages do not fit: not-installed-anywhere is missing (needs >=1.2), "
        "peft 0.18.1 (needs >=0.19), torch 2.9.1+cu130 (needs >=2.11)"
    )
    command = "python -m pip install 'not-installed-anywhere>=1.2' 'peft>=0.19' 'torch>=2.11'"
    assert caught.value.fix == command


def test_packages_of_other_extras_and_other_systems_are_not_asked_for(install):
    install(
        "tunesmith",
        "0.0.1",
        ["psutil>=1", "no-a ; extra == 'dev'", "no-b ; extra == 'train' and sys_platform == 'other'"],
    )
    assert [each.name for each in package_ranges()] == ["psutil"]


def test_a_source_tree_that_was_never_installed_knows_no_ranges(monkeypatch):
    monkeypatch.setattr("tunesmith.train.versions.DISTRIBUTION", "tunesmith-never-installed")
    assert package_ranges() == ()
    check_versions()
    assert "unknown" in tunesmith("doctor").out


def test_doctor_shows_every_package_with_its_range():
    ran = tunesmith("doctor", "--json")
    packages = {each["name"]: each for each in ran.document["packages"]}
    assert packages["trl"] == {
        "name": "trl", "found": metadata.version("trl"), "needed": str(RANGES["trl"].specifier), "fits": True,
    }  # fmt: skip
    assert ran.document["out_of_range"] == []
    assert ran.document["install"] is None
    shown = tunesmith("doctor").out
    assert re.search(rf"^ *peft +{re.escape(metadata.version('peft'))} +>=", shown, re.MULTILINE)
    assert "out of range" not in shown


def test_doctor_marks_what_is_out_of_range_and_says_how_to_mend_it(install):
    install("peft", "0.18.1")
    ran = tunesmith("doctor", "--json")
    assert ran.code == 0
    assert ran.document["out_of_range"] == ["peft"]
    command = f"python -m pip install 'peft{RANGES['peft'].specifier}'"
    assert ran.document["install"] == command
    shown = tunesmith("doctor")
    assert re.search(r"^ *peft +0\.18\.1 .* out of range", shown.out, re.MULTILINE)
    assert command in shown.err
    assert "ready to train" not in shown.err


def test_the_oldest_environment_is_the_lower_end_of_every_range():
    oldest = pins("constraints-oldest.txt")
    assert set(oldest) == set(RANGES)
    wrong = {name: pin for name, pin in oldest.items() if Version(pin) != Version(FLOORS[name])}
    assert not wrong, (
        f"constraints-oldest.txt should have {[FLOORS[name] for name in wrong]} for {list(wrong)}"
    )


def test_the_newest_environment_is_in_every_range_and_not_below_the_oldest():
    newest, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    for name, each in RANGES.items():
        assert newest[name] in each.specifier, name
        assert Version(newest[name]) >= Version(oldest[name]), name
    assert f"TORCH := torch=={newest['torch']}\n" in (ROOT / "Makefile").read_text()


def test_the_gpu_machines_versions_are_in_the_range():
    # torch 2.11.0+cu130 and transformers 5.17 are what the H100 and H200 machines come with.
    assert Version("2.11.0+cu130") in RANGES["torch"].specifier
    assert Version("5.17.0") in RANGES["transformers"].specifier


def test_the_versions_page_shows_the_ranges_and_both_ends():
    newest, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    page = (ROOT / "docs" / "versions.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {RANGES[name].specifier} | {oldest[name]} | {newest[name]} |"
        for name in sorted(TO_TRAIN)
    ]


@pytest.fixture(scope="module")
def arguments_of() -> dict[str, set[str]]:
    """The arguments of each of TRL's config classes, as installed."""
    import trl
    from trl.experimental.cpo import CPOConfig
    from trl.experimental.orpo import ORPOConfig

    stable = (
        "SFTConfig",
        "DPOConfig",
        "KTOConfig",
        "GRPOConfig",
        "RLOOConfig",
        "DistillationConfig",
        "RewardConfig",
    )
    classes = [getattr(trl, name) for name in stable] + [CPOConfig, ORPOConfig]
    return {
        each.__name__: {field.name for field in dataclasses.fields(each) if field.init} for each in classes
    }


def test_every_renamed_argument_is_gone_and_its_new_name_is_there(arguments_of):
    assert set(OF_TRL) <= set(arguments_of)
    for class_name, known in arguments_of.items():
        for key in {**OF_TRANSFORMERS, **OF_TRL.get(class_name, {})}:
            assert key not in known, f"{class_name} still has {key}"
            now = new_name(class_name, key)
            assert now is None or now in known, f"{class_name} has no {now}, for {key}"
            told = explain(class_name, key)
            assert told.fix
            for named in re.findall(r"\btrl\.(\w+)", told.fix):
                assert named in known, f"{class_name} has no {named}, told for {key}"


@pytest.mark.parametrize(
    ("class_name", "key", "message", "fix"),
    [
        ("SFTConfig", "max_seq_length", "TRL renamed max_seq_length to max_length (since 0.20)",
         "write max_length at the top level"),
        ("SFTConfig", "evaluation_strategy",
         "transformers renamed evaluation_strategy to eval_strategy (since 4.51)", "use eval_steps"),
        ("DPOConfig", "warmup_ratio", "transformers renamed warmup_ratio to warmup_steps (since 5.15)",
         "write warmup_steps at the top level: a value below 1 is a share of the run"),
        ("DPOConfig", "rpo_alpha", "TRL removed rpo_alpha (since 0.29)", "trl.loss_weights"),
        ("DPOConfig", "label_pad_token_id", "TRL removed label_pad_token_id (since 0.29)", "leave it out"),
        ("GRPOConfig", "max_prompt_length", "TRL removed max_prompt_length (since 0.28)", "drop rows"),
        ("GRPOConfig", "group_by_length",
         "transformers renamed group_by_length to train_sampling_strategy (since 5.2)",
         "write trl.train_sampling_strategy: group_by_length"),
        ("RLOOConfig", "kl_coef", "TRL renamed kl_coef to beta (since 0.25)", "write trl.beta"),
        ("RLOOConfig", "rloo_k", "TRL renamed rloo_k to num_generations (since 0.25)",
         "write num_generations at the top level"),
        ("KTOConfig", "push_to_hub_token", "transformers renamed push_to_hub_token to hub_token (since 5.0)",
         "hf auth login"),
    ],
)  # fmt: skip
def test_an_old_argument_is_answered_with_what_to_write_now(class_name, key, message, fix):
    told = explain(class_name, key)
    assert told.message == message
    assert fix in told.fix


def test_an_argument_of_another_class_or_of_none_is_not_explained():
    assert explain("SFTConfig", "rpo_alpha") is None
    assert new_name("GRPOConfig", "max_seq_length") is None
    assert explain("SFTConfig", "weight_dekay") is None


@dataclasses.dataclass
class SFTConfig:
    """As TRL's, with fewer arguments."""

    weight_decay: float = 0.0
    model_init_kwargs: dict | None = None


@pytest.mark.parametrize(
    ("key", "message", "fix"),
    [
        (
            "use_liger",
            "TRL removed use_liger (since 0.18)",
            "write trl.model_init_kwargs: {use_kernels: true}",
        ),
        (
            "max_seq_length",
            "TRL renamed max_seq_length to max_length (since 0.20)",
            "write max_length at the top level",
        ),
        ("weight_dekay", "SFTConfig of TRL has no argument 'weight_dekay'", "did you mean weight_decay?"),
    ],
)
def test_the_trl_table_is_told_what_became_of_a_key(key, message, fix):
    config = RunConfig(model="m", dataset="d", trl={key: 1})
    with pytest.raises(ConfigError) as caught:
        check_trl_keys(config, SFTConfig)
    assert (caught.value.message, caught.value.where, caught.value.fix) == (message, f"trl.{key}", fix)
