#!/usr/bin/env bash
# Everything that an NVIDIA GPU must show, in at most ten minutes.
#
#   benchmarks/gpu.sh [--stages "build tests checks ceilings bench sanitizer"] [--dry-run] [FOLDER]
#
# FOLDER (default benchmarks/results/<device>) gets one JSON (quick.json), one log (gpu.log) and at most four plots; every
# result is written as it is measured. Stages, in order, each under its own limit in seconds (LIMIT_BUILD=300 and so on change it):
#   build      compile for this GPU's architecture alone and install, in place
#   tests      the tests that need or use a GPU
#   checks     CUDA graphs, torch.compile, more than 2^31 elements (python -m benchmarks.gpu_checks)
#   ceilings   what the machine can do at all: copies, matrix products, cuDNN (python -m benchmarks.ceilings)
#   bench      pytest benchmarks/ --quick
#   sanitizer  compute-sanitizer memcheck and racecheck; a machine that refuses them is recorded, not an error
# STAGES in the environment selects too. PYTHON names the interpreter (default python3).
# Exit: 0 all well, 1 a stage failed, 2 wrong usage, 3 no GPU.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

python=${PYTHON:-python3}
stages=${STAGES:-build tests checks ceilings bench sanitizer}
dry=0 folder=
usage() { echo "usage: benchmarks/gpu.sh [--stages \"build tests checks ceilings bench sanitizer\"] [--dry-run] [FOLDER]" >&2; exit 2; }
while (($#)); do
  case $1 in
    --stages) (($# > 1)) || usage; stages=$2; shift ;;
    --stages=*) stages=${1#*=} ;;
    --dry-run) dry=1 ;;
    -h | --help) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    -*) usage ;;
    *) [[ -z $folder ]] || usage; folder=$1 ;;
  esac
  shift
done
for stage in $stages; do
  case $stage in build | tests | checks | ceilings | bench | sanitizer) ;; *) echo "gpu.sh: unknown stage '$stage'" >&2; usage ;; esac
done

# "<device as in file names> <architecture>", for example "nvidia-h200 90".
probe='import re, torch
if not torch.cuda.is_available():
    raise SystemExit(f"torch {torch.__version__} sees no GPU")
name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
print(name, "%d%d" % torch.cuda.get_device_capability())'
if found=$("$python" -c "$probe" 2>&1); then
  read -r device arch <<<"$(tail -n 1 <<<"$found")"
elif ((dry)); then
  device='<device>' arch='<architecture>'
else
  echo "gpu.sh: no GPU to measure on ($(tail -n 1 <<<"$found")); --dry-run prints the commands" >&2
  exit 3
fi
folder=${folder:-benchmarks/results/$device}
json=$folder/quick.json log=$folder/gpu.log failed=0

# run NAME LIMIT COMMAND...: one command under a limit; its output to the terminal and the log, its exit code in $code.
run() {
  local name=$1 limit=$2
  shift 2
  if ((dry)); then
    printf '%-10s at most %3d s: ' "$name" "$limit"
    printf ' %q' "$@"
    echo
    code=0 seconds=0
    return
  fi
  printf '\n== %s: %s\n' "$name" "$*" | tee -a "$log"
  local start=$SECONDS
  timeout -k 10 "$limit" "$@" 2>&1 | tee -a "$log"
  code=${PIPESTATUS[0]} seconds=$((SECONDS - start))
}

# record NAME [STATUS NOTE]: keep what became of the last command; without STATUS its exit code decides.
record() {
  ((dry)) && return
  local status=${2:-} note=${3:-}
  if [[ -z $status ]]; then
    case $code in
      0) status=ok ;;
      124 | 137) status=timeout note="stopped at its limit" ;;
      *) status=failed note="exit code $code" ;;
    esac
  fi
  case $status in ok | refused | missing) ;; *) failed=1 ;; esac
  printf '== %s: %s %s(%s s)\n' "$1" "$status" "${note:+- $note }" "$seconds" | tee -a "$log"
  "$python" benchmarks/stages.py "$json" "$1" "$status" "$seconds" "$note"
}

if ((!dry)); then
  mkdir -p "$folder" || exit 2
  : >"$log"
fi

for stage in build tests checks ceilings bench sanitizer; do
  [[ " $stages " == *" $stage "* ]] || continue
  case $stage in
    build)
      run build "${LIMIT_BUILD:-180}" env GANKERN_CUDA_ARCHS="$arch" "$python" -m pip install --no-build-isolation --no-deps -e .
      record build
      ;;
    tests)
      run tests "${LIMIT_TESTS:-120}" "$python" -m pytest tests -q -m "not slow and not packaging and not compile_gate" \
        -k "(gpu or cuda or triton) and not emulated and not interpreter"
      record tests
      ;;
    checks)
      run checks "${LIMIT_CHECKS:-45}" "$python" -m benchmarks.gpu_checks
      record checks
      ;;
    ceilings)
      run ceilings "${LIMIT_CEILINGS:-55}" "$python" -m benchmarks.ceilings --device cuda --seconds 40 --out "$json"
      record ceilings
      ;;
    bench)
      run bench "${LIMIT_BENCH:-110}" "$python" -m pytest benchmarks/ --quick --bench-device cuda --results "$folder"
      record bench
      ;;
    sanitizer)
      for tool in memcheck racecheck; do
        if ((!dry)) && ! command -v compute-sanitizer >/dev/null; then
          seconds=0
          record "$tool" missing "compute-sanitizer is not installed"
          continue
        fi
        before=0
        ((dry)) || before=$(wc -c <"$log")
        # Without PyTorch's caching every tensor is an allocation of its own, and an access past its end shows.
        run "$tool" "${LIMIT_SANITIZER:-45}" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
          compute-sanitizer --tool "$tool" --error-exitcode 99 "$python" -m benchmarks.sanitize
        if ((!dry && code != 0 && code != 99)) && tail -c "+$((before + 1))" "$log" |
          grep -qiE 'device not supported|failed to initialize|operation not permitted|unable to (initialize|attach)|internal sanitizer error'; then
          record "$tool" refused "this machine does not let compute-sanitizer work"
        elif ((!dry && code == 99)); then
          record "$tool" failed "compute-sanitizer found errors"
        else
          record "$tool"
        fi
      done
      ;;
  esac
done
((dry)) || printf '\n%s and %s are written\n' "$json" "$log"
exit "$failed"
