#!/usr/bin/env bash
# A SLURM cluster of two nodes on this one machine, for tests/slurm/test_slurm.py.
#
#   tests/slurm/cluster.sh start    install what is missing (Debian, Ubuntu), start munged, slurmctld and two slurmd
#   tests/slurm/cluster.sh stop     stop them and remove the folder
#   tests/slurm/cluster.sh folder   print the folder: slurm.conf, logs, state ($SLURM_TEST_FOLDER moves it)
#
# Needs root. Everything lives in that folder, ports and the munge key included: a SLURM that the machine may have
# already is not touched.
set -euo pipefail

folder=${SLURM_TEST_FOLDER:-${TMPDIR:-/tmp}/slurm-two-nodes}
export SLURM_CONF=$folder/slurm.conf

install_packages() {
    local packages=(slurmctld slurmd slurm-client munge) missing=()
    for package in "${packages[@]}"; do
        dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing+=("$package")
    done
    if ((${#missing[@]})); then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
}

write_config() {
    local host
    host=$(hostname -s)
    mkdir -p "$folder/state"
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    # cred_expire is also how long a requeued job waits: 120 s by default.
    # sched_interval, bf_interval: seconds between two looks at waiting jobs, 60 and 30 by default.
    # config_overrides: each node says 1 CPU, whatever the machine has.
    # proctrack/linuxproc, task/none: no cgroups, which a container may not have.
    cat >"$SLURM_CONF" <<END
ClusterName=two_nodes
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdSpoolDir=$folder/%n
SlurmdPidFile=$folder/%n.pid
SlurmdLogFile=$folder/%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1
SchedulerParameters=sched_interval=2,bf_interval=1
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
}

start() {
    if ((EUID != 0)); then
        echo "cluster.sh: needs root, SLURM starts jobs for other users" >&2
        exit 2
    fi
    stop
    install_packages
    write_config
    munged --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" --force
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for ((second = 0; second < 30; second++)); do
        [[ $(sinfo --noheader --format=%D --states=idle) == 2 ]] && sinfo && return
        sleep 1
    done
    echo "cluster.sh: the nodes did not come up; last lines of the logs:" >&2
    tail -n 20 "$folder"/*.log >&2
    exit 1
}

stop() {
    if [[ -f $folder/slurmctld.pid ]]; then # no job may outlive its cluster
        timeout 10 scancel --user="$(id -un)" || true
        for ((second = 0; second < 40; second++)); do
            [[ -z $(timeout 10 squeue --noheader --states=RUNNING,COMPLETING) ]] && break
            sleep 1
        done
    fi
    end slurmd "$folder/n1.pid"
    end slurmd "$folder/n2.pid"
    end slurmctld "$folder/slurmctld.pid"
    end munged "$folder/munged.pid"
    rm -rf "$folder"
}

# End the daemon whose number stands in a file, which it removes as its last act.
end() {
    local name=$1 pid_file=$2
    [[ -f $pid_file && $(cat "/proc/$(<"$pid_file")/comm" 2>/dev/null) == "$name" ]] || return 0
    kill "$(<"$pid_file")"
    for ((tenth = 0; tenth < 100; tenth++)); do
        [[ -f $pid_file ]] || return 0
        sleep 0.1
    done
}

case ${1:-} in
start | stop) "$1" ;;
folder) echo "$folder" ;;
*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2
    exit 2
    ;;
esac
