#!/bin/busybox sh
# Init of the emulated KVM host. It makes the machine complete, runs the
# command of this run and reports over virtio ports:
#     1 the command's standard output      3 control: started, exit N, done
#     2 the command's standard error       4 a tar archive of /out
# What it says itself goes to the console, which is shown when the run fails.

# The root file system that the kernel unpacked into cannot be pivoted away
# from, as container runtimes do; a bind mount of it can.
if [ "$1" != moved ]; then
	mount -o bind / /mnt && cd /mnt && mount -o move . / || echo "host: cannot move the root"
	exec chroot . /init moved
fi

give_up() {
	echo "host: $*"
	poweroff -f
}

mount_all() {
	mount -t devtmpfs dev /dev || return
	mkdir -p /dev/pts /dev/shm
	mount -t devpts -o mode=620,ptmxmode=666 pts /dev/pts &&
		mount -t proc proc /proc &&
		mount -t sysfs sys /sys &&
		mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
		mount -t tmpfs shm /dev/shm &&
		chmod 1777 /tmp /var/tmp /dev/shm
}

# Leaves only this process and those that pass on the command's output: what a
# command left behind must neither hold its output open nor change /out.
end_others() {
	for process in /proc/[0-9]*; do
		process=${process#/proc/}
		case $process in
		1 | "$output" | "$errors") ;;
		*) kill -9 "$process" 2> /dev/null ;;
		esac
	done
}

mount_all || give_up "cannot mount the system's file systems"
ln -sf /proc/self/fd /dev/fd
ip link set lo up
hostname kvm-host
# The limit of descriptors that a system with systemd gives.
ulimit -H -n 524288 && ulimit -S -n 1024
while read -r module; do
	insmod "$module" || give_up "cannot load $module"
done < /lib/modules/order

assets= out=
. /etc/kvm-host/settings
if [ -n "$assets" ]; then
	mkdir -p "$assets"
	mount -t ext4 -o ro,noload /dev/vda "$assets" || give_up "cannot mount the assets"
fi

# The kernel makes the ports' nodes from a work queue that nobody can await.
tries=0
until [ -c /dev/vport0p1 ] && [ -c /dev/vport0p2 ] && [ -c /dev/vport0p3 ] && [ -c /dev/vport0p4 ]; do
	tries=$((tries + 1))
	[ $tries -lt 1000 ] || give_up "there are no virtio ports"
	sleep 0.01
done
exec 3> /dev/vport0p3
# A port can be opened only once, but programs may open /dev/stdout again.
mkfifo /run/kvm-host.stdout /run/kvm-host.stderr
cat /run/kvm-host.stdout > /dev/vport0p1 3>&- &
output=$!
cat /run/kvm-host.stderr > /dev/vport0p2 3>&- &
errors=$!

echo started >&3
# In parentheses the redirections are the child's alone: what this shell says
# of a killed command does not belong to the command's errors.
(exec /bin/busybox sh /etc/kvm-host/command) \
	< /dev/null > /run/kvm-host.stdout 2> /run/kvm-host.stderr 3>&-
status=$?
end_others
wait "$output" "$errors"
echo "exit $status" >&3
if [ -n "$out" ]; then
	# That of busybox: another one, carried along, may want to write more at a time than the port takes.
	busybox tar -c -C /out . > /dev/vport0p4 || give_up "cannot pass on /out"
fi
echo done >&3
# The program that started this machine ends it now.
exec sleep 2147483647
