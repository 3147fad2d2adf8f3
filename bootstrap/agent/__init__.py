"""What runs in the enrolment initrd: proves the box to the site and takes the hand-over."""
