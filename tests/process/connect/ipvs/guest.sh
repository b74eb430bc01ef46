#!/bin/busybox sh
# The first process of the guest. Each line that begins with `=` tells the test what was seen; the test knows what must be.
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp /etc
echo 'nobody:x:65534:65534::/:/bin/sh' >/etc/passwd
: >/gwm.log
tail -f /gwm.log &
ip link set lo up
for address in 10.9.0.1 10.9.1.1 10.9.1.2 10.9.1.3; do ip addr add $address/32 dev lo; done
for host in 1 2 3; do
    mkdir /www$host
    echo $host >/www$host/index.html
    httpd -f -p 10.9.1.$host:8080 -h /www$host &
    eval httpd$host=$!
done

# `members 1=30 2=quiesced`: the members file.
members() {
    for entry in "$@"; do
        echo '[[member]]'
        echo "address = '10.9.1.${entry%=*}'"
        echo "protocol = 'tcp'"
        echo 'port = 8080'
        echo "monitor = 'none'"
        case ${entry#*=} in
            quiesced) printf 'weight = 1\nquiesced = true\n' ;;
            *) echo "weight = ${entry#*=}" ;;
        esac
    done >/members.new
    mv /members.new /members.toml
    [ -z "$gwm" ] || kill -HUP $gwm
}
serve() {
    gwm serve --listen 127.0.0.1:3860 --members /members.toml --push-window 10ms 2>>/gwm.log &
    gwm=$!
}
connect() {
    gwm connect --uid LVS --log-level info --retry 1s "$@" 2>>/gwm.log &
    connector=$!
}
web() {
    connect "$@" --admin-listen 127.0.0.1:9861 ipvs --service 'tcp 10.9.0.1:80=web' --service 'fwmark 7=web2' --map 'web*=web'
}
# The weights of the services with names like this, as ipvsadm sees them.
weights() { ipvsadm -Sn | grep -e "$1" | sed -n 's/.* -r 10.9.1.\([^:]*\).* -w \([0-9]*\).*/\1=\2/p' | tr '\n' ' '; }
tcp() { weights '-t 10.9.0.1:80 '; }
reach() { # what the service must have
    while [ "$(tcp)" != "$1 " ]; do
        usleep 50000
    done
    echo "= $2: $(tcp)"
}
# Which members answer 40 requests.
shares() {
    seq 40 | while read -r _; do wget -q -O - http://10.9.0.1/ || echo failed; done | sort | uniq -c | sed 's/ *\([0-9]*\) \(.*\)/\2=\1/' | tr '\n' ' '
}
check="connect --uid LVS --check ipvs --service"
attempt() { gwm $check 'tcp 10.9.0.1:80=web' 2>&1; } # one look, without an effect

echo "= without the module: $(attempt)"
for module in libcrc32c nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack ip_vs ip_vs_wrr; do insmod /modules/$module.ko; done
echo "= without a service: $(attempt | tr '\n' ' ')"
echo "= without the right: $(start-stop-daemon -S -c nobody -x /bin/gwm -- $check 'tcp 10.9.0.1:80=web' 2>&1)"
ipvsadm -A -t 10.9.0.1:80 -s wrr
ipvsadm -a -t 10.9.0.1:80 -r 10.9.1.1:8080 -m -w 5 -x 1000 -y 10
ipvsadm -a -t 10.9.0.1:80 -r 10.9.1.2:8080 -m -w 6
ipvsadm -a -t 10.9.0.1:80 -r 10.9.1.3:8080 -m -w 7
ipvsadm -A -f 7 -s wrr
ipvsadm -a -f 7 -r 10.9.1.1:8080 -i -w 5
ipvsadm -a -f 7 -r 10.9.1.2:8080 -g -w 5
# A service that no one asked for.
ipvsadm -A -u 10.9.0.1:53 -s wrr
ipvsadm -a -u 10.9.0.1:53 -r 10.9.1.1:8080 -m -w 99
echo "= the check: $(attempt | tr '\n' ' ')"

members 1=30 2=10 3=quiesced
serve
gwm connect --uid LVS --retry 1s --dry-run ipvs --service 'tcp 10.9.0.1:80=web' >/dry 2>>/gwm.log &
dry=$!
while ! grep -q 'weight 5 -> 3' /dry; do usleep 50000; done
kill $dry
wait $dry
echo "= a dry run: $? $(tcp)"
web
reach '1=3 2=1 3=0' 'weights'
echo "= shares: $(shares)"
echo "= the mark's weights: $(weights '-f 7 ')"
echo "= another service: $(weights '-u 10.9.0.1')"
echo "= thresholds: $(ipvsadm -Ln --thresholds | awk '/10.9.1.1:8080/ {print $3, $4; exit}')"
echo "= methods: $(ipvsadm -Ln | awk '/FWM/ {mark=1} /->/ && mark {print $3}' | tr '\n' ' ')"
members 1=10 2=10 3=20
reach '1=1 2=1 3=2' 'new weights'
echo "= new shares: $(shares)"
# What the connector tells of connections, and what ipvsadm tells. The kernel counts them up every two seconds.
counted() { ipvsadm -Ln --stats -t 10.9.0.1:80 | sed -n 's/.*-> 10.9.1.\(.\):8080 *\([0-9]*\).*/\1=\2/p' | sort | tr '\n' ' '; }
while [ "$(counted)" != '1=40 2=20 3=20 ' ]; do usleep 50000; done
echo "= connections so far: $(wget -q -O - http://127.0.0.1:9861/metrics |
    sed -n 's/^gwm_connect_member_new_connections_total{pool="web",member="10.9.1.\(.\):8080"} \([0-9]*\).*/\1=\2/p' | sort | tr '\n' ' ')"

ipvsadm -e -t 10.9.0.1:80 -r 10.9.1.2:8080 -m -w 77
reach '1=1 2=1 3=2' 'after a change by hand'
ipvsadm -Sn >/saved
ipvsadm -C
while ! grep -q 'IPVS has no such service' /gwm.log; do usleep 50000; done
sed 's/-w [0-9]*/-w 9/' /saved | ipvsadm -R
reach '1=1 2=1 3=2' 'after all services were made again'

# Requests go on while member 1 drains and leaves.
: >/failures
load() { while [ ! -e /stop ]; do wget -q -O /dev/null http://10.9.0.1/ || echo failed >>/failures; done; }
load & one=$!
load & two=$!
members 1=quiesced 2=10 3=20
reach '1=0 2=1 3=2' 'drained'
while [ "$(ipvsadm -Ln | awk '/10.9.1.1:8080/ {print $5; exit}')" != 0 ]; do usleep 50000; done
kill $httpd1
echo "= under load: $(shares)"
touch /stop
wait $one $two
echo "= shares without the first: $(shares)"
echo "= failed requests: $(wc -l </failures)"

# The GWM goes, and comes back with other weights.
kill -9 $gwm
while ! grep -q 'WARN GWM' /gwm.log; do usleep 50000; done
echo "= without a GWM: $(tcp)"
gwm=
members 1=quiesced 2=10 3=50
serve
reach '1=0 2=1 3=5' 'of a new GWM'
kill -9 $connector
web --on-exit restore
members 1=quiesced 2=30 3=10
reach '1=0 2=3 3=1' 'of a new connector'
members 1=10 2=30 3=10
reach '1=1 2=3 3=1' 'all serve'
for weight in 20 40 60; do
    kill -9 $gwm
    gwm=
    members 1=10 2=$weight 3=10
    serve
done
reach '1=1 2=6 3=1' 'with a GWM that flaps'
kill $connector
wait $connector
echo "= restored: $? $(tcp)"

# Members that register themselves become destinations, and leave again.
kill -9 $gwm
gwm=
members 1=10 2=30 3=10
serve
ipvsadm -d -t 10.9.0.1:80 -r 10.9.1.3:8080
dynamic() { connect --trust ipvs --service 'tcp 10.9.0.1:80=web' --dynamic --leave-after 1s; }
dynamic
reach '1=1 2=3' 'before the third joins'
gwm member register --lb LVS --group web --member 10.9.1.3:8080 2>&1
reach '1=1 2=3 3=1' 'with the third'
echo "= joined: $(ipvsadm -Ln --thresholds | awk '/10.9.1.3:8080/ {print $3, $4; exit}')"
echo "= shares of three: $(shares)"
# A connector that was killed knows what it has added.
kill -9 $connector
dynamic
members 1=10 2=30 3=quiesced
reach '1=1 2=3 3=0' 'drained by a new connector'
gwm member deregister --lb LVS --group web --member 10.9.1.3:8080 2>&1
reach '1=1 2=3' 'after the third left'
echo "= the others' thresholds: $(ipvsadm -Ln --thresholds | awk '/10.9.1.1:8080/ {print $3, $4; exit}')"
kill -9 $connector

# A hundred services; the connector is killed amid updates.
for port in $(seq 1001 1100); do
    echo "-A -t 10.9.0.1:$port -s wrr"
    echo "-a -t 10.9.0.1:$port -r 10.9.1.2:8080 -m -w 1"
    echo "-a -t 10.9.0.1:$port -r 10.9.1.3:8080 -m -w 1"
done | ipvsadm -R
many() {
    set --
    for port in $(seq 1001 1100); do set -- "$@" --service "tcp 10.9.0.1:$port=g$port"; done
    connect ipvs --map 'g*=farm' "$@"
}
count() { ipvsadm -Sn | grep -c -e "-t 10.9.0.1:1[01][0-9][0-9] -r 10.9.1.2:8080 -m -w $1\$"; }
weight=20
many
for round in 1 2 3; do
    members 2=$weight 3=10
    while [ "$(count $((weight / 10)))" = 0 ]; do usleep 10000; done
    kill -9 $connector
    many
    while [ "$(count $((weight / 10)))" != 100 ]; do usleep 50000; done
    echo "= round $round: $(count $((weight / 10)))"
    weight=$((weight + 20))
done
echo '= the end'
poweroff -f
