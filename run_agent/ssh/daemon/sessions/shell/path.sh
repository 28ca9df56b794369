# Puts run-agent's commands and the release's on the PATH again where they are missing: Debian's
# /etc/profile, which every login shell reads, replaces the PATH. bash reads this file, BASH_ENV,
# before a script and before -c, and with -l after /etc/profile; an interactive sh reads it, ENV.
# It is in every script's way: it starts no process, prints nothing, and holds under -e and -u.
if [ -n "${RUN_AGENT_ROOT-}" ]; then
    case ":${PATH-}:" in
    *":${RUN_AGENT_ROOT%/}/run/run-agent/bin:"*) ;;
    *) PATH="${RUN_AGENT_ROOT%/}/run/run-agent/bin${PATH:+:$PATH}" ;;
    esac
    case ":$PATH:" in
    *":${RUN_AGENT_ROOT%/}/app/bin:"*) ;;
    *) PATH="$PATH:${RUN_AGENT_ROOT%/}/app/bin" ;;
    esac
fi
