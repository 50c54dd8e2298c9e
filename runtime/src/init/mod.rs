//! Container init: the steps from clone to execve.
