#!/bin/busybox sh
# Init of the initial file system of Linux guests. It loads the virtio drivers,
# sets up the network from the words
#     sandbox.net0=ADDRESS/PREFIX[,GATEWAY] sandbox.net1=…
# and goes on in the root file system that `root=` names, or else runs the
# script that `sandbox.run=` names and powers off.

mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

word() {
	sed -n "s/.*\(^\| \)$1=\([^ ]*\).*/\2/p" /proc/cmdline
}

give_up() {
	echo "boot: $*"
	poweroff -f
}

set_up_network() {
	ip link set lo up
	for number in 0 1 2 3; do
		setting=$(word "sandbox\.net$number")
		[ -n "$setting" ] || continue
		ip link set "eth$number" up && ip address add "${setting%%,*}" dev "eth$number" ||
			give_up "cannot set up eth$number as $setting"
		case $setting in
		*,*) ip route add default via "${setting#*,}" dev "eth$number" ;;
		esac
	done
}

enter_root() {
	[ -b "$1" ] || give_up "there is no disk $1"
	mode=ro
	grep -qw rw /proc/cmdline && mode=rw
	mount -o "$mode" -t ext4 "$1" /root || give_up "cannot mount $1"
	for folder in dev proc sys; do
		mount -o move "/$folder" "/root/$folder"
	done
	exec switch_root /root /sbin/init
}

while read -r module; do
	insmod "$module" || echo "boot: cannot load $module"
done < /lib/modules/order

set_up_network
root=$(word root)
script=$(word 'sandbox\.run')
if [ -n "$root" ]; then
	enter_root "$root"
elif [ -n "$script" ]; then
	sh "$script"
	poweroff -f
else
	give_up "the command line has neither root= nor sandbox.run="
fi
