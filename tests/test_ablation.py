"""41_ablation from made-up records: what is put in comes out, and what is missing is said."""

import hashlib
import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from unetv2.common.params import RunParams, file_name
from unetv2.evaluation import record
from unetv2.evaluation.identity import TRAINING_VERSION, deciding
from unetv2.networks.names import parts
from unetv2.teaching import ablation, ablation_plots, contrasts, verdicts
from unetv2.teaching.cells import ARMS, CORNERS, LEADERS, ROWS, Cell, arms, leaders
from unetv2.teaching.landed import Landed, fullest, state
from unetv2.teaching.params import AblationParams
from unetv2.training import run

DATASET = "synthetic"  # without committed records
GROUPS, AREA = 60, 1000
GAIN = {"copy": 0.0, "attention": 1.0, "matched": 0.4, "sum": 1.5, "concat": 1.6, "nested": 1.2}
OWN = "thin+my_skip:MySkip"


def gain(cell: Cell) -> float:
    """Points of boundary F over the thin, supervised copy: what is planted."""
    found = parts(cell.model)
    if found is None:
        return {"smp-unet": 2.0, "smp-unetplusplus": 1.2}[cell.model]
    skip = found.skip.partition("-")[2] or found.skip
    value = 3.0 if found.skip.startswith("sdi") or ":" in skip else GAIN[skip]
    value -= 1.0 * (found.skip == "sdi-noattention")
    value *= 1.0 + (6 / cell.epochs - 0.25) / 1.5  # the gain shrinks as trainings get longer
    decoder, on = found.base != "thin", found.deep_supervision
    value += 2.0 * decoder - 1.0 * (not on)
    value -= 1.5 * decoder * found.skip.startswith("sdi")  # an interaction
    return value + np.log2(found.c / 32) + 6 * np.log10(cell.share)


def made_up(cell: Cell, seed: int, images: int = 90, noise: float = 0.4, **changes) -> dict:
    """The record of a run that was never trained; `noise` in points."""
    steps = 84 if cell.share < 1 else None
    params = AblationParams()
    own = {name: getattr(params, name) for name in ablation.PROTOCOL}
    own |= {"dataset": DATASET, "model": cell.model, "seed": seed, "epochs": cell.epochs}
    own |= {"train_share": cell.share, "steps_per_epoch": steps}
    run_params = RunParams.make(own | changes.pop("params", {}))
    rng = np.random.default_rng([seed, cell.epochs, *map(ord, cell.model)])
    hard = np.random.default_rng(0).normal(0, 8, images)  # the same images for all
    points = 60 + hard + gain(cell) + rng.normal(0, noise) + rng.normal(0, 4 * noise, images)
    area = np.linspace(0.2, 3, images) * AREA
    missed = (area * (1 - np.clip(0.80 + 0.002 * points, 0, 1))).round().astype(int)
    area = area.astype(int)
    counts = [[(area - missed).tolist(), missed.tolist(), missed.tolist()]]
    block = {
        "ids": [f"i{i}" for i in range(images)],
        "groups": [f"g{i % GROUPS}" for i in range(images)],
        "net": counts,
        "own": counts,
        "boundary_f": np.clip(100 * points, 0, 10_000).round().astype(int).tolist(),
        "summary": {},
    }
    epochs = list(range(1, cell.epochs + 1))
    log = {"epoch": epochs, "loss": [1 / e for e in epochs]}
    log["val_dice"] = [0.9 - 0.3 / e + gain(cell) / 1000 for e in epochs]
    found = {
        "fingerprint": f"{cell.share}".ljust(16, "0"),
        "training_version": TRAINING_VERSION,
        "params": deciding(run_params) | {"dataset": DATASET, "model": cell.model, "seed": seed},
        "environment": {},
        "log": log,
        "best_epoch": cell.epochs,
        "parameters": 2_400_000,
        "tests": {"test": block},
        "studies": {},
        **changes,
    }
    text = json.dumps([found["params"], found["fingerprint"], found["training_version"]])
    return {"identity": hashlib.sha256(text.encode()).hexdigest()[:12]} | found


def save(top, found: dict):
    """As a committed record."""
    params = RunParams.make(found["params"])
    name = f"s{params.seed}-{found['identity']}.json.gz"
    path = top / params.dataset / file_name(params.model) / name
    record.write(path, found)
    return path


def every(own: str | None = None) -> list[Cell]:
    """All that the notebook can show."""
    skips = leaders(own)
    cells = [Cell(m, e) for e in (6, 12, 24) for m in skips]
    cells += arms([*ARMS, *CORNERS.values(), "smp-unet", "smp-unetplusplus"], 24)
    cells += arms([f"{m}-c{c}" for m in skips for c in (8, 16, 64)], 24)
    cells += [Cell(m, 24, share) for m in skips for share in (0.05, 0.1, 0.25, 0.5)]
    cells += [Cell("thin+concat", 24, share) for share in (0.05, 0.1, 0.25, 0.5)]
    return list(dict.fromkeys(cells))


def fill(top, cells, seeds=range(5), **options):
    for cell in cells:
        for seed in seeds:
            save(top, made_up(cell, seed, **options))


def look(*folders, **given) -> Landed:
    names = [str(folder) for folder in folders]
    return ablation.landed(AblationParams(dataset=DATASET, folders=names, **given))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study as it will be."""
    top = tmp_path_factory.mktemp("records")
    fill(top, every(), noise=0.1)
    return look(top)


def test_effects_of_the_factorial_come_out(whole):
    found = contrasts.effects(whole, 24)
    # over the other factors; at 24 epochs the planted gain of SDI is 3
    planted = [3 - 1.5 / 2, 2 - 1.5 / 2, 1, -1.5, 0, 0, 0]
    assert found.mean_difference.to_numpy() == pytest.approx(planted, abs=0.3)
    assert list(found.index)[3] == "skip x decoder"
    inside = (found.ci_low <= planted) & (planted <= found.ci_high)
    assert inside.all() and list(found.verdict[:2]) == ["better", "better"]
    assert found.verdict.iloc[3] == "less together" and found.verdict.iloc[6] == ""


def test_a_contrast_of_two_arms_is_what_stats_compare_gives(whole):
    from unetv2.evaluation import stats

    reference, cell = Cell("thin+copy", 24), Cell("thin+sdi", 24)
    ours = contrasts.compare(whole, contrasts.against([cell], reference), 9).iloc[0]
    records = [one for one in whole.records if one["params"]["model"] in LEADERS]
    records = [one for one in records if RunParams.make(one["params"]).epochs == 24]
    records = [one for one in records if one["params"].get("train_share", 1) == 1]
    frame = record.frame(records)
    theirs = stats.compare(
        frame, "thin+copy", ["thin+sdi"], "boundary_f", "dice", comparisons=9
    ).iloc[0]
    for name in ("mean_difference", "ci_low", "ci_high", "p", "second_low", "text", "groups"):
        assert ours[name] == theirs[name], name


def test_gains_that_shrink_with_the_length_are_found(whole):
    change = {"SDI": contrasts.later("thin+sdi", "thin+copy", 6, 24)}
    row = contrasts.compare(whole, change).iloc[0]
    wanted = 3.0 - 3.0 * 1.5
    assert row.mean_difference == pytest.approx(wanted, abs=0.4) and row.ci_high < 0
    assert fullest(whole, LEADERS) == 24


def test_by_size_every_third_has_its_own_row(whole):
    found = contrasts.sizes(whole, arms(LEADERS, 24), Cell("thin+copy", 24))
    assert list(found["size"]) == ["small"] * 2 + ["medium"] * 2 + ["large"] * 2
    assert set(found.images) == {30}
    # 1.2 and 3 points are planted for all sizes
    assert found.mean_difference.to_numpy() == pytest.approx([1.2, 3.0] * 3, abs=0.5)


def test_results_and_prices(whole):
    cells = arms(["thin+copy", "thin+sdi"], 24)
    price = ablation.prices(whole.params, [cell.model for cell in cells])
    table = ablation.results(whole, cells, price)
    assert list(table.index) == ["copy (U-Net's skip)", "SDI (U-Net v2's skip)"]
    # counted by hand: 3 more 3x3 convolutions of 32 channels and a bias at each of 4 levels, and
    # the attention of Eq. 1 (98 weights in space; 2 n max(n / 16, 1) in the channels n)
    attention = sum(98 + 2 * n * (n // 16) for n in (24, 32, 96, 1280))
    more = price.parameters["thin+sdi"] - price.parameters["thin+copy"]
    assert more == 4 * 3 * (9 * 32 * 32 + 32) + attention
    assert table["k parameters"].iloc[1].endswith(f"(+{more / 1e3:,.0f})")
    mean = whole.scores[cells[0]].boundary_f.mean()
    assert table["boundary F"].iloc[0].startswith(f"{100 * mean:.2f} ± ")


def test_what_is_missing_is_one_sentence_and_crashes_nothing(tmp_path):
    fill(tmp_path, arms(["thin+copy", "thin+sdi"], 24), seeds=[0])
    fill(tmp_path, [Cell("thin+copy", 24)], seeds=[1, 2])
    found = look(tmp_path)
    cells = arms(ARMS, 24)
    said = state(found, cells)
    assert said.startswith(
        "2 of 10 arms have records at 24 epochs.\n  missing: copy with attention;"
    )
    assert "\n  seeds 0 to 2: copy\n  seed 0: SDI\n" in said
    assert said.endswith("Fewer than 5 seeds give numbers, and no verdict.")
    compared = contrasts.compare(found, contrasts.against(cells, cells[0]))
    assert compared.seeds.tolist() == [0] * 5 + [1] + [0] * 3
    assert compared.text.iloc[0] == "no record yet of copy with attention (24 epochs)"
    assert "no verdict from fewer than 5 seeds" in compared.text.iloc[5]
    assert verdicts.brief(compared[4:6]).startswith("SDI (24 epochs) +")
    assert verdicts.brief(compared[4:6]).endswith(
        "from 1 seed, no verdict; 1 of 2 wait for records"
    )
    text = verdicts.showed(compared)
    assert "so no verdict: SDI (24 epochs), +" in text
    assert text.endswith("8 of 9 comparisons wait for records.")
    assert "none of its 4 comparisons has a record" in verdicts.showed(compared[:4])
    assert DATASET in ablation.datasets(found.params)
    assert set(contrasts.compare(found, contrasts.factorial(24)).seeds) == {0}
    nothing = look(tmp_path, epochs=6)
    none = "None of the 10 arms has a record at 6 epochs yet."
    assert state(nothing, arms(ARMS, 6)) == none
    assert fullest(found, LEADERS) is None
    again = contrasts.compare(found, {"by another name": {cells[6]: 1.0, cells[0]: -1.0}})
    lines = verdicts.claims(verdicts.once({"parts": compared, "again": again}))
    assert "* parts, SDI (24 epochs): +" in "\n".join(lines)
    assert lines[-1] == (
        "Of 9 comparisons 0 have a verdict, 0 have five seeds and none, 1 have fewer seeds,"
        " and 8 wait for records."
    )


def test_seeds_that_differ_are_compared_where_both_have_them(tmp_path):
    copy, sdi = arms(["thin+copy", "thin+sdi"], 24)
    fill(tmp_path, [copy], seeds=[0, 1, 2, 5])
    fill(tmp_path, [sdi], seeds=[1, 2, 3])
    row = contrasts.compare(look(tmp_path), contrasts.against([sdi], copy)).iloc[0]
    assert row.seeds == 2 and len(row.by_seed) == 2
    fill(tmp_path / "other", [copy], seeds=[0])
    fill(tmp_path / "other", [sdi], seeds=[1])
    row = contrasts.compare(look(tmp_path / "other"), contrasts.against([sdi], copy)).iloc[0]
    assert row.seeds == 0 and row.text == "no seed that all sides have"


def test_records_of_another_protocol_or_of_other_files_are_not_mixed_in(tmp_path):
    cell = Cell("thin+copy", 24)
    fill(tmp_path, [cell], seeds=[0, 1])
    save(tmp_path, made_up(cell, 0, params={"image_size": 256, "recipe": "released"}))
    save(tmp_path, made_up(cell, 1, training_version=TRAINING_VERSION + 1))
    save(tmp_path, made_up(Cell("thin+copy", 24, 0.1), 0, params={"steps_per_epoch": None}))
    save(tmp_path, made_up(cell, 3, fingerprint="f" * 16))
    found = look(tmp_path)
    assert found.seeds(cell) == [0, 1] and not found.seeds(Cell("thin+copy", 24, 0.1))
    assert [one["params"]["seed"] for one in found.beside] == [3]
    text = "\n".join(found.left_out)
    assert "copy (24 epochs), seed 0, is left out: image_size 256, not 128" in text
    assert f"training version {TRAINING_VERSION + 1}, not {TRAINING_VERSION}" in text
    assert "10% of the images), seed 0, is left out: steps_per_epoch None, not 84" in text
    assert len(found.left_out) == 3
    other = look(tmp_path, image_size=256, recipe="released")
    assert other.seeds(cell) == [0] and "image_size 128, not 256" in other.left_out[0]


def test_arms_scored_on_other_images_are_refused(tmp_path):
    copy, sdi = arms(["thin+copy", "thin+sdi"], 24)
    fill(tmp_path, [copy])
    fill(tmp_path, [sdi], images=80)
    with pytest.raises(ValueError, match=r"SDI .* were scored on other images"):
        contrasts.compare(look(tmp_path), contrasts.against([sdi], copy))


def test_wrong_parameters_are_clear(tmp_path):
    for own in ("my_skip:MySkip", "thin+sdi", "thin+my_skip:MySkip-c8", "smp-unet+a:B"):
        with pytest.raises(ValueError, match="must be 'thin\\+module:Class'"):
            look(tmp_path, own=own)
    with pytest.raises(ValueError, match="recipe='papre'"):
        look(tmp_path, recipe="papre")
    with pytest.raises(ValueError, match=r"no folder .*/typo: name one that holds <dataset>"):
        look(tmp_path / "typo")


def test_a_readers_own_skip_joins_every_table_and_figure(tmp_path, whole):
    """Its module is not there: a record is all that is needed."""
    cells = [cell for cell in every(OWN) if "my_skip" in cell.model]
    fill(tmp_path, cells)
    found = look(*whole.params.folders, tmp_path, own=OWN)
    assert all(found.seeds(cell) == [0, 1, 2, 3, 4] for cell in cells)
    rows = arms([*ARMS, OWN], 24)
    compared = contrasts.compare(found, contrasts.against(rows, rows[0]))
    assert compared.loc[str(rows[-1]), "mean_difference"] == pytest.approx(3.0, abs=1.0)
    price = ablation.prices(found.params, ["thin+copy", OWN])
    table = ablation.results(found, [rows[0], rows[-1]], price)
    assert table.loc["my_skip.MySkip", "k parameters"] == "–"
    assert table.loc["my_skip.MySkip", "seeds"] == 5
    assert "my_skip.MySkip" in ablation.counted(found).index
    names = [text.get_text() for text in texts(ablation_plots.gains(compared, "boundary_f"))]
    assert "my_skip.MySkip" in names


def texts(fig):
    return [text for ax in fig.axes for text in (*ax.texts, *ax.get_yticklabels())]


def test_the_printed_command_trains_by_the_protocol(whole, tmp_path):
    for cell in (Cell(OWN, 12), Cell(OWN, 24, 0.1)):
        line = ablation.command(whole, cell.model, cell.epochs, "outputs/mine", cell.share)
        words = shlex.split(line.replace("$s", "3"))
        assert words[:2] == ["unetv2", "train"]
        params = RunParams.make(vars(run._parser().parse_args(words[2:])))
        expected = made_up(cell, 3)["params"]
        assert deciding(params) | {"dataset": DATASET} == expected and params.audit
        place = f"outputs/mine/{DATASET}/thin+my_skip.MySkip/s3"
        assert params.output_dir == str(Path(place).absolute()), "from the working folder"
        found = made_up(cell, 3) | {"params": params.model_dump(exclude={"output_dir"})}
        record.write(tmp_path / DATASET / "thin+my_skip.MySkip" / "s3" / record.FILE, found)
        assert look(tmp_path, own=OWN).seeds(cell) == [3]


def test_figures_show_intervals_of_five_seeds_and_dots_of_fewer(whole, tmp_path):
    fill(tmp_path, arms(["thin+copy", "thin+sdi"], 24), seeds=[0, 1])
    rows = arms(LEADERS, 24)
    few, none = look(tmp_path), look()
    for found, hollow, missing in ((whole, 0, 0), (few, 2, 2)):
        compared = contrasts.compare(found, contrasts.against(rows, rows[0]))
        fig = ablation_plots.gains(compared, "boundary_f")
        white = [x for x in fig.axes[0].lines if x.get_markerfacecolor() == "white"]
        assert sum(len(x.get_xdata()) for x in white) == hollow
        assert sum("no record yet" in t.get_text() for t in texts(fig)) == missing
    steps = {m: {float(e): Cell(m, e) for e in (6, 12, 24)} for m in LEADERS}
    by_length = contrasts.stepwise(whole, [arms(LEADERS, e) for e in (6, 12, 24)])
    assert len(ablation_plots.over(whole, steps, by_length, "epochs").axes) == 4
    assert len(ablation_plots.corners(whole, 24).axes) == 2
    compared = contrasts.compare(none, contrasts.against(rows, rows[0]))
    empty = [ablation_plots.gains(compared, "boundary_f"), ablation_plots.corners(none, 24)]
    empty.append(ablation_plots.over(few, steps, by_length, "epochs"))
    said = [fig.axes[0].texts[0].get_text() for fig in empty]
    assert said[0].startswith("No record yet") and said[1].startswith("0 of 4 lines")
    assert said[2] == "epochs: 1 of 3 steps have records; a curve takes two"


def test_the_protocol_is_that_of_the_configs():
    import door

    for name, epochs in (("e6", 6), ("e12", 12), ("e24", 24)):
        config = door.configure(door.options(["--config", f"ablation-isic2017-{name}"]))
        one = config.run_params("isic2017", "thin+copy", 0)
        assert one.epochs == epochs
        mine = AblationParams()
        assert all(getattr(one, n) == getattr(mine, n) for n in ablation.PROTOCOL)
    every_arm = {*ARMS, *CORNERS.values(), *sum(ROWS.values(), ())}
    assert set(config.models) == every_arm
