# Sources the scripts that are its arguments, then writes the exported variables to standard output:
# "script NAME" before each script, "end", then "variable NAME=VALUE", each item ended by NUL.
# Run by profile_d.py, in the slug's folder. What the scripts print goes to standard error.

# Defined first: a script may change how bash reads what follows it.
__run_agent_write_variables() {
    builtin local name
    builtin printf 'end\0'
    while IFS= builtin read -r name; do
        [ -z "${!name+set}" ] || builtin printf 'variable %s=%s\0' "$name" "${!name}"
    done < <(builtin compgen -e)
}

exec {__run_agent_out}>&1 1>&2
__run_agent_tree=$PWD
__run_agent_scripts=("$@")
set --
builtin printf '\0' >&"$__run_agent_out"

for __run_agent_script in "${__run_agent_scripts[@]}"; do
    builtin printf 'script %s\0' "$__run_agent_script" >&"$__run_agent_out"
    builtin source "$__run_agent_tree/$__run_agent_script"
    # 2 is a syntax error, or just its last command's status.
    [ $? -ne 2 ] || "$BASH" -n "$__run_agent_tree/$__run_agent_script" 2>/dev/null || builtin exit 2
    builtin set +aeu
done

__run_agent_write_variables >&"$__run_agent_out"
# What a script left in the background holds our outputs open, and would never let them end.
builtin kill -KILL 0
