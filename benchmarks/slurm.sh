#!/usr/bin/env bash
# Start a real Slurm on this machine alone, as root, for the tests marked "slurm" and for trials:
#   apt-get install -y --no-install-recommends slurm-wlm slurmdbd munge mariadb-server
#   benchmarks/slurm.sh start | stop
# One partition "one" with all processors of this machine; jobs are accounted, so that sacct answers as on a cluster.
set -euo pipefail
conf=/etc/slurm
state=/var/lib/one-machine-slurm
stop() { pkill -x slurmd || true; pkill -x slurmctld || true; pkill -x slurmdbd || true; pkill -x munged || true; mysqladmin shutdown 2> /dev/null || true; }
start() {
  mkdir -p "$state/ctl" "$state/d" /run/munge /run/mysqld /var/log/munge
  chown munge:munge /run/munge /var/log/munge /etc/munge; chown mysql:mysql /run/mysqld
  [ -s /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 2> /dev/null; }
  chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key
  pgrep -x munged > /dev/null || su -s /bin/sh munge -c /usr/sbin/munged
  pgrep -x mariadbd > /dev/null || { (mysqld_safe --skip-networking=0 --bind-address=127.0.0.1 > /dev/null 2>&1 &); }
  until mysqladmin ping > /dev/null 2>&1; do sleep 0.3; done
  mysql -e "create database if not exists slurm_acct_db; create user if not exists 'root'@'127.0.0.1'; grant all on slurm_acct_db.* to 'slurm'@'localhost' identified by 'slurm'"
  cat > "$conf/slurmdbd.conf" <<CONF
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
PidFile=$state/slurmdbd.pid
LogFile=$state/slurmdbd.log
CONF
  chmod 600 "$conf/slurmdbd.conf"
  cat > "$conf/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
StateSaveLocation=$state/ctl
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
NodeName=$(hostname) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=one Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
  slurmdbd; sleep 3
  sacctmgr -i add cluster one > /dev/null 2>&1 || true
  slurmctld; slurmd
  for _ in $(seq 60); do sinfo -h -o %t 2> /dev/null | grep -q idle && break; sleep 0.5; done
  sinfo
}
"${1:?start or stop}"
