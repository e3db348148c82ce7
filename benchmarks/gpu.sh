#!/usr/bin/env bash
# Everything about speed that needs a CUDA machine, in one call of under ten minutes and without a network: facts, every
# kernel against its reference, then the goals of docs/performance.md in their order of importance.
#
#   benchmarks/gpu.sh                        result files go to benchmarks/results/bench
#   OUT=folder benchmarks/gpu.sh             one file, folder/gpu.tar.gz, with results and logs (kept whole after each step)
#   benchmarks/gpu.sh --rivals               a second call: whole models with every method that needs nothing more
#   benchmarks/gpu.sh --dry-run              the steps and what time each may take
#   benchmarks/gpu.sh --device cpu --tiny    every step with the embedded models, to try the script itself
#
# A step that fails or runs out of time is noted, and the rest goes on; time that a step leaves over is the next one's.
set -uo pipefail
cd "$(dirname "$0")/.."

LIMIT=570
DEVICE=cuda TINY="" DRY="" STEPS=all_steps RUN=gpu_run.json
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) DRY=1 ;;
    --rivals) STEPS=rival_steps RUN=gpu_rivals_run.json ;;
    --tiny) TINY=1 ;;
    --device) DEVICE=${2:?--device needs cuda or cpu}; shift ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "unknown option $1: see $0 --help" >&2; exit 2 ;;
  esac
  shift
done
if [ "$DEVICE" != cuda ] && { [ "$DEVICE" != cpu ] || [ -z "$TINY" ]; }; then
  echo "--device $DEVICE: real sizes run on cuda, --device cpu needs --tiny" >&2
  exit 2
fi

PYTHON=${PYTHON:-python3}
export PYTHONPATH=src HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
START=$(date +%s) SPENT=0 TOTAL=0
if [ -z "$DRY" ]; then
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  RESULTS=$WORK/results LOGS=$WORK/logs
  mkdir -p "$RESULTS" "$LOGS"
  [ -n "$TINY" ] && TARGET=${OUT:-$WORK/out} || TARGET=${OUT:-benchmarks/results/bench}
  mkdir -p "$TARGET" && [ -w "$TARGET" ] || { echo "$TARGET cannot be written: set OUT to a folder that can" >&2; exit 2; }
else
  RESULTS=results LOGS=logs
fi

keep_results() { # whatever happens next, what is measured so far is safe
  sed -i "s#$RESULTS/##g" "$RESULTS"/*.json 2>/dev/null # commands name the file, not this machine's folder
  if [ -n "${OUT:-}" ]; then
    tar -czf "$TARGET/.gpu.tar.gz" -C "$WORK" results logs && mv "$TARGET/.gpu.tar.gz" "$TARGET/gpu.tar.gz"
  else
    cp "$RESULTS"/*.json "$TARGET"/ 2>/dev/null
  fi
}

last_words() { # why a step ended: its last line that names an error, or its last
  { grep -v '^[[:space:]]*$' "$1" | tail -n 1; grep -E '(Error|Exception)\b' "$1" | tail -n 1; } | tail -n 1 | cut -c 1-200
}

step() { # step NAME SECONDS COMMAND...
  local name=$1 budget=$2 begin left code outcome
  shift 2
  TOTAL=$((TOTAL + budget))
  if [ -n "$DRY" ]; then
    printf '%-16s %4d s  %s\n' "$name" "$budget" "$*"
    return 0
  fi
  begin=$(date +%s)
  left=$((START + TOTAL - begin))
  [ "$left" -gt 0 ] || left=1 # 0 would be no limit
  timeout -k 5 "$left" "$@" >"$LOGS/$name.log" 2>&1
  code=$?
  SPENT=$(($(date +%s) - begin))
  case $code in
    0) outcome=done ;;
    124 | 137) outcome="out of time after $SPENT s" ;;
    *) outcome="failed: $(last_words "$LOGS/$name.log")" ;;
  esac
  if [ "$name" = kernels ]; then
    outcome="${outcome%%:*}: $(grep -E '^=* ?([0-9]+ [a-z]+(,| in)|no tests ran)' "$LOGS/$name.log" | tail -n 1 | tr -d =)"
  fi
  printf '%s\t%s\t%s\t%s\n' "$name" "$SPENT" "$budget" "$outcome" >>"$WORK/steps.tsv"
  [ "$name$code" = facts1 ] || echo "[$(($(date +%s) - START)) s] $name: $outcome"
  "$PYTHON" benchmarks/gpu_facts.py --steps "$WORK/steps.tsv" "$RESULTS/$RUN"
  [ "$name$code" = facts1 ] || keep_results
  return $code
}

bench() { # bench NAME SECONDS MODEL OPTIONS... (a step that runs evoprune bench)
  local name=$1 budget=$2 model=$3
  shift 3
  local options=(--dtype bfloat16 --repeats 20 --warmup 3 "$@")
  if [ -n "$TINY" ]; then # the shapes of the step, on a model that is in the repository
    case $model in llava-video-7b) model=tiny-video ;; *) model=tiny ;; esac
    options=("$@" --dtype float32 --repeats 2 --warmup 0 --threads 1)
    local i
    for i in "${!options[@]}"; do
      case ${options[i]} in
        --frames) options[i + 1]=$([ "${options[i + 1]}" = 64 ] && echo 4 || echo 4,2) ;;
        --batch) options[i + 1]=2 ;;
        64,32,16) options[i]=24,16,8 ;; # of the 25 tokens that a frame has there
        cudagraph) options[i]=eager ;; # needs CUDA
      esac
    done
  fi
  step "$name" "$budget" "$PYTHON" -m evoprune bench "$model" "${options[@]}" \
    --device "$DEVICE" --json "$RESULTS/gpu_$name.json"
}

facts() { # of the machine; without them nothing else runs
  step facts 30 "$PYTHON" benchmarks/gpu_facts.py --device "$DEVICE" "$RESULTS/$RUN"
  if [ $? -ne 0 ]; then
    last_words "$LOGS/facts.log" >&2
    rmdir --ignore-fail-on-non-empty "$TARGET"
    exit 1
  fi
}

all_steps() { # in order of importance; functions, so that the whole script is read before it runs
  facts
  step kernels 90 "$PYTHON" -m pytest tests/ops tests/models/test_model_graphs.py tests/bench/test_measure.py -m gpu -p no:xdist --no-header
  bench video_encoder 110 llava-video-7b --stages encoder --frames 64 --keep 64,32,16 \
    --methods evoprune,tome,divprune --naive --repeats 10
  bench video_ttft 95 llava-video-7b --frames 64,4,8,16,32 --keep 16 --methods evoprune --repeats 10
  bench image 45 llava-1.5-7b --stages encoder --images 1 --keep 128,64,32 \
    --methods evoprune,tome,divprune,fastervlm,vispruner --naive
  bench image_cudagraph 40 llava-1.5-7b --stages encoder --images 1 --keep 128,64,32 --methods evoprune \
    --encoder-mode cudagraph
  bench image_batch16 35 llava-1.5-7b --stages encoder --images 1 --batch 16 --keep 128,64,32 --methods evoprune
  bench qwen2_5_vl 25 qwen2.5-vl-7b --stages encoder --images 1 --keep 0.25 --methods evoprune
  bench qwen3_vl 25 qwen3-vl-8b --stages encoder --images 1 --keep 0.25 --methods evoprune
  bench internvl3 20 internvl3-8b --stages encoder --images 1 --keep 64 --methods evoprune
  bench image_every4 20 llava-1.5-7b --stages encoder --images 1 --keep 64 --methods evoprune --schedule every:4
  bench image_compile 35 llava-1.5-7b --stages encoder --images 1 --keep 64 --methods evoprune --encoder-mode compile
}

rival_steps() { # from pixels to the first tokens, in one run with the native model
  local before=evoprune,tome,fastervlm,vispruner,visionzip,divprune,idpruner,random inside=fastv,dart
  facts
  bench rivals_image 200 llava-1.5-7b --images 1 --keep 128,64,32 --methods $before,$inside --repeats 8
  bench rivals_batch 150 llava-1.5-7b --images 1 --batch 16 --keep 64 --methods $before,$inside --repeats 4
  bench rivals_video 150 llava-video-7b --frames 32 --keep 16 --methods $before,$inside --repeats 4
}

$STEPS
if [ -n "$DRY" ]; then
  echo "all              $(printf '%4d' $TOTAL) s of $LIMIT s"
  [ "$TOTAL" -le "$LIMIT" ] || { echo "the steps may take longer than $LIMIT s" >&2; exit 1; }
else
  echo "[$(($(date +%s) - START)) s] results in $TARGET; now: $PYTHON benchmarks/report.py"
fi
exit 0
