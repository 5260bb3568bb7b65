"""What optional packages do by themselves."""

import os

from megadga.prepare.extras import restrain_comet


def test_comet_is_kept_from_acting_by_itself_unless_its_user_wants_it(monkeypatch):
    monkeypatch.delenv("COMET_DISABLE_AUTO_LOGGING", raising=False)
    monkeypatch.setenv("COMET_ERROR_TRACKING_ENABLE", "true")

    restrain_comet()

    assert os.environ["COMET_DISABLE_AUTO_LOGGING"] == "1"
    assert os.environ["COMET_ERROR_TRACKING_ENABLE"] == "true"
