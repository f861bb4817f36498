"""Models by their name on the Hugging Face hub, such as HuggingFaceTB/SmolLM2-135M-Instruct."""

import pathlib
import re

from icegrt_jax.errors import UserError

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Weights as safetensors only: a pickle runs code when it is read. No code of the repository either.
ALLOWED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
IGNORED = ["*/*", "consolidated*"]  # the weights once more, in another layout


def local_folder(name: str | pathlib.Path) -> pathlib.Path:
    """The folder `name`, or where the hub's model of that name has been downloaded to.

    A folder that is here is taken before the hub is asked.
    """
    folder = pathlib.Path(name).expanduser()
    if folder.exists() or not HUB_NAME.fullmatch(str(name)):
        return folder
    # Imported here: most runs need no network client.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return pathlib.Path(snapshot_download(str(name), allow_patterns=ALLOWED, ignore_patterns=IGNORED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name}: no such folder here, and the Hugging Face hub did not give it ({reason}); check the name and the "
            "network, or download it elsewhere and name the folder."
        ) from error
