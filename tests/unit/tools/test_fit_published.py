"""Mixtures and losses are read as the papers publish them."""

import numpy as np

from megadga.laws.observations import DOMAIN
from tools.fit_published import SETS, STEP, read_mixing_laws, read_regmix


def test_rows_of_regmix_are_matched_by_their_number_and_weights_have_the_sum_1(tmp_path):
    (tmp_path / "train_mixture_1m.csv").write_text("index,a,b\n2,0.25,0.749\n1,1.0,0.0\n")
    (tmp_path / "train_pile_loss_1m.csv").write_text(
        "index,metric/the_pile_arxiv_val_loss,metric/the_pile_pile_cc_val_loss\n1,9,3\n2,9,4\n"
    )
    weights = read_regmix(tmp_path, "train", "mixture")
    np.testing.assert_allclose(weights, [[1.0, 0.0], [250 / 999, 749 / 999]], rtol=1e-15)
    np.testing.assert_array_equal(read_regmix(tmp_path, "train", "pile_loss"), [[3.0], [4.0]])


def test_runs_of_data_mixing_laws_count_with_all_sets_at_one_step(tmp_path):
    sets = [f"set{number:02}" for number in range(SETS)]
    lines = [
        f"/ckpts//70M_{number}-{ratio}/{step}\t/valid//{name}.bin\t{loss + place}\n"
        for number, ratio, known in ((0, "0-0.25-0.75", sets), (7, "1-0-0", sets[:-1]))
        for step, loss in ((STEP, 2.0), (STEP - 1000, 99.0))
        for place, name in enumerate(known)
    ]
    (tmp_path / "70M.txt").write_text("".join(reversed(lines)))
    found = read_mixing_laws(tmp_path)
    assert found.sets == tuple(f"{DOMAIN}{name}.bin" for name in sets)
    np.testing.assert_array_equal(found.weights, [[0.0, 0.25, 0.75]])
    np.testing.assert_array_equal(found.losses, [2.0 + np.arange(SETS)])
