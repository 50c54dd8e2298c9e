# What runs in the background lives on after the last logout exactly when lingering is on. A user of its own, who logs in by
# ssh; after the reboot comes login-after.sh.
sudo useradd -m -s /bin/bash visitor
uid=$(id -u visitor)
ssh-keygen -q -t ed25519 -N '' -f "$HOME/key"
sudo install -d -o visitor -g visitor -m 700 /home/visitor/.ssh
sudo install -o visitor -g visitor -m 600 "$HOME/key.pub" /home/visitor/.ssh/authorized_keys
sudo install -o visitor -g visitor -m 644 image.tar /home/visitor
visit() { ssh -q -n -i "$HOME/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null visitor@127.0.0.1 "$@"; }
runs() { sudo pgrep -xf "sleep $1" >/dev/null; }
visit 'coracle import -q image.tar localhost/busybox' >/dev/null
is "there is lingering for nobody" "$(loginctl show-user visitor -p Linger --value 2>/dev/null || echo no)" no
visit 'coracle run -d --name one busybox sleep 100001' >out 2>err
is "run -d explains it, with the line that helps" "$(grep -c 'sudo loginctl enable-linger visitor$' err) $(wc -l <err)" "1 1"
is "and prints the id" "$(wc -c <out)" 65
[ $failures = 0 ] || cat err
is "it is not switched on" "$(test -e /var/lib/systemd/linger/visitor; echo $?)" 1
visit 'coracle run -d --name two --init busybox sleep 100002' 2>err >/dev/null
is "once" "$(cat err)" ""
gone() { ! systemctl -q is-active user@$uid.service; }
check "without lingering the user's systemd ends with the last login" eventually gone
check "and the containers with it" eventually sh -c '! sudo pgrep -xf "sleep 10000[12]"'
is "in order" "$(visit 'coracle inspect -f "{{.State.Status}} {{.State.ExitCode}}" two')" "exited 143"
sudo loginctl enable-linger visitor
visit 'coracle run -d --name three busybox sleep 100003' 2>err >/dev/null
is "with lingering there is nothing to say" "$(cat err)" ""
logged_out() { [ -z "$(loginctl list-sessions --no-legend | grep visitor | grep -v manager)" ]; }
check "the login is over" eventually logged_out
# Longer than a user's systemd waits for the next login.
sleep 20
check "the container lives on" runs 100003
is "and is found by the next login" "$(visit coracle exec three echo hello)" hello
visit coracle rm -f -t 0 three >/dev/null
sudo loginctl disable-linger visitor
# What is to come up with the machine, but does not.
cat >web.container <<'U'
[Container]
Image=localhost/busybox
PublishPort=8090:80
Exec=httpd -f -p 80 -h /etc
[Service]
TimeoutStartSec=300
[Install]
WantedBy=default.target
U
visit mkdir -p .config/containers/systemd
sudo install -o visitor -g visitor -m 644 web.container /home/visitor/.config/containers/systemd/web.container
visit coracle quadlet enable >/dev/null 2>&1
visit 'coracle run -d --name boot --restart always busybox sleep 100004 && coracle boot enable' >/dev/null 2>&1
finish
