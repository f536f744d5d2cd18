#!/bin/sh
# Fuzzes each target for so many seconds: `fuzz/run.sh SECONDS [TARGET...]`, or RUNS=… inputs
# each. Works with the stable toolchain; what is found is in fuzz/artifacts.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -eq 0 ] || shift
# What -Z flags of cargo-fuzz need; sanitizers would need more memory than is allowed here.
export RUSTC_BOOTSTRAP=1
tools=$PWD/target/tools
PATH=$tools/bin:$PATH
command -v cargo-fuzz > /dev/null || cargo install --quiet --root "$tools" cargo-fuzz
cargo run --quiet --manifest-path ../Cargo.toml --example corpus -- "$PWD/real"
cargo fuzz build --sanitizer none
host=$(rustc -vV | sed -n 's/^host: //p')
[ $# -gt 0 ] || set -- $(cargo fuzz list)
limit=-max_total_time=$seconds
[ -z "${RUNS:-}" ] || limit=-runs=$RUNS
for target in "$@"; do
    mkdir -p "grown/$target" "real/$target" "corpus/$target" "artifacts/$target"
    # New inputs go to the first folder; the others are only read.
    nice -n 19 "target/$host/release/$target" "$limit" -rss_limit_mb=200 -malloc_limit_mb=200 -timeout=10 \
        -max_len=16384 -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
        "grown/$target" "corpus/$target" "real/$target" 2> "artifacts/$target.log" \
        || { tail -n 30 "artifacts/$target.log"; echo "$target: found something in fuzz/artifacts/$target"; exit 1; }
    awk -v target="$target" '/number_of_executed_units/ { n = $2 } /peak_rss_mb/ { print target ": " n " inputs, " $2 " MB at the most" }' \
        "artifacts/$target.log"
done
