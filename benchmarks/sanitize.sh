#!/bin/sh
# Run the compiled kernels with every memory access and every undefined operation checked (gcc or clang, Linux):
#
#     sh benchmarks/sanitize.sh [folder for the build]
#
# A copy of the package is built with -fsanitize=address,undefined, and the tests that drive the kernels over random and
# degenerate inputs run against that copy; the first finding ends the run with an error.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$(mktemp -d)}
mkdir -p "$build"
python=${PYTHON:-$root/.venv/bin/python}
compiler=${CC:-gcc}
sanitizer=$("$compiler" -print-file-name=libasan.so)
undefined=$("$compiler" -print-file-name=libubsan.so)

rm -rf "$build/crystalformers" "$build/tests"
cp -r "$root/crystalformers" "$root/tests" "$build"
rm -f "$build"/crystalformers/csrc/_kernels_*
for name in default avx2 avx512; do
    case $name in
        default) flags="" ;;
        avx2) flags="-mavx2 -mfma" ;;
        avx512) flags="-mavx2 -mfma -mavx512f -mavx512vl" ;;
    esac
    "$compiler" -shared -fPIC -g -O1 -std=c11 -ffp-contract=fast -fno-math-errno -fno-trapping-math -Wno-psabi \
        -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer $flags \
        "$build"/crystalformers/csrc/*.c -o "$build/crystalformers/csrc/_kernels_$name.so" -lm
done

# Python keeps memory until it ends, so leaks are not looked for; the checked run is slow, hence the choice of tests.
cd "$build"
export PYTHONPATH="$build" PYTHONMALLOC=malloc OMP_NUM_THREADS=1 LD_PRELOAD="$sanitizer:$undefined"
export ASAN_OPTIONS="detect_leaks=0:halt_on_error=1:allocator_may_return_null=1" UBSAN_OPTIONS="print_stacktrace=1"
"$python" - <<'END'
import crystalformers, pathlib
from crystalformers.csrc.kernels import instruction_sets, library
print("checking", instruction_sets(), "in", pathlib.Path(crystalformers.__file__).parent)
assert library() is not None
END
for name in ${KERNELS:-default avx512}; do
    CRYSTALFORMERS_KERNELS=$name "$python" -m pytest -q -x -s -p no:cacheprovider \
        tests/attention/test_sanitized.py tests/attention/test_arguments.py tests/attention/test_degenerate.py \
        tests/images/test_images.py tests/images/test_checks.py tests/fuzz/test_fuzz_kernels.py \
        -k "not peak and not any_crystal_without and not triton and not child"
done
