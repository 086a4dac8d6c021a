"""What NNCodec makes of a checkpoint at many step sizes; runs in NNCodec's own environment.

    python -m benchmarks.peers.nncodec_sweep NET WEIGHTS.safetensors ERROR OUTPUT.json

Writes ``[{bytes, error, settings}]``: the length of the bit stream, the error in per cent of the
10,000 test images after decoding it; from coarse to fine, until ERROR is reached. NNCodec is
Fraunhofer HHI's implementation of ISO/IEC 15938-17 (DeepCABAC).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

# NNCodec imports torchvision for data sets that are not used here; PyPI's asks for CUDA.
for module in ("torchvision", "torchvision.models"):
    sys.modules[module] = MagicMock()

import torch  # noqa: E402
from nncodec.nn import decode, encode  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from examples.mnist.dataset import error_percent, load_test  # noqa: E402
from examples.mnist.models import MODELS  # noqa: E402

# Step sizes from coarse to fine (four to an octave); those of biases; trellis-coded or scalar.
QP = range(-10, -45, -1)
BIAS_QP = (-36, -20)
TRELLIS = (True, False)


def main() -> None:
    """Command line."""
    net, weights = sys.argv[1], load_file(sys.argv[2])
    wanted, output = float(sys.argv[3]), Path(sys.argv[4])
    images, labels = load_test()
    results: list[dict[str, Any]] = []
    for bias_qp, trellis in itertools.product(BIAS_QP, TRELLIS):
        for qp in QP:
            settings = {"qp": qp, "nonweight_qp": bias_qp, "use_dq": trellis, "verbose": False}
            with contextlib.redirect_stdout(io.StringIO()):
                stream = encode(dict(weights), args={**settings, "results": str(output.parent)})
                decoded = decode(stream)
            model = MODELS[net]()
            model.load_state_dict({name: torch.from_numpy(w) for name, w in decoded.items()})
            error = error_percent(model.eval(), images, labels)
            results.append({"bytes": len(stream), "error": error, **settings})
            print(results[-1], flush=True)
            if error <= wanted:
                break
    output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
