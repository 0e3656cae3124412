#!/usr/bin/env bash
# End what start.sh started: stop.sh FOLDER
set -uo pipefail
for name in slurmd slurmctld munged; do
    if pid="$(cat "$1/$name.pid" 2>/dev/null)"; then kill "$pid" 2>/dev/null; fi
done
exit 0
