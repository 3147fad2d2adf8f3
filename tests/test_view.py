"""Code in a closed directory can be read by another user, in one mount namespace alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.errors import SiteError
from bootstrap.rehearsal.view import closed_ancestor, make_visible

SCRIPT = """
import sys
from pathlib import Path
from bootstrap.rehearsal.view import make_visible, own_paths
make_visible([*own_paths(), Path(sys.argv[1])])
import os
os.setgid(61001), os.setuid(61001)
print(Path(sys.argv[1], "code").read_text(), Path(sys.argv[2]).exists())
"""


@pytest.mark.boots
def test_another_user_reads_what_is_needed_and_nothing_beside_it(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    wanted = closed / "deep" / "wanted"
    wanted.mkdir(parents=True)
    (wanted / "code").write_text("code")
    (closed / "private").write_text("private")
    closed.chmod(0o700)
    command = ["unshare", "--mount", sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        [*command, str(wanted), str(closed / "private")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "code False\n", done.stderr
    assert (closed / "private").exists()


def test_a_path_that_is_closed_itself_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "code"
    path.mkdir(mode=0o700)
    with pytest.raises(SiteError, match=r"chmod o\+x"):
        make_visible([path])


def test_the_first_closed_directory_is_found(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    tmp_path.chmod(0o755)
    (tmp_path / "a").chmod(0o700)
    found = closed_ancestor(inner)
    assert found is not None
    assert found == tmp_path / "a" or found in tmp_path.parents
    assert not found.stat().st_mode & 1
