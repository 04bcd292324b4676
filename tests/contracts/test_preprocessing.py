"""What `preprocess` in a hone.yaml means, and what is said of mistakes in it."""

from __future__ import annotations

import re

import pytest

from optimizers.contract.errors import InvalidDocument
from optimizers.contract.preprocessing import (
    Colour,
    Layout,
    Preprocessing,
    Resampling,
    preprocessing_document,
)
from optimizers.contract.profile import model_policy

WHOLE = """\
preprocess:
  resize: 256
  resampling: bicubic
  crop: [224, 192]
  colour: bgr
  scale: 0.00392156862745098
  mean: [0.485, 0.456, 0.406]
  std: [0.229, 0.224, 0.225]
  layout: nhwc
"""


def test_every_key_is_read() -> None:
    policy = model_policy(WHOLE, "m/hone.yaml")
    assert policy.preprocess == Preprocessing(
        resize=256,
        resampling=Resampling.BICUBIC,
        crop=(224, 192),
        colour=Colour.BGR,
        scale=0.00392156862745098,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        layout=Layout.NHWC,
    )
    assert model_policy("", "m/hone.yaml").preprocess == Preprocessing()
    body = "\n".join(line.removeprefix("  ") for line in WHOLE.splitlines()[1:])
    assert preprocessing_document(body, "wish.yaml") == policy.preprocess


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{sizes: 3}", r"m/hone.yaml:2: preprocess.sizes: unknown key; did you mean 'resize'"),
        ("{resize: 0}", r"preprocess.resize must be lengths from 1 to 16384, got 0"),
        ("{resize: [3, 99999]}", r"preprocess.resize must be lengths from 1 to 16384"),
        ("{resize: true}", r"preprocess.resize: expected no true or false, got True"),
        ("{resize: [1, 2, 3]}", r"preprocess.resize: "),
        ("{crop: 3}", r"preprocess.crop: .*tuple"),
        ("{scale: 0}", r"preprocess.scale must be a finite number above 0, got 0.0"),
        ("{scale: .inf}", r"preprocess.scale must be a finite number"),
        ("{scale: big}", r"preprocess.scale: .*number.*got 'big'"),
        ("{mean: [1, 2]}", r"preprocess.mean must be 3 numbers for rgb, got \(1.0, 2.0\)"),
        ("{colour: grey, std: [1, 1, 1]}", r"preprocess.std must be 1 numbers for grey"),
        ("{std: [1, 0, 1]}", r"preprocess.std must be numbers above 0"),
        ("{mean: [.nan, 0, 0]}", r"preprocess.mean must be finite numbers"),
        ("{layout: chw}", r"preprocess.layout: .*'nchw' or 'nhwc'.*got 'chw'"),
        ("[resize]", r"m/hone.yaml:2: preprocess: expected a mapping"),
        ("3", r"m/hone.yaml:2: preprocess: expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_line_and_key(text: str, said: str) -> None:
    with pytest.raises(InvalidDocument, match=said) as caught:
        model_policy(f"task: classification\npreprocess: {text}\n", "m/hone.yaml")
    assert re.match(r"m/hone.yaml:2: preprocess", str(caught.value))
