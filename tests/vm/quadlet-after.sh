# After the reboot: nobody has logged in, lingering has systemd start what [Install] wants.
answers() { [ "$(busybox wget -q -T 60 -O - http://127.0.0.1:8080/ 2>/dev/null)" = hello ]; }
check "it comes back after a reboot" eventually answers
is "as a service" "$(systemctl --user is-active web)" active
is "what is not wanted does not" "$(systemctl --user is-active member)" inactive
check "stop" systemctl --user stop web
is "the container is gone" "$(coracle ps -a --format '{{.Names}}')" ""
sudo loginctl disable-linger tester
check "quadlet disable" coracle quadlet disable
finish
