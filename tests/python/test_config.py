"""Settings as plain data: hashable, comparable, to JSON and back; old names of them."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import two_linears

import tersor
from tersor import Config, LayerConfig
from tersor.config import ALGORITHMS, KINDS, METHODS, PRECISIONS
from tersor.io import container
from tersor.io.content import CONFIG
from tersor.io.state_dict import file_tensors


def numbers(least: float, most: float) -> st.SearchStrategy[float | None]:
    return st.none() | st.floats(least, most, allow_nan=False)


@st.composite
def layers(draw: st.DrawFn) -> LayerConfig:
    method = draw(st.sampled_from(METHODS))
    ecsq = method == "ecsq"
    bits = draw(numbers(0, 8)) if ecsq else None
    density = draw(numbers(0, 1))
    return LayerConfig(
        codebook_size=draw(st.none() | st.integers(2 if method == "integer" else 1, 255)),
        kind=draw(st.sampled_from(KINDS)),
        density=density,
        threshold=None if density is not None else draw(numbers(0, 9)),
        index_bits=draw(st.none() | st.integers(2, 8)),
        flat=draw(st.sampled_from([None, True, False])),
        method=method,
        algorithm=draw(st.sampled_from(ALGORITHMS)),
        bits=bits,
        penalty=draw(numbers(0, 1)) if ecsq and bits is None else None,
        prune=ecsq and draw(st.booleans()),
        precision=draw(st.sampled_from(PRECISIONS)),
    )


@st.composite
def configs(draw: st.DrawFn) -> Config:
    targets: list[dict[str, Any]] = [
        {},
        {"target_bytes": draw(st.integers(1, 10**12))},
        {"target_ratio": draw(st.floats(1e-3, 1e6))},
        {"max_drop": draw(st.floats(0, 1))},
        {"joint_codebook": draw(layers())},
    ]
    return Config(
        linear=draw(layers()),
        conv=draw(layers()),
        biases=draw(st.none() | layers()),
        entropy=draw(st.sampled_from([None, "huffman", "smallest"])),
        overrides=draw(st.dictionaries(st.text(), st.none() | layers(), max_size=4)),
        density=draw(numbers(0, 1)),
        **draw(st.sampled_from(targets)),
    )


@given(configs())
def test_json_gives_the_same_settings_back(config: Config) -> None:
    text = json.dumps(config.to_json(), allow_nan=False)
    back = Config.from_json(json.loads(text))
    assert back == config
    assert hash(back) == hash(config)
    assert list(back.named_overrides) == list(config.named_overrides)
    assert back.to_json() == config.to_json()


@given(layers())
def test_layers_too(settings: LayerConfig) -> None:
    back = LayerConfig.from_json(json.loads(json.dumps(settings.to_json(), allow_nan=False)))
    assert back == settings
    assert hash(back) == hash(settings)


def test_settings_are_values() -> None:
    given = {"a": LayerConfig(density=0.5), "b": None}
    config = Config(overrides=given)
    for other in (
        Config(overrides=list(given.items())),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        dataclasses.replace(config),
    ):
        assert other == config
        assert {config: 1}[other] == 1
    assert config != Config(overrides=dict(reversed(given.items())))  # the first match wins
    given["c"] = None  # what was given may change
    assert len(config.named_overrides) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.density = 0.5  # type: ignore[misc]


def test_numbers_of_numpy_become_plain_ones() -> None:
    config = Config(density=np.float32(0.5), target_bytes=np.int64(7))  # type: ignore[arg-type]
    assert json.loads(json.dumps(config.to_json())) == {"density": 0.5, "target_bytes": 7}


def test_defaults_are_not_written() -> None:
    assert Config().to_json() == {}
    assert Config(overrides={"a": LayerConfig(), "b": None}).to_json() == {
        "overrides": {"a": {}, "b": None}
    }


# ---- Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codebook_size": 0}, "codebook_size must be 1 to 255, not 0"),
        ({"codebook_size": 256}, "codebook_size must be 1 to 255"),
        ({"codebook_size": 3.0}, "codebook_size must be a whole number, not 3.0"),
        ({"codebook_size": "3"}, "codebook_size must be a whole number, not '3'"),
        ({"codebook_size": True}, "codebook_size must be a whole number"),
        ({"index_bits": 9}, "index_bits must be 2 to 8"),
        ({"density": "half"}, "density must be a number, not 'half'"),
        ({"density": True}, "density must be a number"),
        ({"density": 1.5}, "density must be 0 to 1"),
        ({"density": float("nan")}, "density must be finite"),
        ({"threshold": float("inf")}, "threshold must be finite"),
        ({"threshold": -1}, "threshold cannot be negative"),
        ({"threshold": 1, "density": 1}, "give either density or threshold"),
        ({"kind": "fp8"}, "kind 'fp8' is none of shared_fp32"),
        ({"kind": []}, r"kind \[\] is none of"),
        ({"method": "gptq"}, "method 'gptq' is none of kmeans"),
        ({"algorithm": "fast"}, "algorithm 'fast' is none of exact"),
        ({"precision": "lowest"}, "precision 'lowest' is none of highest"),
        ({"flat": "yes"}, "flat must be true or false, not 'yes'"),
        ({"prune": 2}, "prune must be true or false"),
        ({"prune": None}, "prune must be true or false"),
        ({"flat": 1}, "flat must be true or false"),
        ({"prune": True}, "only ecsq prunes"),
        ({"bits": 3}, "bits are those of ecsq"),
        ({"codebook_size": 1, "method": "integer"}, "integer needs a codebook_size of 2"),
        ({"bits": 9, "method": "ecsq"}, "bits are those of ecsq, 0 to 8"),
        ({"penalty": -1, "method": "ecsq"}, "a penalty is that of ecsq, 0 or more"),
        ({"bits": 1, "penalty": 1, "method": "ecsq"}, "give either bits or a penalty"),
    ],
)
def test_settings_of_a_layer_that_are_wrong(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerConfig(**arguments)
    with pytest.raises(ValueError, match=rf"^overrides\['fc'\]: {message}"):
        Config.from_json({"overrides": {"fc": arguments}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"linear": None}, "linear must be a LayerConfig, not None"),
        ({"biases": 3}, "biases must be a LayerConfig, not 3"),
        ({"overrides": "fc"}, "overrides must be a mapping from patterns to settings"),
        ({"overrides": 3}, "overrides must be a mapping from patterns to settings"),
        ({"overrides": {"fc": {"density": 1}}}, r"overrides\['fc'\] must be a LayerConfig or None"),
        ({"overrides": {3: None}}, "a pattern must be a string, not 3"),
        ({"overrides": [("a", None), ("a", None)]}, "'a' occurs twice"),
        ({"target_bytes": 0}, "target_bytes must be positive"),
        ({"target_bytes": 1.5}, "target_bytes must be a whole number"),
        ({"target_ratio": 0}, "target_ratio must be positive"),
        ({"target_ratio": float("inf")}, "target_ratio must be finite"),
        ({"max_drop": -0.1}, "max_drop cannot be negative"),
        ({"max_drop": 0.1, "target_ratio": 2}, "give one of target_bytes"),
        ({"joint_codebook": LayerConfig(), "max_drop": 0.1}, "cannot be combined with a target"),
        ({"density": 2}, "density must be 0 to 1"),
        ({"entropy": "best"}, "entropy 'best' is none of huffman, smallest"),
    ],
)
def test_settings_of_a_model_that_are_wrong(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"densty": 1}', "Config has no 'densty'; there are density"),
        ('{"linear": {"bit": 1}}', "linear: LayerConfig has no 'bit'; there are bits"),
        ('{"conv": 3}', "conv: a LayerConfig must be an object, not 3"),
        ('{"overrides": []}', "overrides must be an object of patterns"),
        ('{"density": "x"}', "density must be a number"),
        ("[]", "not an object"),
        ("{", "Expecting property name"),
        ("\xff", "codec|Expecting"),
        ("[" * 100_000, "recursion|not an object"),
        ('{"density": NaN}', "density must be finite"),
    ],
)
def test_errors_of_a_file_name_it(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^{path}: (.*)({message})"):
        Config.from_file(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    config = Config(overrides={"head*": None}, conv=LayerConfig(density=0.25))
    path.write_text(json.dumps(config.to_json()))
    assert Config.from_file(path) == config
    assert Config.from_file(str(path)) == config
    with pytest.raises(FileNotFoundError, match="absent"):
        Config.from_file(tmp_path / "absent.json")


# ---- In the files of models


def test_the_file_of_a_model_has_its_settings(tmp_path: Path) -> None:
    config = Config(overrides={"0": LayerConfig(density=0.5)}, density=0.7)
    path = tmp_path / "m"
    tersor.save(tersor.compress_(two_linears(), config), path)
    assert tersor.load_file(path).config == config
    loaded = tersor.load_model(path, two_linears())
    tersor.save(loaded, path)  # also after it was loaded
    assert tersor.load_file(path).config == config
    tersor.save(loaded, path, config=False)
    assert tersor.load_file(path).config is None
    tersor.save(tersor.decompress_(loaded), path)
    assert tersor.load_file(path).config is None


def test_default_settings_are_not_the_same_as_none(tmp_path: Path) -> None:
    tersor.save(tersor.compress_(two_linears()), tmp_path / "m")
    assert tersor.load_file(tmp_path / "m").config == Config()


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"newer": 1}', '{"density": "x"}', "[" * 99999])
def test_settings_that_cannot_be_read_are_left_out(text: str, tmp_path: Path) -> None:
    model = tersor.compress_(two_linears())
    tensors, _ = file_tensors(model.state_dict())
    container.write_file(tmp_path / "m", tensors, {CONFIG: text})
    assert tersor.load_file(tmp_path / "m").config is None
    tersor.load_model(tmp_path / "m", two_linears())


# ---- Presets, names that moved, old names


def test_the_entropy_of_a_model_is_that_of_each_layer() -> None:
    config = Config(entropy="smallest", overrides={"fc": LayerConfig(density=0.5), "out": None})
    assert config.for_layer("conv", 4) == LayerConfig(entropy="smallest")
    assert config.for_layer("fc", 2) == LayerConfig(density=0.5, entropy="smallest")
    assert config.for_layer("out", 2) is None
    own = LayerConfig(entropy="smallest")
    assert Config(linear=own).for_layer("fc", 2) is own


def test_presets() -> None:
    model = two_linears()
    sizes = [
        tersor.estimate(model, config).compressed_bytes
        for config in (Config.lossless_codes(), Config.balanced(), Config(), Config.small(10))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert Config.small(10) == Config(target_ratio=10)


@pytest.mark.parametrize(("name", "argument"), [("calibration", "data"), ("evaluate", "evaluate")])
def test_settings_that_became_arguments_say_so(name: str, argument: str) -> None:
    message = rf"Config no longer has {name}: use tersor.compress_\(model, config, {argument}=...\)"
    with pytest.raises(TypeError, match=message):
        Config(**{name: [1]})
    with pytest.raises(TypeError, match=message):
        dataclasses.replace(Config(), **{name: [1]})
    with pytest.raises(AttributeError, match=message):
        getattr(Config(), name)
    assert not hasattr(Config(), name)


@pytest.mark.parametrize(
    ("kind", "old", "new", "value"),
    [
        (LayerConfig, "values", "codebook_size", 7),
        (LayerConfig, "mode", "algorithm", "lloyd"),
        (Config, "together", "joint_codebook", LayerConfig(codebook_size=9)),
    ],
)
def test_old_names_work_and_warn(kind: Any, old: str, new: str, value: Any) -> None:
    expected = kind(**{new: value})
    with pytest.warns(DeprecationWarning, match=rf"{kind.__name__}\({old}=\) is now {new}=") as w:
        assert kind(**{old: value}) == expected
    assert w[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=f"is now {new}"):
        assert dataclasses.replace(kind(), **{old: value}) == expected
    with pytest.warns(DeprecationWarning, match=f"{kind.__name__}.{old} is now {new}") as w:
        assert getattr(expected, old) == value
    assert w[0].filename == __file__
    assert old not in expected.to_json()
    assert old not in repr(expected).replace(new, "")
