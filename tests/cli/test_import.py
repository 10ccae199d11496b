"""What `import` says of a file that has no records, with a core and without one."""

import codecs
import json
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.ipc.messages import IMPORT_BYTES_MAX
from tests.cli.served import served
from tests.ipc.memory import MemoryCore
from tests.processes.composed import site_file

TEXT = '{"type":"site","id":"LON"}\n'

NO_RECORDS = [
    (b"", "the records file is empty"),
    (b"\n \r\n\t", "the records file is empty"),
    (codecs.BOM_UTF8 + TEXT.encode(), "begins with a byte order mark"),
    (codecs.BOM_UTF8, "begins with a byte order mark"),
    (TEXT.encode("utf-16"), "is UTF-16. Save it as UTF-8"),
    (TEXT.encode("utf-16-le"), "is UTF-16. Save it as UTF-8"),
    (TEXT.encode("utf-16-be"), "is UTF-16. Save it as UTF-8"),
    (bytes(100), "is UTF-16"),
    (b"\x1f\x8b\x08\x00\x00\x00", "it has bytes that no text has"),
    (b"PK\x03\x04" + bytes(range(256)), "it has bytes that no text has"),
    (b"SQLite format 3\x00" + bytes(range(256)), "it has bytes that no text has"),
    ((TEXT * 3 + '{"name":"Zoë"}').encode("latin-1"), "is not UTF-8 at line 4"),
    (b"x" * (IMPORT_BYTES_MAX + 1), "is larger than 64 MiB"),
]


@pytest.mark.parametrize(("data", "reason"), NO_RECORDS, ids=[reason for _, reason in NO_RECORDS])
@pytest.mark.parametrize("running", [True, False])
def test_a_file_without_records_is_refused_in_plain_words(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: bytes,
    reason: str,
    running: bool,
) -> None:
    file = tmp_path / "e.jsonl"
    file.write_bytes(data)
    core = MemoryCore()
    if running:
        with served(tmp_path, core) as config:
            assert main(["import", str(file), "--config", str(config), "--json"]) == 2
    else:
        site_file(tmp_path)
        config = tmp_path / "site.toml"
        assert main(["import", str(file), "--config", str(config), "--json"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"{file}: ")
    assert reason in said.err
    assert "\n" not in said.err.strip()
    answer = json.loads(said.out)
    assert answer["ok"] is False
    assert reason in answer["error"]
    assert core.imported == []


def test_a_command_that_could_not_says_so_in_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["status"], ["muster"], ["import", str(tmp_path / "none.jsonl")]):
        nowhere = tmp_path / "site.toml"
        assert main([*command, "--json", "--config", str(nowhere)]) == 2
        said = capsys.readouterr()
        assert json.loads(said.out)["ok"] is False
        assert json.loads(said.out)["error"] == said.err.rstrip("\n")
