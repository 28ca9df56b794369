# Runs the given command. Distillery and relx print errors, in colour even, where results belong:
# what a command prints that fails goes to stderr, uncoloured.
output=$("$@")
code=$?
if [ -n "$output" ]; then
    if [ "$code" -eq 0 ]; then
        printf '%s\n' "$output"
    else
        sed 's/\x1b\[[0-9;]*m//g' >&2 <<<"$output"
    fi
fi
exit "$code"
