#!/usr/bin/env bash
# Everything that wants a GPU, in under ten minutes: the GPU tests, then the benchmark. What fails is said, and the
# rest goes on; results are written after every part.
# Needs Python 3.11+ with numpy and PyTorch (with CUDA), pytest and hypothesis for the tests; downloads nothing.
# Results go to $OUT if it is set, else to benchmarks/results. $PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."

out=${OUT:-benchmarks/results}
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if ! "$python" -c 'import numpy, safetensors, torch'; then
    echo "FAILED: $python lacks numpy, safetensors or torch; set PYTHON to an interpreter that has them."
    exit 1
fi

has_kernels() { "$python" -c 'import sys; from crystalformers.csrc.kernels import library; sys.exit(library() is None)'; }
if ! has_kernels; then
    echo "Building the C kernels..."
    timeout 120 "$python" -m pip install --quiet --no-deps --no-build-isolation --editable . ||
        timeout 120 "$python" setup.py --quiet build_ext --inplace
    has_kernels || echo "NOTE: the C kernels could not be built; images on the CPU come from PyTorch."
fi

"$python" - <<'PY'
import torch
gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
print(f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, GPUs: {', '.join(gpus) or 'NONE'}")
PY

status=0
if "$python" -c 'import hypothesis, pytest'; then
    # The project's own options ask for plug-ins that need not be here.
    timeout 220 "$python" -m pytest -o addopts= --strict-markers -ra -q -p no:cacheprovider --durations=5 \
        tests/attention/test_gpu.py tests/attention/test_triton.py tests/benchmarks/test_resident.py ||
        { status=1; echo "FAILED: the GPU tests; the benchmark follows all the same."; }
else
    status=1
    echo "NOT TESTED: pytest or hypothesis is missing, so the GPU tests did not run."
fi

timeout 330 "$python" -m benchmarks.gpu.run --output "$out/gpu.json" ||
    { status=1; echo "FAILED: benchmarks.gpu.run."; }
exit "$status"
