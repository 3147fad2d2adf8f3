"""Delete one check at a time and see a test fail: `make mutants`, `make mutants ONLY=quote,ak`.

A mutant is a pure module of the verifier, or one of keys that decides, with one check taken out: a
condition that is never true, one operand of a condition less, a call or a finding that is left
away, a filter that lets all or nothing through, an exception that is no longer turned into ours. No
file is changed: pytest collects once, then each mutant is a forked process in which the functions
have other code. It runs only the tests that enter the changed function, quickest first, until one
fails.

What no test notices survives. Survivors that change nothing an outsider could see stand in
`equivalent.toml`, each with its reason; every other survivor makes the run fail, and so does an
entry there that has no mutant any more. `build/mutants.json` has every mutant with the test that
failed first. Exit codes: 0 all noticed, 1 survivors or stale entries, 2 the tests fail by
themselves or a module cannot be read.
"""
