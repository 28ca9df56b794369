# shellcheck shell=bash
# Sourced by bin/hello: finds the release, and loads the scripts of the version that it boots.
ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
VAR=${RELEASE_MUTABLE_DIR:-$ROOT/var}
mkdir -p "$VAR"
START_DATA=$ROOT/releases/start_erl.data
# shellcheck source=../../libexec/release.sh
. "$ROOT/releases/$(cut -d' ' -f2 "$START_DATA")/libexec/release.sh"
