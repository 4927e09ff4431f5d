"""A crowd of slow clients is sent away in time, and nobody else waits for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import uvloop

from bench import slow
from bench.traffic import percentile
from tests.running import HELLO, project, serving

HEAD_S, EACH = 1.0, 100
CONFIG = f"""
[ai]
preload = []
[edge_runtime]
head_s = {HEAD_S}
"""


def test_a_crowd_of_slow_clients_is_sent_away_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow, "HEAD_S", HEAD_S)
    monkeypatch.setattr(slow, "DRIBBLE_S", HEAD_S / 10)
    monkeypatch.setattr(slow, "DRIBBLERS", EACH)
    monkeypatch.setattr(slow, "SILENT", EACH)
    with serving(project(tmp_path, {"hello": HELLO}, CONFIG)) as server:
        crowd = uvloop.run(slow.gather(int(server.url.rpartition(":")[2])))
    for ended in crowd.ended.values():
        assert [answer for _, answer in ended] == ["408"] * EACH
        assert HEAD_S * 0.9 < min(ended)[0] <= max(ended)[0] < HEAD_S + 1
    assert percentile(crowd.health, 99) < 250
