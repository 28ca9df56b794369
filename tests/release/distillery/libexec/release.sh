# shellcheck shell=bash
# Sourced by the start scripts of both lines: the folders, the configuration, and the VM.
# Set by then: ROOT (the release's folder), VAR (what changes) and START_DATA (what is booted).

REL_NAME=hello
read -r ERTS_VSN REL_VSN <<<"$(cat "$START_DATA")"
REL_DIR=$ROOT/releases/$REL_VSN

export ROOTDIR=$ROOT BINDIR=$ROOT/erts-$ERTS_VSN/bin EMU=beam PROGNAME=$REL_NAME
export RELEASE_ROOT=$ROOT REL_NAME REL_VSN

# render SOURCE TARGET: copies a file; ${NAME} becomes the variable's value if REPLACE_OS_VARS=true.
render() {
    local new="$2.$$"
    if [ "${REPLACE_OS_VARS:-}" = true ]; then
        replace_os_vars <"$1" >"$new"
    else
        cat "$1" >"$new"
    fi
    mv "$new" "$2"
}

replace_os_vars() {
    awk '{
        line = ""
        while (match($0, /[$][{][A-Za-z_][A-Za-z0-9_]*[}]/)) {
            name = substr($0, RSTART + 2, RLENGTH - 3)
            line = line substr($0, 1, RSTART - 1) ENVIRON[name]
            $0 = substr($0, RSTART + RLENGTH)
        }
        print line $0
    }'
}

# argument FLAG: its value in the vm.args in use.
argument() {
    awk -v flag="$1" '$1 == flag { print $2 }' "$VM_ARGS"
}

read_node() {
    NODE=$(argument -name)
    COOKIE=$(argument -setcookie)
    if [ -z "$NODE" ]; then
        echo "vm.args needs to have a -name parameter."
        exit 1
    fi
    export NODE COOKIE
}

# Distillery's own VM for such a command does not start without one.
require_home() {
    if [ -z "${HOME:-}" ]; then
        echo "HOME is not set"
        exit 1
    fi
}

foreground() {
    exec "$BINDIR/erlexec" -noshell -noinput +Bd \
        -boot "$REL_DIR/start" -boot_var RELEASE_LIB "$ROOT/lib" -mode embedded \
        -config "$SYS_CONFIG" -args_file "$VM_ARGS" -extra
}

# clean_vm ARG...: becomes a VM that has the release's code, and runs none of its applications.
clean_vm() {
    exec "$BINDIR/erlexec" -boot "$REL_DIR/start_clean" -boot_var RELEASE_LIB "$ROOT/lib" "$@"
}

# command MODULE FUNCTION ARG...
run_command() {
    if [ $# -lt 2 ]; then
        echo "Usage: $REL_NAME command MODULE FUNCTION [ARG...]"
        exit 1
    fi
    clean_vm -noshell "${WITH_CONFIG[@]}" -run "$@" -s init stop
}

# Without a terminal the console is a shell of this VM, which sees the end of its input and ends.
remote_console() {
    local remote=()
    if [ -t 0 ]; then
        remote=(--remsh "$NODE")
    fi
    clean_vm -hidden -name "remsh-$$-$NODE" -setcookie "$COOKIE" \
        -noshell -user Elixir.IEx.CLI -extra --no-halt +iex "${remote[@]}"
}

describe() {
    echo "$REL_NAME-$REL_VSN"
    echo "Node name: $NODE"
    echo "ERTS: $ERTS_VSN"
    echo "Config: $SYS_CONFIG"
    echo "Args file: $VM_ARGS"
}

# await_end PID: loops until the pid is gone, so for ever while nobody reaps it, as in Distillery.
await_end() {
    while kill -0 "$1" 2>/dev/null; do
        sleep 1
    done
}

# with_new_config VERSION COMMAND...: runs the command while releases/VERSION holds the configuration
# that the caller's environment makes of it. A command that fails leaves that there, and the
# originals beside it.
with_new_config() {
    local dir=$ROOT/releases/$1 name
    shift
    for name in sys.config vm.args; do
        if [ -f "$dir/$name.bak" ]; then
            mv "$dir/$name.bak" "$dir/$name"
        fi
    done
    prepare_config "$dir"
    for name in sys.config vm.args; do
        cp "$dir/$name" "$dir/$name.bak"
    done
    cp "$SYS_CONFIG" "$dir/sys.config"
    cp "$VM_ARGS" "$dir/vm.args"
    "$@"
    for name in sys.config vm.args; do
        mv "$dir/$name.bak" "$dir/$name"
    done
}

require_version() {
    if [ $# -eq 0 ]; then
        echo "Usage: $REL_NAME $COMMAND VERSION"
        exit 1
    fi
}

usage() {
    echo "Usage: $REL_NAME foreground|ping|pid|stop|eval|rpc|command|remote_console|describe|upgrade|downgrade"
    exit 1
}
