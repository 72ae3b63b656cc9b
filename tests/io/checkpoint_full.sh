# A full disk: the checkpoint fails cleanly, the older one stays. Needs to mount a small file system.
. "$top_srcdir/tests/support/tap.sh"
writer=$top_builddir/tests/io/checkpoint_writer
disk=$scratch/disk
mkdir "$disk"

# The part below runs in a mount namespace of its own.
if [ "${1:-}" != inside ]; then
    for how in "unshare -m" "unshare -r -m"; do
        if $how mount -t tmpfs tmpfs "$disk" 2>/dev/null; then
            $how sh "$0" inside
            exit
        fi
    done
    skip "a full disk leaves the older checkpoint" "mounting is not permitted"
    finish
    exit
fi

# fill FREE: leaves so many KiB free on the disk.
fill() {
    rm -f "$disk/fill"
    head -c $((($(df -k "$disk" | awk 'END { print $4 }') - $1) * 1024)) /dev/zero >"$disk/fill"
}
sound() { # STEP
    "$writer" check "$disk/run" "$1" && [ "$(readlink "$disk/run/latest")" = "step-0000000$1.h5" ] &&
        [ "$(ls -A "$disk/run" | tr '\n' ' ')" = "latest step-0000000$1.h5 " ]
}

mount -t tmpfs -o size=9m tmpfs "$disk"
check "a first checkpoint fits" mpi 3 "$writer" write "$disk/run" 1 2
for free in 0 4 8 16 64 256 1024 2048 3000; do
    fill "$free"
    check_fails "with $free KiB free the next does not" 1 "No space left on device" \
        mpi 3 "$writer" write "$disk/run" 2 1
    check "nobody crashed" sh -c '! grep -i -E "signal|abort|segmentation" "$1"' sh "$scratch/out"
    check "and the first is untouched" sound 1
done
rm -f "$disk/fill"
check "with space it is written" mpi 3 "$writer" write "$disk/run" 2 1
check "in place of the first" sound 2
check "and is read by one rank" mpi 1 "$writer" read "$disk/run/latest" 2

# The record of routing, 2 MB a step.
rm -rf "$disk/run"
for step in 7 8; do
    check "step $step of a record fits" mpi 2 "$writer" record "$disk/routing.h5" "$step"
done
for free in 0 8 64 512; do
    fill "$free"
    check_fails "with $free KiB free step 9 does not" 1 "No space left on device" \
        mpi 2 "$writer" record "$disk/routing.h5" 9
    check "nobody crashed" sh -c '! grep -i -E "signal|abort|segmentation" "$1"' sh "$scratch/out"
    check "two steps are there" "$writer" recorded "$disk/routing.h5" 7 2
    check_fails "nor a new record" 1 "No space left on device" mpi 2 "$writer" record "$disk/another.h5" 9
    check "and nothing of it is left" sh -c '[ ! -e "$1" ]' sh "$disk/another.h5"
done
rm -f "$disk/fill"
check "with space step 9 fits" mpi 2 "$writer" record "$disk/routing.h5" 9
check "three steps are there" "$writer" recorded "$disk/routing.h5" 7 3
umount "$disk"
finish
