#!/bin/busybox sh
# The first process of the guest that the commands of the manual's page are typed in.
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp /etc /page
ip link set lo up
folder=/lib/modules/$(uname -r)
mkdir -p $folder
mv /modules/*.ko $folder
depmod
cd /page
bash /typed.sh >/printed 2>/errors
echo '= printed: '
cat /printed
echo '= the end: of the page'
cat /errors serve.log connect.log
# What was written to the console is lost at once with the power. The test ends the machine earlier.
sleep 100
poweroff -f
