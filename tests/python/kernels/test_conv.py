"""The direct sparse convolution."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import sparse_tensor

from tersor.kernels import conv
from tersor.kernels.spmm import pack_blob


@settings(max_examples=40)
@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2)
)
def test_convolve_matches_the_definition(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    reach = dilation * (kernel - 1) + 1
    if reach > size + 2 * padding:
        return
    groups, channels, filters = 2, 4, 6
    dense, layer = sparse_tensor(filters, channels // groups * kernel**2, seed=size)
    x = np.random.default_rng(3).normal(size=(2, channels, size, size + 1)).astype(np.float32)
    found = conv.convolve(
        pack_blob(layer),
        x,
        (kernel, kernel),
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(dilation, dilation),
        groups=groups,
    )
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    weights = dense.reshape(filters, channels // groups, kernel, kernel)
    for o in range(filters):
        first = o // (filters // groups) * (channels // groups)
        for h in range(found.shape[2]):
            for w in range(found.shape[3]):
                window = padded[
                    :,
                    first : first + channels // groups,
                    h * stride : h * stride + reach : dilation,
                    w * stride : w * stride + reach : dilation,
                ]
                expected = (window * weights[o]).sum((1, 2, 3))
                assert np.allclose(found[:, o, h, w], expected, atol=1e-4)
