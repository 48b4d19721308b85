"""The settings in AdapterHub's `adapter_config.json`, for the architectures that `Adapter` has, too.

Two architectures are supported: Pfeiffer's adapters (the library's "seq_bn": after the feed-forward layer, with the
normalised sum as input) and Houlsby's ("double_seq_bn": after both sub-layers, before the sum), each also with an
invertible adapter of NICE couplings ("_inv"). A setting that changes the architecture is refused by name. Settings that
matter in training only, such as dropout, are returned as they are and have no effect here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_PLACE_KEYS = ("mh_adapter", "output_adapter", "original_ln_before")
_PLACES = {"feed_forward": (False, True, True), "both_sublayers": (True, True, False)}
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu", "tanh": "tanh"}
_EARLY_ACTIVATIONS = {
    "gelu": "gelu_new",
    "gelu_orig": "gelu",
}  # name in files without a version -> name in files with one
_FIXED_SETTINGS: dict[str, Any] = {  # the only supported value, which is the format's default, too
    "architecture": None,
    "original_ln_after": True,
    "ln_before": False,
    "ln_after": False,
    "residual_before_ln": True,
    "is_parallel": False,
    "scaling": 1.0,
    "use_gating": False,
    "cross_adapter": False,
    "phm_layer": False,
    "new_attention_norm": False,
}
_IN_TRAINING_ONLY = ("dropout", "stochastic_depth", "init_weights", "init_weights_seed")
_IRRELEVANT = (  # options of features that `_FIXED_SETTINGS` switches off
    "adapter_residual_before_ln", "attention_type", "phm_dim", "phm_c_init", "phm_init_range", "phm_rank", "phm_bias",
    "learn_phm", "factorized_phm_W", "factorized_phm_rule", "shared_W_phm", "shared_phm_rule",
    "hypercomplex_nonlinearity",
)  # fmt: skip
_READ_KEYS = (
    *_PLACE_KEYS, "reduction_factor", "non_linearity", "leave_out", "inv_adapter", "inv_adapter_reduction_factor",
    "invertible_adapter",
)  # fmt: skip
_KNOWN_KEYS = {*_FIXED_SETTINGS, *_IN_TRAINING_ONLY, *_IRRELEVANT, *_READ_KEYS}
_BY_NAME = {
    "pfeiffer": ("feed_forward", "relu"),
    "seq_bn": ("feed_forward", "relu"),
    "houlsby": ("both_sublayers", "swish"),
    "double_seq_bn": ("both_sublayers", "swish"),
}
_DEFAULT_FACTOR, _DEFAULT_INVERTIBLE_FACTOR = 16, 2


@dataclass(frozen=True)
class HubSettings:
    """The architecture of one adapter of AdapterHub.

    Attributes:
        where: "feed_forward" (Pfeiffer) or "both_sublayers" (Houlsby).
        activation: a key of `xlt.modules.adapter.ACTIVATIONS`.
        reduction_factor: hidden size / bottleneck size; one number for all blocks, or a mapping from the number of a
            block ("0", ...) or "default".
        leave_out: numbers of the blocks without adapters.
        invertible_factor: reduction factor of the invertible adapter; None if there is none.
        in_training_only: settings that do not concern the architecture.
    """

    where: str
    activation: str
    reduction_factor: float | Mapping[str, float]
    leave_out: frozenset[int]
    invertible_factor: float | None
    in_training_only: Mapping[str, Any] = field(default_factory=dict)

    def bottleneck_size(self, hidden_size: int, block: int) -> int:
        """Returns the bottleneck size of a block's adapters.

        Raises:
            ValueError: the settings have no reduction factor for the block.
        """
        factor: float | None
        if isinstance(self.reduction_factor, Mapping):
            factor = self.reduction_factor.get(str(block), self.reduction_factor.get("default"))
        else:
            factor = self.reduction_factor
        if factor is None:
            raise ValueError(
                f"has no reduction_factor for block {block}: neither {str(block)!r} nor 'default' is a key"
            )
        return max(int(hidden_size // factor), 1)

    def coupling_size(self, inputs: int) -> int:
        """Returns the inner size of a coupling's network with `inputs` inputs; there must be an invertible adapter.

        Raises:
            ValueError: the size is zero.
        """
        assert self.invertible_factor is not None
        size = int(inputs // self.invertible_factor)
        if size < 1:  # the library builds an empty network
            raise ValueError(
                f"has inv_adapter_reduction_factor={self.invertible_factor}, more than the {inputs} inputs"
            )
        return size


def read_settings(content: Mapping[str, Any]) -> HubSettings:
    """Reads the settings of an `adapter_config.json`.

    Args:
        content: the parsed file.
    Raises:
        ValueError: a setting is missing, unknown or not supported; the message names it.
    """
    config = content.get("config")
    if isinstance(config, str):
        config = _config_by_name(config)
    if not isinstance(config, dict):
        raise ValueError("has no JSON object under the key 'config'")
    faults = [
        f"{key}={config[key]!r} (supported: {value!r})"
        for key, value in _FIXED_SETTINGS.items()
        if config.get(key, value) != value
    ]
    if faults:
        raise ValueError(f"has an adapter of another architecture: {', '.join(faults)}")
    if strange := sorted(config.keys() - _KNOWN_KEYS):
        raise ValueError(f"has an unknown setting {strange[0]}={config[strange[0]]!r}")
    if lacking := [key for key in ("mh_adapter", "output_adapter", "reduction_factor") if key not in config]:
        raise ValueError(f"has no setting {lacking[0]}")
    places = tuple(config.get(key, False) for key in _PLACE_KEYS)
    where = next((ours for ours, theirs in _PLACES.items() if theirs == places), None)
    if where is None:
        settings = ", ".join(f"{key}={place!r}" for key, place in zip(_PLACE_KEYS, places, strict=True))
        supported = f"Pfeiffer {_PLACES['feed_forward']}, Houlsby {_PLACES['both_sublayers']}"
        raise ValueError(f"has adapters at {settings}; supported: {supported}")
    return HubSettings(
        where,
        _activation(config.get("non_linearity"), versioned="version" in content),
        _reduction_factor(config["reduction_factor"]),
        _leave_out(config.get("leave_out")),
        _invertible_factor(config),
        {key: config[key] for key in _IN_TRAINING_ONLY if config.get(key)},
    )


def settings_as_config(settings: HubSettings) -> dict[str, Any]:
    """Returns the `config` of an `adapter_config.json` with these settings, for a file with a version."""
    config = {key: value for key, value in _FIXED_SETTINGS.items() if key not in ("architecture", "new_attention_norm")}
    config |= dict(zip(_PLACE_KEYS, _PLACES[settings.where], strict=True))
    config["non_linearity"] = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == settings.activation)
    config["reduction_factor"] = settings.reduction_factor
    config["leave_out"] = sorted(settings.leave_out)
    config["inv_adapter"] = None if settings.invertible_factor is None else "nice"
    config["inv_adapter_reduction_factor"] = settings.invertible_factor
    return config


def factor_for(sizes: Sequence[tuple[int, int]]) -> float:
    """Finds a reduction factor that gives all these inner sizes, a whole number if possible.

    Args:
        sizes: pairs of a number of inputs and an inner size, both at least 1.
    Raises:
        ValueError: no factor gives all of them.
    """
    low = max(inputs / (inner + 1) for inputs, inner in sizes)  # the largest factor that is too small
    high = min(inputs / inner for inputs, inner in sizes)
    for factor in (int(high), high, (low + high) / 2):
        if factor > 0 and all(int(inputs // factor) == inner for inputs, inner in sizes):
            return factor
    pairs = ", ".join(f"{inner} of {inputs}" for inputs, inner in sizes)
    raise ValueError(f"no reduction factor gives the inner sizes {pairs}")


def _config_by_name(name: str) -> dict[str, Any]:
    plain = name.removesuffix("+inv").removesuffix("_inv")
    if plain not in _BY_NAME:
        raise ValueError(f"has config={name!r}; supported by name: {', '.join(_BY_NAME)}, and these with '_inv'")
    where, activation = _BY_NAME[plain]
    config = dict(zip(_PLACE_KEYS, _PLACES[where], strict=True))
    invertible = {"inv_adapter": "nice", "inv_adapter_reduction_factor": _DEFAULT_INVERTIBLE_FACTOR}
    more = invertible if plain != name else {}
    return {**config, "non_linearity": activation, "reduction_factor": _DEFAULT_FACTOR, **more}


def _activation(name: object, *, versioned: bool) -> str:
    current_name = name.lower() if isinstance(name, str) else name
    if not versioned:
        current_name = _EARLY_ACTIVATIONS.get(str(current_name), current_name)
    if current_name not in _ACTIVATIONS:
        early = f" (now called {current_name})" if isinstance(name, str) and current_name != name.lower() else ""
        raise ValueError(f"has non_linearity={name!r}{early}; supported: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[str(current_name)]


def _reduction_factor(value: object) -> float | dict[str, float]:
    if isinstance(value, dict):
        return {str(block): _check_positive(f"reduction_factor[{block}]", factor) for block, factor in value.items()}
    return _check_positive("reduction_factor", value)


def _check_positive(key: str, number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
        raise ValueError(f"has {key}={number!r}; it must be a number above 0")
    return number


def _leave_out(blocks: object) -> frozenset[int]:
    if blocks is None:
        return frozenset()
    if not isinstance(blocks, list) or not all(isinstance(block, int) and block >= 0 for block in blocks):
        raise ValueError(f"has leave_out={blocks!r}; it must be a list of block numbers")
    return frozenset(blocks)


def _invertible_factor(config: Mapping[str, Any]) -> float | None:
    """Returns the reduction factor of the invertible adapter, or None without one.

    Early versions nested these settings and gave them an activation of their own, which later versions ignore.
    """
    kind, factor = config.get("inv_adapter"), config.get("inv_adapter_reduction_factor")
    if nested := config.get("invertible_adapter"):
        if not isinstance(nested, dict):
            raise ValueError(f"has invertible_adapter={nested!r}; it must be an object")
        kind, factor = nested.get("block_type"), nested.get("reduction_factor")
        activation = nested.get("non_linearity", config.get("non_linearity"))
        if activation != config.get("non_linearity"):
            raise ValueError(
                f"has invertible_adapter.non_linearity={activation!r} but non_linearity="
                f"{config.get('non_linearity')!r}: versions of the library disagree which one to use"
            )
    if not kind:
        return None
    if kind != "nice":
        raise ValueError(f"has an invertible adapter of kind {kind!r}; supported: 'nice'")
    return _check_positive("inv_adapter_reduction_factor", factor)
