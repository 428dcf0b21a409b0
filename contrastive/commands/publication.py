"""Upload of an export to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from contrastive.errors import UsageError, one_line


def page_of(repository: str) -> str:
    """The address of a repository's page."""
    return f"https://huggingface.co/{repository}"


def require_repository(repository: str) -> None:
    """Raise UsageError unless a text names a repository with its owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        is_whole = "/" in repository
    except HFValidationError:
        is_whole = False
    if not is_whole:
        raise UsageError(
            f"--push {repository}: this is not the name of a repository; write OWNER/NAME, with letters, "
            "digits and - _ . in each."
        )


def upload(folder: Path, repository: str) -> None:
    """Upload every file of an export; a repository that does not exist is created, private.

    Raises UsageError, with what to do, if nobody is signed in, the hub refuses it or cannot be reached.
    The folder stays as it is.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    rest = f"The export is in {folder}; upload it by: hf upload {repository} {folder} --private"
    if get_token() is None:
        raise UsageError(
            f"--push {repository}: no token of the Hugging Face hub is there. Set HF_TOKEN or run "
            f"`hf auth login`. {rest}"
        )
    api = HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Encoder exported by contrastive"
        )
    except OfflineModeIsEnabled as error:
        raise UsageError(f"--push {repository}: the hub is not used. Unset HF_HUB_OFFLINE. {rest}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise UsageError(
                f"--push {repository}: the hub refuses the token for this repository. Set HF_TOKEN to one "
                f"that may write to it. {rest}"
            ) from error
        raise UsageError(f"--push {repository}: the hub answers {one_line(error)}. {rest}") from error
    except HfHubHTTPError.__bases__ as error:  # type: ignore[misc]  # OSError, and that of the HTTP library
        raise UsageError(
            f"--push {repository}: the hub cannot be reached ({one_line(error)}). Connect to a network. "
            f"{rest}"
        ) from error
