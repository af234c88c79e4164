"""How many parameters there are, and how many of them learn."""

from __future__ import annotations

from pathlib import Path

from building import built
from safetensors import safe_open

from tstune.models.ttm import SCRATCH_DEFAULTS, TTMSection

# TTM-r2 512-96: backbone, decoder and head
BACKBONE, DECODER, HEAD = 515_584, 191_296, 98_400
TTM_R2 = {"context_length": 512, "prediction_length": 96} | dict.fromkeys(SCRATCH_DEFAULTS)


def part_sizes(model) -> dict[str, int]:
    sizes = {"backbone": 0, "decoder": 0, "head": 0}
    for name, parameter in model.module.named_parameters():
        (part,) = set(sizes) & set(name.split("."))
        sizes[part] += parameter.numel()
    return sizes


def test_from_scratch_is_ttm_r2_by_default(make) -> None:
    model = built(make(None, model=TTM_R2, tuning={"mode": "from_scratch"}))
    info = model.get_model_info()
    assert (info["total"], info["trainable"]) == (805_280, 805_280)
    assert part_sizes(model) == {"backbone": BACKBONE, "decoder": DECODER, "head": HEAD}


def test_architecture_of_the_real_weights(make, shared: Path) -> None:
    model = built(make(None, model=TTM_R2, tuning={"mode": "from_scratch"}))
    ours = {name.removeprefix("network."): list(tensor.shape) for name, tensor in model.module.state_dict().items()}
    with safe_open(shared / "weights" / "ttm-r2-512-96" / "model.safetensors", "pt") as real:
        theirs = {name: real.get_slice(name).get_shape() for name in real.keys()}  # noqa: SIM118
    mixers = {name for name in theirs if ".channel_feature_mixer." in name}
    assert ours == {name: shape for name, shape in theirs.items() if name not in mixers}
    assert len(mixers) == 16, "that checkpoint mixes 31 channels in its two decoder layers"


def test_every_architecture_key_reaches_the_network(make) -> None:
    other = {
        "patch_length": 4,
        "d_model": 32,
        "num_layers": 2,
        "expansion_factor": 3,
        "adaptive_patching_levels": 0,
        "gated_attn": False,
        "self_attn": True,
        "use_positional_encoding": True,
        "decoder_num_layers": 2,
        "decoder_d_model": 8,
        "dropout": 0.25,
        "head_dropout": 0.35,
    }
    assert set(other) == set(SCRATCH_DEFAULTS) <= set(TTMSection.model_fields)
    config = built(make(None, model=other)).network.config
    assert {name: getattr(config, name) for name in other} == other
    assert (config.context_length, config.prediction_length, config.patch_stride) == (32, 8, 4)


def test_dropout_of_a_checkpoint(make) -> None:
    kept = built(make()).network.config
    assert (kept.dropout, kept.head_dropout) == (0.1, 0.1)
    changed = built(make(model={"head_dropout": 0.7})).network.config
    assert (changed.dropout, changed.head_dropout) == (0.1, 0.7)
