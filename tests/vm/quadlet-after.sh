# After the reboot: nobody has logged in, lingering has systemd start what [Install] wants.
answers() { [ "$(busybox wget -q -T 60 -O - http://127.0.0.1:8080/ 2>/dev/null)" = hello ]; }
check "it comes back after a reboot" eventually answers
is "as a service" "$(systemctl --user is-active web)" active
is "what is not wanted does not" "$(systemctl --user is-active member)" inactive
before=$SECONDS
check "stop" systemctl --user stop web
is "nginx has ended in order" "$(systemctl --user show -p Result,ExecMainCode,ExecMainStatus web | sort | tr '\n' ' ')" "ExecMainCode=1 ExecMainStatus=0 Result=success "
check "when it was asked to" test $((SECONDS - before)) -lt 60
is "the container is gone" "$(coracle ps -a --format '{{.Names}}')" ""
sudo loginctl disable-linger tester
check "quadlet disable" coracle quadlet disable
finish
