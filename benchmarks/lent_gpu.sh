#!/usr/bin/env bash
# One call of on_gpu.py on a lent machine without a network: lent_gpu.sh MINUTES [OPTIONS of on_gpu.py]. NOTES.md says how.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
minutes="$1"
shift
if [ ! -d /tmp/site ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site .gpu/wheels/*.whl || exit
fi
mkdir -p /tmp/out .gpu/data .gpu/weights
if [ -f .gpu/resnet50-01 ]; then cat .gpu/resnet50-* >.gpu/weights/resnet50.safetensors; fi # two pieces
if [ -d .gpu/results ]; then cp -rn .gpu/results/. /tmp/out/; fi # what an earlier loan has done
released=()
if [ -d .gpu/released ]; then released=(--released .gpu/released); fi
export PYTHONPATH="/tmp/site:$PWD/lib:$PWD/workflow" PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1
python3 benchmarks/on_gpu.py --minutes "$minutes" --data .gpu/data --weights .gpu/weights "${released[@]}" --out /tmp/out "$@"
status=$?
tar czf "$OUT/results.tgz" -C /tmp/out --exclude=./work . # checkpoints stay: a training takes 300 MB
exit "$status"
