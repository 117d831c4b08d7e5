#!/bin/bash
# All that only a GPU can tell, in six minutes on one card of a bare machine. From the repository's
# root; the wheels of gpu_wheels.txt lie in .whl (or WHEELS=folder). Every check has a process and a
# limit of its own: one that fails hides none. Prints a table: PASS, FAIL, or a number.
#   bash tests/bench/gpu.sh [tests|again|commands|speed|predictions] ...    (tests, commands, speed without a word)
set -u
wheels=${WHEELS:-.whl} site=${SITE:-/tmp/emcfsys-site} work=$(mktemp -d)
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore
export EMCFSYS_HOME=$work/home XDG_CONFIG_HOME=$work/config XDG_CACHE_HOME=$work/cache
if compgen -G "$wheels/*.whl" >/dev/null; then
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$site" "$wheels"/*.whl 2>&1 | grep -v WARNING | tail -3
fi
export PYTHONPATH=$site:$PWD
began=$SECONDS

# check SECONDS NAME COMMAND...: its findings, else its last words.
check() {
  local limit=$1 name=$2 log started=$SECONDS code; shift 2
  log=$work/$name.log
  timeout -k 5 "$limit" "$@" >"$log" 2>&1; code=$?
  { if [ "$code" = 0 ]; then echo "== $name: ok, $((SECONDS - started)) s"
    else echo "== $name: FAIL, exit $code after $((SECONDS - started)) s (limit $limit)"; fi
    grep -E '^(PASS|FAIL|     )' "$log" | cut -c1-190
    if [ "$code" != 0 ]; then grep -vE '^(PASS|FAIL|     )' "$log" | tail -12 | cut -c1-220
    else grep -vE '^(PASS|FAIL|     )' "$log" | grep -vE 'Warning|^$' | tail -"${KEEP:-3}" | cut -c1-160; fi
  } >"$work/$name.told"
  cat "$work/$name.told"
  [ -n "${OUT:-}" ] && cp "$log" "$OUT/" 2>/dev/null
  return 0
}
engine() { python3 -m emcfsys_engine "$@"; }
export -f engine

again() {  # of the tests those that a change of the arithmetic needs
  KEEP=2 check 120 tests-learn python3 -m pytest -q -o addopts= -o filterwarnings=default \
    -p no:cacheprovider -m gpu tests/learn/test_on_gpu.py --tb=short --maxfail=6 &
  check 60 masks python3 -m tests.bench.gpu_checks masks
  check 90 fp16 python3 -m tests.bench.gpu_checks fp16
  wait
}

tests() {  # beside each other: nothing here is timed
  KEEP=2 check 170 tests-learn python3 -m pytest -q -o addopts= -o filterwarnings=default \
    -p no:cacheprovider -m gpu tests/learn/test_on_gpu.py --tb=short --maxfail=6 &
  KEEP=2 check 100 tests-jobs python3 -m pytest -q -o addopts= -o filterwarnings=default \
    -p no:cacheprovider -m gpu tests/jobs --ignore=tests/jobs/slurm --tb=short &
  KEEP=2 check 60 torchrun bash -c 'python3 -c "
from pathlib import Path; import sys
from emcfsys_engine.launch.start import torchrun_command
print(*torchrun_command(Path(\"run\"), sys.executable, processes=2)[3:])"
    python3 -m torch.distributed.run --help | grep -c -- --shutdown-timeout || true'
  check 60 faults python3 -m tests.bench.gpu_checks faults
  check 60 masks python3 -m tests.bench.gpu_checks masks
  check 90 fp16 python3 -m tests.bench.gpu_checks fp16
  check 90 memory python3 -m tests.bench.gpu_checks memory
  wait
}

commands() {  # what a person types
  cp -r projects/demo "$work/demo"; rm -rf "$work/demo/runs"
  export D=$work/demo W=$work
  KEEP=4 check 30 doctor bash -o pipefail -c 'engine doctor | grep -i "gpu\|torch\|fail"; true'
  KEEP=4 check 90 command-train bash -o pipefail -c 'set -e
    engine train $D --set model.backbone=resnet18 --set model.weights=none \
      --set training.steps=120 --set training.validate_every=60
    grep -o "\"device\": \"[a-z]*\"\|\"precision\": \"[a-z0-9]*\"" $D/runs/run-0001/plan.json | tr "\n" " "'
  KEEP=2 check 60 command-resume bash -o pipefail -c \
    'engine train --resume $D/runs/run-0001 --set training.steps=160 2>&1 | tail -2'
  KEEP=2 check 40 command-predict bash -o pipefail -c \
    'engine predict $D/runs/run-0001/best.safetensors $D/images --out $W/masks --uncertainty 2>&1 | tail -2'
  KEEP=3 check 40 command-evaluate bash -o pipefail -c \
    'engine evaluate $D/runs/run-0001/best.safetensors $D 2>&1 | tail -3'
  KEEP=2 check 40 command-watch bash -o pipefail -c 'mkdir -p $W/in && cp $(find $D/images -type f | head -3) $W/in/ &&
    engine watch $D --once --set hotfolder.watch=$W/in --set hotfolder.settle_s=0 \
      --set hotfolder.model=$D/runs/run-0001/best.safetensors 2>&1 | tail -2'
  KEEP=6 check 60 command-submit bash -o pipefail -c '
    engine submit train $D --set model.backbone=resnet18 --set model.weights=none --set training.steps=400 2>&1
    sleep 8; engine jobs; engine doctor | grep "GPU 0"; engine daemon stop --jobs'
}

speed() {  # one after the other, alone on the card
  check 70 train python3 -m tests.bench.gpu_checks train
  check 60 inference python3 -m tests.bench.gpu_checks inference
  KEEP=9 check 50 inference-4096 python3 -m tests.bench.inference_speed --backbone resnet34 --side 4096 --rounds 3
  check 30 searched python3 -m tests.bench.gpu_checks searched
  KEEP=1 check 40 inference-many python3 -m tests.bench.inference_speed --backbone resnet34 --many --number 1500
  check 60 host python3 -m tests.bench.gpu_checks host
  KEEP=4 check 60 inference-big python3 -m tests.bench.inference_speed --backbone resnet34 --big --side 16000 --minutes 0.3
  check 70 small python3 -m tests.bench.gpu_checks small
  check 60 probe python3 -m tests.bench.gpu_checks probe
  check 40 shapes python3 -m tests.bench.gpu_checks shapes
}

predictions() {  # of the timings those that a change of the predictions needs
  KEEP=6 check 60 inference python3 -m tests.bench.gpu_checks inference
  KEEP=9 check 60 inference-4096 python3 -m tests.bench.inference_speed --backbone resnet34 --side 4096 --rounds 3
  KEEP=1 check 40 inference-many python3 -m tests.bench.inference_speed --backbone resnet34 --many --number 1500
  check 70 small python3 -m tests.bench.gpu_checks small
  check 60 probe python3 -m tests.bench.gpu_checks probe
}

nvidia-smi -L 2>/dev/null
python3 -c 'import torch; print("torch", torch.__version__, *torch.cuda.get_arch_list())'
if [ $# = 0 ]; then  # what is not timed goes beside each other
  tests & commands & wait
  speed
fi
for part in "$@"; do "$part"; done
echo "== all: $((SECONDS - began)) s"
