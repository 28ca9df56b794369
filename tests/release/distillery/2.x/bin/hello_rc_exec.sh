# shellcheck shell=bash
# Sourced by bin/hello: finds the release, and loads the scripts of the version that it boots. As in
# 2.1.1 that is the one of the copy in var/, which a hot upgrade does not touch.
ROOT=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd -P)
VAR=${RELEASE_MUTABLE_DIR:-$ROOT/var}
mkdir -p "$VAR"
START_DATA=$VAR/start_erl.data
if [ ! -f "$START_DATA" ]; then
    cp "$ROOT/releases/start_erl.data" "$START_DATA"
fi
# shellcheck source=../../libexec/release.sh
. "$ROOT/releases/$(cut -d' ' -f2 "$START_DATA")/libexec/release.sh"
