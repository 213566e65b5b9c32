#!/usr/bin/env bash
# Ends processes, and removes folders, that their owner can no longer look after.
#
# The owner (a test process, the demo) holds the write end of this script's standard input. When the owner ends in
# whatever manner, SIGKILL included, the kernel closes that end; what is then still on the list is killed and removed.
# There is no polling, and no parent-death signal, which would be bound to the thread that started the child.
#
# Lines: `watch PID`, `forget PID` (it has been waited for), `remove DIR`, `keep DIR` (it has been removed).
set -u
# What ends the owner at the terminal must not end this.
trap '' INT TERM HUP

reap_after_the_owner() {
  local verb subject pid folder
  local -A processes=() folders=()

  while IFS=' ' read -r verb subject; do
    case "$verb" in
      watch) processes["$subject"]=1 ;;
      forget) unset "processes[$subject]" ;;
      remove) folders["$subject"]=1 ;;
      keep) unset "folders[$subject]" ;;
    esac
  done

  for pid in "${!processes[@]}"; do kill -9 "$pid" 2>/dev/null; done
  for pid in "${!processes[@]}"; do
    for _ in {1..100}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.05
    done
  done
  for folder in "${!folders[@]}"; do rm -rf -- "$folder"; done
}

# Bash reads a script while it runs it; called on one line with the exit, this one may be edited meanwhile.
reap_after_the_owner; exit
