# What a service manager hands over, and what it hears: sockets, notifications, the watchdog.
coracle import -q image.tar localhost/busybox >/dev/null
coracle import -q nginx.tar localhost/nginx >/dev/null
units=$HOME/.config/systemd/user
mkdir -p "$units" "$HOME/www"
echo hello >"$HOME/www/index.html"
service() { # NAME PROPERTY... -- COMMAND...: returns when it is ready
    local unit=$1 properties=()
    shift
    while [ "$1" != -- ]; do properties+=(-p "$1"); shift; done
    shift
    systemd-run --user -q -u "$unit" -p Type=notify -p NotifyAccess=all -p Delegate=yes -p TimeoutStartSec=200 ${properties[@]+"${properties[@]}"} "$@"
}
main() { systemctl --user show -p MainPID --value "$1"; }
result() { systemctl --user show -p Result --value "$1"; }
end() { systemctl --user stop "$1" 2>/dev/null; systemctl --user reset-failed "$1" 2>/dev/null; }
# The host's systemd-notify in the container.
host=(-v /usr:/usr:ro -v /usr/lib:/lib:ro -v /usr/lib64:/lib64:ro)

# --sdnotify
check "conmon: ready when the program runs" service n.service -- coracle run --rm --name n --sdnotify=conmon busybox sleep 1000
is "the main process is the supervisor" "$(main n)" "$(coracle inspect -f '{{.State.ConmonPid}}' n)"
is "the container is not told" "$(coracle exec n sh -c 'tr "\0" "\n" </proc/1/environ' | grep -c NOTIFY_SOCKET)" 0
end n
check "container: ready when the program says so" service n.service -- coracle run --rm --name n --sdnotify=container "${host[@]}" busybox \
    sh -c 'sleep 3; touch /ok; systemd-notify --no-block --ready --status="serving all"; sleep 1000'
check "and not before" coracle exec n test -e /ok
is "its words arrive" "$(systemctl --user show -p StatusText --value n)" "serving all"
is "the main process is the supervisor" "$(main n)" "$(coracle inspect -f '{{.State.ConmonPid}}' n)"
end n
check "healthy: ready when the check succeeds" service n.service -- coracle run --rm --name n --sdnotify=healthy --health-cmd 'test -e /ok' \
    --health-interval 1s --health-retries 100 busybox sh -c 'sleep 3; touch /ok; sleep 1000'
check "and not before" coracle exec n test -e /ok
end n
check "ignore: nobody is told" sh -c '! systemd-run --user -q -u n.service -p Type=notify -p NotifyAccess=all -p TimeoutStartSec=15 coracle run --rm --name n --sdnotify=ignore busybox sleep 1000 2>/dev/null'
end n

# WatchdogSec=
check "with a watchdog" service w.service WatchdogSec=15 -- coracle run --rm --name w --sdnotify=conmon busybox sleep 1000
sleep 40
is "the supervisor gives signs of life" "$(systemctl --user is-active w)" active
kill -STOP "$(main w)"
barks() { [ "$(result w)" = watchdog ]; }
check "one that hangs is found" eventually barks
end w
coracle rm -f -t 0 w >/dev/null 2>&1
check "with a watchdog for the program" service w.service WatchdogSec=15 -- coracle run --rm --name w --sdnotify=container "${host[@]}" busybox \
    sh -c 'systemd-notify --no-block --ready; echo $WATCHDOG_USEC; for i in 1 2 3 4 5 6 7 8; do systemd-notify --no-block WATCHDOG=1; sleep 5; done; sleep 1000'
is "which knows it" "$(coracle logs w)" 15000000
sleep 25
is "its signs of life arrive" "$(systemctl --user is-active w)" active
check "and are missed" eventually barks
end w
coracle rm -f -t 0 w >/dev/null 2>&1

# Sockets for the program: nginx takes them over from descriptor 3, without any network.
cat >"$HOME/site.conf" <<'U'
server { listen 127.0.0.1:8085; root /www; }
U
printf '[Socket]\nListenStream=127.0.0.1:8085\n' >"$units/fd.socket"
cat >"$units/fd.service" <<'U'
[Service]
Type=notify
NotifyAccess=all
Delegate=yes
TimeoutStartSec=200
ExecStart=/usr/local/bin/coracle run --rm --name fd --network none -e NGINX=3; -v %h/www:/www:ro -v %h/site.conf:/etc/nginx/sites-enabled/default:ro localhost/nginx nginx -g "daemon off;"
U
systemctl --user daemon-reload
systemctl --user start fd.socket
get() { curl -s -m 200 "http://127.0.0.1:$1/"; }
is "a socket-activated nginx answers its first request" "$(get 8085)" hello
is "from a container without a network" "$(coracle inspect -f '{{.HostConfig.NetworkMode}}' fd)" none
is "that knows what it was given" "$(coracle exec fd sh -c 'tr "\0" "\n" </proc/1/environ' | grep -c '^LISTEN_FDS=1$')" 1
systemctl --user stop fd.socket fd

# A published port held by systemd, and one below 1024 by a unit of the system.
printf '[Socket]\nListenStream=127.0.0.1:8086\n' >"$units/held.socket"
printf '[Service]\nDelegate=yes\nExecStart=/usr/local/bin/coracle run --rm --name held -p 8086:80 -v %%h/www:/var/www/html:ro localhost/nginx nginx -g "daemon off;"\n' >"$units/held.service"
systemctl --user daemon-reload
systemctl --user start held.socket
is "a published port held by systemd answers its first request" "$(get 8086)" hello
systemctl --user stop held.socket held
printf '[Socket]\nListenStream=80\n' | sudo tee /etc/systemd/system/low.socket >/dev/null
sudo tee /etc/systemd/system/low.service >/dev/null <<'U'
[Service]
User=tester
Delegate=yes
Environment=XDG_RUNTIME_DIR=/run/user/1000
ExecStart=/usr/local/bin/coracle run --rm --name low -m 64m -p 80:80 -v /home/tester/www:/var/www/html:ro localhost/nginx nginx -g "daemon off;"
U
sudo systemctl daemon-reload
sudo systemctl start low.socket
check "port 80 is not for this user" sh -c '! coracle run --rm -p 80:80 busybox true 2>/dev/null'
is "but served where a unit of the system hands it over" "$(get 80)" hello
is "with its limits, in the cgroup that is delegated" "$(cat "/sys/fs/cgroup$(coracle inspect -f '{{.State.CgroupPath}}' low)/memory.max") $(coracle inspect -f '{{.State.CgroupPath}}' low | grep -c /low.service/)" "67108864 1"
sudo systemctl stop low.socket low
is "its end leaves nothing" "$(coracle ps -aq)" ""
[ $failures = 0 ] || { journalctl -q --no-pager -n 80 --user; sudo journalctl -q --no-pager -n 30 -u low; }
finish
