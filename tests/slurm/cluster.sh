#!/usr/bin/env bash
# A real SLURM on loopback, for trials: munge, slurmctld, slurmd with several nodes, as root.
#   tests/slurm/cluster.sh up DIR [NODES]
#   tests/slurm/cluster.sh down DIR
# Debian: apt-get install munge slurmctld slurmd slurm-client. Every file of it lies in DIR, but for
# links to its configuration in /etc/slurm, since jobs are not told SLURM_CONF. A machine that has
# a configuration there is left alone.
set -euo pipefail

stop() {
    local file pid
    for file in "$1"/run/*.pid; do
        test -e "$file" || continue
        pid=$(cat "$file")
        kill "$pid" 2> /dev/null || true
        for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2> /dev/null || true
        rm -f "$file"
    done
    for file in slurm.conf gres.conf; do
        test "$(readlink "/etc/slurm/$file")" != "$1/$file" || rm "/etc/slurm/$file"
    done
}

start() {
    local folder=$1 nodes=$2 port
    command -v munged slurmctld slurmd sbatch > /dev/null ||
        { echo 'no SLURM here: apt-get install munge slurmctld slurmd slurm-client' >&2; exit 2; }
    test "$(id -u)" = 0 || { echo 'slurmd starts jobs of other users, so this asks for root' >&2; exit 2; }
    test ! -e /etc/slurm/slurm.conf ||
        { echo 'this machine has an /etc/slurm/slurm.conf: this would stand in its way' >&2; exit 2; }
    mkdir -p "$folder"/{run,state,log,spool} /etc/slurm
    chmod 755 "$folder" "$folder/run"
    port=$(python3 -c 'import random; print(random.randrange(20000, 50000, 100))')
    dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
    chmod 400 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.socket" \
        --pid-file="$folder/run/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed"
    cat > "$folder/slurm.conf" <<CONF
ClusterName=trial
SlurmctldHost=localhost
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
KillWait=30
MinJobAge=86400
GresTypes=gpu
MailProg=/bin/true
NodeName=n[1-$nodes] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + nodes))] CPUs=2 RealMemory=16000 Gres=gpu:1
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    echo "NodeName=n[1-$nodes] Name=gpu File=/dev/null" > "$folder/gres.conf"
    ln -sf "$folder"/{slurm,gres}.conf /etc/slurm
    slurmctld -i
    for n in $(seq "$nodes"); do slurmd -N "n$n"; done
    for _ in $(seq 100); do
        test "$(sinfo -h -t idle -o %D 2> /dev/null || echo 0)" = "$nodes" && break
        sleep 0.2
    done
    sinfo -N >&2
    test "$(sinfo -h -t idle -o %D)" = "$nodes" || { tail "$folder"/log/*.log >&2; stop "$folder"; exit 1; }
    echo "SLURM with $nodes nodes is up; files in $folder"
}

case ${1:-} in
    up) start "$(realpath -m "${2:?folder}")" "${3:-3}" ;;
    down) stop "$(realpath -m "${2:?folder}")" ;;
    *) sed -n '2,5s/^# *//p' "$0"; exit 2 ;;
esac
