#!/bin/busybox sh
# Init of the test root file system: says what the guest sees, serves a page,
# then runs every line that comes in on the console as a command.

mount -t devtmpfs dev /dev 2> /dev/null
mount -t proc proc /proc 2> /dev/null
mount -t sysfs sys /sys 2> /dev/null
mount -t tmpfs tmp /tmp

echo SANDBOX-ROOT-READY
echo "SANDBOX-CPUS $(nproc)"
echo "SANDBOX-MEMTOTAL-KIB $(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"

# Warnings and worse (levels 0 to 4) of the kernel.
echo SANDBOX-WARNINGS-BEGIN
dmesg -r | sed -n 's/^<[0-4]>//p'
echo SANDBOX-WARNINGS-END

httpd -p 80 -h /www && echo SANDBOX-HTTP-READY

# Without echo, what is read from the console is what commands print.
stty -echo
echo SANDBOX-SHELL-READY
while read -r line; do
	sh -c "$line"
	echo "SANDBOX-STATUS $?"
done
# A console without input; an init must not end.
exec sleep 2147483647
