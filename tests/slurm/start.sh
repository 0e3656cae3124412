#!/usr/bin/env bash
# A Slurm cluster of this one machine for test_launchers.py: start.sh FOLDER
# Runs as the user who starts it, root or not, with all its files in FOLDER, and listens on
# loopback alone; for the clients export SLURM_CONF=FOLDER/slurm.conf. It ends with stop.sh.
# Debian: apt-get install slurm-wlm munge
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
mkdir -p "$1/state" "$1/spool"
folder="$(cd "$1" && pwd)"
chmod 755 "$folder"
user="$(id -un)"
node="$(hostname -s)"
read -r ctld_port slurmd_port < <(python3 - <<'EOF'
import socket
probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(probe.getsockname()[1] for probe in probes))
EOF
)

cat >"$folder/slurm.conf" <<EOF
ClusterName=tests
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
SlurmUser=$user
SlurmdUser=$user
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# no cgroups: a container may not make any
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
PartitionName=tests Nodes=$node Default=YES MaxTime=INFINITE State=UP
EOF
export SLURM_CONF="$folder/slurm.conf"

head -c 128 /dev/urandom >"$folder/munge.key"
chmod 600 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" \
    --seed-file="$folder/munge.seed"
slurmctld
slurmd -N "$node"

for _ in $(seq 120); do
    if [ "$(timeout 10 sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then exit 0; fi
    sleep 0.5
done
tail -n 20 "$folder"/*.log >&2
exit 1
