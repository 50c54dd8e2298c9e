# After the reboot: without lingering nothing of a user runs before the first login.
uid=$(id -u visitor)
visit() { ssh -q -n -i "$HOME/key" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null visitor@127.0.0.1 "$@"; }
answers() { curl -s -m 100 http://127.0.0.1:8090/os-release | grep -q busybox; }
runs() { sudo pgrep -xf "sleep 100004" >/dev/null; }
systemctl is-system-running --wait >/dev/null
is "the user's systemd does not run" "$(systemctl is-active user@$uid.service)" inactive
check "the Quadlet service does not answer" sh -c '! curl -s -m 100 http://127.0.0.1:8090/'
check "what boot enable starts does not run" sh -c '! sudo pgrep -xf "sleep 100004"'
visit sleep 300 &
login=$!
check "with the first login the service comes" eventually answers
check "and the container of boot" eventually runs
kill $login
sudo loginctl enable-linger visitor
is "no word about lingering where it is on" "$(visit 'coracle boot status' | grep -c 'lingering: on')" 1
sudo loginctl terminate-user visitor 2>/dev/null
sudo loginctl disable-linger visitor
finish
