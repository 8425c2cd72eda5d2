"""The first look at a repository of the Hub: is it there, and is it a diffusers pipeline?

Only the index of a few hundred bytes is fetched, so that a wrong id is known at once and said in
words; the weights follow through diffusers.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from masactrl.errors import ModelNotFound
from masactrl.models.locate import INDEX
from masactrl.models.variants import files_in


def fetch_index(repository: str, revision: str | None) -> str:
    """Return the path of the repository's index, fetched into the Hub's cache if need be.

    Args:
        repository: the Hub id, owner/name.
        revision: branch, tag or commit; None for the main branch.

    Raises:
        ModelNotFound: it cannot be had; says why and what to do.
    """
    try:
        return hf_hub_download(repository, INDEX, revision=revision)
    except GatedRepoError as error:
        raise ModelNotFound(
            f"The Hub repository {repository} asks for consent: accept its terms on its page and "
            "log in with `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFound(
            f"There is no public Hub repository {repository}; for a private one log in with "
            "`hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(
            f"The Hub repository {repository} has no revision {revision!r}; give a branch, a tag "
            "or a commit."
        ) from error
    # A file that is missing here for want of a connection is a kind of missing entry: ask first.
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelNotFound(
            f"The model {repository} is neither a local folder nor in the Hub's cache, and the "
            "Hub cannot be reached; connect once, or give a folder in diffusers format."
        ) from error
    except EntryNotFoundError as error:
        raise ModelNotFound(
            f"The Hub repository {repository} has no {INDEX}: it is no pipeline in diffusers "
            "format. If it offers one .safetensors file, fetch that and give its path."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelNotFound(
            f"The Hub repository {repository} could not be read: {error}"
        ) from error


def repository_files(repository: str, revision: str | None) -> list[str]:
    """Return the files of a repository, relative to it; without a connection those in the cache.

    Raises:
        ModelNotFound: it cannot be had, see `fetch_index`.
    """
    cached = Path(fetch_index(repository, revision)).parent
    try:
        return HfApi().list_repo_files(repository, revision=revision)
    # Without a connection errors of the transport come through, which the Hub's library changes.
    except Exception:  # noqa: BLE001
        return files_in(cached)
