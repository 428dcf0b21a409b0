"""``train.precision: auto``: a fixed rule on the CPU's features and the kind of net."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from contrastive.device import cpu_features
from contrastive.training import is_narrow_transformer, precision, resolve_precision

CPU = torch.device("cpu")
BF16, AMX = ["avx2", "avx512", "avx512_bf16"], ["avx2", "avx512", "avx512_bf16", "amx_tile"]


@pytest.mark.parametrize(
    ("features", "intel", "narrow", "expected"),
    [
        (AMX, True, False, "bf16"),
        (AMX, True, True, "no"),
        (BF16, True, False, "no"),  # AMX hidden by a virtual machine
        (BF16, True, True, "no"),
        (BF16, False, False, "bf16"),
        (BF16, False, True, "bf16"),
        (["avx2"], False, False, "no"),
        ([], False, False, "no"),
    ],
)
def test_auto_is_bf16_only_where_that_is_faster(monkeypatch, features, intel, narrow, expected):
    monkeypatch.setattr(precision, "cpu_features", lambda: features)
    monkeypatch.setattr(precision, "_is_intel", lambda: intel)
    assert resolve_precision("auto", CPU, narrow) == expected
    assert resolve_precision("bf16", CPU, narrow) == "bf16"
    assert resolve_precision("fp32", CPU, narrow) == "no"


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, AMX),
        ("ALL", AMX),
        ("AVX512_CORE_BF16", BF16),
        ("avx512_core", ["avx2", "avx512"]),
        ("AVX2", ["avx2"]),
        ("SSE41", []),
    ],
)
def test_features_are_those_that_onednn_may_use(monkeypatch, limit, expected):
    for name in AMX:
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: True, raising=False)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert cpu_features() == expected


PATCHES = {"img_size": 32, "patch_size": 4}


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("resnet18", {}, False),
        ("convnext_atto", {}, False),
        ("vit_tiny_patch16_224", {**PATCHES, "embed_dim": 64, "num_heads": 2}, True),
        ("vit_tiny_patch16_224", {**PATCHES, "embed_dim": 126, "num_heads": 2}, True),
        ("vit_tiny_patch16_224", {**PATCHES, "embed_dim": 128, "num_heads": 2}, False),
        ("vit_tiny_patch16_224", PATCHES, False),
    ],
)
def test_only_networks_without_overlapping_windows_are_narrow_transformers(model, options, expected):
    network = timm.create_model(model, num_classes=0, **options)
    assert is_narrow_transformer(network) is expected


def test_a_network_without_products_is_not_narrow():
    assert not is_narrow_transformer(nn.Flatten())
