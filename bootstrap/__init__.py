"""The relying party: the enrolment state machine, the site file, the page and the command line."""
