"""The facts of a base model: its shape, its numbers and what its files take; no weight is loaded."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.errors import DownloadError, ModelError
from tunesmith.plan.architecture import Architecture, read_architecture, read_config
from tunesmith.plan.families import FAMILIES
from tunesmith.plan.parameters import Parameters, count_parameters, count_stored, stored_tensors, weight_files

CONFIG = "config.json"
WITH_HEADERS = "config.json and safetensors headers"
BUILT = "the model built without weights"
AS_LLAMA = "its layers planned as Llama's"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
# torch and transformers are imported first, which takes a cold disk a minute.
_CHILD_LIMIT_S = 300
# Headers are fetched of so many files at most: a request each.
_CHEAP_FILES = 32
_HUB_TIMEOUT_S = 5.0
# What a number of a model that isn't packed is stored in.
_UNPACKED = {"F64", "F32", "F16", "BF16"}
_LAYER = re.compile(r"(?:^|\.)(?:layers|h)\.(\d+)\.")
_HEAD = re.compile(r"(?:^|\.)(?:lm_head|embed_out)\.")
# Masks and frequencies that older files hold: buffers (GPT-2, GPT-NeoX, Llama before transformers 4.32).
_BUFFER = re.compile(r"\.(?:attn|attention)\.(?:bias|masked_bias)$|rotary_emb\.inv_freq$")
# Names that families outside the tables give to the same fact (transformers 5.23, models/*/configuration_*).
_STANDARD = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "num_key_value_heads": (),
    "head_dim": (),
    "intermediate_size": ("ffn_dim", "ffn_hidden_size", "n_inner"),
    "vocab_size": (),
    "max_position_embeddings": ("n_positions", "max_seq_len", "model_max_length"),
    "sliding_window": (),
    "tie_word_embeddings": (),
    "dtype": ("torch_dtype",),
    "quantization_config": (),
}
# A value of these that nobody can read costs the fact, not the plan; sizes have to be right.
_DISPENSABLE = {"head_dim", "sliding_window", "tie_word_embeddings", "dtype", "quantization_config"}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk")
_EXPERT_SIZE = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")


@dataclass(frozen=True)
class Base:
    """The base model. `stored_bytes` are those of its weight files; None where they can't be known.

    `source` says in words what the numbers are from, and what in them isn't the family's own; `classes` are
    the model's in transformers, as its configuration names them.
    """

    name: str
    architecture: Architecture
    parameters: Parameters
    stored_bytes: int | None
    source: str
    classes: tuple[str, ...] = ()


class _Stored(NamedTuple):
    """What is known of weight files: their bytes, and `dtype` and `shape` of each tensor."""

    num_bytes: int | None = None
    tensors: Mapping[str, Any] = {}


def read_base(model: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Base:
    """The facts of a folder, of a config.json, or of a model on the Hub.

    Families of the tables are counted from config.json, and held against the headers of safetensors files
    where there are any; every other family, and one whose config.json is odd in more than its sizes, is built
    without weights in a process of its own, which needs torch.

    Raises:
        ModelError: there is no such model, a fact is missing, or a file is damaged.
        DownloadError: the Hub can't be reached, or refuses.
    """
    path = _local(model)
    if path:
        config_path = path / CONFIG if path.is_dir() else path
        stored = _stored_in(config_path.parent) if config_path.name == CONFIG else _Stored()
    else:
        config_path = _fetch(model, revision)
        stored = _stored_in_cache(config_path.parent) or _stored_on_hub(model, revision)
    config = read_config(config_path)
    try:
        architecture = read_architecture(config)
    except ModelError as error:
        if not _has_to_be_built(config, error):
            raise
        name = str(config_path.parent) if path else model
        request = {"name": name, "path": str(config_path), "revision": revision}
        counted = _count_in_child(request | {"trust_remote_code": trust_remote_code}, error)
        base = base_of(model, counted["config"], counted["num_params"], counted["num_linear_params"])
        return replace(base, stored_bytes=stored.num_bytes, classes=_classes(config))
    parameters, source = _held_against(architecture, stored.tensors)
    return Base(model, architecture, parameters, stored.num_bytes, source, _classes(config))


def base_of(name: str, config: Mapping[str, Any], num_params: int, num_linear_params: int) -> Base:
    """The facts of a model that was built and counted, `config` being its configuration as a dictionary.

    What `num_params` differs from the family's closed form by is put into the head: a reward model has
    another. A family outside the tables is planned as Llama's, and so is one that the closed form can't be
    had of or has nothing to do with: the sizes that it states, all numbers and those of linear modules are
    its own, and how they are shared out isn't.

    Raises:
        ModelError: a size is missing, or is no number.
    """
    try:
        architecture = read_architecture(config)
    except ModelError:
        if _model_type(config) is None:
            raise
        return _as_llama(name, config, num_params, num_linear_params)
    counted = count_parameters(architecture)
    more = num_params - counted.total
    kind = "head" if counted.head + more >= 0 and not architecture.multimodal else "mlp"
    numbers = getattr(counted, kind) + more
    if numbers < 0:
        return _as_llama(name, config, num_params, num_linear_params)
    return Base(name, architecture, replace(counted, **{kind: numbers}), None, BUILT)


def _classes(config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("architectures")
    return tuple(map(str, named)) if isinstance(named, list) else ()


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def _model_type(config: Mapping[str, Any]) -> Any:
    return _text(config).get("model_type") or config.get("model_type")


def _has_to_be_built(config: Mapping[str, Any], error: ModelError) -> bool:
    """Whether a model that isn't told from its config.json because of `error` can be counted all the same."""
    model_type = _model_type(config)
    return isinstance(model_type, str) and (model_type not in FAMILIES or _key_of(error) in _DISPENSABLE)


def _key_of(error: ModelError) -> str:
    """The key at the top of a configuration that `error` is about."""
    return str(error.where).removeprefix("text_config.").partition(".")[0]


def _local(model: str) -> Path | None:
    path = Path(model)
    try:
        path = path.expanduser()
        return path if path.is_dir() or (path.suffix == ".json" and path.is_file()) else None
    except (OSError, RuntimeError):  # a name too long, a home that doesn't exist
        return None


def _held_against(architecture: Architecture, tensors: Mapping[str, Any]) -> tuple[Parameters, str]:
    """The numbers of a family of the tables, and where they are from.

    Not compared: packed weights, and files that hold more than a text model. Left out of the comparison, as
    transformers leaves them out: a stored head that is tied, layers for multi-token prediction, buffers. What
    the files hold beyond that counts as linear layers; what they lack is made anew when they are loaded.
    """
    counted = count_parameters(architecture)
    if not tensors or architecture.multimodal or architecture.quantization:
        return counted, CONFIG

    def is_loaded(name: str) -> bool:
        layer = _LAYER.search(name)
        beyond = layer is not None and int(layer[1]) >= architecture.num_layers
        return not (beyond or _BUFFER.search(name) or (architecture.tied and _HEAD.search(name)))

    stored = count_stored({name: tensor for name, tensor in tensors.items() if is_loaded(name)})
    if stored.keys() - _UNPACKED:
        return counted, CONFIG
    more = sum(stored.values()) - counted.total
    if more < 0:
        return counted, f"{CONFIG}; its safetensors files lack {-more:,} of these numbers"
    if more:
        counted = replace(counted, mlp=counted.mlp + more, linear=counted.linear + more)
        return counted, f"{WITH_HEADERS}, which hold {more:,} numbers more than the family has"
    return counted, WITH_HEADERS


def _as_llama(name: str, config: Mapping[str, Any], num_params: int, num_linear: int) -> Base:
    """A family outside the tables. A width of its feed-forward part that it doesn't state is the one that a
    gated part of as many linear numbers would have; with experts that is what all tokens pass.
    """
    text = _text(config)
    stated = {key: _first(text, (key, *others)) for key, others in _STANDARD.items()}
    wholes = {key: config.get(key) for key in ("tie_word_embeddings", "dtype", "quantization_config")}
    stated |= {key: value for key, value in wholes.items() if stated[key] is None}
    # Families without a largest position state none, or -1 (BLOOM, XLNet): 0.
    most = stated.pop("max_position_embeddings")
    positions = max(0, most) if isinstance(most, int) else 0
    width = stated["intermediate_size"] if isinstance(stated["intermediate_size"], int) else None
    shape = _read_without_oddities({**stated, "model_type": "llama", "intermediate_size": width or 1})
    layers, hidden = shape.num_layers, shape.hidden_size
    heads = 2 * (shape.num_heads + shape.num_key_value_heads)
    attention = min(num_linear, layers * hidden * shape.head_dim * heads)
    passed = (num_linear - attention) // (3 * hidden * layers)
    experts = _experts(text, layers, passed)
    if not width:
        width = passed or experts.get("expert_size")
    if not width:
        raise ModelError(
            f"intermediate_size of config.json is missing, and {name} has no feed-forward part to tell it by",
            where="intermediate_size",
            fix="name a causal language model of transformers",
        )
    shape = replace(shape, intermediate_size=width, max_positions=positions)
    parameters = _shared_out(shape, num_params, num_linear, attention, bool(experts))
    if experts:
        shape = replace(shape, **experts)
        active = parameters.experts * shape.num_experts_per_token // shape.num_experts
        parameters = replace(parameters, active_experts=active)
    return Base(name, shape, parameters, None, f"{BUILT}, {AS_LLAMA}")


def _read_without_oddities(stated: Mapping[str, Any]) -> Architecture:
    try:
        return read_architecture(stated)
    except ModelError as error:
        key = _key_of(error)
        if key not in _DISPENSABLE or stated.get(key) is None:
            raise
        return _read_without_oddities({**stated, key: None})


def _experts(text: Mapping[str, Any], num_layers: int, passed: int) -> dict[str, Any]:
    """The routed experts that a configuration states, taken for those of every layer; none where it doesn't
    say how many a token passes, how many there are and how wide they are."""
    many, chosen, size = (_first(text, names) for names in (_EXPERTS, _CHOSEN, _EXPERT_SIZE))
    if not all(isinstance(each, int) and each > 0 for each in (many, chosen, size)) or many == 1:
        return {}
    return {
        "num_experts": many,
        "num_experts_per_token": chosen,
        "expert_size": size,
        "shared_expert_size": passed,
        "expert_layers": tuple(range(num_layers)),
    }


def _shared_out(
    shape: Architecture, num_params: int, num_linear: int, attention: int, has_experts: bool
) -> Parameters:
    """`num_params` by kind: what is neither linear nor an end of the model are norms, and experts if any."""
    rows = shape.vocab_size * shape.hidden_size
    ends = min(rows * (1 if shape.tied else 2), num_params - num_linear)
    rest = num_params - num_linear - ends
    norms = min(rest, (2 * shape.num_layers + 1) * shape.hidden_size) if has_experts else rest
    return Parameters(
        embedding=min(rows, ends),
        head=ends - min(rows, ends),
        attention=attention,
        mlp=num_linear - attention,
        experts=rest - norms,
        router=0,
        norms=norms,
        active_experts=rest - norms,
        linear=num_linear,
    )


def _first(text: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((text[name] for name in names if text.get(name) is not None), None)


def _count_in_child(request: Mapping[str, Any], reason: ModelError) -> dict[str, Any]:
    """What train/count_parameters.py answers to `request`; `reason`, which says so, where it can't run."""
    if not all(importlib.util.find_spec(package) for package in ("torch", "transformers")):
        raise reason
    name = str(request["name"])
    # -P: a `torch` in the current folder is not the package.
    command = [sys.executable, "-P", "-m", "tunesmith.train.count_parameters"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, timeout=_CHILD_LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{name} could not be built without weights within {_CHILD_LIMIT_S:g} s", where=name,
            fix="try again: the first import of torch is the slowest",
        ) from error  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        raise ModelError(
            f"building {name} without weights ended with {done.returncode}: {said[:200]}", where=name,
            fix=f"see what it says: echo '{json.dumps(request)}' | {' '.join(command)}",
        ) from error  # fmt: skip
    if "error" in answer:
        trouble = answer["error"]
        kind = DownloadError if trouble["code"] == DownloadError.code else ModelError
        raise kind(trouble["message"], where=trouble["where"], fix=trouble["fix"])
    return answer


def _stored_in(folder: Path) -> _Stored:
    """Bytes of a folder's weight files, PyTorch's own where it has no others, and safetensors headers."""
    tensors = stored_tensors(folder)
    files = weight_files(folder) or sorted(folder.glob("pytorch_model*.bin"))
    return _Stored(sum(path.stat().st_size for path in files) or None, tensors)


def _stored_in_cache(snapshot: Path) -> _Stored | None:
    """As `_stored_in` of the Hub's cache; None where not all files are there."""
    if not any((snapshot / name).is_file() for name in (_WEIGHTS, _INDEX)):
        return None
    try:
        return _stored_in(snapshot)
    except ModelError:
        return None


def _fetch(model: str, revision: str | None) -> Path:
    """Where config.json of a Hub model lies in the cache."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, CONFIG, revision=revision))
    except Exception as error:  # the Hub's client raises many kinds; each is a sentence (test_plan_base.py)
        raise _hub_sentence(model, revision, error) from error


def _hub_sentence(model: str, revision: str | None, error: Exception) -> ModelError | DownloadError:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RevisionNotFoundError

    from tunesmith.data.tokenizer import model_sentence

    where = f"https://huggingface.co/{model}"
    if isinstance(error, RevisionNotFoundError):
        return ModelError(
            f"{model} has no revision {revision!r}", where=where, fix="name a branch, a tag or a commit of it"
        )
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return ModelError(
            f"{model} has no {CONFIG}: it is no model of transformers", where=where, fix="name one that has"
        )
    # As transformers hands it on. The client's advice names gated models where a model doesn't exist, too.
    plain = OSError(str(error).partition("\n")[0])
    plain.__cause__ = error
    return model_sentence(model, plain, "configuration")


def _stored_on_hub(model: str, revision: str | None) -> _Stored:
    """The headers of safetensors files on the Hub, by range requests; nothing where they can't be had.

    Of a model in many files only the bytes, as its index states them.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    api = HfApi()

    def read(name: str) -> Mapping[str, Any]:
        found = api.parse_safetensors_file_metadata(model, name, revision=revision, timeout=_HUB_TIMEOUT_S)
        return found.tensors  # type: ignore[no-any-return]

    try:
        try:
            files = [read(_WEIGHTS)]
        except EntryNotFoundError:
            index = json.loads(Path(hf_hub_download(model, _INDEX, revision=revision)).read_text("utf-8"))
            names = sorted(set(index["weight_map"].values()))
            if len(names) > _CHEAP_FILES:
                return _Stored(int(index["metadata"]["total_size"]))
            with ThreadPoolExecutor(8) as pool:
                files = list(pool.map(read, names))
        tensors = {name: tensor for file in files for name, tensor in file.items()}
        size = sum(max((each.data_offsets[1] for each in file.values()), default=0) for file in files)
        return _Stored(size, {n: {"dtype": t.dtype, "shape": t.shape} for n, t in tensors.items()})
    except Exception:  # whatever keeps the Hub from telling costs the check, not the plan (test_plan_base.py)
        return _Stored()
