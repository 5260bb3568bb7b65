"""What a user calls a model: a run's folder, a Hugging Face folder, the hub (without torch)."""

from dataclasses import dataclass
from pathlib import Path

from megadga.config.models import HuggingFaceModel
from megadga.config.validation import FolderOrHubId
from megadga.errors import ConfigError
from megadga.run_folder import CONFIG_FILE
from megadga.train.saved import SavedRun, StepName, open_saved

HUGGING_FACE_FILE = "config.json"


@dataclass(frozen=True)
class ModelName:
    """A model as a user names it.

    Attributes:
        name: A run's output folder, a folder with ``config.json``, or the name of a model on the
            hub.
        step: Optimizer step of a run's checkpoint, or ``best``; None: the latest.
        revision: Branch, tag or commit of a model on the hub; None: its main branch.
        trust_remote_code: Whether to run Python code that comes with a Hugging Face model.
    """

    name: str
    step: StepName | None = None
    revision: str | None = None
    trust_remote_code: bool = False


def find_model(named: ModelName) -> SavedRun | HuggingFaceModel:
    """Return the checkpoint or the model that a user names; no weights are read.

    Raises:
        ConfigError: If there is none, or an option does not go with its kind.
        ResumeError: If a run has no such checkpoint.
    """
    folder = Path(named.name)
    if (folder / CONFIG_FILE).is_file():
        if named.revision is not None or named.trust_remote_code:
            option = "--revision" if named.revision is not None else "--trust-remote-code"
            raise ConfigError(
                f"{option}: expected a model of Hugging Face, found the run {folder}"
            )
        return open_saved(folder, step=named.step)
    path = FolderOrHubId(named.name).resolved(lambda inner: inner)
    if Path(path).is_absolute() and not (folder / HUGGING_FACE_FILE).is_file():
        found = "neither" if folder.is_dir() else "no such folder"
        raise ConfigError(
            f"{named.name}: expected the output folder of a run ({CONFIG_FILE}), a folder of a "
            f"model ({HUGGING_FACE_FILE}) or the name of a model on the hub, found {found}"
        )
    if named.step is not None:
        raise ConfigError(f"--step: expected the output folder of a run, found {named.name}")
    return HuggingFaceModel(
        type="hugging_face",
        path=path,
        revision=named.revision,
        trust_remote_code=named.trust_remote_code,
        sequence_length=1,  # of training, of which there is none
    )
