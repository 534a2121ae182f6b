"""The parameters of the notebooks, one class for each kind; `common.params` has that of a run."""

from typing import Annotated, Literal

from pydantic import Field

from ..common.params import Names, Params, Positive, Seed, Seeds, Size

__all__ = [
    "AblationParams",
    "AnywhereParams",
    "CompanyParams",
    "CompareParams",
    "DataParams",
    "EfficiencyParams",
    "ExploreParams",
    "FigureParams",
    "LessonParams",
    "OwnImagesParams",
    "ReadingParams",
    "StartParams",
    "StudyParams",
    "WorldsParams",
]


Folders = Annotated[list[str], Field(description="of runs that join, <dataset>/<model>/s<seed>")]


class StartParams(Params):
    """00_start_here: the idea in five minutes."""

    seed: Seed = 0
    image_size: Size = 64
    encoder: str = Field(
        "tu-test_resnet", description="any smp or timm ('tu-...') encoder; this one is very small"
    )
    epochs: Positive = 6
    limit: Positive = Field(96, description="training images")
    output_dir: str = "outputs/start_here"


class DataParams(Params):
    """10_data: what a dataset holds, how hard it is, and whether it can be trusted."""

    dataset: str = "synthetic"
    data_dir: str | None = Field(None, description="folder that holds the downloaded datasets")
    image_size: Size = 128
    limit: Positive | None = Field(None, description="at most so many images per split; None: all")
    seed: Seed = 0
    output_dir: str = "outputs/data"


class LessonParams(Params):
    """20 to 29, the lessons on designs: small tensors, short trainings on synthetic images."""

    seed: Seed = 0
    image_size: Size = 64
    encoder: str = Field(
        "tu-test_resnet", description="any smp or timm ('tu-...') encoder; this one is very small"
    )
    epochs: Positive = Field(5, description="of the short trainings")
    output_dir: str = "outputs/lesson"


class AnywhereParams(Params):
    """24_sdi_anywhere: one skip in several decoders of smp, over several encoders."""

    seed: Seed = 0
    image_size: Size = 64
    decoders: Names = Field(
        ["unet", "fpn", "unetplusplus", "segformer"], description="architectures of smp"
    )
    encoders: Names = Field(
        ["tu-test_resnet", "mobilenet_v2", "tu-pvt_v2_b0"],
        description="of smp or timm ('tu-...'); the first is trained",
    )
    epochs: Positive = Field(2, description="of the short trainings, 48 images each")
    output_dir: str = "outputs/anywhere"


class CompareParams(Params):
    """40 to 49: what the runs of `models` x `datasets` x `seeds` below `runs_dir` say."""

    datasets: Names = ["synthetic"]
    models: Names = Field(
        ["thin+copy", "thin+nested", "thin+sdi"], description="the first is the reference"
    )
    seeds: Seeds = [0]
    epochs: Positive | None = Field(
        None, description="which committed records, where there are several lengths of training"
    )
    metric: Literal["dice", "iou", "boundary_f"] = Field(
        "dice", description="of the claims, chosen beforehand; another one may object"
    )
    runs_dir: str = Field(
        "outputs/quick/runs", description="holds <dataset>/<model>/s<seed>/record.json.gz"
    )
    output_dir: str = "outputs/compare"


class StudyParams(CompareParams):
    """43_unetpp_study: what UNet++'s own studies say on these runs of its family."""

    models: Names = Field(
        ["tmi-unet-l4", "tmi-unet++"], description="of the family; the first is the reference"
    )
    metric: Literal["dice", "iou", "boundary_f"] = Field(
        "iou", description="of the claims; the article's is IoU"
    )


class Protocol(Params):
    """How the trainings were done that a notebook compares, in fields of RunParams; the defaults
    are those of the configs `ablation-isic2017-...`.
    """

    encoder: str = "mobilenet_v2"
    encoder_weights: Literal["imagenet"] | None = "imagenet"
    recipe: str = "paper"
    image_size: Size = 128
    batch_size: Positive = 16
    augment: str = "light"


class AblationParams(Protocol):
    """41_ablation: what a skip is worth, from records of one protocol."""

    dataset: str = "isic2017"
    epochs: Positive = Field(24, description="of the trainings of all arms")
    lengths: Annotated[list[Positive], Field(min_length=2)] = Field(
        [6, 12, 24], description="epochs of the curve that opens the notebook"
    )
    metric: Literal["boundary_f", "dice"] = Field(
        "boundary_f", description="of the claims, chosen beforehand; the other one may object"
    )
    steps_per_epoch: Positive = Field(
        84, description="of trainings on a part of the images: what one pass over all of them has"
    )
    own: str | None = Field(None, description="a reader's skip that joins, thin+module:Class")
    folders: Folders = []
    output_dir: str = "outputs/ablation"


class CompanyParams(Protocol):
    """46_the_company: the compared methods in one frame, that of the config `company-isic2017`."""

    dataset: str = Field("isic2017", description="whose committed records are read")
    designs: Names = Field(
        ["smp-unet", "smp-unetplusplus", "thin+copy", "thin+sdi"],
        description="of this collection; the first is the reference",
    )
    peers: Names = Field(
        ["sanet", "pranet", "polyp-pvt", "malunet", "ege-unet"],
        description="the methods that the papers compare with",
    )
    epochs: Positive = 24
    metric: Literal["dice", "boundary_f"] = Field(
        "dice", description="of the claims, chosen beforehand; the other one may object"
    )
    folders: Folders = []
    repeats: Positive = Field(5, description="timed turns of the costs")
    seed: Seed = Field(0, description="of the lesson on reverse attention")
    output_dir: str = "outputs/company"

    @property
    def models(self) -> list[str]:
        """All of them, the reference first."""
        return [*self.designs, *self.peers]


class WorldsParams(Params):
    """44_when_skips_help: which skip wins where, from records of real and of generated images."""

    dataset: str = Field("isic2017", description="real images: maps set to zero, spoilt images")
    hospitals: Annotated[list[str], Field(min_length=2)] = Field(
        ["kvasir", "clinicdb"], description="each is trained on alone and tested on all"
    )
    steps: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=2)] = Field(
        [0, 1], description="of each knob of the generator, from easy to hard"
    )
    models: Annotated[Names, Field(min_length=2)] = Field(
        ["thin+copy", "thin+nested", "thin+sdi"], description="the first is the reference"
    )
    levels: Positive = Field(
        3, description="the coarsest, of four, that a skip keeps without its finest"
    )
    metric: Literal["dice", "boundary_f"] = Field(
        "dice", description="of the claims, chosen beforehand; the other one may object"
    )
    folders: Folders = []
    output_dir: str = "outputs/worlds"

    @property
    def every(self) -> list[str]:
        """The models, and each of them without its finest level."""
        return [*self.models, *(f"{model}-l{self.levels}" for model in self.models)]


class EfficiencyParams(Params):
    """42_efficiency: what each model costs, counted and timed."""

    seed: Seed = 0
    models: Names = Field(
        ["thin+copy", "thin+nested", "thin+sdi", "smp-unet"],
        description="the first is the reference",
    )
    encoder: str = Field(
        "tu-test_resnet", description="of the live part; any smp or timm ('tu-...') encoder"
    )
    image_sizes: Annotated[list[Size], Field(min_length=2)] = [64, 96, 128]
    batch_sizes: Annotated[list[Positive], Field(min_length=2)] = [1, 4, 8]
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["no", "fp16", "bf16"] = Field(
        "no", description="mixed precision; 'no' is float32"
    )
    repeats: Positive = Field(9, description="timed turns")
    table4_encoder: str = Field("tu-pvt_v2_b2", description="of the audit of Table 4; the paper's")
    table4_size: Size = Field(256, description="of the audit of Table 4; the paper's")
    output_dir: str = "outputs/efficiency"


class ReadingParams(Params):
    """45_reading_the_paper: printed tables, and our own runs under their rules."""

    datasets: Names = Field(
        ["isic2017", "pranet"], description="whose committed records are read, where there are any"
    )
    models: Names = Field(
        ["thin+copy", "thin+nested", "thin+sdi"], description="the first is the reference"
    )
    folders: Folders = []
    output_dir: str = "outputs/reading_the_paper"


class FigureParams(Params):
    """50 to 59: pictures of what trained models do to one dataset."""

    dataset: str = "synthetic"
    models: Names = ["thin+copy", "thin+nested", "thin+sdi"]
    seeds: Seeds = [0]
    runs_dir: str = Field(
        "outputs/quick/runs", description="holds <dataset>/<model>/s<seed>/model.safetensors"
    )
    data_dir: str | None = Field(None, description="folder that holds the downloaded datasets")
    image_size: Size = 64
    count: Positive = Field(2, description="images of a figure; twice as many in the cross-section")
    published: list[str] = Field(
        default_factory=list,
        description="weights of this repository, shown on its samples; none named: all",
    )
    output_dir: str = "outputs/figures"


class OwnImagesParams(Params):
    """60_your_own_images: a folder of photos and masks, from the check to a submission."""

    folder: str | None = Field(
        None,
        description="holds images/ and masks/, or both in train/, val/ and test/; None: samples",
    )
    networks: Names = Field(
        ["isic2017-thin+sdi", "isic2017-thin+copy", "isic2017-thin+nested"],
        description="published weights or run folders; the first is used alone, all as an ensemble",
    )
    seed: Seed = 0
    encoder: str = Field("tu-test_resnet", description="of the short training from random weights")
    image_size: Size = Field(64, description="of the short training from random weights")
    epochs: Positive = Field(10, description="of each of the two short trainings")
    output_dir: str = "outputs/own_images"


class ExploreParams(Params):
    """90_explore: what sliders change in the published networks, on the samples."""

    lesion: str = Field("ISIC_0012666", description="a sample, by the beginning of its id")
    nuclei: str = Field("1631352d", description="a sample, by the beginning of its id")
    count: Positive = Field(24, description="samples of each dataset behind a mean")
    live: bool | None = Field(None, description="sliders; None: where somebody can move them")
    seed: Seed = Field(0, description="of the fresh weights in the section on the start")
    output_dir: str = "outputs/explore"
