# What a container may call: docker's default profile, as facts in a form of our own.
# Format: profile.rs in this directory. Names that an ABI does not have are ignored there.
#
# Not in any list, and so refused with EPERM: add_key keyctl request_key (keyrings are not namespaced),
# io_uring_* (a second way to most system calls, past this filter), userfaultfd, mount and friends without
# CAP_SYS_ADMIN, kexec_*, swapon, pivot_root, nfsservctl, uselib, vm86, and what nobody needs.

default errno EPERM

allow
    # files and directories
    access arm_fadvise64_64 arm_sync_file_range cachestat chdir chmod chown chown32 close close_range
    copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod
    fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 ioctl lchown lchown32 link
    linkat listmount _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open
    openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
    rename renameat renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 statmount statx
    symlink symlinkat sync sync_file_range sync_file_range2 syncfs tee truncate truncate64 umask unlink
    unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
    # extended attributes
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
    lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
    # waiting for descriptors
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
    eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect pipe pipe2 poll
    ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64
    # sockets; socket itself is below
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketpair
    # i386: many programs have no other way; where arguments cannot be seen, an LSM must look at them
    ipc socketcall
    # memory
    brk get_thread_area madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free
    pkey_mprotect process_mrelease remap_file_pages set_thread_area
    # processes and threads
    alarm capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait
    futex_waitv futex_wake get_robust_list getcpu getitimer getpgid getpgrp getpid getppid getpriority
    getrlimit getrusage getsid gettid ioprio_get ioprio_set kill pause pidfd_open pidfd_send_signal prctl
    prlimit64 process_vm_readv process_vm_writev ptrace restart_syscall rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_tid_address setitimer
    setpgid setpriority setrlimit setsid sigaltstack sigprocmask sigreturn tgkill tkill ugetrlimit uretprobe
    vfork wait4 waitid waitpid
    # confining oneself further
    landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
    # users and groups
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid
    getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32
    # System V and POSIX IPC
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt
    shmget
    # time; setting the clock still needs CAP_SYS_TIME
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 gettimeofday nanosleep time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 times
    # the machine
    getrandom sysinfo uname
    # one architecture's own
    arch_prctl breakpoint cacheflush modify_ldt set_tls

# Address families. Left out: 12 DECnet, 19 Econet, 20 ATM SVC, 23 IrDA, 25 WAN pipe, 34 mISDN, 37 CAIF
# (unmaintained), 38 ALG (CVE-2026-31431), 40 VSOCK (reaches the hypervisor). A list of what
# is allowed, compared in 64 bits: the kernel ignores the upper half of the argument, so a filter that only
# refuses 40 lets 0x1_0000_0028 through.
allow when arg0 < 12
    socket
allow when arg0 in 13 14 15 16 17 18 21 22 24 26 27 28 29 30 31 32 33 35 36 39 41 42 43 44 45
    socket

# PER_LINUX, PER_LINUX32, both with UNAME26, and the question which one it is.
allow when arg0 in 0x0 0x8 0x20000 0x20008 0xffffffff
    personality

# No new namespace: NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET.
allow when arg0 & 0x7e020000 == 0 unless cap SYS_ADMIN
    clone
# Its flags are behind a pointer. ENOSYS makes the C library fall back to clone.
errno ENOSYS unless cap SYS_ADMIN
    clone3

# Newer than docker's list: programs fall back, as they would under runc, which answers ENOSYS to whatever
# is newer than its profile.
errno ENOSYS
    open_tree_attr file_getattr file_setattr listns rseq_slice_yield

allow if cap SYS_ADMIN
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr
    lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl
    quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
allow if cap BPF
    bpf
allow if cap DAC_READ_SEARCH
    open_by_handle_at
allow if cap PERFMON
    perf_event_open
allow if cap SYS_BOOT
    reboot
allow if cap SYS_CHROOT
    chroot
allow if cap SYS_MODULE
    delete_module finit_module init_module
allow if cap SYS_NICE
    get_mempolicy mbind set_mempolicy set_mempolicy_home_node
allow if cap SYS_PACCT
    acct
allow if cap SYS_PTRACE
    kcmp pidfd_getfd process_madvise
allow if cap SYS_RAWIO
    ioperm iopl
allow if cap SYS_TIME
    clock_settime clock_settime64 settimeofday stime
allow if cap SYS_TTY_CONFIG
    vhangup
allow if cap SYSLOG
    syslog
