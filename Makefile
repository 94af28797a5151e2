# Everything a fresh Debian machine with Python 3.11, JDK 17 and Maven needs: `make demo` and `make test` set up what
# they use. What was built is kept in .venv, .cache and Maven's own repository, so a second run takes seconds.
PYTHON ?= python3
BIN := .venv/bin
JAR := beam_k8s/jars/beam-k8s-runner.jar
RUNNER_SOURCES := $(shell find images/runner -path '*/target' -prune -o -type f -print 2>/dev/null)

.PHONY: demo test test-desk test-cluster cluster-up cluster-down soak lint jar wheel runtime-context setup check clean

demo: setup $(JAR) ## two Kafka topics -> Beam Python on Flink -> a third topic, all real, on this machine
	$(BIN)/python -m tests.cluster.demo

test: setup $(JAR) ## all tests; Kubernetes is compiled meanwhile, in the time that the first of them leave over
	@setsid nice -n 19 $(BIN)/python -c 'from tests.cluster import parts; parts.hyperkube()' >/dev/null 2>&1 & \
	build=$$!; trap "kill -- -$$build 2>/dev/null" EXIT INT TERM; $(MAKE) test-desk && $(MAKE) test-cluster

test-desk: setup $(JAR) lint ## all but those that need Kubernetes
	$(BIN)/pytest -m 'not slow and not cluster' $(PYTEST_ARGS)

test-cluster: setup $(JAR) ## those: as root on Debian; tests/cluster/README.md
	$(BIN)/python -m tests.cluster.kube build
	$(BIN)/pytest -m 'cluster and not slow' $(PYTEST_ARGS)

cluster-up: setup ## Kubernetes and Flink's operator on this machine, to try things by hand
	$(BIN)/python -m tests.cluster.kube up

cluster-down:
	$(BIN)/python -m tests.cluster.kube down

soak: setup $(JAR) ## what takes dozens of runs or half an hour
	$(BIN)/pytest -m slow --timeout 7200 $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy -p beam_k8s
	PYTHONPATH=. $(BIN)/lint-imports --no-cache

setup: check .venv/.installed
jar: check $(JAR)

wheel: setup $(JAR)
	$(BIN)/python -m build --wheel --outdir dist .

# Flink's file systems in the runtime image: s3 gs azure, as Flink names its jars.
FILE_SYSTEMS ?= s3
runtime-context: wheel ## the folder from which Docker builds the runtime image
	images/runtime/context.sh dist/beam_k8s-*.whl $$($(BIN)/python -c 'import beam_k8s.versions as v; print(v.FLINK)') \
	  build/runtime $(FILE_SYSTEMS)

check:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || \
	  { echo "error: Python 3.11 is needed: $(PYTHON) is another (or missing). Use: make PYTHON=python3.11" >&2; exit 2; }
	@java=$${JAVA_HOME:+$$JAVA_HOME/bin/}javac; \
	  version=$$($$java -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p'); \
	  [ "$${version:-0}" -ge 17 ] || { echo "error: a JDK of version 17 or newer is needed, $$java is" \
	    "$${version:-missing}. Debian: apt-get install openjdk-17-jdk-headless, or set JAVA_HOME" >&2; exit 2; }
	@command -v mvn >/dev/null || { echo "error: Maven is missing. Debian: apt-get install maven" >&2; exit 2; }

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(JAR): $(RUNNER_SOURCES)
	mvn --quiet --batch-mode --file images/runner/pom.xml package
	mkdir -p $(@D)
	cp images/runner/target/beam-k8s-runner.jar $@

clean:
	rm -rf .venv .cache build dist *.egg-info images/runner/target $(JAR)
