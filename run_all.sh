#!/usr/bin/env bash
# The one door: `./run_all.sh` runs the collection, `./run_all.sh test` passes the tests, `./run_all.sh lab` opens the
# notebooks, `./run_all.sh --help` says more.
# Here the environment is made; workflow/door.py reads the options and calls Snakemake.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
say() { printf '%s\n' "$*" >&2; }

find_python() {
    for name in python3 python3.13 python3.12 python3.11 python; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then echo "$name"; return; fi
    done
    say "run_all.sh needs Python 3.11 or newer; found $(python3 --version 2>&1 || true). Install it, for example from python.org."
    exit 1
}

hosted() { [ -n "${KAGGLE_KERNEL_RUN_TYPE:-}" ] || [ -n "${COLAB_RELEASE_TAG:-}" ]; }

use_hosted() {  # Kaggle, Colab: the environment that is there, and what it lacks
    PYTHON="$(command -v "$(find_python)")"
    local missing
    local up_to="# tests and style only" # a line of requirements.txt: what stands below it is not needed
    if [ "${1:-}" = test ]; then up_to="# end"; fi
    mapfile -t missing < <("$PYTHON" "$ROOT/lib/unetv2/common/packages.py" "$ROOT/requirements.txt" "$up_to")
    if [ ${#missing[@]} -gt 0 ]; then
        say "installing what this machine lacks: ${missing[*]}"
        "$PYTHON" -m pip install --quiet "${missing[@]}"
    fi
}

make_venv() {  # .venv from the lock; the hash of lock and project in it says that it is complete
    PYTHON="$ROOT/.venv/bin/python"
    local lock="$ROOT/requirements.lock.txt" base hash uv
    base="$(find_python)"
    hash="$(cat "$lock" "$ROOT/pyproject.toml" |
        "$base" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    if [ -x "$PYTHON" ] && [ "$(cat "$ROOT/.venv/lock.sha256" 2>/dev/null)" = "$hash" ]; then return; fi
    uv="$(command -v uv || true)"
    if [ ! -x "$PYTHON" ]; then
        say "making .venv with $("$base" --version)"
        "$base" -m venv "$ROOT/.venv" || { [ -n "$uv" ] && "$uv" venv --clear --seed --python "$base" "$ROOT/.venv"; } ||
            { say "cannot make .venv; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
    fi
    if [ -n "$uv" ] && ! "$uv" --version >/dev/null 2>&1; then uv=""; fi
    if [ -z "$uv" ] && [ -z "${NO_UV:-}" ] && "$PYTHON" -m pip install --quiet uv 2>/dev/null; then uv="$ROOT/.venv/bin/uv"; fi
    say "installing $(grep -c == "$lock") packages with $([ -n "$uv" ] && echo uv || echo "pip, some minutes") (once)"
    if [ -n "$uv" ]; then
        "$uv" pip install --quiet --python "$PYTHON" -r "$lock"
        "$uv" pip install --quiet --python "$PYTHON" --no-deps -e "$ROOT"
    else
        "$PYTHON" -m pip install --quiet -r "$lock"
        "$PYTHON" -m pip install --quiet --no-deps -e "$ROOT"
    fi
    echo "$hash" >"$ROOT/.venv/lock.sha256"
}

use_site() {  # what the site needs beside the lock, whose versions stay
    local uv lists=(-c "$ROOT/requirements.lock.txt" -r "$ROOT/workflow/site/requirements.txt")
    uv="$(command -v "$ROOT/.venv/bin/uv" uv | head -n 1 || true)"
    if [ -n "$uv" ]; then "$uv" pip install --quiet --python "$PYTHON" "${lists[@]}"; else "$PYTHON" -m pip install --quiet "${lists[@]}"; fi
}

mode=""
case "${1:-}" in test | lab | publish | site) mode="$1"; shift ;; esac
if hosted; then use_hosted "$mode"; else make_venv; fi
# glibc: keep freed memory, in large pages, for the next step; fetching it anew took up to a fifth of a training step on a CPU
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=18446744073709551615:glibc.malloc.hugetlb=1}"
export PYTHONPATH="$ROOT/lib:$ROOT/workflow${PYTHONPATH:+:$PYTHONPATH}" NO_ALBUMENTATIONS_UPDATE=1
if [ "$mode" = test ]; then
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # a test for each core, not several cores for each test
    cd "$ROOT"
    exec "$PYTHON" -m pytest -n auto --dist loadfile "$@" # a file stays together: what its fixtures build is built once
fi
if [ "$mode" = publish ]; then exec "$PYTHON" "$ROOT/workflow/to_kaggle.py" "$@"; fi
if [ "$mode" = site ]; then
    use_site
    exec "$PYTHON" "$ROOT/workflow/site/build.py" "$@"
fi
if [ "$mode" = lab ]; then exec "$PYTHON" -m jupyterlab "$ROOT/notebooks" "$@"; fi
export PYTHONPATH="$PYTHONPATH:$PWD" # a reader's own skip, thin+my_module:MySkip, may lie here
exec "$PYTHON" "$ROOT/workflow/door.py" "$@"
